package avahi_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/internal/bus"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/lan"

	"github.com/goerlang/eclus/test/wait"
	"golang.org/x/sys/unix"
)

// The main thread stays with the main goroutine. So no goroutine that enters a namespace runs
// on it: the whole process would be taken to be there.
func init() { runtime.LockOSThread() }

// side is one end of the virtual LAN: a host and what is known there.
type side struct {
	*lan.Host
	t   *testing.T
	reg *registry.Registry
}

// pair makes a LAN of two hosts. The test runs in parallel with others, as it mostly waits for
// Avahi.
func pair(t *testing.T, opts ...lan.HostOptions) (a, b *side) {
	t.Helper()
	t.Parallel()
	network := lan.ForTest(t, "avahi-browse", "avahi-publish")
	opts = append(opts, lan.HostOptions{}, lan.HostOptions{})
	sides := make([]*side, 2)
	for i, name := range []string{"hosta", "hostb"} {
		h, err := network.AddHost(wait.Soon(t), name, opts[i])
		if err != nil {
			t.Fatal(err)
		}
		sides[i] = &side{h, t, registry.New(name, registry.OldNames)}
	}
	return sides[0], sides[1]
}

// TestMain fails if after the tests more goroutines run than before.
func TestMain(m *testing.M) {
	before := runtime.NumGoroutine()
	status := m.Run()
	if flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(status) // fuzzing leaves a goroutine that waits for signals
	}
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before && time.Now().Before(deadline) {
		runtime.Gosched() // what godbus has started ends a moment after its connection
	}
	if n := runtime.NumGoroutine(); n > before && status == 0 {
		stacks := make([]byte, 1<<20)
		fmt.Fprintf(os.Stderr, "%d goroutines are left, of which there were %d:\n%s\n", n, before, stacks[:runtime.Stack(stacks, true)])
		status = 1
	}
	os.Exit(status)
}

func (s *side) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(writer{s.t}, &slog.HandlerOptions{Level: slog.LevelDebug})).With("host", s.Name())
}

type writer struct{ t *testing.T }

func (w writer) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// start runs something in the host's network namespace until the test ends or stop is called.
// stop returns when it has ended.
func (s *side) start(run func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := enter(s.NetNS()); err != nil {
			s.t.Error(err)
			return
		}
		run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	s.t.Cleanup(stop)
	return stop
}

// enter takes the goroutine into a network namespace for good.
func enter(netns string) error {
	f, err := os.Open(netns)
	if err != nil {
		return err
	}
	defer f.Close()
	runtime.LockOSThread() // never unlocked, so that the thread ends with the goroutine
	return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
}

// publish and browse begin to do so with default options, unless changed.
func (s *side) publish(change ...func(*avahi.Options)) (*avahi.Publisher, func()) {
	p := avahi.NewPublisher(s.reg, s.options(change), s.log())
	return p, s.start(p.Run)
}

func (s *side) browse(change ...func(*avahi.Options)) (*avahi.Browser, func()) {
	b := avahi.NewBrowser(s.reg, s.options(change), s.log())
	return b, s.start(b.Run)
}

func (s *side) publishLimited(objects int) (*avahi.Publisher, func()) {
	p := avahi.NewPublisher(s.reg, s.options(nil), s.log())
	p.Limit(objects, 1)
	return p, s.start(p.Run)
}

func (s *side) browseLimited(objects, clients int) (*avahi.Browser, func()) {
	b := avahi.NewBrowser(s.reg, s.options(nil), s.log())
	b.Limit(objects, clients)
	return b, s.start(b.Run)
}

func (s *side) options(change []func(*avahi.Options)) avahi.Options {
	at, err := bus.Parse(s.DBusAddress())
	wait.Must(s.t, err)
	opts := avahi.Options{Bus: at, Port: 4369, Version: "test"}
	for _, c := range change {
		c(&opts)
	}
	return opts
}

// register registers a node that says its name in the handshake.
func (s *side) register(name string, port uint16) *registry.Registration {
	s.t.Helper()
	r := s.registerOnly(name, port)
	s.identify(r)
	return r
}

// registerOnly registers a node that doesn't.
func (s *side) registerOnly(name string, port uint16) *registry.Registration {
	s.t.Helper()
	r, err := s.reg.Register(registry.Node{Name: name, Port: port, Type: registry.Normal, High: 6, Low: 5})
	wait.Must(s.t, err)
	s.reg.SetListens(s.reg.Node(r), []netip.Addr{netip.IPv4Unspecified()})
	return r
}

func (s *side) identify(r *registry.Registration) {
	s.t.Helper()
	n := s.reg.Node(r)
	wait.Must(s.t, s.reg.Identify(n, registry.Identity{Node: n.Name + "@" + s.Name() + ".example", Dist: registry.TCP}))
}

// until waits until cond holds of the neighbours of s. It returns them.
func (s *side) until(what string, cond func([]*registry.Node) bool) []*registry.Node {
	s.t.Helper()
	ctx := wait.Soon(s.t)
	sub := s.reg.Subscribe()
	defer sub.Close()
	for {
		sub.Take() // what it has to say is in nodes
		nodes := s.neighbours()
		if cond(nodes) {
			return nodes
		}
		if _, err := sub.Next(ctx); err != nil {
			s.t.Fatalf("%s: %s; there are %s", s.Name(), what, describe(nodes))
		}
	}
}

func (s *side) neighbours() []*registry.Node {
	var found []*registry.Node
	for _, n := range s.reg.Nodes() {
		if n.Origin == registry.LAN {
			found = append(found, n)
		}
	}
	return found
}

func describe(nodes []*registry.Node) string {
	var all []string
	for _, n := range nodes {
		all = append(all, fmt.Sprintf("%s(%s %d %v sure=%v)", n.Node, n.Host, n.Port, n.Addresses, n.Sure))
	}
	return fmt.Sprint(all)
}

// node returns a condition: the node is there and is as told.
func node(name string, is ...func(*registry.Node) bool) func([]*registry.Node) bool {
	return func(nodes []*registry.Node) bool {
		for _, n := range nodes {
			if n.Node == name {
				for _, cond := range is {
					if !cond(n) {
						return false
					}
				}
				return true
			}
		}
		return false
	}
}

func onPort(port uint16) func(*registry.Node) bool {
	return func(n *registry.Node) bool { return n.Port == port }
}

func count(n int) func([]*registry.Node) bool {
	return func(nodes []*registry.Node) bool { return len(nodes) == n }
}

// recorder keeps all events of a registry.
type recorder struct {
	mu     sync.Mutex
	events []string
}

// record notes what becomes of the neighbours of s from now on.
func (s *side) record() *recorder {
	sub := s.reg.Subscribe()
	sub.Take()
	r := &recorder{}
	s.start(func(ctx context.Context) {
		defer sub.Close()
		for {
			b, err := sub.Next(ctx)
			if err != nil {
				return
			}
			r.mu.Lock()
			for _, e := range b.Events {
				r.events = append(r.events, fmt.Sprintf("%v %s %d", e.Kind, e.Node.Node, e.Node.Port))
			}
			r.mu.Unlock()
		}
	})
	return r
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.events, "\n")
}

func TestPublishAndBrowse(t *testing.T) {
	a, b := pair(t)
	_, stop := a.publish()
	b.browse()
	show := start(t, b, "avahi-browse", "-rp", "_epmd._tcp")
	expect(t, show, `(?m)^=;eth0;IPv4;hosta;_epmd\._tcp;local;hosta\.local;198\.51\.100\.\d+;4369;.*"eclus=test".*`)
	hosts := start(t, b, "avahi-browse", "-p", avahi.HostSubtype)
	expect(t, hosts, `(?m)^\+;eth0;IPv4;hosta;`)

	began := time.Now()
	r := a.register("a", 4711)
	n := b.until("a appears", node("a@hosta.example", onPort(4711)))[0]
	t.Logf("registered on A, seen on B after %v", time.Since(began))
	if n.Host != "hosta.local" || n.Name != "a" || n.High != 6 || n.Low != 5 || n.Dist != registry.TCP || n.Origin != registry.LAN {
		t.Errorf("seen as %+v", n)
	}
	expect(t, show, `(?m)^=;eth0;IPv4;a\\064hosta;_epmd\._tcp;local;hosta\.local;198\.51\.100\.\d+;4711;.*"node=a@hosta\.example"`)
	b.until("both addresses", node("a@hosta.example", func(n *registry.Node) bool {
		return len(n.Addresses) == 2 && n.Addresses[0] == a.Address() && n.Addresses[1].Zone() != ""
	}))
	if len(a.neighbours()) > 0 {
		t.Errorf("own nodes are neighbours: %s", describe(a.neighbours()))
	}

	a.reg.Unregister(r)
	b.until("a goes", count(0))
	a.register("a", 4712)
	b.until("a is back", node("a@hosta.example", onPort(4712)))
	stop()
	expect(t, show, `(?m)^-;eth0;IPv4;hosta;`)
	expect(t, hosts, `(?m)^-;eth0;IPv4;hosta;`)
	if strings.Contains(hosts.Output(), "064") {
		t.Errorf("a node was announced as a host:\n%s", hosts.Output())
	}
	b.until("the publisher's farewell", count(0))
}

// start runs a command on a host until the test ends.
func start(t *testing.T, h *side, name string, args ...string) *lan.Process {
	t.Helper()
	p, err := h.Start(t.Context(), name, args...)
	wait.Must(t, err)
	return p
}

func expect(t *testing.T, p *lan.Process, pattern string) {
	t.Helper()
	_, err := p.WaitOutput(wait.Soon(t), pattern)
	wait.Must(t, err)
}

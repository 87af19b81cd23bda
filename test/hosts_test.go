package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// host is a host of the virtual LAN on which our epmd runs.
type host struct {
	*lan.Host
	t    *testing.T // that has the host, and outlives its subtests
	epmd *lan.Process

	mu    sync.Mutex
	ports map[uint16]bool // where listen listens
}

// addHosts makes hosts with the same options. No epmd runs there yet.
func addHosts(t *testing.T, n *lan.Network, opt lan.HostOptions, names ...string) []*host {
	t.Helper()
	made, err := n.AddHosts(wait.Soon(t), opt, names...)
	wait.Must(t, err)
	hosts := make([]*host, len(made))
	for i, h := range made {
		hosts[i] = &host{Host: h, t: t}
		t.Cleanup(func() { hosts[i].stop(t) })
	}
	return hosts
}

// pair returns two usual hosts on a network of the test's own, on which epmd runs.
func pair(t *testing.T) (a, b *host) {
	t.Helper()
	hosts := running(t, "hosta", "hostb")
	return hosts[0], hosts[1]
}

// running returns usual hosts on a network of their own, each with our epmd.
func running(t *testing.T, names ...string) []*host {
	t.Helper()
	hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{}, names...)
	for _, h := range hosts {
		h.start(t)
	}
	return hosts
}

// tools are what tests on the LAN run on hosts.
var tools = []string{"erl", "avahi-browse", "avahi-publish", "avahi-set-host-name", "dbus-monitor", "dbus-send", "nft"}

// since says how long ago that was, as logs of tests have it.
func since(begin time.Time) time.Duration { return time.Since(begin).Round(time.Millisecond) }

// start runs our epmd on the host and returns when it answers. It runs until it is stopped, or the
// host's test is over.
func (h *host) start(t *testing.T, args ...string) {
	t.Helper()
	h.run(t, eclusBinary(t), args...)
}

// run is start for another epmd.
func (h *host) run(t *testing.T, program string, args ...string) {
	t.Helper()
	cmd := h.Command(context.WithoutCancel(t.Context()), program, args...)
	cmd.Env = append(cmd.Env, promptly)
	p, err := h.StartCmd(cmd)
	wait.Must(t, err)
	h.epmd = p
	wait.Must(t, lan.Wait(wait.Soon(t), "epmd on "+h.Name(), func(ctx context.Context) (bool, error) {
		select {
		case <-p.Done():
			return false, fmt.Errorf("epmd on %s has ended, having written %q", h.Name(), p.Output())
		default:
			_, err := h.lookup(ctx, "nobody")
			return errors.Is(err, epmd.ErrNotRegistered), nil
		}
	}))
}

// stop has epmd end in good order, if it runs, and looks at how it has done.
func (h *host) stop(t *testing.T) {
	t.Helper()
	if h.epmd == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), wait.Patience)
	defer cancel()
	wait.Must(t, h.epmd.Stop(ctx))
	if err := h.epmd.Wait(ctx); err != nil {
		t.Errorf("epmd on %s ended with %v", h.Name(), err)
	}
	h.inspect(t)
}

// kill ends epmd as a crash does.
func (h *host) kill(t *testing.T) {
	t.Helper()
	wait.Must(t, h.epmd.Kill(wait.Soon(t)))
	h.inspect(t)
}

var trouble = regexp.MustCompile(`DATA RACE|(?m)^panic:|^fatal error:`)

// inspect looks for what no epmd may write.
func (h *host) inspect(t *testing.T) {
	t.Helper()
	out := h.epmd.Output()
	if trouble.MatchString(out) {
		t.Errorf("epmd on %s wrote:\n%s", h.Name(), out)
	}
	checkShown(t, "log of epmd on "+h.Name(), out)
	h.epmd = nil
}

// inside calls f in the host's network namespace, as lan.Inside does.
func (h *host) inside(f func() error) error { return lan.Inside(h.NetNS(), f) }

// client asks the host's epmd; only inside.
func (h *host) client() *epmd.Client { return clientInside() }

// clientInside asks the epmd of the network namespace in which it is used. With one address it
// dials on the thread of its caller.
func clientInside() *epmd.Client {
	return epmd.NewClient(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), epmd.DefaultPort))
}

func (h *host) lookup(ctx context.Context, name string) (resp epmd.PortResp, err error) {
	err = h.inside(func() error {
		resp, err = h.client().Lookup(ctx, name)
		return err
	})
	return resp, err
}

// listen has something listen at a port until the test that has the host is over. It closes all
// that connects.
func (h *host) listen(t *testing.T, port uint16) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ports[port] {
		return
	}
	var l net.Listener
	wait.Must(t, h.inside(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(wait.Soon(t), "tcp", fmt.Sprintf(":%d", port))
		return err
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
			conn.Close()
		}
	}()
	if h.ports == nil {
		h.ports = make(map[uint16]bool)
	}
	h.ports[port] = true
	h.t.Cleanup(func() {
		l.Close()
		<-done
	})
}

// register registers a node that is nothing but a connection to epmd and an open port. It can't be
// asked for its name.
func (h *host) register(t *testing.T, name string, port uint16) *epmd.Registration {
	t.Helper()
	h.listen(t, port)
	return h.registerOnly(t, name, port)
}

// registerOnly is register for a port that others open, or nobody.
func (h *host) registerOnly(t *testing.T, name string, port uint16) *epmd.Registration {
	t.Helper()
	return h.registerAs(t, aliveReq(name, port))
}

// registerAs is registerOnly for any kind of node.
func (h *host) registerAs(t *testing.T, req epmd.AliveReq) *epmd.Registration {
	t.Helper()
	var r *epmd.Registration
	wait.Must(t, h.inside(func() (err error) {
		r, err = h.client().Register(wait.Soon(t), req)
		return err
	}))
	h.t.Cleanup(func() { r.Close() })
	return r
}

func aliveReq(name string, port uint16) epmd.AliveReq {
	return epmd.AliveReq{Name: name, Port: port, Type: registry.Normal, High: 6, Low: 5}
}

// erl starts a node that lives until it is ended, or the test.
func (h *host) erl(t *testing.T, args ...string) *lan.Erl {
	t.Helper()
	e, err := h.StartErl(wait.Soon(t), args...)
	wait.Must(t, err)
	return e
}

func eval(t *testing.T, e *lan.Erl, expressions, want string) {
	t.Helper()
	if got := value(t, e, expressions); got != want {
		t.Errorf("%s evaluates to %s, want %s", expressions, got, want)
	}
}

func value(t *testing.T, e *lan.Erl, expressions string) string {
	t.Helper()
	got, err := e.Eval(wait.Soon(t), expressions)
	wait.Must(t, err)
	return got
}

// checkSilent fails the test if a node has logged anything. All else that a node of
// [lan.Host.StartErl] writes begins with "=lan".
func checkSilent(t *testing.T, nodes ...*lan.Erl) {
	t.Helper()
	for _, e := range nodes {
		for line := range strings.Lines(e.Output()) {
			if line != "\n" && !strings.HasPrefix(line, "=lan ") {
				t.Errorf("a node wrote:\n%s", e.Output())
				break
			}
		}
	}
}

// checkShown fails the test if a text could do harm on a terminal.
func checkShown(t *testing.T, what, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if i := strings.IndexFunc(line, func(r rune) bool { return !strconv.IsPrint(r) || r == '\uFFFD' }); i >= 0 {
			t.Errorf("%s: %q shows what can't be printed at byte %d", what, line, i)
		}
	}
}

// promptly has a program with the race detector end without the usual second of delay.
const promptly = "GORACE=atexit_sleep_ms=10"

// ask runs our epmd on the host to its end, and returns what it prints. That no node is listed is
// all right.
func (h *host) ask(t *testing.T, args ...string) string {
	t.Helper()
	cmd := h.Command(wait.Soon(t), eclusBinary(t), args...)
	cmd.Env = append(cmd.Env, promptly)
	out, err := cmd.Output()
	if err != nil && cmd.ProcessState.ExitCode() != nothingListed {
		t.Fatalf("epmd %q on %s: %v", args, h.Name(), err)
	}
	return string(out)
}

// nothingListed is the exit status of -nodes where an epmd answers, but knows no node that is
// meant.
const nothingListed = 2

// shown is what "epmd -nodes -json" prints of a node.
type shown struct {
	Node, Name, Host   string
	Address            string
	Addresses          []string
	Port               int
	Type, Origin, Dist string
	Creation           uint32
	Since              time.Time
	Sure               bool
}

// nodes runs "epmd -nodes -json" on the host.
func (h *host) nodes(t *testing.T) map[string]shown {
	t.Helper()
	nodes := make(map[string]shown)
	for line := range strings.Lines(h.ask(t, "-nodes", "-json")) {
		var s shown
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Errorf("epmd -nodes -json on %s: %q: %v", h.Name(), line, err)
		}
		nodes[s.Node] = s
	}
	return nodes
}

// awaitTable waits until what "epmd -nodes" shows on the host matches.
func (h *host) awaitTable(t *testing.T, pattern string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	var out string
	err := lan.Wait(wait.Soon(t), fmt.Sprintf("%q in epmd -nodes on %s", pattern, h.Name()), func(context.Context) (bool, error) {
		out = h.ask(t, "-nodes")
		return re.MatchString(out), nil
	})
	if err != nil {
		t.Fatalf("%v; it shows\n%s", err, out)
	}
}

// watcher follows what the epmd of a host knows.
type watcher struct {
	host string

	mu      sync.Mutex
	known   map[string]registry.Node
	lines   []string      // all that came
	at      time.Time     // when the latest line came
	changed chan struct{} // closed by the next line, which puts a new one in its place
	err     error         // of the connection, which is over then
}

// watch begins to follow until the test ends; until then epmd is to run.
func (h *host) watch(t *testing.T) *watcher {
	t.Helper()
	return watchIn(t, h.Name(), h.NetNS())
}

// watchIn is watch for a network namespace, which is named by its file.
func watchIn(t *testing.T, host, netns string) *watcher {
	t.Helper()
	var lines *epmd.Lines
	wait.Must(t, lan.Inside(netns, func() (err error) {
		lines, err = clientInside().Watch(t.Context())
		return err
	}))
	w := &watcher{host: host, known: make(map[string]registry.Node), changed: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.read(lines)
	}()
	t.Cleanup(func() {
		lines.Close()
		<-done
	})
	return w
}

func (w *watcher) read(lines *epmd.Lines) {
	for {
		line, err := lines.Next()
		w.apply(line, err)
		if err != nil {
			return
		}
	}
}

func (w *watcher) apply(line epmd.Line, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = time.Now()
	if err == nil && line.Kind != epmd.SnapshotEnd {
		err = w.note(line)
	}
	w.lines = append(w.lines, string(line.Append(nil)))
	w.err = err
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *watcher) note(line epmd.Line) error {
	n, err := line.Node()
	if err != nil {
		return err
	}
	key := fmt.Sprint(n.NeighbourKey()) // an epmd that is named later changes its nodes' origin
	if n.Origin == registry.Local {     // its host may still change
		key = "local " + n.Name
	}
	if line.Kind == epmd.NodeGone {
		delete(w.known, key)
	} else {
		w.known[key] = n
	}
	return nil
}

// history returns all lines that came.
func (w *watcher) history() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.lines, "")
}

// condition is what may be true of the nodes that are known.
type condition struct {
	what  string
	holds func(map[string]registry.Node) bool
}

// present holds if the LAN has a node of that full name for which all else is true too.
func present(node string, is ...func(registry.Node) bool) condition {
	return condition{node + " appears", func(known map[string]registry.Node) bool {
		return some(known, registry.LAN, node, is)
	}}
}

// absent holds if the LAN has no such node.
func absent(node string) condition {
	return condition{node + " goes", func(known map[string]registry.Node) bool {
		return !some(known, registry.LAN, node, nil)
	}}
}

// local is present for a node of the host itself.
func local(node string, is ...func(registry.Node) bool) condition {
	return condition{node + " registers", func(known map[string]registry.Node) bool {
		return some(known, registry.Local, node, is)
	}}
}

// neighbours holds if the LAN has that many nodes.
func neighbours(n int) condition {
	return condition{fmt.Sprintf("the LAN has %d nodes", n), func(known map[string]registry.Node) bool {
		count := 0
		for _, k := range known {
			if k.Origin == registry.LAN {
				count++
			}
		}
		return count == n
	}}
}

// reachableNeighbours holds if that many nodes of the LAN can be reached.
func reachableNeighbours(n int) condition {
	return condition{fmt.Sprintf("%d nodes of the LAN can be reached", n), func(known map[string]registry.Node) bool {
		reachable := 0
		for _, k := range known {
			if k.Origin == registry.LAN && k.Reach == registry.Reachable {
				reachable++
			}
		}
		return reachable == n
	}}
}

func some(known map[string]registry.Node, origin registry.Origin, node string, is []func(registry.Node) bool) bool {
	for _, n := range known {
		if n.Origin == origin && n.Node == node && all(n, is) {
			return true
		}
	}
	return false
}

func all(n registry.Node, is []func(registry.Node) bool) bool {
	for _, f := range is {
		if !f(n) {
			return false
		}
	}
	return true
}

func onPort(port uint16) func(registry.Node) bool {
	return func(n registry.Node) bool { return n.Port == port }
}

func sure(n registry.Node) bool { return n.Sure }

// until waits for all conditions to hold at once, and returns when the latest news came.
func (w *watcher) until(t *testing.T, conditions ...condition) time.Time {
	t.Helper()
	deadline := time.After(wait.Patience)
	for {
		at, changed, missing, err := w.look(conditions)
		if missing == "" {
			return at
		}
		if err != nil {
			t.Fatalf("%s: until %s: %v", w.host, missing, err)
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%s: not within %v: %s; what came is\n%s", w.host, wait.Patience, missing, w.history())
		}
	}
}

// look tells what of the conditions does not hold; if nothing, since when.
func (w *watcher) look(conditions []condition) (at time.Time, changed <-chan struct{}, missing string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conditions {
		if !c.holds(w.known) {
			missing = c.what
		}
	}
	return w.at, w.changed, missing, w.err
}

// node returns the node of that full name.
func (w *watcher) node(t *testing.T, node string) registry.Node {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.known {
		if n.Node == node {
			return n
		}
	}
	t.Fatalf("%s: no node %q", w.host, node)
	return registry.Node{}
}

// instance is a service instance as avahi-browse has found it.
type instance struct {
	iface, proto  string
	label         string
	host, address string
	port          string
	text          map[string]string
}

// browse returns all instances of our type that avahi-browse finds at once.
func (h *host) browse(t *testing.T) []instance {
	t.Helper()
	out, err := h.Output(wait.Soon(t), "avahi-browse", "-rpt", "_epmd._tcp")
	wait.Must(t, err)
	var found []instance
	for line := range strings.Lines(out) {
		if f := strings.SplitN(strings.TrimSpace(line), ";", 10); f[0] == "=" && len(f) == 10 {
			found = append(found, instance{
				iface: f[1], proto: f[2], label: unescape(f[3]), host: f[6], address: f[7], port: f[8], text: textOf(f[9]),
			})
		}
	}
	return found
}

// browseUntil browses until it finds that many instances of each label: one for each interface and
// IP version. Streams between epmds are faster than multicast.
func (h *host) browseUntil(t *testing.T, many int, labels ...string) (found []instance) {
	t.Helper()
	err := lan.Wait(wait.Soon(t), fmt.Sprintf("%d instances each of %q on %s", many, labels, h.Name()), func(context.Context) (bool, error) {
		found = h.browse(t)
		return !slices.ContainsFunc(labels, func(l string) bool { return len(labelled(found, l)) != many }), nil
	})
	if err != nil {
		t.Fatalf("%v; it finds %+v", err, found)
	}
	return found
}

// labelled returns the instances of that label.
func labelled(all []instance, label string) []instance {
	return slices.DeleteFunc(slices.Clone(all), func(i instance) bool { return i.label != label })
}

var (
	escaped = regexp.MustCompile(`\\(\d{3}|.)`)
	quoted  = regexp.MustCompile(`"((?:[^"\\]|\\.)*)"`)
)

// unescape undoes what avahi-browse -p does to a label.
func unescape(label string) string {
	return escaped.ReplaceAllStringFunc(label, func(s string) string {
		if code, err := strconv.ParseUint(s[1:], 10, 8); err == nil && len(s) == 4 {
			return string([]byte{byte(code)})
		}
		return s[1:]
	})
}

// textOf returns the keys and values of a TXT record.
func textOf(field string) map[string]string {
	text := make(map[string]string)
	for _, m := range quoted.FindAllStringSubmatch(field, -1) {
		key, val, _ := strings.Cut(m[1], "=")
		text[key] = val
	}
	return text
}

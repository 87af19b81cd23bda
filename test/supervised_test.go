package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/machine"
	"github.com/goerlang/eclus/test/wait"
)

// units is the folder of our unit files.
const units = "../systemd"

// unit is the service that the tests on full hosts are about.
const unit = "epmd.service"

// supervised is a full host on which epmd is a service of systemd.
type supervised struct {
	*machine.Machine
}

// supervise returns a host on which epmd.socket listens and nothing has used it. lines are added to
// section [Service] of the unit. The test runs in parallel with others: it waits for systemd most
// of the time.
func supervise(t *testing.T, lines ...string) *supervised {
	t.Helper()
	t.Parallel()
	return superviseOn(t, nil, "hosta", machine.Options{}, lines...)
}

// superviseOn is supervise for a host of a network.
func superviseOn(t *testing.T, n *lan.Network, name string, opt machine.Options, lines ...string) *supervised {
	t.Helper()
	s := &supervised{machine.ForTest(t, n, name, opt, "systemd-run", "erl")}
	s.addToService(t, lines...)
	wait.Must(t, s.InstallEpmd(wait.Soon(t), shipped(t), units))
	return s
}

// configure replaces what is added to section [Service] of the unit, for its next start.
func (s *supervised) configure(t *testing.T, lines ...string) {
	t.Helper()
	s.addToService(t, lines...)
	s.systemctl(t, "daemon-reload")
}

// addToService is configure for a systemd that will read its units later.
func (s *supervised) addToService(t *testing.T, lines ...string) {
	t.Helper()
	text := "[Service]\n" + strings.Join(lines, "\n") + "\n"
	wait.Must(t, s.WriteFile("/etc/systemd/system/epmd.service.d/test.conf", []byte(text), 0o644))
}

// shipped builds epmd as it is shipped, which it has to be for the restrictions of the unit.
func shipped(t *testing.T) string {
	t.Helper()
	return builtOnce(t, "shipped", func(binary string) error {
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=test", "-o", binary, "github.com/goerlang/eclus/cmd/epmd")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := build.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("build epmd: %w\n%s", err, out)
		}
		return err
	})
}

// another returns epmd as shipped has it, as a program that differs: text follows its end.
func another(t *testing.T, text string) string {
	t.Helper()
	program, err := os.ReadFile(shipped(t))
	wait.Must(t, err)
	path := filepath.Join(t.TempDir(), text)
	wait.Must(t, os.WriteFile(path, append(program, text...), 0o755))
	return path
}

// builds are the builds of builtOnce by their names.
var builds sync.Map

// builtOnce returns the path of what build makes there. Tests that need the same share it.
func builtOnce(t *testing.T, name string, build func(path string) error) string {
	t.Helper()
	path := filepath.Join(buildDir, name)
	made, _ := builds.LoadOrStore(name, sync.OnceValue(func() error { return build(path) }))
	wait.Must(t, made.(func() error)())
	return path
}

func (s *supervised) systemctl(t *testing.T, args ...string) {
	t.Helper()
	_, err := s.Output(wait.Soon(t), "systemctl", args...)
	wait.Must(t, err)
}

// kill ends epmd as a crash does, and returns without waiting for what systemd makes of it.
func (s *supervised) kill(t *testing.T) { t.Helper(); s.signal(t, syscall.SIGKILL) }

func (s *supervised) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	wait.Must(t, s.Signal(wait.Soon(t), unit, sig))
}

// show returns a property of the service.
func (s *supervised) show(t *testing.T, property string) string {
	t.Helper()
	value, err := s.Show(wait.Soon(t), unit, property)
	wait.Must(t, err)
	return value
}

// await waits until a property of the service matches.
func (s *supervised) await(t *testing.T, property, pattern string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	var value string
	err := lan.Wait(wait.Soon(t), fmt.Sprintf("%s of %s to match %q", property, unit, pattern), func(ctx context.Context) (ok bool, err error) {
		value, err = s.Show(ctx, unit, property)
		return re.MatchString(value), err
	})
	if err != nil {
		t.Fatalf("%v; it is %q", err, value)
	}
}

// mainPID returns epmd's process.
func (s *supervised) mainPID(t *testing.T) int {
	t.Helper()
	pid, err := s.MainPID(wait.Soon(t), unit)
	wait.Must(t, err)
	return pid
}

// checkRuns fails the test unless the service runs that binary.
func (s *supervised) checkRuns(t *testing.T, binary string) {
	t.Helper()
	want, err := os.ReadFile(binary)
	wait.Must(t, err)
	got, err := os.ReadFile(s.Path(fmt.Sprintf("/proc/%d/exe", s.mainPID(t))))
	wait.Must(t, err)
	if string(got) != string(want) {
		t.Errorf("%s runs another binary than %s", unit, binary)
	}
}

// awaitJournal waits until the journal of the service matches.
func (s *supervised) awaitJournal(t *testing.T, pattern string, args ...string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	var out string
	err := lan.Wait(wait.Soon(t), fmt.Sprintf("%q in the journal", pattern), func(ctx context.Context) (ok bool, err error) {
		out, err = s.Journal(ctx, append([]string{"-u", unit}, args...)...)
		return re.MatchString(out), err
	})
	if err != nil {
		t.Fatalf("%v; it has\n%s", err, out)
	}
}

// inside calls f in the host's network namespace, as lan.Inside does.
func (s *supervised) inside(f func() error) error { return lan.Inside(s.NetNS(), f) }

// client asks the host's epmd; only inside.
func (s *supervised) client() *epmd.Client {
	return epmd.NewClient(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), epmd.DefaultPort))
}

// raw is a node that is nothing but a connection to epmd.
type raw struct {
	name     string
	port     uint16
	creation uint32
	conn     *net.TCPConn
	ended    chan struct{} // closed when the connection has ended
}

// register registers raw nodes; what they are named is prefix and a number.
func (s *supervised) register(t *testing.T, prefix string, count int) []*raw {
	t.Helper()
	nodes := make([]*raw, count)
	for i := range nodes {
		n, err := s.tryRegister(wait.Soon(t), fmt.Sprint(prefix, i), uint16(20000+i))
		wait.Must(t, err)
		t.Cleanup(n.leave)
		nodes[i] = n
	}
	return nodes
}

func (s *supervised) tryRegister(ctx context.Context, name string, port uint16) (*raw, error) {
	n := &raw{name: name, port: port, ended: make(chan struct{})}
	err := s.inside(func() error {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", epmd.DefaultPort))
		if err == nil {
			n.conn = conn.(*net.TCPConn)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { n.conn.Close() })
	defer stop()
	if err := n.ask(); err != nil {
		n.conn.Close()
		return nil, fmt.Errorf("register %q: %w", name, errors.Join(err, context.Cause(ctx)))
	}
	go n.wait()
	return n, nil
}

// ask does what a node does to register.
func (n *raw) ask() error {
	frame, err := epmd.AppendFrame(nil, epmd.AliveReq{Name: n.name, Port: n.port, Type: registry.Normal, High: 6, Low: 5})
	if err != nil {
		return err
	}
	if _, err := n.conn.Write(frame); err != nil {
		return err
	}
	buf := make([]byte, 6) // of ALIVE2_X_RESP
	if _, err := io.ReadFull(n.conn, buf); err != nil {
		return err
	}
	resp, err := epmd.ParseAliveResp(buf)
	if err == nil && resp.Result != 0 {
		err = epmd.ErrRefused
	}
	n.creation = resp.Creation
	return err
}

// wait ends when the connection does, in whichever way.
func (n *raw) wait() {
	defer close(n.ended)
	_, _ = n.conn.Read(make([]byte, 1))
}

// leave ends the node. Closing its connection is not enough: another process that is just being
// started may have a duplicate for a moment.
func (n *raw) leave() {
	_ = n.conn.CloseWrite() // epmd may have ended it before
	n.conn.Close()
	<-n.ended
}

// lookup asks for the port of a name.
func (s *supervised) lookup(ctx context.Context, name string) (port uint16, err error) {
	err = s.inside(func() error {
		resp, err := s.client().Lookup(ctx, name)
		port = resp.Port
		return err
	})
	return port, err
}

// known returns the nodes that epmd knows, by their alive names.
func (s *supervised) known(t *testing.T) map[string]registry.Node {
	t.Helper()
	known := make(map[string]registry.Node)
	wait.Must(t, s.inside(func() error {
		lines, err := s.client().Nodes(wait.Soon(t))
		if err != nil {
			return err
		}
		defer lines.Close()
		for {
			line, err := lines.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			n, err := line.Node()
			if err != nil {
				return err
			}
			known[n.Name] = n
		}
	}))
	return known
}

// checkOnly fails the test unless epmd knows these nodes and no others. They are as they
// registered, over the same connections.
func (s *supervised) checkOnly(t *testing.T, nodes ...*raw) {
	t.Helper()
	known := s.known(t)
	for _, n := range nodes {
		select {
		case <-n.ended:
			t.Errorf("connection of %s has ended", n.name)
		default:
		}
		got, found := known[n.name]
		if !found || got.Port != n.port || got.Creation != n.creation {
			t.Errorf("%s: port %d, creation %d (known: %t); want %d, %d", n.name, got.Port, got.Creation, found, n.port, n.creation)
		}
		delete(known, n.name)
	}
	if len(known) > 0 {
		t.Errorf("known but not there: %v", slices.Sorted(maps.Keys(known)))
	}
}

// poller looks a name up every millisecond.
type poller struct {
	asked   int
	cut     int // connections that ended without an answer
	wrong   []error
	longest time.Duration
}

// poll looks a name up until the function that it returns is called. That returns what there was to
// see.
func (s *supervised) poll(t *testing.T, name string, port uint16) func() poller {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan poller, 1)
	go func() {
		var p poller
		err := s.inside(func() error {
			p.run(ctx, s.client(), name, port)
			return nil
		})
		if err != nil {
			p.wrong = append(p.wrong, err)
		}
		result <- p
	}()
	stop := sync.OnceValue(func() poller {
		cancel()
		return <-result
	})
	t.Cleanup(func() { stop() })
	return stop
}

func (p *poller) run(ctx context.Context, c *epmd.Client, name string, port uint16) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		begin := time.Now()
		resp, err := c.Lookup(ctx, name)
		if ctx.Err() != nil {
			return
		}
		p.note(time.Since(begin), resp.Port == port, err)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p *poller) note(took time.Duration, right bool, err error) {
	p.asked++
	p.longest = max(p.longest, took)
	switch {
	case cutOff(err):
		p.cut++
	case err != nil:
		p.wrong = append(p.wrong, err)
	case !right:
		p.wrong = append(p.wrong, fmt.Errorf("lookup %d: another port", p.asked))
	}
}

// check fails the test unless all lookups were answered in time. Those that epmd was just answering
// when it was ended do not count.
func (p poller) check(t *testing.T, ends int, limit time.Duration) {
	t.Helper()
	t.Logf("%d lookups over %d ends of epmd: the longest took %v, %d were cut off", p.asked, ends, p.longest.Round(time.Millisecond), p.cut)
	for _, err := range p.wrong {
		t.Errorf("lookup: %v", err)
	}
	if p.cut > ends {
		t.Errorf("%d lookups cut off, want %d at most", p.cut, ends)
	}
	if p.longest > limit {
		t.Errorf("a lookup took %v, want %v at most", p.longest, limit)
	}
}

// tolerable is how long a lookup may wait across the end of epmd on a busy machine.
const tolerable = 5 * time.Second

// endBy has f end epmd and returns when another process of it is up.
func (s *supervised) endBy(t *testing.T, f func()) {
	t.Helper()
	before := s.show(t, "InvocationID")
	f()
	wait.Must(t, lan.Wait(wait.Soon(t), "another epmd", func(ctx context.Context) (bool, error) {
		id, err := s.Show(ctx, unit, "InvocationID")
		if err != nil || id == before {
			return false, err
		}
		state, err := s.Show(ctx, unit, "SubState")
		return state == "running", err
	}))
}

// crash has epmd killed, and returns when another process of it is up.
func (s *supervised) crash(t *testing.T) {
	t.Helper()
	s.endBy(t, func() { s.kill(t) })
}

// checkSameProcess fails the test if f ends epmd's process.
func (s *supervised) checkSameProcess(t *testing.T, f func()) {
	t.Helper()
	before := s.mainPID(t)
	f()
	if now := s.mainPID(t); now != before {
		t.Errorf("process %d has become %d", before, now)
	}
}

// startErl starts nodes that are services of their own, and returns what epmd knows of them. Their
// connections are not watched: a node registers anew when its own ends, and has another creation
// then.
func (s *supervised) startErl(t *testing.T, count int) []*raw {
	t.Helper()
	nodes := make([]*raw, count)
	for i := range nodes {
		name := fmt.Sprint("erl", i)
		// Without a cookie of their own they would race to make one.
		_, err := s.Output(wait.Soon(t), "systemd-run", "--collect", "--quiet", "--unit="+name, "--setenv=HOME=/root",
			"erl", "-noinput", "-name", name+"@127.0.0.1", "-setcookie", "supervised")
		wait.Must(t, err)
		nodes[i] = &raw{name: name, ended: make(chan struct{})}
	}
	for _, n := range nodes {
		wait.Must(t, lan.Wait(wait.Soon(t), n.name, func(context.Context) (bool, error) {
			known, found := s.known(t)[n.name]
			n.port, n.creation = known.Port, known.Creation
			return found, nil
		}))
	}
	return nodes
}

// cutOff reports whether epmd has ended while it was answering.
func cutOff(err error) bool {
	return errors.Is(err, epmd.ErrNoAnswer) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
}

// entry is what matters of an entry in the journal.
type entry struct {
	Message    string `json:"MESSAGE"`
	ID         string `json:"MESSAGE_ID"`
	Priority   string `json:"PRIORITY"`
	Identifier string `json:"SYSLOG_IDENTIFIER"`
	Node       string `json:"ERLANG_NODE"`
	Name       string `json:"ERLANG_NAME"`
	Port       string `json:"ERLANG_PORT"`
	Peer       string `json:"PEER"`
}

// entries returns the entries that epmd has written with that MESSAGE_ID.
func (s *supervised) entries(ctx context.Context, id string) ([]entry, error) {
	out, err := s.Journal(ctx, "-o", "json", "-u", unit, "MESSAGE_ID="+id)
	if err != nil {
		return nil, err
	}
	var all []entry
	for line := range strings.Lines(out) {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return nil, fmt.Errorf("journal: %q: %w", line, err)
		}
		all = append(all, e)
	}
	return all, nil
}

// awaitEntry waits for an entry with that MESSAGE_ID about the node of that alive name, and returns
// the first. The name may be empty.
func (s *supervised) awaitEntry(t *testing.T, id, node string) (found entry) {
	t.Helper()
	wait.Must(t, lan.Wait(wait.Soon(t), "entry "+id+" about "+node, func(ctx context.Context) (bool, error) {
		all, err := s.entries(ctx, id)
		for _, e := range all {
			if e.Name == node {
				found = e
				return true, nil
			}
		}
		return false, err
	}))
	return found
}

package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"eclus/epmd"
	"eclus/registry"
	"eclus/test/lan"
	"eclus/test/machine"
)

// units is the folder of our unit files.
const units = "../systemd"

// unit is the service that the tests on full hosts are about.
const unit = "epmd.service"

// supervised is a full host on which epmd is a service of systemd.
type supervised struct {
	*machine.Machine
}

// supervise returns a host on which epmd.socket listens and nothing has used it. lines are added to section [Service]
// of the unit.
func supervise(t *testing.T, lines ...string) *supervised {
	t.Helper()
	machine.Need(t, "systemd-run", "erl")
	return superviseOn(t, lan.ForTest(t), "hosta", machine.Options{}, lines...)
}

// superviseOn is supervise for a host of a network.
func superviseOn(t *testing.T, n *lan.Network, name string, opt machine.Options, lines ...string) *supervised {
	t.Helper()
	s := &supervised{machine.ForTestOn(t, n, name, opt)}
	s.configure(t, lines...)
	must(t, s.InstallEpmd(soon(t), shipped(t, "test"), units))
	return s
}

// configure replaces what is added to section [Service] of the unit, for its next start.
func (s *supervised) configure(t *testing.T, lines ...string) {
	t.Helper()
	text := "[Service]\n" + strings.Join(lines, "\n") + "\n"
	must(t, s.WriteFile("/etc/systemd/system/epmd.service.d/test.conf", []byte(text), 0o644))
	s.systemctl(t, "daemon-reload")
}

// shipped builds epmd as it is shipped, which it has to be for the restrictions of the unit.
func shipped(t *testing.T, version string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "epmd")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+version, "-o", binary, "eclus/cmd/epmd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build epmd: %v\n%s", err, out)
	}
	return binary
}

func (s *supervised) systemctl(t *testing.T, args ...string) {
	t.Helper()
	_, err := s.Output(soon(t), "systemctl", args...)
	must(t, err)
}

// kill ends epmd as a crash does, and returns without waiting for what systemd makes of it.
func (s *supervised) kill(t *testing.T) { t.Helper(); s.signal(t, syscall.SIGKILL) }

func (s *supervised) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	s.systemctl(t, "kill", "--kill-whom=main", fmt.Sprintf("--signal=%d", sig), unit)
}

// show returns a property of the service.
func (s *supervised) show(t *testing.T, property string) string {
	t.Helper()
	value, err := s.Show(soon(t), unit, property)
	must(t, err)
	return value
}

// await waits until a property of the service matches.
func (s *supervised) await(t *testing.T, property, pattern string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	var value string
	err := lan.Wait(soon(t), fmt.Sprintf("%s of %s to match %q", property, unit, pattern), func(ctx context.Context) (ok bool, err error) {
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
	pid, err := s.MainPID(soon(t), unit)
	must(t, err)
	return pid
}

// checkRuns fails the test unless the service runs that binary.
func (s *supervised) checkRuns(t *testing.T, binary string) {
	t.Helper()
	want, err := os.ReadFile(binary)
	must(t, err)
	got, err := os.ReadFile(s.Path(fmt.Sprintf("/proc/%d/exe", s.mainPID(t))))
	must(t, err)
	if string(got) != string(want) {
		t.Errorf("%s runs another binary than %s", unit, binary)
	}
}

// awaitJournal waits until the journal of the service matches.
func (s *supervised) awaitJournal(t *testing.T, pattern string, args ...string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	var out string
	err := lan.Wait(soon(t), fmt.Sprintf("%q in the journal", pattern), func(ctx context.Context) (ok bool, err error) {
		out, err = s.Journal(ctx, append([]string{"-u", unit}, args...)...)
		return re.MatchString(out), err
	})
	if err != nil {
		t.Fatalf("%v; it has\n%s", err, out)
	}
}

// inside calls f on a thread in the host's network namespace.
func (s *supervised) inside(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- visit(s.NetNS(), f)
	}()
	return <-done
}

// client asks the host's epmd; only inside.
func (s *supervised) client() *epmd.Client { return epmd.NewLocalClient(epmd.DefaultPort) }

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
		n, err := s.tryRegister(soon(t), fmt.Sprint(prefix, i), uint16(20000+i))
		must(t, err)
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

// leave ends the node. Closing its connection does not do it at once, if this process is just starting another, which has
// a duplicate for a moment.
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
	must(t, s.inside(func() error {
		lines, err := s.client().Nodes(soon(t))
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

// checkOnly fails the test unless these are all nodes that epmd knows, as they registered and over the same connections.
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

// poll looks a name up until the function that it returns is called, which returns what there was to see.
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

// check fails the test unless all lookups were answered, but for those that epmd was just answering when it was ended,
// and in time.
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

// tolerable is how long a lookup may wait across the end of epmd, on a machine that has much else to do.
const tolerable = 5 * time.Second

func TestSystemdActivation(t *testing.T) {
	s := supervise(t)
	if state := s.show(t, "ActiveState"); state != "inactive" {
		t.Errorf("before the first lookup the service is %s, want inactive", state)
	}
	if _, err := s.lookup(soon(t), "nobody"); !errors.Is(err, epmd.ErrNotRegistered) {
		t.Errorf("the first lookup: %v, want %v", err, epmd.ErrNotRegistered)
	}
	s.await(t, "ActiveState", "^active$")
	s.await(t, "StatusText", "^0 nodes registered, 0 on the LAN")
	nodes := s.register(t, "a", 2)
	s.await(t, "StatusText", "^2 nodes registered")
	nodes[0].leave()
	s.await(t, "StatusText", "^1 node registered")

	t.Run("stop", func(t *testing.T) {
		s.systemctl(t, "stop", "epmd.socket", unit)
		<-nodes[1].ended
		var refused syscall.Errno
		if _, err := s.lookup(soon(t), "a1"); !errors.As(err, &refused) || refused != syscall.ECONNREFUSED {
			t.Errorf("lookup after the stop: %v, want %v", err, syscall.ECONNREFUSED)
		}
		s.systemctl(t, "start", "epmd.socket")
		s.checkOnly(t)
	})
}

func TestSystemdNothingLost(t *testing.T) {
	s := supervise(t)
	nodes := append(s.register(t, "raw", 50), s.startErl(t, 3)...)
	s.checkOnly(t, nodes...)

	t.Run("SIGKILL", func(t *testing.T) {
		stop := s.poll(t, "raw0", nodes[0].port)
		s.endBy(t, func() { s.kill(t) })
		s.checkOnly(t, nodes...)
		stop().check(t, 1, tolerable)
	})
	t.Run("restart", func(t *testing.T) {
		stop := s.poll(t, "raw0", nodes[0].port)
		for range 5 {
			s.systemctl(t, "restart", unit)
			s.checkOnly(t, nodes...)
		}
		stop().check(t, 5, tolerable)
	})
	t.Run("upgrade", func(t *testing.T) {
		newer := shipped(t, "newer")
		stop := s.poll(t, "raw0", nodes[0].port)
		must(t, s.CopyFile("/usr/bin/epmd", newer, 0o755))
		s.systemctl(t, "restart", unit)
		s.checkRuns(t, newer)
		s.checkOnly(t, nodes...)
		stop().check(t, 1, tolerable)
	})
	t.Run("reload", func(t *testing.T) {
		newest := shipped(t, "newest")
		stop := s.poll(t, "raw0", nodes[0].port)
		pid := s.mainPID(t)
		must(t, s.CopyFile("/usr/bin/epmd", newest, 0o755))
		s.systemctl(t, "reload", unit)
		s.checkRuns(t, newest)
		s.checkOnly(t, nodes...)
		if now := s.mainPID(t); now != pid {
			t.Errorf("process %d has become %d", pid, now)
		}
		stop().check(t, 1, tolerable)
	})
	t.Run("reload with a program that can't start", func(t *testing.T) {
		good := shipped(t, "good")
		stop := s.poll(t, "raw0", nodes[0].port)
		pid := s.mainPID(t)
		must(t, s.CopyFile("/usr/bin/epmd", "/bin/false", 0o755))
		_ = s.Command(soon(t), "systemctl", "reload", unit).Run() // may well say that it has not worked
		s.awaitJournal(t, "program not replaced")
		s.checkOnly(t, nodes...)
		if now := s.mainPID(t); now != pid {
			t.Errorf("process %d has become %d", pid, now)
		}
		stop().check(t, 0, tolerable)
		must(t, s.CopyFile("/usr/bin/epmd", good, 0o755))
	})
	t.Run("SIGKILL 20 times", func(t *testing.T) {
		stop := s.poll(t, "raw0", nodes[0].port)
		begin := time.Now()
		for range 20 {
			s.endBy(t, func() { s.kill(t) })
		}
		t.Logf("20 kills and restarts took %v", since(begin))
		s.checkOnly(t, nodes...)
		stop().check(t, 20, tolerable)
	})
}

// endBy has f end epmd and returns when another process of it is up.
func (s *supervised) endBy(t *testing.T, f func()) {
	t.Helper()
	before := s.show(t, "InvocationID")
	f()
	must(t, lan.Wait(soon(t), "another epmd", func(ctx context.Context) (bool, error) {
		out, err := s.Output(ctx, "systemctl", "show", "-P", "InvocationID", "-P", "SubState", unit)
		return !strings.Contains(out, before) && strings.Contains(out, "running"), err
	}))
}

// startErl starts nodes that are services of their own, and returns what epmd knows of them. Their connections
// are not watched: a node registers anew when its own ends, and has another creation then.
func (s *supervised) startErl(t *testing.T, count int) []*raw {
	t.Helper()
	nodes := make([]*raw, count)
	for i := range nodes {
		name := fmt.Sprint("erl", i)
		_, err := s.Output(soon(t), "systemd-run", "--collect", "--quiet", "--unit="+name, "--setenv=HOME=/root",
			"erl", "-noinput", "-name", name+"@127.0.0.1")
		must(t, err)
		nodes[i] = &raw{name: name, ended: make(chan struct{})}
	}
	for _, n := range nodes {
		must(t, lan.Wait(soon(t), n.name, func(context.Context) (bool, error) {
			known, found := s.known(t)[n.name]
			n.port, n.creation = known.Port, known.Creation
			return found, nil
		}))
	}
	return nodes
}

// held makes the next starts of the service wait for release.
const (
	heldBy = "/run/test-hold"
	held   = "ExecStartPre=+/bin/sh -c 'while [ -e " + heldBy + " ]; do sleep 0.01; done'"
)

func TestSystemdDeadWhileDown(t *testing.T) {
	s := supervise(t, held)
	nodes := s.register(t, "node", 10)
	must(t, s.WriteFile(heldBy, nil, 0o644))
	s.kill(t)
	s.await(t, "SubState", "^start-pre$")
	living := nodes[:5]
	for _, n := range nodes[5:] {
		n.leave()
	}
	answer := make(chan error, 1)
	go func() {
		_, err := s.lookup(soon(t), nodes[9].name)
		answer <- err
	}()
	_, err := s.Output(soon(t), "rm", heldBy)
	must(t, err)
	if err := <-answer; !errors.Is(err, epmd.ErrNotRegistered) {
		t.Errorf("lookup of a node that died while epmd was down: %v, want %v", err, epmd.ErrNotRegistered)
	}
	s.checkOnly(t, living...)

	t.Run("name is free", func(t *testing.T) {
		again, err := s.tryRegister(soon(t), nodes[9].name, 1)
		must(t, err)
		defer again.leave()
		if want := nodes[9].creation + 1; again.creation != want {
			t.Errorf("creation %d, want %d", again.creation, want)
		}
	})
}

func TestSystemdCreations(t *testing.T) {
	s := supervise(t)
	gone := s.register(t, "gone", 3)
	for _, n := range gone {
		n.leave()
	}
	s.await(t, "StatusText", "^0 nodes registered")
	for name, end := range map[string]func(){
		"SIGKILL": func() { s.endBy(t, func() { s.kill(t) }) },
		"restart": func() { s.systemctl(t, "restart", unit) },
	} {
		end()
		for i, n := range s.register(t, "gone", 3) {
			if want := gone[i].creation + 1; n.creation != want {
				t.Errorf("creation of %s after %s is %d, want %d", n.name, name, n.creation, want)
			}
			gone[i] = n
			n.leave()
		}
		s.await(t, "StatusText", "^0 nodes registered")
	}
}

func TestSystemdChurn(t *testing.T) {
	s := supervise(t)
	staying := s.register(t, "stays", 20)
	stop := s.poll(t, "stays0", staying[0].port)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() { s.comeAndGo(ctx, t, fmt.Sprint("busy", i)) })
	}
	const kills = 50
	pause := time.NewTicker(time.Millisecond)
	defer pause.Stop()
	for range kills {
		s.endBy(t, func() { s.kill(t) })
		for range rand.IntN(20) {
			<-pause.C
		}
	}
	cancel()
	group.Wait()
	stop().check(t, kills, tolerable)
	s.await(t, "StatusText", "^20 nodes registered")
	s.checkOnly(t, staying...)
}

// comeAndGo registers a node and ends it, over and over. One that was told its creation is registered, whatever
// becomes of epmd; and the next under that name has another creation.
func (s *supervised) comeAndGo(ctx context.Context, t *testing.T, name string) {
	var last uint32
	for ctx.Err() == nil {
		n, err := s.tryRegister(ctx, name, 4711)
		switch {
		case ctx.Err() != nil:
		case cutOff(err):
			continue
		case err != nil:
			t.Errorf("register %s: %v", name, err)
			return
		case n.creation == last:
			t.Errorf("%s: creation %d twice", name, last)
		default:
			if port, err := s.lookup(ctx, name); port != 4711 && !cutOff(err) && ctx.Err() == nil {
				t.Errorf("lookup of %s, which is registered: port %d, %v", name, port, err)
			}
			last = n.creation
		}
		if n != nil {
			n.leave()
		}
	}
}

// cutOff tells whether epmd has ended while it was answering.
func cutOff(err error) bool {
	return errors.Is(err, epmd.ErrNoAnswer) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
}

func TestSystemdQuickRestart(t *testing.T) {
	s := supervise(t)
	for i := range 200 {
		n, err := s.tryRegister(soon(t), "again", 4711)
		if err != nil {
			t.Fatalf("start %d: %v", i, err)
		}
		n.leave()
	}
}

func TestSystemdStoreSmall(t *testing.T) {
	s := supervise(t, "FileDescriptorStoreMax=4")
	nodes := s.register(t, "node", 10)
	s.await(t, "StatusText", "^10 nodes registered.*7 of them are not kept.*FileDescriptorStoreMax= is 4")
	s.awaitJournal(t, "FileDescriptorStoreMax= is 4")
	s.endBy(t, func() { s.kill(t) })
	s.checkOnly(t, nodes[:3]...)
}

func TestSystemdStoreOff(t *testing.T) {
	s := supervise(t, "FileDescriptorStoreMax=0")
	nodes := s.register(t, "node", 2)
	s.await(t, "StatusText", "^2 nodes registered.*FileDescriptorStoreMax= is 0")
	s.awaitJournal(t, "FileDescriptorStoreMax= of the unit is 0")
	s.endBy(t, func() { s.kill(t) })
	for _, n := range nodes {
		<-n.ended
	}
	s.checkOnly(t)
}

func TestSystemdWatchdog(t *testing.T) {
	s := supervise(t, "WatchdogSec=1")
	nodes := s.register(t, "node", 5)
	s.endBy(t, func() { s.signal(t, syscall.SIGSTOP) })
	s.checkOnly(t, nodes...)
	s.awaitJournal(t, "Watchdog timeout")
}

func TestSystemdSecurity(t *testing.T) {
	s := supervise(t)
	out, err := s.Output(soon(t), "systemd-analyze", "security", "--no-pager", "--threshold=15", unit)
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Log(regexp.MustCompile(`Overall exposure.*`).FindString(out))
}

// entry is what matters of an entry in the journal.
type entry struct {
	Message    string `json:"MESSAGE"`
	ID         string `json:"MESSAGE_ID"`
	Priority   string `json:"PRIORITY"`
	Identifier string `json:"SYSLOG_IDENTIFIER"`
	Node       string `json:"ERLANG_NODE"`
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

// awaitEntry returns the first entry with that MESSAGE_ID when there is one about the node, which may be empty.
func (s *supervised) awaitEntry(t *testing.T, id, node string) (found entry) {
	t.Helper()
	must(t, lan.Wait(soon(t), "entry "+id+" about "+node, func(ctx context.Context) (bool, error) {
		all, err := s.entries(ctx, id)
		for _, e := range all {
			if alive, _, _ := strings.Cut(e.Node, "@"); alive == node {
				found = e
				return true, nil
			}
		}
		return false, err
	}))
	return found
}

// MESSAGE_ID= of entries.
const (
	nodeUp        = "ee43d0d7450846158a5dd1fa29aa3a3c"
	nodeDown      = "4d41255004f84e54aab6749e86f7b406"
	stateRestored = "9a0838eb484c4bf0a19848d88d909030"
)

func TestSystemdJournal(t *testing.T) {
	s := supervise(t)
	nodes := s.register(t, "node", 2)
	nodes[0].leave()
	for _, id := range []string{nodeUp, nodeDown} {
		e := s.awaitEntry(t, id, "node0")
		if e.Priority != "6" || e.Identifier != "epmd" || e.Port != "20000" {
			t.Errorf("entry %+v; want priority 6 of epmd for port 20000", e)
		}
		if id == nodeUp && !strings.HasPrefix(e.Peer, "127.0.0.1:") {
			t.Errorf("peer %q, want 127.0.0.1 and a port", e.Peer)
		}
	}
	s.awaitJournal(t, `Subject: Erlang node node0\S* has registered`, "-x", "MESSAGE_ID="+nodeUp)
	s.endBy(t, func() { s.kill(t) })
	s.awaitEntry(t, stateRestored, "")

	t.Run("wedged", func(t *testing.T) {
		s.systemctl(t, "kill", "--kill-whom=main", "--signal=SIGSTOP", "systemd-journald.service")
		stop := s.poll(t, "node1", nodes[1].port)
		for range 500 {
			s.register(t, "unheard-of", 1)[0].leave()
		}
		s.systemctl(t, "kill", "--kill-whom=main", "--signal=SIGCONT", "systemd-journald.service")
		stop().check(t, 0, tolerable)
		s.register(t, "heard-of", 1)
		s.awaitEntry(t, nodeUp, "heard-of0")
	})
	t.Run("stopped", func(t *testing.T) {
		sockets := []string{"systemd-journald.socket", "systemd-journald-dev-log.socket"}
		s.systemctl(t, append([]string{"stop", "systemd-journald.service"}, sockets...)...)
		s.register(t, "unheard-of-either", 1)
		s.systemctl(t, append([]string{"start", "systemd-journald.service"}, sockets...)...)
		s.register(t, "heard-again", 1)
		s.awaitEntry(t, nodeUp, "heard-again0")
	})
}

// TestSystemdServices has two services with nodes, of which one starts epmd, as far as it knows, and goes.
func TestSystemdServices(t *testing.T) {
	s := supervise(t)
	nodes := s.startErl(t, 2)
	pid := s.mainPID(t)
	must(t, lan.Wait(soon(t), "the unit of erl1 in epmd -nodes", func(ctx context.Context) (bool, error) {
		out, err := s.Output(ctx, "epmd", "-nodes")
		return regexp.MustCompile(`erl1.*\sroot\s.*\serl1\.service`).MatchString(out), err
	}))
	s.systemctl(t, "stop", "erl0")
	must(t, lan.Wait(soon(t), "erl0 to go", func(ctx context.Context) (bool, error) {
		_, found := s.known(t)["erl0"]
		return !found, nil
	}))
	s.checkOnly(t, nodes[1])
	if now := s.mainPID(t); now != pid {
		t.Errorf("epmd was process %d and is %d", pid, now)
	}
}

// TestSystemdLAN has nodes found by a neighbour, with all the restrictions of the unit.
func TestSystemdLAN(t *testing.T) {
	machine.Need(t)
	n := lan.ForTest(t)
	a := superviseOn(t, n, "hosta", machine.Options{Avahi: true})
	b := superviseOn(t, n, "hostb", machine.Options{Avahi: true})
	b.checkOnly(t) // starts it
	a.register(t, "node", 1)
	appears := func() {
		t.Helper()
		must(t, lan.Wait(soon(t), "node0 on hostb", func(context.Context) (bool, error) {
			found, ok := b.known(t)["node0"]
			return ok && found.Host == "hosta.local" && found.Port == 20000, nil
		}))
	}
	appears()
	a.endBy(t, func() { a.kill(t) })
	b.endBy(t, func() { b.kill(t) })
	appears()
	b.await(t, "StatusText", "^0 nodes registered, 1 on the LAN")
}

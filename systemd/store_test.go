package systemd

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"eclus/registry"
)

// patience is how long a test waits for what must happen at once, on a machine that does other things too.
const patience = 30 * time.Second

// manager is the service manager's side of the notify socket.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

// startManager sets NOTIFY_SOCKET to a socket that nobody reads but receive.
func startManager(t *testing.T) *manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return &manager{t, conn}
}

// receive returns the next message and the descriptor that came with it, nil if there was none.
func (m *manager) receive() (text string, f *os.File) {
	m.t.Helper()
	m.conn.SetReadDeadline(time.Now().Add(patience))
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*16))
	n, oobn, flags, _, err := m.conn.ReadMsgUnix(buf, oob)
	if err != nil {
		m.t.Fatal(err)
	}
	text = string(buf[:n])
	if flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0 {
		m.t.Fatalf("%q was cut", text)
	}
	if oobn == 0 {
		return text, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		m.t.Fatalf("%q with %d control messages, %v; want 1", text, len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		m.t.Fatalf("%q with descriptors %v, %v; want 1", text, fds, err)
	}
	f = os.NewFile(uintptr(fds[0]), text)
	m.t.Cleanup(func() { f.Close() })
	return text, f
}

// want receives a message, which must say that and bring the very file of descriptor fd, or none if that is -1.
func (m *manager) want(text string, fd int) {
	m.t.Helper()
	got, f := m.receive()
	switch {
	case got != text:
		m.t.Errorf("got %q; want %q", got, text)
	case fd < 0 && f != nil:
		m.t.Errorf("%q came with a descriptor", got)
	case fd >= 0 && f == nil:
		m.t.Errorf("%q came without a descriptor", got)
	case fd >= 0 && inode(m.t, int(f.Fd())) != inode(m.t, fd):
		m.t.Errorf("%q came with another file than descriptor %d", got, fd)
	}
}

func (m *manager) wantStored(name string, fd int) {
	m.t.Helper()
	m.want("FDSTORE=1\nFDNAME="+name+"\nFDPOLL=0", fd)
}

func (m *manager) wantRemoved(name string) {
	m.t.Helper()
	m.want("FDSTOREREMOVE=1\nFDNAME="+name, -1)
}

// wantNothing tells that there is no other message.
func (m *manager) wantNothing() {
	m.t.Helper()
	m.conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	buf := make([]byte, 4096)
	if n, err := m.conn.Read(buf); err == nil {
		m.t.Errorf("got %q; want no other message", buf[:n])
	}
}

// fill sends until there is no room for another message, and returns how many these were.
func (m *manager) fill() (messages int) {
	m.t.Helper()
	conn, err := net.DialUnix("unixgram", nil, m.conn.LocalAddr().(*net.UnixAddr))
	if err != nil {
		m.t.Fatal(err)
	}
	defer conn.Close()
	for {
		err := control(conn, func(fd int) error { return unix.Send(fd, []byte("filled"), unix.MSG_DONTWAIT) })
		if err == unix.EAGAIN {
			return messages
		}
		if err != nil {
			m.t.Fatal(err)
		}
		messages++
	}
}

// empty receives what fill has sent.
func (m *manager) empty(messages int) {
	m.t.Helper()
	for range messages {
		m.want("filled", -1)
	}
}

// inode returns what tells an open file from all others.
func inode(t testing.TB, fd int) [2]uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return [2]uint64{uint64(st.Dev), st.Ino}
}

// storeTest is a store, and the registry that it keeps.
type storeTest struct {
	*Store
	t   *testing.T
	reg *registry.Registry
	log bytes.Buffer
}

func openStore(t *testing.T, in Inherited) *storeTest {
	t.Helper()
	s := &storeTest{t: t, reg: registry.New("hosta.local", registry.OldNames)}
	var err error
	s.Store, err = OpenStore(s.reg, in, slog.New(slog.NewTextHandler(&s.log, nil)))
	if s.Store == nil || err != nil {
		t.Fatalf("got %v, %v; want a store", s.Store, err)
	}
	t.Cleanup(func() {
		s.conn.Close()
		s.state.file.Close()
	})
	return s
}

// run calls Run until the test ends or stop is called; stop returns what Run has returned.
func (s *storeTest) run() (stop func() error) {
	ctx, cancel := context.WithCancel(s.t.Context())
	ended := make(chan error)
	go func() {
		ended <- s.Run(ctx)
		close(ended)
	}()
	stop = func() error {
		cancel()
		return <-ended
	}
	s.t.Cleanup(func() { stop() })
	return stop
}

// register enters a node with a socket of its own.
func (s *storeTest) register(name string) (*registry.Registration, *registry.Node) {
	s.t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		unix.Close(fds[0])
		unix.Close(fds[1])
	})
	r, err := s.reg.Register(registry.Node{Name: name, Port: 4711, High: 6, FD: int32(fds[0])})
	if err != nil {
		s.t.Fatal(err)
	}
	return r, s.reg.Node(r)
}

func (s *storeTest) keep(n *registry.Node, kept func()) bool { return s.Keep(int(n.FD), n, kept) }

// never is what must not be called.
func never(t *testing.T, what string) func() { return func() { t.Errorf("called: %s", what) } }

func TestOpenStoreNobody(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	reg := registry.New("hosta.local", 10)
	if s, err := OpenStore(reg, Inherited{}, slog.New(slog.DiscardHandler)); s != nil || err != nil {
		t.Errorf("no service: got %v, %v; want nothing", s, err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	if s, err := OpenStore(reg, Inherited{}, slog.New(slog.DiscardHandler)); s != nil || err == nil {
		t.Errorf("nobody listens: got %v, %v; want an error", s, err)
	}
}

// TestStore follows two nodes: what is stored of them and when it is removed. The state goes before all else.
func TestStore(t *testing.T) {
	m := startManager(t)
	s := openStore(t, Inherited{})
	ra, a := s.register("a")
	_, b := s.register("b")
	for _, n := range []*registry.Node{a, b} {
		if !s.keep(n, never(t, "kept of what was kept at once")) {
			t.Errorf("%s is not kept at once", n.Name)
		}
	}
	s.reg.Unregister(ra)
	s.Release(a)
	text, stored := m.receive()
	if text != "FDSTORE=1\nFDNAME=state\nFDPOLL=0" || stored == nil {
		t.Fatalf("got %q, %v; want the state first", text, stored)
	}
	m.wantStored("node-1", int(a.FD))
	m.wantStored("node-2", int(b.FD))
	m.wantRemoved("node-1")
	m.wantNothing()
	p, err := readState(stored)
	if err != nil || p.lastID != 2 || len(p.nodes) != 1 || p.nodes[0].Name != "b" || len(p.old) != 1 || p.old[0].Name != "a" {
		t.Errorf("the state is %+v, %v; want b, and a as gone", p, err)
	}
	if s.log.Len() > 0 {
		t.Errorf("logged %s", s.log.String())
	}
}

// TestStoreContinued is a store after a restart: the state is there already, other things are to go.
func TestStoreContinued(t *testing.T) {
	m := startManager(t)
	first := openStore(t, Inherited{})
	text, stored := m.receive()
	if stored == nil {
		t.Fatalf("got %q; want the state", text)
	}
	s := openStore(t, Inherited{state: stored, superseded: []string{"node-7", "node-3"}})
	m.wantRemoved("node-7")
	m.wantRemoved("node-3")
	_, a := s.register("a")
	s.keep(a, nil)
	m.wantStored("node-1", int(a.FD))
	m.wantNothing()
	if p, err := readState(first.state.file); err != nil || len(p.nodes) != 1 || p.nodes[0].Name != "a" {
		t.Errorf("the state is %+v, %v; want a", p, err)
	}
}

// TestStoreFull keeps and releases while systemd takes nothing. What waits goes in order, and nothing before it.
func TestStoreFull(t *testing.T) {
	m := startManager(t)
	s := openStore(t, Inherited{})
	_, sent := s.register("sent")
	s.keep(sent, nil)
	m.receive()
	m.wantStored("node-1", int(sent.FD))
	filled := m.fill()
	var kept []string
	var all sync.WaitGroup
	all.Add(2)
	keep := func(n *registry.Node) bool {
		return s.keep(n, func() {
			s.Update(n) // no lock is held
			kept = append(kept, n.Name)
			all.Done()
		})
	}
	_, a := s.register("a")
	_, c := s.register("c")
	rb, b := s.register("b")
	if keep(a) || s.keep(b, never(t, "kept of a node that had gone")) {
		t.Error("kept although nobody reads")
	}
	m.want("filled", -1)
	if keep(c) {
		t.Error("kept although others wait")
	}
	s.reg.Unregister(rb)
	s.Release(b)
	s.Release(sent)
	s.run()
	m.empty(filled - 1)
	m.wantStored("node-2", int(a.FD))
	m.wantStored("node-3", int(c.FD))
	m.wantRemoved("node-1")
	m.wantNothing()
	all.Wait()
	if got := strings.Join(kept, " "); got != "a c" {
		t.Errorf("kept: %q; want a and c", got)
	}
}

// TestStoreRunEnds ends Run while it waits for systemd, and while it has nothing to do.
func TestStoreRunEnds(t *testing.T) {
	for _, full := range []bool{true, false} {
		m := startManager(t)
		s := openStore(t, Inherited{})
		m.receive()
		if full {
			m.fill()
			_, a := s.register("a")
			s.keep(a, never(t, "kept"))
		}
		if err := s.run()(); err != nil {
			t.Errorf("full: %t: Run returned %v", full, err)
		}
	}
}

// TestStoreFlush sends what waits without Run, unless systemd still takes nothing.
func TestStoreFlush(t *testing.T) {
	(*Store)(nil).flush()
	m := startManager(t)
	s := openStore(t, Inherited{})
	m.receive()
	filled := m.fill()
	_, a := s.register("a")
	kept := 0
	s.keep(a, func() { kept++ })
	start := time.Now()
	s.flush()
	if took := time.Since(start); took > patience || kept != 0 {
		t.Errorf("full: flush took %v and kept %d; want it to give up", took, kept)
	}
	m.empty(filled)
	s.flush()
	m.wantStored("node-1", int(a.FD))
	if kept != 1 {
		t.Errorf("kept was called %d times; want 1", kept)
	}
}

// TestStoreFlushBesideRun flushes in vain while Run waits too: Run goes on all the same.
func TestStoreFlushBesideRun(t *testing.T) {
	m := startManager(t)
	s := openStore(t, Inherited{})
	m.receive()
	filled := m.fill()
	_, a := s.register("a")
	kept := make(chan struct{})
	s.keep(a, func() { close(kept) })
	stop := s.run()
	s.waitTaken()
	s.flush()
	m.empty(filled)
	m.wantStored("node-1", int(a.FD))
	<-kept
	if err := stop(); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

// waitTaken waits until Run has begun with what waits.
func (s *storeTest) waitTaken() {
	s.t.Helper()
	for deadline := time.Now().Add(patience); len(s.queued) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatal("Run has not begun")
		}
	}
}

// TestStoreErrors keeps what can't be: it is logged, once in a row, and nobody is kept waiting.
func TestStoreErrors(t *testing.T) {
	m := startManager(t)
	s := openStore(t, Inherited{})
	_, a := s.register("a")
	wantTold := func(what, reason string, keep func() bool) {
		t.Helper()
		s.log.Reset()
		kept := keep()
		kept = keep() && kept
		if log := s.log.String(); !kept || strings.Count(log, "service manager not told") != 1 || !strings.Contains(log, reason) {
			t.Errorf("%s: kept: %t, logged %q; want one entry with %q", what, kept, log, reason)
		}
	}
	wantTold("bad descriptor", "bad file descriptor", func() bool { return s.Keep(-1, a, never(t, "kept")) })
	s.keep(a, nil)
	m.conn.Close()
	wantTold("nobody listens", "connection refused", func() bool { return s.keep(a, never(t, "kept")) })
	s.log.Reset()
	s.state.file.Close()
	s.Release(a)
	if !strings.Contains(s.log.String(), `msg="registration not kept" node=a`) {
		t.Errorf("state closed: logged %q", s.log.String())
	}
}

// TestStoreUpdate records what has become known of a node, but not of one that has gone.
func TestStoreUpdate(t *testing.T) {
	startManager(t)
	s := openStore(t, Inherited{})
	ra, a := s.register("a")
	s.keep(a, nil)
	if err := s.reg.Identify(a, registry.Identity{Node: "a@example", Dist: "tls", Hidden: true}); err != nil {
		t.Fatal(err)
	}
	a = s.reg.Node(ra)
	s.Update(a)
	p, err := readState(s.state.file)
	if err != nil || len(p.nodes) != 1 || p.nodes[0].Node != "a@example" || !p.nodes[0].Hidden {
		t.Errorf("the state is %+v, %v; want a@example, hidden", p, err)
	}
	s.reg.Unregister(ra)
	s.Release(a)
	s.Update(a)
	again, n := s.register("a")
	s.Update(a)
	if p, err := readState(s.state.file); err != nil || len(p.nodes) != 0 {
		t.Errorf("the state is %+v, %v; want no node", p, err)
	}
	s.keep(n, nil)
	s.Update(a)
	p, err = readState(s.state.file)
	if err != nil || len(p.nodes) != 1 || p.nodes[0].ID != s.reg.Node(again).ID {
		t.Errorf("the state is %+v, %v; want the new node alone", p, err)
	}
}

// TestStoreConcurrent keeps and releases from several goroutines, as fast as systemd takes it.
func TestStoreConcurrent(t *testing.T) {
	m := startManager(t)
	s := openStore(t, Inherited{})
	m.receive()
	s.run()
	const workers, rounds = 4, 50
	_, n := s.register("socket")
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := range rounds {
				r, err := s.reg.Register(registry.Node{Name: fmt.Sprint("n", w, "-", i), FD: n.FD})
				if err != nil {
					t.Error(err)
					return
				}
				kept := make(chan struct{})
				if !s.keep(s.reg.Node(r), func() { close(kept) }) {
					<-kept
				}
				node := s.reg.Node(r)
				s.reg.Unregister(r)
				s.Release(node)
			}
		})
	}
	there := make(map[string]bool)
	for range 2 * workers * rounds {
		text, f := m.receive()
		_, name, _ := strings.Cut(strings.TrimSuffix(text, "\nFDPOLL=0"), "FDNAME=")
		if f != nil {
			f.Close()
		}
		if there[name] == (f != nil) {
			t.Errorf("%q out of order", text)
		}
		there[name] = f != nil
	}
	all.Wait()
	m.wantNothing()
	if p, err := readState(s.state.file); err != nil || len(p.nodes) != 0 || len(p.old) != workers*rounds {
		t.Errorf("the state has %d nodes and %d that went, %v; want 0 and %d", len(p.nodes), len(p.old), err, workers*rounds)
	}
}

package systemd

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"

	"github.com/goerlang/eclus/test/need"
)

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
	t.Setenv("FDSTORE", "100000")
	return &manager{t, conn}
}

// receive returns the next message and the descriptor that came with it, nil if there was none.
func (m *manager) receive() (text string, f *os.File) {
	m.t.Helper()
	text, files := m.receiveAll()
	if len(files) > 1 {
		m.t.Fatalf("%q with %d descriptors; want 1", text, len(files))
	}
	if len(files) == 1 {
		f = files[0]
	}
	return text, f
}

// receiveAll returns the next message that is no barrier, and the descriptors that came with it.
func (m *manager) receiveAll() (text string, files []*os.File) {
	m.t.Helper()
	for {
		text, files = m.receiveAny()
		if text != "BARRIER=1" {
			return text, files
		}
		for _, f := range files {
			f.Close()
		}
	}
}

// receiveAny returns the next message and the descriptors that came with it.
func (m *manager) receiveAny() (text string, files []*os.File) {
	m.t.Helper()
	m.conn.SetReadDeadline(time.Now().Add(wait.Patience))
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*perMessage))
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
	if err != nil {
		m.t.Fatal(err)
	}
	for _, fd := range fds {
		f := os.NewFile(uintptr(fd), text)
		m.t.Cleanup(func() { f.Close() })
		files = append(files, f)
	}
	return text, files
}

// want receives a message, which must say that and bring the very file of descriptor fd, or none if
// that is -1.
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

// nodesStored is the message that stores the connections of nodes.
const nodesStored = "FDSTORE=1\nFDNAME=n\nFDPOLL=1"

// wantStored receives a message, which must store the connections of these nodes.
func (m *manager) wantStored(nodes ...*registry.Node) {
	m.t.Helper()
	text, files := m.receiveAll()
	if text != nodesStored || len(files) != len(nodes) {
		m.t.Fatalf("got %q with %d descriptors; want %q with %d", text, len(files), nodesStored, len(nodes))
	}
	for i, n := range nodes {
		if inode(m.t, int(files[i].Fd())) != inode(m.t, int(n.FD)) {
			m.t.Errorf("descriptor %d is not that of %s", i, n.Name)
		}
	}
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
	for {
		n, err := m.conn.Read(buf)
		if err != nil {
			return
		}
		if string(buf[:n]) != "BARRIER=1" {
			m.t.Errorf("got %q; want no other message", buf[:n])
		}
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
	log lockedBuffer
}

// lockedBuffer is what a test reads while others write to it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lockedBuffer) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

func openStore(t *testing.T, in Inherited) *storeTest {
	t.Helper()
	return openStoreOf(t, registry.New("hosta.local", registry.OldNames), in)
}

func openStoreOf(t *testing.T, reg *registry.Registry, in Inherited) *storeTest {
	t.Helper()
	s := &storeTest{t: t, reg: reg}
	var err error
	s.Store, err = OpenStore(s.reg, in, Options{}, slog.New(slog.NewTextHandler(&s.log, nil)))
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
	if s, err := OpenStore(reg, Inherited{}, Options{}, slog.New(slog.DiscardHandler)); s != nil || err != nil {
		t.Errorf("no service: got %v, %v; want nothing", s, err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	if s, err := OpenStore(reg, Inherited{}, Options{}, slog.New(slog.DiscardHandler)); s != nil || err == nil {
		t.Errorf("nobody listens: got %v, %v; want an error", s, err)
	}
}

// TestStore follows two nodes: what is stored of them and when it is removed. The state goes before
// all else.
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
	m.wantStored(a)
	m.wantStored(b)
	m.wantNothing()
	p, err := readState(stored)
	if err != nil || p.lastID != 2 || len(p.nodes) != 1 || p.nodes[0].Name != "b" || len(p.old) != 1 || p.old[0].Name != "a" {
		t.Errorf("the state is %+v, %v; want b, and a as gone", p, err)
	}
	if log := s.log.String(); log != "" {
		t.Errorf("logged %s", log)
	}
}

// TestStoreContinued is a store after a restart: the state is there already, other things are to
// go.
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
	m.wantStored(a)
	m.wantNothing()
	if p, err := readState(first.state.file); err != nil || len(p.nodes) != 1 || p.nodes[0].Name != "a" {
		t.Errorf("the state is %+v, %v; want a", p, err)
	}
}

// TestStoreFull keeps and releases while systemd takes nothing. What waits goes in order, and
// nothing before it.
func TestStoreFull(t *testing.T) {
	m := startManager(t)
	s := openStore(t, Inherited{})
	_, sent := s.register("sent")
	s.keep(sent, nil)
	m.receive()
	m.wantStored(sent)
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
	m.wantStored(a, c)
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
			defer s.Release(a)
		}
		if err := s.run()(); err != nil {
			t.Errorf("full: %t: Run returned %v", full, err)
		}
	}
}

// TestStoreFlush sends what waits without Run, unless systemd still takes nothing.
func TestStoreFlush(t *testing.T) {
	need.Time(t)
	(*Store)(nil).Flush()
	m := startManager(t)
	s := openStore(t, Inherited{})
	m.receive()
	filled := m.fill()
	_, a := s.register("a")
	kept := 0
	s.keep(a, func() { kept++ })
	start := time.Now()
	s.Flush()
	if took := time.Since(start); took > 15*time.Second || kept != 0 {
		t.Errorf("full: flush took %v and kept %d; want it to give up", took, kept)
	}
	m.empty(filled)
	s.Flush()
	m.wantStored(a)
	if !s.keep(a, never(t, "kept")) || kept != 0 {
		t.Errorf("kept was called %d times; want none after the first flush, and the node kept", kept)
	}
}

// TestStoreFlushBesideRun flushes in vain while Run waits too: Run goes on all the same.
func TestStoreFlushBesideRun(t *testing.T) {
	need.Time(t)
	m := startManager(t)
	s := openStore(t, Inherited{})
	m.receive()
	filled := m.fill()
	_, a := s.register("a")
	s.keep(a, never(t, "kept"))
	stop := s.run()
	s.waitTaken()
	s.Flush()
	m.empty(filled)
	m.wantStored(a)
	if err := stop(); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

// waitTaken waits until Run has begun with what waits.
func (s *storeTest) waitTaken() {
	s.t.Helper()
	for deadline := time.Now().Add(wait.Patience); len(s.queued) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatal("Run has not begun")
		}
	}
}

// TestStoreErrors keeps what can't be: it is logged, once in a row, and nobody is kept waiting.
func TestStoreErrors(t *testing.T) {
	m := startManager(t)
	s := openStore(t, Inherited{})
	nodes := 0
	wantTold := func(what, reason string, fd int) {
		t.Helper()
		s.log.Reset()
		for range 2 {
			nodes++
			_, n := s.register(fmt.Sprint("n", nodes))
			if fd == 0 {
				fd = int(n.FD)
			}
			if !s.Keep(fd, n, never(t, "kept")) {
				t.Errorf("%s: the node is kept waiting", what)
			}
		}
		if log := s.log.String(); strings.Count(log, "service manager not told") != 1 || !strings.Contains(log, reason) {
			t.Errorf("%s: logged %q; want one entry with %q", what, log, reason)
		}
	}
	wantTold("bad descriptor", "bad file descriptor", -1)
	_, a := s.register("a")
	s.keep(a, nil)
	m.conn.Close()
	wantTold("nobody listens", "connection refused", 0)
	if text, _ := s.Shortage(); !strings.Contains(text, "4 of them are not kept") {
		t.Errorf("%q; want 4 nodes that are not kept", text)
	}
	s.log.Reset()
	s.state.file.Close()
	s.Release(a)
	if !strings.Contains(s.log.String(), `msg="registration not kept" name=a`) {
		t.Errorf("state closed: logged %q", s.log.String())
	}
}

// TestStoreUpdate records what has become known of a node, but not of one that has gone.
func TestStoreUpdate(t *testing.T) {
	startManager(t)
	s := openStore(t, Inherited{})
	ra, a := s.register("a")
	s.keep(a, nil)
	if err := s.reg.Identify(a, registry.Identity{Node: "a@example", Dist: registry.TLS, Hidden: true}); err != nil {
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
	for got := 0; got < workers*rounds; {
		text, files := m.receiveAll()
		if text != nodesStored || len(files) == 0 || len(files) > workers {
			t.Fatalf("got %q with %d descriptors", text, len(files))
		}
		for _, f := range files {
			f.Close()
		}
		got += len(files)
	}
	all.Wait()
	m.wantNothing()
	if p, err := readState(s.state.file); err != nil || len(p.nodes) != 0 || len(p.old) != workers*rounds {
		t.Errorf("the state has %d nodes and %d that went, %v; want 0 and %d", len(p.nodes), len(p.old), err, workers*rounds)
	}
}

// awaitShortage waits until what is not kept is what a pattern says.
func (s *storeTest) awaitShortage(pattern string) {
	s.t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(wait.Patience); ; time.Sleep(time.Millisecond) {
		text, _ := s.Shortage()
		if re.MatchString(text) {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("not kept: %q; want %q", text, pattern)
		}
	}
}

// TestStoreBurst registers many nodes at once while systemd does other things: there is room for
// all in a few messages.
func TestStoreBurst(t *testing.T) {
	const burst = 1200
	m := startManager(t)
	s := openStore(t, Inherited{})
	m.receive()
	filled := m.fill()
	var answered sync.WaitGroup
	_, socket := s.register("socket")
	for i := range burst {
		r, err := s.reg.Register(registry.Node{Name: fmt.Sprint("n", i), FD: socket.FD})
		if err != nil {
			t.Fatal(err)
		}
		answered.Add(1)
		if s.keep(s.reg.Node(r), answered.Done) {
			t.Fatalf("node %d is kept although nobody reads", i)
		}
	}
	m.empty(filled)
	s.run()
	messages := 0
	for got := 0; got < burst; messages++ {
		text, files := m.receiveAll()
		if text != nodesStored || len(files) == 0 {
			t.Fatalf("got %q with %d descriptors; want %q", text, len(files), nodesStored)
		}
		for _, f := range files {
			f.Close()
		}
		got += len(files)
	}
	if want := (burst + perMessage - 1) / perMessage; messages != want {
		t.Errorf("%d messages; want %d", messages, want)
	}
	answered.Wait()
	m.wantNothing()
}

// TestStoreLate has nodes answered that systemd does not take in time, and stores them when it
// does.
func TestStoreLate(t *testing.T) {
	m := startManager(t)
	s := openStore(t, Inherited{})
	s.patience = time.Millisecond
	m.receive()
	filled := m.fill()
	answered := make(chan struct{})
	_, a := s.register("a")
	if s.keep(a, func() { close(answered) }) {
		t.Fatal("kept although nobody reads")
	}
	<-answered
	s.awaitShortage("^1 of them are not kept: systemd has not taken them yet$")
	m.empty(filled)
	s.run()
	m.wantStored(a)
	s.awaitShortage("^$")
	for _, want := range []string{`level=WARN msg="registrations not kept: they end with this process" nodes=1`} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("log without %q:\n%s", want, s.log.String())
		}
	}
}

// TestStoreStopped lets the time of a node pass while this process does not run, as SIGSTOP does.
// systemd could have taken it all along, so it has it before the answer.
func TestStoreStopped(t *testing.T) {
	m := startManager(t)
	s := openStore(t, Inherited{})
	m.receive()
	filled := m.fill()
	answered := 0
	_, a := s.register("a")
	_, b := s.register("b")
	s.keep(a, func() { answered++ })
	s.keep(b, func() { answered++ })
	m.empty(filled)
	s.giveUp(s.connections[a.ID])
	m.wantStored(a, b)
	if text, _ := s.Shortage(); text != "" || answered != 2 {
		t.Errorf("%d nodes are answered, and %q; want both kept", answered, text)
	}
}

// TestStoreNoRoom registers more nodes than fit. They are answered at once, and stored when systemd
// has dropped others.
func TestStoreNoRoom(t *testing.T) {
	need.Time(t)
	m := startManager(t)
	t.Setenv("FDSTORE", "3")
	s := openStore(t, Inherited{})
	s.oneForAll()
	inStore := 3 // as systemd says
	asked := make(chan struct{}, 100)
	s.count = func(context.Context) (int, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		asked <- struct{}{}
		return inStore, nil
	}
	s.run()
	m.receive()
	ra, a := s.register("a")
	_, b := s.register("b")
	_, c := s.register("c")
	_, d := s.register("d")
	for _, n := range []*registry.Node{a, b} {
		s.keep(n, nil)
		m.wantStored(n)
	}
	for _, n := range []*registry.Node{c, d} {
		if !s.keep(n, never(t, "kept of a node that is answered at once")) {
			t.Errorf("%s waits for room", n.Name)
		}
	}
	s.awaitShortage("^2 of them are not kept: FileDescriptorStoreMax= is 3$")
	if _, bound := s.Shortage(); bound != 2 {
		t.Errorf("%d nodes can be kept; want 2", bound)
	}
	m.wantNothing()
	s.reg.Unregister(ra)
	s.Release(a)
	for len(asked) > 0 {
		<-asked
	}
	<-asked // systemd has not dropped it yet
	<-asked
	m.wantNothing()
	s.mu.Lock()
	inStore = 2
	s.mu.Unlock()
	m.wantStored(c)
	s.awaitShortage("^1 of them are not kept: FileDescriptorStoreMax= is 3$")
}

// TestStoreOff stores nothing where nothing is kept, and says so.
func TestStoreOff(t *testing.T) {
	m := startManager(t)
	t.Setenv("FDSTORE", "0")
	s := openStore(t, Inherited{})
	m.receive()
	_, a := s.register("a")
	if !s.keep(a, never(t, "kept")) {
		t.Error("a waits")
	}
	m.wantNothing()
	s.awaitShortage("^registrations end with this process: FileDescriptorStoreMax= is 0$")
}

// TestStorePerUser lets a user have so many nodes and no more; another has room still.
func TestStorePerUser(t *testing.T) {
	m := startManager(t)
	s := openStore(t, Inherited{})
	s.perUser = 2
	m.receive()
	s.checkShares(m, 2, "^1 of them are not kept: a user who is not known has 2 of [0-9]+ places$")
}

// TestStoreShares lets a user have half of the places; another has room still.
func TestStoreShares(t *testing.T) {
	m := startManager(t)
	t.Setenv("FDSTORE", "6")
	s := openStore(t, Inherited{})
	m.receive()
	s.checkShares(m, 3, "^1 of them are not kept: a user who is not known has 3 of 5 places$")
}

// checkShares registers more nodes of a user than are kept. A node of another user is kept. So is
// the one that was not, when two others of the same user have gone.
func (s *storeTest) checkShares(m *manager, kept int, shortage string) {
	t := s.t
	t.Helper()
	var nodes []*registry.Node
	var regs []*registry.Registration
	for i := range kept + 1 {
		r, n := s.register(fmt.Sprint("n", i))
		s.keep(n, nil)
		nodes, regs = append(nodes, n), append(regs, r)
	}
	for _, n := range nodes[:kept] {
		m.wantStored(n)
	}
	m.wantNothing()
	s.awaitShortage(shortage)
	f, _ := connect(t) // whose user is known
	r, err := s.reg.Register(registry.Node{Name: "other", FD: int32(f.Fd())})
	if err != nil {
		t.Fatal(err)
	}
	s.keep(s.reg.Node(r), nil)
	m.wantStored(s.reg.Node(r))
	if uid := s.connections[s.reg.Node(r).ID].uid; int(uid) != os.Getuid() {
		t.Errorf("user %d; want %d", uid, os.Getuid())
	}
	s.run()
	wait.True(t, "a log entry that says who has most", func() bool {
		return strings.Contains(s.log.String(), `reason="1 of them are not kept: a user who is not known has`)
	})
	for i := range 2 {
		s.reg.Unregister(regs[i])
		s.Release(nodes[i])
	}
	m.wantStored(nodes[kept])
	s.awaitShortage("^$")
}

// oneForAll has users share nothing, as where the kernel does not tell them apart.
func (s *storeTest) oneForAll() {
	s.owners.Close()
	s.owners = nil
}

// TestStoreNames stores no more than LISTEN_FDNAMES holds.
func TestStoreNames(t *testing.T) {
	m := startManager(t)
	s := openStore(t, Inherited{})
	s.oneForAll()
	m.receive()
	s.names = maxNames - 3
	_, a := s.register("a")
	_, b := s.register("b")
	s.keep(a, nil)
	m.wantStored(a)
	if !s.keep(b, never(t, "kept")) {
		t.Error("b waits")
	}
	m.wantNothing()
	s.awaitShortage("^1 of them are not kept: LISTEN_FDNAMES holds no more$")
}

// TestStoreFiles stores no more than systemd can pass to another process under LimitNOFILE=.
func TestStoreFiles(t *testing.T) {
	m := startManager(t)
	t.Setenv("FDSTORE", "100")
	s := openStore(t, Inherited{})
	s.oneForAll()
	m.receive()
	s.limit = func(context.Context) (uint64, error) { return 64 + 2*3 + 1, nil }
	s.learnLimit(t.Context())
	for _, name := range []string{"a", "b"} {
		_, n := s.register(name)
		s.keep(n, nil)
		m.wantStored(n)
	}
	_, c := s.register("c")
	if !s.keep(c, never(t, "kept")) {
		t.Error("c waits")
	}
	m.wantNothing()
	s.awaitShortage("^1 of them are not kept: LimitNOFILE= is 71, and systemd needs two files for each$")
	if _, bound := s.Shortage(); bound != 2 {
		t.Errorf("%d nodes can be kept; want 2", bound)
	}
}

// TestStoreMissing finds that systemd has less than it was sent: what is in doubt is sent again,
// and nothing else.
func TestStoreMissing(t *testing.T) {
	m := startManager(t)
	s := openStore(t, Inherited{})
	m.receive()
	s.calm = time.Millisecond
	counts := make(chan int)
	s.count = func(ctx context.Context) (int, error) {
		select {
		case n := <-counts:
			return n, nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	s.run()
	_, a := s.register("a")
	s.keep(a, nil)
	m.wantStored(a)
	counts <- 2
	_, b := s.register("b")
	s.keep(b, nil)
	m.wantStored(b)
	counts <- 2
	counts <- 2
	m.wantStored(b)
	s.awaitShortage("^1 of them are not kept: systemd has not taken them$")
	counts <- 3
	s.awaitShortage("^$")
}

// TestStoreOldForm has connections with names of their own, as an earlier epmd stored them: systemd
// is told when they go.
func TestStoreOldForm(t *testing.T) {
	m := startManager(t)
	f, _ := connect(t)
	reg := registry.New("hosta.local", registry.OldNames)
	fd := int(f.Fd())
	r, err := reg.Restore(registry.Node{ID: 7, Name: "a", FD: int32(fd)})
	if err != nil {
		t.Fatal(err)
	}
	n := reg.Node(r)
	s := openStoreOf(t, reg, Inherited{Kept: []Kept{{FD: fd, Node: *n, stored: "node-7"}}})
	m.receive()
	m.wantNothing()
	if !s.keep(n, never(t, "kept")) {
		t.Error("a waits, though it is stored")
	}
	p, err := readState(s.state.file)
	if err != nil || len(p.nodes) != 1 || p.nodes[0].Cookie == 0 || p.nodes[0].Stored != "node-7" {
		t.Errorf("the state is %+v, %v; want a with its cookie and name", p, err)
	}
	s.run()
	reg.Unregister(r)
	s.Release(n)
	m.wantRemoved("node-7")
}

package epmd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/registry"

	"github.com/goerlang/eclus/test/wait"
)

// keeper keeps copies of descriptors until it is told to release them, as systemd does.
type keeper struct {
	tb  testing.TB
	reg *registry.Registry

	mu     sync.Mutex
	slow   bool              // Keep says that it will take a while
	flush  bool              // Flush keeps what is not kept yet
	files  map[string]int    // by name of the node
	kept   map[string]func() // as Keep was given them
	events []string
}

// newKeeper returns a keeper for a new registry. Its descriptors are closed with the test.
func newKeeper(tb testing.TB, slow bool) *keeper {
	k := &keeper{
		tb: tb, reg: registry.New("test.local", registry.OldNames), slow: slow,
		files: make(map[string]int), kept: make(map[string]func()),
	}
	tb.Cleanup(func() {
		for _, fd := range k.files {
			unix.Close(fd)
		}
	})
	return k
}

func (k *keeper) Keep(fd int, n *registry.Node, kept func()) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	duplicate, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		k.tb.Errorf("keep %s: %v", n.Name, err)
	}
	if !unanswered(fd) || k.reg.Lookup(n.Name) != n {
		k.tb.Errorf("%s is kept after the answer or before it is registered", n.Name)
	}
	k.events = append(k.events, "keep "+n.Name)
	k.files[n.Name], k.kept[n.Name] = duplicate, kept
	return !k.slow
}

func (k *keeper) Release(n *registry.Node) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.reg.Lookup(n.Name) == n {
		k.tb.Errorf("%s is released while it is registered", n.Name)
	}
	if _, err := unix.FcntlInt(uintptr(n.FD), unix.F_GETFD, 0); err != nil {
		k.tb.Errorf("%s is released after its connection was closed: %v", n.Name, err)
	}
	k.events = append(k.events, "release "+n.Name)
}

func (k *keeper) Flush() {
	k.mu.Lock()
	var kept []func()
	if k.flush {
		kept = slices.Collect(maps.Values(k.kept))
	}
	k.mu.Unlock()
	for _, f := range kept {
		f()
	}
}

// happened returns what was to be kept and released so far.
func (k *keeper) happened() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return strings.Join(k.events, ", ")
}

// await waits until Keep was called for that node. It returns the function that says it is kept.
func (k *keeper) await(name string) (kept func()) {
	k.tb.Helper()
	wait.True(k.tb, name+" is to be kept", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		kept = k.kept[name]
		return kept != nil
	})
	return kept
}

func (k *keeper) slowDown() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.slow = true
}

// fd returns the keeper's descriptor of a node.
func (k *keeper) fd(name string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.files[name]
}

// restore returns a registry that has the kept nodes, and what Serve is to take over.
func (k *keeper) restore() (*registry.Registry, []Restored) {
	k.tb.Helper()
	reg := registry.New("test.local", registry.OldNames)
	var restored []Restored
	for _, n := range slices.Backward(k.reg.Local()) {
		m, fd := *n, k.fd(n.Name)
		m.FD = int32(fd)
		delete(k.files, n.Name)
		r, err := reg.Restore(m)
		if err != nil {
			k.tb.Fatal(err)
		}
		restored = append(restored, Restored{fd, r})
	}
	return reg, restored
}

// watched returns how many descriptors epoll watches.
func (s *testServer) watched() int {
	s.tb.Helper()
	info, err := os.ReadFile(fmt.Sprint("/proc/self/fdinfo/", s.engine.epfd))
	if err != nil {
		s.tb.Fatal(err)
	}
	return strings.Count(string(info), "tfd:")
}

func TestKeep(t *testing.T) {
	checkLeaks(t)
	k := newKeeper(t, false)
	s := serve(t, Config{Registry: k.reg, Keeper: k})
	p := dial(t, s.addr)
	p.register("a", 6)
	refused := dial(t, s.addr)
	refused.ask(AliveReq{High: 6, Name: "a"})
	refused.read(6)
	dial(t, s.addr).register("b", 5)
	p.Close()
	wait.True(t, "the node has gone", func() bool { return k.happened() == "keep a, keep b, release a" })
}

// TestRelease ends registrations while somebody else has their connections too. The peer must see
// the end all the same, and epoll must not go on about it.
func TestRelease(t *testing.T) {
	checkLeaks(t)
	k := newKeeper(t, false)
	s := serve(t, Config{Registry: k.reg, Keeper: k, Relaxed: true})
	for name, end := range map[string]func(p *peer, name string){
		"close":      func(p *peer, _ string) { p.Close() },
		"half-close": func(p *peer, _ string) { p.CloseWrite(); p.wantAll("") },
		"reset":      func(p *peer, _ string) { p.reset() },
		"data":       func(p *peer, _ string) { p.send([]byte{0}); p.wantAll("") },
		"STOP_REQ":   func(p *peer, name string) { stopNode(t, s, name); p.wantAll("") },
	} {
		t.Run(name, func(t *testing.T) {
			p := dial(t, s.addr)
			p.register(name, 6)
			end(p, name)
			wait.True(t, "it is released", func() bool {
				return strings.HasSuffix(k.happened(), "keep "+name+", release "+name)
			})
			wait.True(t, "its connection is gone", func() bool { return s.state() == state{} && s.watched() == 0 })
			s.stillAnswers()
		})
	}
}

// TestWithheld registers a node that is not kept at once. It is answered only when it is. Others
// are answered meanwhile.
func TestWithheld(t *testing.T) {
	checkLeaks(t)
	k := newKeeper(t, true)
	s := serve(t, Config{Registry: k.reg, Keeper: k})
	p := dial(t, s.addr)
	p.ask(AliveReq{Port: 41233, High: 6, Name: "a"})
	kept := k.await("a")
	s.stillAnswers()
	if _, err := s.client.Lookup(t.Context(), "a"); err != nil {
		t.Errorf("look the node up: %v", err)
	}
	p.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if n, err := p.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d bytes, %v, before the node is kept", n, err)
	}
	p.SetReadDeadline(time.Now().Add(wait.Patience))
	kept()
	want := AliveResp{Wide: true, Creation: k.reg.Lookup("a").Creation}.Append(nil)
	if got := p.read(6); string(got) != string(want) {
		t.Errorf("answer %x; want %x", got, want)
	}
	kept() // says nothing new
	p.wantOpen()
	p.Close()
	wait.True(t, "the node has gone", func() bool { return k.happened() == "keep a, release a" })
}

// TestWithheldFlush ends a server while nodes are not kept. Those kept at the last moment have
// their answer.
func TestWithheldFlush(t *testing.T) {
	checkLeaks(t)
	k := newKeeper(t, true)
	k.flush = true
	s := serve(t, Config{Registry: k.reg, Keeper: k})
	a, b := dial(t, s.addr), dial(t, s.addr)
	a.ask(AliveReq{High: 6, Name: "a"})
	b.ask(AliveReq{High: 5, Name: "b"})
	k.await("a")
	k.await("b")
	s.cancel()
	if err := s.wait(); err != nil {
		t.Errorf("Serve returned %v", err)
	}
	if gotA, gotB := a.read(6), b.read(4); gotA[1] != 0 || gotB[1] != 0 {
		t.Errorf("answers %x and %x; want them to say that a and b are registered", gotA, gotB)
	}
	a.wantOpen()
	b.wantOpen()
}

// TestWithheldEnds ends a node before it is answered. Its answer must not reach the connection
// that has its descriptor next.
func TestWithheldEnds(t *testing.T) {
	checkLeaks(t)
	k := newKeeper(t, true)
	s := serve(t, Config{Registry: k.reg, Keeper: k})
	gone := dial(t, s.addr)
	gone.ask(AliveReq{High: 6, Name: "gone"})
	kept := k.await("gone")
	gone.Close()
	wait.True(t, "it is released", func() bool { return k.happened() == "keep gone, release gone" })
	next := dial(t, s.addr)
	next.send([]byte{0})
	wait.True(t, "another connection is there", func() bool { return s.state().waiting == 1 })
	kept()
	next.wantOpen()
	if s.reg.Lookup("gone") != nil {
		t.Error("the node is back")
	}
}

// TestServeEndsKept ends a server whose nodes are kept. They stay registered and notice nothing.
// Other connections are closed.
func TestServeEndsKept(t *testing.T) {
	checkLeaks(t)
	k := newKeeper(t, false)
	s := serve(t, Config{Registry: k.reg, Keeper: k})
	a, waiting := dial(t, s.addr), dial(t, s.addr)
	a.register("a", 6)
	waiting.send([]byte{0})
	wait.True(t, "both are there", func() bool { return s.state().conns == 2 })
	s.cancel()
	if err := s.wait(); err != nil {
		t.Errorf("Serve returned %v", err)
	}
	waiting.wantAll("")
	a.wantOpen()
	if k.reg.Lookup("a") == nil || k.happened() != "keep a" {
		t.Errorf("%s; want a kept", k.happened())
	}
}

// TestRestored goes on with the nodes of a server that has ended. Some had not been answered.
func TestRestored(t *testing.T) {
	checkLeaks(t)
	k := newKeeper(t, false)
	first := serve(t, Config{Registry: k.reg, Keeper: k})
	answered := dial(t, first.addr)
	creation := answered.register("answered", 6)
	k.slowDown()
	wide, narrow := dial(t, first.addr), dial(t, first.addr)
	wide.ask(AliveReq{Port: 41233, High: 6, Name: "wide"})
	k.await("wide")
	narrow.ask(AliveReq{Port: 41233, High: 5, Name: "narrow"})
	late := k.await("narrow")
	first.cancel()
	if err := first.wait(); err != nil {
		t.Fatal(err)
	}
	reg, restored := k.restore()
	s := serve(t, Config{Registry: reg, Restored: restored, Relaxed: true})
	late() // to the server that has ended
	wantWide := AliveResp{Wide: true, Creation: reg.Lookup("wide").Creation}.Append(nil)
	wantNarrow := AliveResp{Creation: reg.Lookup("narrow").Creation}.Append(nil)
	if got := wide.read(6); string(got) != string(wantWide) {
		t.Errorf("answer %x; want %x", got, wantWide)
	}
	if got := narrow.read(4); string(got) != string(wantNarrow) {
		t.Errorf("answer %x; want %x", got, wantNarrow)
	}
	for _, p := range []*peer{answered, wide, narrow} {
		p.wantOpen()
	}
	if got := fmt.Sprintf("%08x", reg.Lookup("answered").Creation); got != creation {
		t.Errorf("creation %s; want %s", got, creation)
	}
	for _, name := range []string{"answered", "wide", "narrow"} {
		if got, err := s.client.Lookup(t.Context(), name); err != nil || got.Port != 41233 {
			t.Errorf("look up %s: %+v, %v", name, got, err)
		}
	}
	if got, want := s.state(), (state{conns: 3, nodes: 3}); got != want {
		t.Errorf("state %+v; want %+v", got, want)
	}
	answered.Close()
	wide.send([]byte{0})
	wide.wantAll("")
	stopNode(t, s, "narrow")
	narrow.wantAll("")
	wait.True(t, "all have gone", func() bool { return s.state() == state{} && len(reg.Local()) == 0 })
}

// TestRestoredWithheld takes a node over that is neither kept nor answered. It is answered once
// it is kept.
func TestRestoredWithheld(t *testing.T) {
	checkLeaks(t)
	k := newKeeper(t, true)
	first := serve(t, Config{Registry: k.reg, Keeper: k})
	p := dial(t, first.addr)
	p.ask(AliveReq{High: 6, Name: "a"})
	k.await("a")
	first.cancel()
	if err := first.wait(); err != nil {
		t.Fatal(err)
	}
	next := newKeeper(t, true)
	reg, restored := k.restore()
	next.reg = reg
	s := serve(t, Config{Registry: reg, Restored: restored, Keeper: next})
	kept := next.await("a")
	p.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if n, err := p.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d bytes, %v, before the node is kept", n, err)
	}
	p.SetReadDeadline(time.Now().Add(wait.Patience))
	s.stillAnswers()
	kept()
	if got := p.read(6); got[1] != 0 {
		t.Errorf("answer %x; want one that says that a is registered", got)
	}
	p.wantOpen()
}

// handOver ends a server for another to go on, and returns what the other one needs.
func handOver(t *testing.T, s *Server, end context.CancelCauseFunc, ended <-chan error) ([]*os.File, []Restored) {
	t.Helper()
	end(ErrHandOver)
	select {
	case err := <-ended:
		if !errors.Is(err, ErrHandOver) {
			t.Fatalf("Serve returned %v; want ErrHandOver", err)
		}
	case <-time.After(wait.Patience):
		t.Fatalf("Serve has not returned after %v", wait.Patience)
	}
	return s.HandOver()
}

// TestHandOver goes on with another server over the same connections and sockets, again and
// again. Nodes notice nothing. Other connections end.
func TestHandOver(t *testing.T) {
	checkLeaks(t)
	l, err := listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	reg := registry.New("test.local", registry.OldNames)
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	var restored []Restored
	var nodes, asked []*peer
	for round := range 3 {
		s := NewServer(Config{Registry: reg, Restored: restored})
		ctx, end := context.WithCancelCause(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(ctx, l) }()
		free := dial(t, addr)
		free.register("free", 6)
		for i := range 2 { // the second has a lower descriptor than the first
			p := dial(t, addr)
			p.register(fmt.Sprintf("n%d%d", round, i), 6)
			nodes = append(nodes, p)
			free.Close()
			wait.True(t, "a descriptor is free", func() bool { return reg.Lookup("free") == nil })
		}
		watcher, waiting := dial(t, addr), dial(t, addr)
		watcher.ask(WatchReq{})
		watcher.read(4)
		waiting.send([]byte{0})
		wait.True(t, "one waits", func() bool {
			s.engine.mu.Lock()
			defer s.engine.mu.Unlock()
			return s.engine.waiting.list.Len() == 1
		})
		var files []*os.File
		files, restored = handOver(t, s, end, ended)
		waiting.wantAll("")
		watcher.all()
		early := dial(t, addr) // before anybody is there to accept
		early.ask(PortReq{"n00"})
		wantHandedOver(t, reg, restored, len(nodes))
		if l, err = listenerOf(files); err != nil {
			t.Fatal(err)
		}
		asked = append(asked, early)
		for _, p := range nodes {
			p.wantOpen()
		}
	}
	s := NewServer(Config{Registry: reg, Restored: restored})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	for _, p := range asked {
		p.wantAll("7700a1114d000006000500036e30300000")
	}
	nodes[3].Close()
	wait.True(t, "a node has gone", func() bool { return reg.Lookup("n11") == nil })
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Serve returned %v", err)
	}
	for i, p := range nodes {
		if i != 3 {
			p.wantAll("")
		}
	}
	if len(reg.Local()) != 0 {
		t.Errorf("%d nodes are left", len(reg.Local()))
	}
}

// wantHandedOver reports an error unless all nodes are handed over with their connections, in
// order of registration.
func wantHandedOver(t *testing.T, reg *registry.Registry, restored []Restored, nodes int) {
	t.Helper()
	local := reg.Local()
	slices.Reverse(local)
	if len(restored) != nodes || len(local) != nodes {
		t.Fatalf("%d nodes are handed over and %d registered; want %d", len(restored), len(local), nodes)
	}
	for i, r := range restored {
		if n := reg.Node(r.Registration); n != local[i] || r.FD != int(n.FD) {
			t.Errorf("place %d: %s with descriptor %d; want %s with %d", i, n.Name, r.FD, local[i].Name, local[i].FD)
		}
	}
}

// listenerOf makes a listener of the only file, which it closes.
func listenerOf(files []*os.File) (*net.TCPListener, error) {
	if len(files) != 1 {
		return nil, fmt.Errorf("%d sockets that listen; want 1", len(files))
	}
	defer files[0].Close()
	l, err := net.FileListener(files[0])
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// TestSentNothing has TCP_INFO as kernels of different age fill it in.
func TestSentNothing(t *testing.T) {
	const upTo418, since419 = 200, 224 // its size, without and with bytes_sent
	for _, tt := range []struct {
		sent uint64
		size uintptr
		want bool
	}{{0, since419, true}, {6, since419, false}, {0, upTo418, false}, {0, 0, false}} {
		if got := sentNothing(&unix.TCPInfo{Bytes_sent: tt.sent}, tt.size); got != tt.want {
			t.Errorf("%d bytes sent, said in %d: got %t, want %t", tt.sent, tt.size, got, tt.want)
		}
	}
}

package epmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/registry"

	"github.com/goerlang/eclus/test/need"

	"github.com/goerlang/eclus/test/wait"
)

// answerTests are requests of a connection each, and the answer up to the close. The epmd has the
// nodes of registerSome.
var answerTests = []struct{ name, hex, want string }{
	{"lookup", "0002 7a61", "77 00 a111 4d 00 0006 0005 0001 61 0000"},
	{"lookup with a NUL", "0003 7a6100", "77 00 a111 4d 00 0006 0005 0001 61 0000"},
	{"lookup with extra", "0004 7a6f6c64", "77 00 a112 48 00 0005 0005 0003 6f6c64 0002 7879"},
	{"lookup, UTF-8", "0007 7a426ac3b6726e", "77 00 a111 4d 00 0006 0005 0006 426ac3b6726e 0000"},
	{"lookup of an unknown name", "0002 7a62", "77 01"},
	{"lookup of 254 characters", "00ff 7a" + repeat("78", 254), "77 01"},
	{"lookup of 255 characters", "0100 7a" + repeat("78", 255), ""},
	{"lookup of no name", "0001 7a", ""},
	{"lookup with a NUL within", "0004 7a610062", ""},
	{"lookup, not UTF-8", "0003 7a61ff", ""},
	{"names", "0001 6e", "PORT 6e616d6520426ac3b6726e20617420706f72742034313233330a" +
		"6e616d65206f6c6420617420706f72742034313233340a 6e616d65206120617420706f72742034313233330a"},
	{"names with more", "0003 6eff00", "PORT 6e616d6520426ac3b6726e20617420706f72742034313233330a" +
		"6e616d65206f6c6420617420706f72742034313233340a 6e616d65206120617420706f72742034313233330a"},
	{"kill with nodes", "0001 6b", "4e4f"},
	{"stop", "0002 7361", ""},
	{"stop of no name", "0001 73", ""},
	{"answer as a request", "0004 76000001", ""},
	{"tag 0", "0001 00", ""},
	{"no length", "0000", ""},
	{"no length, and more", "0000 7a61", ""},
	{"length beyond the limit", "0bf2 7a", ""},
	{"largest length", "ffff 7a", ""},
	{"longest request", "0bf1 7a" + repeat("61", 3056), ""},
	{"more than announced", "0002 7a6162", ""},
	{"second request", "0002 7a61 0002 7a61", ""},
	{"malformed registration", "000d 78a1114d000006000500000000", ""},
	{"NUL in a registration", "0010 78a1114d00000600050003610062 0000", ""},
}

// registerSome registers three nodes, with connections that last as long as the test.
func registerSome(tb testing.TB, addr netip.AddrPort) {
	dial(tb, addr).register("a", 6)
	old := dial(tb, addr)
	old.ask(AliveReq{Port: 41234, Type: registry.Hidden, High: 5, Low: 5, Name: "old", Extra: "xy"})
	if got := old.read(4); got[0] != 'y' || got[1] != 0 || got[3] < 1 || got[3] > 3 {
		tb.Fatalf("old node: answer %x; want a 16-bit creation of 1 to 3", got)
	}
	dial(tb, addr).register("Björn", 6)
}

// TestAnswers asks ours and OTP's alike.
func TestAnswers(t *testing.T) {
	t.Run("ours", func(t *testing.T) {
		checkLeaks(t)
		s := serve(t, Config{})
		testAnswers(t, s.addr, "00001111")
	})
	t.Run("IPv6", func(t *testing.T) {
		s := serve(t, Config{Port: 14399})
		if !s.addr6.IsValid() {
			need.Possible(t, errors.New("no IPv6 loopback"))
		}
		testAnswers(t, s.addr6, "0000383f")
	})
	t.Run("stock", func(t *testing.T) {
		addr := stockEPMD(t)
		testAnswers(t, addr, fmt.Sprintf("%08x", addr.Port()))
	})
}

func testAnswers(t *testing.T, addr netip.AddrPort, port string) {
	registerSome(t, addr)
	for _, tt := range answerTests {
		t.Run(tt.name, func(t *testing.T) {
			p := dial(t, addr)
			p.sendHex(tt.hex)
			p.wantAll(strings.Replace(tt.want, "PORT", port, 1))
		})
	}
	t.Run("refusals", func(t *testing.T) { testRefusals(t, addr) })
	t.Run("dump", func(t *testing.T) { testDump(t, addr) })
}

// testRefusals asks for what is refused with an answer. The connection stays open then.
func testRefusals(t *testing.T, addr netip.AddrPort) {
	for _, tt := range []struct {
		name string
		req  AliveReq
		want string
	}{
		{"taken", AliveReq{High: 6, Name: "a"}, "76 01 00000063"},
		{"taken, old", AliveReq{High: 5, Name: "a"}, "79 01 0063"},
		{"not UTF-8", AliveReq{High: 6, Name: "bad\xff"}, "76 01 00000063"},
		{"256 characters", AliveReq{High: 6, Name: strings.Repeat("x", 256)}, "76 01 00000063"},
		{"extra of 1021 bytes", AliveReq{High: 5, Name: "x", Extra: strings.Repeat("x", 1021)}, "79 01 0063"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := dial(t, addr)
			p.ask(tt.req)
			if got, want := p.read(len(unhex(t, tt.want))), unhex(t, tt.want); !bytes.Equal(got, want) {
				t.Errorf("got %x; want %x", got, want)
			}
			p.wantOpen()
		})
	}
}

func testDump(t *testing.T, addr netip.AddrPort) {
	gone := dial(t, addr)
	gone.register("gone", 6)
	gone.Close()
	var got string
	wait.True(t, "a name that has gone is dumped as old", func() bool {
		p := dial(t, addr)
		p.ask(DumpReq{})
		got = string(p.all())
		return strings.Contains(got, "old/unused name <gone>")
	})
	got = regexp.MustCompile(`fd = \d+`).ReplaceAllString(got[4:], "fd = N")
	want := "active name     <Björn> at port 41233, fd = N\n\x00active name     <old> at port 41234, fd = N\n\x00" +
		"active name     <a> at port 41233, fd = N\n\x00old/unused name <gone>, port = 41233, fd = N \n\x00"
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestPieces sends a request in all ways it can be cut in two, and a byte at a time.
func TestPieces(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{})
	registerSome(t, s.addr)
	frame := unhex(t, "0004 7a6f6c64")
	for cut := 1; cut < len(frame); cut++ {
		p := dial(t, s.addr)
		p.send(frame[:cut])
		wait.True(t, "the first part has come", func() bool { return s.state().waiting == 1 })
		p.send(frame[cut:])
		p.wantAll("77 00 a112 48 00 0005 0005 0003 6f6c64 0002 7879")
		p.Close()
		wait.True(t, "the connection has gone", func() bool { return s.state().waiting == 0 })
	}
	p := dial(t, s.addr)
	for i := range frame {
		p.send(frame[i : i+1])
		if i < len(frame)-1 {
			wait.True(t, "the bytes have come", func() bool { return s.received1() == i+1 })
		}
	}
	p.wantAll("77 00 a112 48 00 0005 0005 0003 6f6c64 0002 7879")
}

// received1 returns how much has come on the only connection that waits.
func (s *testServer) received1() int {
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	if s.engine.waiting.list.Len() != 1 {
		return 0
	}
	return len(s.engine.waiting.oldest().wait.part)
}

// TestRegistrationEnds ends the registration of a node in every way there is.
func TestRegistrationEnds(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{Relaxed: true})
	for name, end := range map[string]func(p *peer){
		"close":         func(p *peer) { p.Close() },
		"half close":    func(p *peer) { p.CloseWrite(); p.all() },
		"reset":         func(p *peer) { p.reset() },
		"data":          func(p *peer) { p.send([]byte{0}); p.all() },
		"a request":     func(p *peer) { p.ask(NamesReq{}); p.wantAll("") },
		"STOP_REQ":      func(p *peer) { stopNode(t, s, "a"); p.wantAll("") },
		"STOP_REQ, NUL": func(p *peer) { stopNode(t, s, "a\x00b"); p.wantAll("") },
	} {
		t.Run(name, func(t *testing.T) {
			p := dial(t, s.addr)
			p.register("a", 6)
			if s.reg.Lookup("a") == nil {
				t.Fatal("answered, but not registered")
			}
			end(p)
			wait.True(t, "the node is unregistered", func() bool { return s.reg.Lookup("a") == nil })
			wait.True(t, "its connection is gone", func() bool { return s.state() == state{} })
		})
	}
}

func stopNode(t *testing.T, s *testServer, name string) {
	t.Helper()
	p := dial(t, s.addr)
	p.ask(StopReq{name})
	if got := string(p.all()); got != "STOPPED" {
		t.Errorf("stop %q: answer %q", name, got)
	}
}

func TestCreations(t *testing.T) {
	s := serve(t, Config{})
	seen := make(map[string]bool)
	for range 5 {
		p := dial(t, s.addr)
		seen[p.register("a", 6)] = true
		p.Close()
		wait.True(t, "the name is free", func() bool { return s.reg.Lookup("a") == nil })
	}
	if len(seen) != 5 {
		t.Errorf("creations of 5 registrations of one name: %v", seen)
	}
}

// TestResetBeforeAnswer leaves before the answer to a registration can be written.
func TestResetBeforeAnswer(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{})
	for i := range 200 {
		p := dial(t, s.addr)
		p.ask(AliveReq{Port: 1, High: 6, Name: fmt.Sprint("n", i)})
		p.reset()
	}
	s.stillAnswers()
	wait.True(t, "nothing is left", func() bool { return s.state() == state{} && len(s.reg.Local()) == 0 })
}

func TestStop(t *testing.T) {
	s := serve(t, Config{Relaxed: true})
	p := dial(t, s.addr)
	p.ask(StopReq{"nobody"})
	if got := string(p.all()); got != "NOEXISTSTOPPED" {
		t.Errorf("unknown name: answer %q", got)
	}
}

// TestStopWithoutConnection stops a node that has no connection of this server. It is entered
// with the descriptor number of another.
func TestStopWithoutConnection(t *testing.T) {
	s := serve(t, Config{Relaxed: true})
	other := dial(t, s.addr)
	other.register("other", 6)
	for _, fd := range []int32{-1, s.reg.Lookup("other").FD, 1 << 20} {
		reg, err := s.reg.Register(registry.Node{Name: "restored", FD: fd})
		if err != nil {
			t.Fatal(err)
		}
		p := dial(t, s.addr)
		p.ask(StopReq{"restored"})
		p.all()
		if s.reg.Lookup("other") == nil {
			t.Errorf("stop of a node with descriptor %d dropped another", fd)
		}
		s.reg.Unregister(reg)
	}
}

func TestKill(t *testing.T) {
	checkLeaks(t)
	for _, relaxed := range []bool{false, true} {
		s := serve(t, Config{Relaxed: relaxed})
		node := dial(t, s.addr)
		node.register("a", 6)
		if !relaxed {
			p := dial(t, s.addr)
			p.ask(KillReq{})
			p.wantAll("4e4f")
			node.Close()
			wait.True(t, "the node has gone", func() bool { return s.reg.Lookup("a") == nil })
		}
		p := dial(t, s.addr)
		p.ask(KillReq{})
		p.wantAll("4f4b")
		if err := s.wait(); !errors.Is(err, ErrKilled) {
			t.Errorf("relaxed: %t: Serve returned %v; want ErrKilled", relaxed, err)
		}
		if s.reg.Lookup("a") != nil {
			t.Errorf("relaxed: %t: a node outlives the server", relaxed)
		}
	}
}

// TestServeEnds ends a server with connections in every state.
func TestServeEnds(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{})
	s.addNodes(1000, strings.Repeat("x", 200))
	registerSome(t, s.addr)
	refused := dial(t, s.addr)
	refused.ask(AliveReq{High: 6, Name: "a"})
	refused.read(6)
	dial(t, s.addr).send([]byte{0})
	dialSlow(t, s.addr).ask(NamesReq{})
	watcher := dial(t, s.addr)
	watcher.ask(WatchReq{})
	watcher.read(4)
	for _, req := range []Request{NodesReq{}, WatchReq{}} {
		p := dialSlow(t, s.addr)
		p.ask(req)
		p.read(4) // and nothing more
	}
	dial(t, s.addr) // says nothing at all
	wait.True(t, "all are there", func() bool {
		st := s.state()
		return st.nodes == 3 && st.waiting >= 3 && st.unsent > 0 && s.streaming() == 3
	})
	start := time.Now()
	s.cancel()
	if err := s.wait(); err != nil {
		t.Errorf("Serve returned %v", err)
	}
	if took := time.Since(start); took > writeTimeout/2 {
		t.Errorf("it took %v to end", took)
	}
	if len(s.reg.Local()) != 1000 {
		t.Errorf("%d nodes are left; want those that the server did not register", len(s.reg.Local()))
	}
}

func (s *testServer) streaming() int {
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	return s.engine.streams.reserving + s.engine.streams.others
}

// TestListenerBreaks shuts the listening socket down beneath the server, which has a subscriber.
func TestListenerBreaks(t *testing.T) {
	checkLeaks(t)
	l, err := listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	s := NewServer(Config{Registry: registry.New("test.local", 0)})
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(t.Context(), l) }()
	p := dial(t, addr)
	p.ask(WatchReq{})
	p.read(4)
	if err := control(f, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RD) }); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !names(err, "accept: ") {
			t.Errorf("Serve returned %v; want an error of accept", err)
		}
	case <-time.After(wait.Patience):
		t.Fatal("Serve has not returned")
	}
}

// TestServeCantBegin gives Serve a listener that is closed already, and others that it must close.
func TestServeCantBegin(t *testing.T) {
	checkLeaks(t)
	var listeners []*net.TCPListener
	for range 3 {
		l, err := listen("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
	}
	listeners[1].Close()
	err := NewServer(Config{Registry: registry.New("test.local", 0)}).Serve(t.Context(), listeners...)
	if !names(err, "listen on "+listeners[1].Addr().String()) {
		t.Errorf("got %v; want an error naming %v", err, listeners[1].Addr())
	}
	for _, l := range listeners {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("listener %v was left open: %v", l.Addr(), err)
		}
	}
}

// TestNodesLimit registers as many nodes as the limit on files allows, and one more.
func TestNodesLimit(t *testing.T) {
	checkLeaks(t)
	const files, limit = 128, 64
	s := serve(t, Config{Files: files, UserOf: manyUsers})
	nodes := make([]*peer, limit)
	for i := range nodes {
		nodes[i] = dial(t, s.addr)
		nodes[i].register(fmt.Sprint("n", i), 6)
	}
	for high, want := range map[uint16]string{6: "760100000063", 5: "79010063"} {
		p := dial(t, s.addr)
		p.ask(AliveReq{High: high, Name: "one more"})
		if got := fmt.Sprintf("%x", p.read(len(want)/2)); got != want {
			t.Errorf("node %d, highest version %d: answer %s; want %s", limit+1, high, got, want)
		}
		p.wantOpen()
	}
	for range 1000 {
		s.stillAnswers()
	}
	nodes[0].Close()
	wait.True(t, "a node has gone", func() bool { return s.state().nodes == limit-1 })
	dial(t, s.addr).register("one more", 6)
}

// TestWaitingLimit lets more connections wait than there may be. The oldest gives way.
func TestWaitingLimit(t *testing.T) {
	checkLeaks(t)
	const files, limit = 128, 128 - reservedFiles
	s := serve(t, Config{Files: files, UserOf: manyUsers})
	peers := make([]*peer, 0, 3*limit)
	for range limit {
		p := dial(t, s.addr)
		p.send([]byte{0})
		peers = append(peers, p)
	}
	wait.True(t, "all wait", func() bool { return s.state().waiting == limit })
	peers[0].wantOpen()
	for i := range 2 * limit {
		p := dial(t, s.addr)
		p.send([]byte{0})
		peers = append(peers, p)
		peers[i].wantAll("")
		if got := s.state(); got.waiting > limit {
			t.Fatalf("%d connections wait; want at most %d", got.waiting, limit)
		}
		s.stillAnswers()
	}
	last := peers[len(peers)-1]
	last.sendHex("01 6e")
	last.wantAll("00001111")
}

// TestWaitingLimitWithNodes has nodes take all descriptors that they may. Some are left for
// lookups.
func TestWaitingLimitWithNodes(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{Files: 128, UserOf: manyUsers})
	for i := range 64 {
		dial(t, s.addr).register(fmt.Sprint("n", i), 6)
	}
	for range 100 {
		dial(t, s.addr).send([]byte{0})
	}
	wait.True(t, "new ones have made old ones give way", func() bool { return s.state().waiting == lookupFiles })
	s.stillAnswers()
	if got := s.state().nodes; got != 64 {
		t.Errorf("%d nodes are left of 64", got)
	}
}

// TestPacketTimeout ends those who say nothing for too long, and nobody else. A pause as long as
// the time-out is not too long.
func TestPacketTimeout(t *testing.T) {
	need.Time(t)
	checkLeaks(t)
	s := serve(t, Config{PacketTimeout: time.Second})
	node, refused := dial(t, s.addr), dial(t, s.addr)
	node.register("a", 6)
	refused.ask(AliveReq{High: 6, Name: "a"})
	refused.read(6)
	silent, half := dial(t, s.addr), dial(t, s.addr)
	half.sendHex("0002 7a")

	wait.Rounds(t, func() error {
		return dial(t, s.addr).drip("0003 6e 00 00", "00001111 6e616d65206120617420706f72742034313233330a")
	})
	silent.wantAll("")
	half.wantAll("")
	node.wantOpen()
	refused.wantOpen()
	wait.True(t, "the timer is off", func() bool {
		s.engine.mu.Lock()
		defer s.engine.mu.Unlock()
		return s.engine.waiting.timer == nil
	})
}

// drip sends a byte a second. It returns an error unless the answer is that.
func (p *peer) drip(request, want string) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for i, b := range unhex(p.tb, request) {
		if i > 0 {
			<-tick.C
		}
		if _, err := p.Write([]byte{b}); err != nil {
			return err
		}
	}
	got, err := io.ReadAll(p)
	if err != nil || string(got) != string(unhex(p.tb, want)) {
		return fmt.Errorf("got %x, %v; want %s", got, err, want)
	}
	return nil
}

// TestPacketTimeoutStopped lets a client go on in time, while the server is stopped for longer
// than the time-out.
func TestPacketTimeoutStopped(t *testing.T) {
	need.Time(t)
	checkLeaks(t)
	s := serve(t, Config{PacketTimeout: time.Millisecond})
	p := dial(t, s.addr)
	p.sendHex("0001")
	wait.True(t, "the length has come", func() bool { return s.received1() == 2 })
	s.engine.mu.Lock()
	p.sendHex("6e")
	time.AfterFunc(2*s.engine.silence, s.engine.mu.Unlock)
	p.wantAll("00001111")
}

// TestEndBehindRequest sends the end of a request and what ends the connection in one segment.
// The server must see both at once.
func TestEndBehindRequest(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{})
	s.addNodes(1, "taken")
	for _, tt := range []struct {
		name  string
		alive string
		more  []byte
	}{
		{"registered, FIN", "a", nil},
		{"registered, surplus", "a", []byte{0}},
		{"refused, FIN", "taken0", nil},
		{"refused, surplus", "taken0", []byte{0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 300 {
				frame, err := AppendFrame(nil, AliveReq{Port: 41233, High: 6, Name: tt.alive})
				if err != nil {
					t.Fatal(err)
				}
				p := dial(t, s.addr)
				p.send(frame[:5])
				wait.True(t, "the first part has come", func() bool { return s.received1() == 5 })
				if tt.more == nil {
					p.sendEnd(frame[5:])
				} else {
					p.send(append(frame[5:], tt.more...))
				}
				p.all() // the answer may be lost
				wait.True(t, "nothing is left", func() bool { return s.state() == state{} })
				p.Close()
			}
		})
	}
}

// TestTrickle lets clients send a byte now and then while others ask.
func TestTrickle(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{})
	const clients = 100
	frame := append(unhex(t, "0bf1 6e"), make([]byte, MaxRequest-1)...)
	trickling := make([]*peer, clients)
	for i := range trickling {
		trickling[i] = dial(t, s.addr)
		trickling[i].send(frame[:1])
	}
	for sent := 1; sent < 50; sent++ {
		for _, p := range trickling {
			p.send(frame[sent : sent+1])
		}
		s.stillAnswers()
	}
	for _, p := range trickling {
		p.send(frame[50:])
		p.wantAll("00001111")
	}
}

// TestSlowReader asks for a huge list of names and does not read it at first.
func TestSlowReader(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{})
	answer := s.addNodes(20_000, "x")
	for _, sent := range []string{"0001 6e", "0001 | 6e"} {
		p := dialSlow(t, s.addr)
		for i, part := range strings.Split(sent, "|") {
			if i > 0 {
				wait.True(t, "the first part has come", func() bool { return s.state().waiting == 1 })
			}
			p.sendHex(strings.TrimSpace(part))
		}
		wait.True(t, "the answer has to wait", func() bool { return s.state().unsent > 0 })
		for range 100 {
			s.stillAnswers()
		}
		s.addNodes(1, sent) // the answer begun stays as it was
		if got := p.all(); !bytes.Equal(got, answer) {
			t.Errorf("got %d bytes; want %d, as they were when asked for", len(got), len(answer))
		}
		wait.True(t, "nothing is left", func() bool { return s.state() == state{} })
		answer = s.addNodes(1, sent+"again")
	}
}

// TestUnsentLimit has more answers waiting for slow readers than there may be. The oldest are
// given up.
func TestUnsentLimit(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{})
	answer := s.addNodes(5000, strings.Repeat("😀", 250))
	readers := maxUnsentBytes/len(answer) + 10
	peers := make([]*peer, readers)
	for i := range peers {
		answer = s.addNodes(1, fmt.Sprint("y", i)) // so that each reader has an answer of its own
		peers[i] = dialSlow(t, s.addr)
		peers[i].ask(NamesReq{})
		wait.True(t, "it is being answered", func() bool { return s.namesServed(i + 1) })
		if got := s.state(); got.unsent > maxUnsentBytes {
			t.Fatalf("%d readers: %d bytes wait; want at most %d", i+1, got.unsent, maxUnsentBytes)
		}
	}
	s.stillAnswers()
	waiting := s.state().waiting
	if waiting == 0 || waiting == readers {
		t.Fatalf("%d of %d readers are left", waiting, readers)
	}
	if got := peers[readers-1].all(); !bytes.Equal(got, answer) {
		t.Errorf("the last got %d bytes; want %d", len(got), len(answer))
	}
	if got := peers[0].all(); len(got) >= len(answer) {
		t.Errorf("the first got all %d bytes; want it given up", len(got))
	}
}

// namesServed reports whether n connections have come and left something unsent. Some may have
// been given up since. Every connection takes the next generation.
func (s *testServer) namesServed(n int) bool {
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	if int(s.engine.generation) < n {
		return false
	}
	last := s.engine.waiting.list.Back()
	return last != nil && last.Value.(*conn).wait.unsent != nil
}

// TestStorm lets many clients do anything at once. Nothing may be left of it.
func TestStorm(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{Files: 512, Relaxed: true})
	var g sync.WaitGroup
	for i := range 32 {
		g.Go(func() {
			for j := range 40 {
				storm(t, s, fmt.Sprintf("n%d", (i+j)%20), i+j)
			}
		})
	}
	g.Wait()
	s.stillAnswers()
	wait.True(t, "nothing is left", func() bool {
		return s.state() == state{} && s.streaming() == 0 && len(s.reg.Local()) == 0
	})
}

func storm(t *testing.T, s *testServer, name string, what int) {
	p := dial(t, s.addr)
	defer p.Close()
	switch what % 7 {
	case 0:
		p.ask(PortReq{name})
		p.all()
	case 1:
		p.ask(AliveReq{Port: 1, High: 6, Name: name})
		p.read(6)
	case 2:
		p.ask(AliveReq{Port: 1, High: 5, Name: name})
		p.read(4)
		p.reset()
	case 3:
		p.ask(StopReq{name})
		p.all()
	case 4:
		p.ask(WatchReq{})
		p.read(4)
	case 5:
		p.send([]byte{0, 9, 'z'})
		p.reset()
	case 6:
		p.ask(DumpReq{})
		p.all()
	}
}

// TestMultipath serves on a listener of Multipath TCP, which package net makes by itself.
func TestMultipath(t *testing.T) {
	checkLeaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	s := NewServer(Config{Registry: registry.New("test.local", 0)})
	go func() { ended <- s.Serve(ctx, l.(*net.TCPListener)) }()
	registerSome(t, l.Addr().(*net.TCPAddr).AddrPort())
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Serve returned %v", err)
	}
}

// TestDelays has the delays for debugging delay each of ten answers.
func TestDelays(t *testing.T) {
	for _, cfg := range []Config{{DelayAccept: 20 * time.Millisecond}, {DelayWrite: 20 * time.Millisecond}} {
		s := serve(t, cfg)
		start := time.Now()
		for range 10 {
			s.stillAnswers()
		}
		if took := time.Since(start); took < 10*20*time.Millisecond {
			t.Errorf("%+v: 10 answers after %v", cfg, took)
		}
	}
}

// TestAcceptWithoutFiles runs a server that may open but three more files.
func TestAcceptWithoutFiles(t *testing.T) {
	addr, stop := startServerProcess(t, nil, serverEnv+"=127.0.0.1:0", allowEnv+"=local", nofileEnv+"=64", spareEnv+"=3")
	node := dial(t, addr)
	node.register("a", 6)
	var waiting []*peer
	for range 10 {
		p := dial(t, addr)
		p.send([]byte{0})
		waiting = append(waiting, p)
		lookup := dial(t, addr)
		lookup.ask(PortReq{"a"})
		lookup.wantAll("77 00 a111 4d 00 0006 0005 0001 61 0000")
	}
	for _, p := range waiting[:len(waiting)-2] {
		p.wantAll("")
	}
	node.wantOpen()
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestEndWithoutFiles ends a server whose descriptors are all taken, with a caller at the door.
func TestEndWithoutFiles(t *testing.T) {
	addr, stop := startServerProcess(t, nil, serverEnv+"=127.0.0.1:0", allowEnv+"=local", nofileEnv+"=64", spareEnv+"=1")
	node := dial(t, addr)
	node.register("a", 6)
	node.wantOpen()
	dial(t, addr).ask(NamesReq{})
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestStaleEvent has an event of a connection whose descriptor is another's by now.
func TestStaleEvent(t *testing.T) {
	reg := registry.New("test.local", 0)
	s := NewServer(Config{Registry: reg})
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(ends[1])
	node, err := reg.Register(registry.Node{Name: "a", FD: int32(ends[0])})
	if err != nil {
		t.Fatal(err)
	}
	s.engine.conns = make([]*conn, ends[0]+1)
	s.engine.registeredBy = map[uint32]int{0: 1}
	s.engine.conns[ends[0]] = &conn{caller: caller{fd: ends[0]}, generation: 2, reg: node}
	s.engine.happened(ends[0], 1, 0)
	if reg.Lookup("a") == nil {
		t.Error("an event of an earlier connection ended this one")
	}
	s.engine.happened(ends[0], 2, 0)
	if reg.Lookup("a") != nil {
		t.Error("its own event did not end it")
	}
}

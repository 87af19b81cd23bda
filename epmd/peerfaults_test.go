package epmd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goerlang/eclus/registry"

	"github.com/goerlang/eclus/test/need"

	"github.com/goerlang/eclus/test/wait"
)

// goodAnswer is an answer to a peer, and goodLines are its lines after the first.
const goodAnswer = "\x00\x00\x11\x11* eclus=1 id=" + testIDHex + " host=test.local\n" +
	plusA + "\n= nodes=1\n" + minusA + "\n"

var goodLines = []string{plusA, "= nodes=1", minusA}

// TestPeerRequestCut sends a request in two parts, cut at every byte.
func TestPeerRequestCut(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{LinkOf: loLink, Hello: func() PeerHello { return PeerHello{Version: "1", ID: testID} }})
	s.register("a", everyIP...)
	frame, err := AppendFrame(nil, WatchReq{&testHello})
	wait.Must(t, err)
	want := goodAnswer[:strings.Index(goodAnswer, "= ")] + "= nodes=1\n"
	for i := 1; i < len(frame); i++ {
		p := dial(t, s.addr)
		p.send(frame[:i])
		p.send(frame[i:])
		if got := string(p.read(len(want))); got != want {
			t.Errorf("cut at %d: got %q; want %q", i, got, want)
		}
		p.Close()
		wait.True(t, "its stream has ended", func() bool { return s.streaming() == 0 })
	}
}

// readAnswer reads all lines of an answer that comes from r.
func readAnswer(r io.Reader) (lines []string, err error) {
	s := &PeerStream{lines: bufio.NewReaderSize(r, peerBuffer)}
	if err := s.begin(); err != nil {
		return nil, noAnswer(err)
	}
	for {
		l, err := s.Next()
		if err != nil {
			return lines, err
		}
		lines = append(lines, strings.TrimSuffix(string(l.Append(nil)), "\n"))
	}
}

// TestPeerAnswerCut ends an answer after every byte. What was whole counts.
func TestPeerAnswerCut(t *testing.T) {
	checkLeaks(t)
	for i := range len(goodAnswer) + 1 {
		whole := strings.Count(goodAnswer[min(4, i):i], "\n")
		s, err := fakeEPMD(t, goodAnswer[:i]).WatchPeer(wait.Soon(t), testHello, KeepAlive{})
		if whole == 0 {
			if !errors.Is(err, ErrNoAnswer) {
				t.Errorf("%d bytes: %v; want ErrNoAnswer", i, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%d bytes: %v", i, err)
		}
		if want := (PeerHello{"1", testID, "test.local", DefaultPort}); s.Hello != want {
			t.Errorf("hello %+v; want %+v", s.Hello, want)
		}
		for _, line := range goodLines[:whole-1] {
			wantLine(t, s, line)
		}
		if l, err := s.Next(); err != io.EOF && !isReset(err) {
			t.Errorf("%d bytes: then got %+v, %v; want the end", i, l, err)
		}
		s.Close()
	}
}

// TestPeerAnswers reads what peers of other versions say, and what no peer says.
func TestPeerAnswers(t *testing.T) {
	const port, first = "\x00\x00\x11\x11", "* eclus=1 id=" + testIDHex + " host=test.local\n"
	long := strings.Repeat("x", MaxPeerLine)
	for _, tt := range []struct {
		name, answer string
		lines        []string
		err          string // after the lines; empty: the end
	}{
		{"whole", goodAnswer, goodLines, ""},
		{"no id", port + "* host=test.local\n" + plusA + "\n", goodLines[:1], ""},
		{"newer first line", port + "* host=test.local new=1\n", nil, ""},
		{"unknown kinds", port + first + "~ x=1\n! \n?\n" + plusA + "\n", goodLines[:1], ""},
		{"unknown keys", port + first + plusA + " new=%20\n", []string{plusA + " new=%20"}, ""},
		{"other hosts", port + first + strings.Replace(plusA, "host=test", "host=evil", 1) + "\n" +
			strings.Replace(minusA, "host=test", "host=evil", 1) + "\n- node=a@x\n" + plusA + "\n", goodLines[:1], ""},
		{"another name", port + first + "* host=b.local\n" + plusA + "\n+ host=b.local\n",
			[]string{"* host=b.local", "+ host=b.local"}, ""},
		{"longest line", port + first + "~ " + long[:MaxPeerLine-3] + "\n" + plusA + "\n", goodLines[:1], ""},

		{"line too long", port + first + "~ " + long[:MaxPeerLine-2] + "\n", nil, "line of more than 4096 bytes"},
		{"first line too long", port + long, nil, "line of more than 4096 bytes"},
		{"endless line", port + first + strings.Repeat("+", 1<<20), nil, "line of more than 4096 bytes"},
		{"a node comes first", port + plusA + "\n", nil, "first line of kind '+'"},
		{"port 0", "\x00\x00\x00\x00" + first, nil, "no epmd has port 0"},
		{"HTTP", "HTTP/1.1 400 Bad Request\r\n\r\n", nil, "no epmd has port"},
		{"no kind", port + first + "\n", nil, `line ""`},
		{"no space", port + first + "+node=a\n", nil, `line "+node=a"`},
		{"broken encoding", port + first + "+ node=%zz\n", nil, "%zz"},
		{"bad id", port + "* id=x host=test.local\n", nil, `id "x"`},
		{"no host", port + "* eclus=1\n", nil, `host name ""`},
		{"renamed to nothing", port + first + "* host=\n", nil, `host name ""`},
		{"escape in the version", port + "* eclus=%1B[2J host=test.local\n", nil, `\x1b`},
		{"endless lines that say nothing", port + first + strings.Repeat("~\n", maxIdleLines), nil, "lines that say nothing"},
	} {
		for name, r := range map[string]io.Reader{
			"at once": strings.NewReader(tt.answer), "byte by byte": oneByte{strings.NewReader(tt.answer)},
		} {
			lines, err := readAnswer(r)
			if tt.err == "" && err == io.EOF {
				err = nil
			}
			if !slices.Equal(lines, tt.lines) || !names(err, tt.err) || (err != nil) != errors.Is(err, ErrBadPeer) {
				t.Errorf("%s, %s: got %q, %v; want %q, error naming %q", tt.name, name, lines, err, tt.lines, tt.err)
			}
		}
	}
}

// oneByte reads one byte at a time.
type oneByte struct{ io.Reader }

func (r oneByte) Read(b []byte) (int, error) { return r.Reader.Read(b[:min(1, len(b))]) }

// FuzzPeerStream reads anything as an answer. It must be read the same in any pieces.
func FuzzPeerStream(f *testing.F) {
	f.Add([]byte(goodAnswer))
	f.Add([]byte(goodAnswer[:40] + "\n~ \n* host=b.local\n- host=b.local node=%zz\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		lines, err := readAnswer(bytes.NewReader(b))
		again, err2 := readAnswer(oneByte{bytes.NewReader(b)})
		if !slices.Equal(lines, again) || fmt.Sprint(err) != fmt.Sprint(err2) || err == nil {
			t.Errorf("%q: got %q, %v; byte by byte %q, %v", b, lines, err, again, err2)
		}
		host := ""
		for _, text := range lines {
			l, err := ParseLine(text)
			switch {
			case err != nil || !strings.ContainsRune("+-=*", rune(l.Kind)):
				t.Errorf("%q: line %q, %v", b, text, err)
			case l.Kind == PeerName:
				host = l.Get("host")
			case l.Kind != SnapshotEnd && host != "" && l.Get("host") != host:
				t.Errorf("%q: host %q, but line %q", b, host, text)
			}
		}
	})
}

// TestWatchPeerAddresses finds the address that answers among those that don't.
func TestWatchPeerAddresses(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{LinkOf: loLink})
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	wait.Must(t, err)
	defer silent.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	wait.Must(t, err)
	closed.Close()
	at := func(l net.Listener) netip.AddrPort { return l.Addr().(*net.TCPAddr).AddrPort() }
	http := fakeEPMD(t, "HTTP/1.1 400\r\n").addrs[0]
	p, err := NewClient(at(closed), http, at(silent), s.addr).WatchPeer(wait.Soon(t), testHello, KeepAlive{time.Second, time.Second, time.Second})
	wait.Must(t, err)
	defer p.Close()
	if p.Addr != s.addr {
		t.Errorf("answered by %v; want %v", p.Addr, s.addr)
	}
	wait.Must(t, p.SetKeepAlive(KeepAlive{}))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := NewClient(at(silent)).WatchPeer(ctx, testHello, KeepAlive{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody answers: %v; want the deadline", err)
	}
	wantLine(t, p, "= nodes=0") // the stream outlasts its context
	go p.Close()
	if _, err := p.Next(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestPeerLimits takes as many streams as an address may have, and all may have.
func TestPeerLimits(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{LinkOf: loLink, Files: 200, UserOf: manyUsers})
	refused := func(n int) {
		t.Helper()
		local := netip.AddrFrom4([4]byte{127, 1, byte(n >> 8), byte(n)})
		p := dialWith(t, s.addr, net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))})
		p.ask(WatchReq{&testHello})
		p.wantAll("")
	}
	var first *PeerStream
	for i := range maxStreamsOfOne {
		p := s.watchFrom(0)
		if i == 0 {
			first = p
		}
	}
	refused(0)
	first.Close()
	wait.True(t, "a stream has ended", func() bool { return s.streaming() == maxStreamsOfOne-1 })
	s.watchFrom(0)
	for i := maxStreamsOfOne; i < 50; i++ { // a quarter of the descriptors
		s.watchFrom(i)
	}
	refused(50)
	if got := s.streaming(); got != 50 {
		t.Errorf("%d streams; want 50", got)
	}
	lines, err := s.client.Watch(t.Context()) // programs of this host have places of their own
	wait.Must(t, err)
	defer lines.Close()
	for i := range 200 - reservedFiles - lookupFiles - 50 {
		dial(t, s.addr).register(fmt.Sprint("n", i), 6)
	}
	more, err := s.client.Watch(t.Context())
	wait.Must(t, err)
	defer more.Close()
	s.stillAnswers()
}

// TestPeerFarewell ends a server that has peers, in each of the ways there are.
func TestPeerFarewell(t *testing.T) {
	end := func(s *testServer) { s.cancel() }
	kill := func(s *testServer) { s.client.Kill(context.Background()) }
	for _, tt := range []struct {
		name string
		kept bool
		end  func(*testServer)
		says bool
	}{
		{"in order", false, end, true},
		{"killed by request", false, kill, true},
		{"in order, with a Keeper", true, end, false},
		{"killed, with a Keeper", true, kill, false},
		{"a listener breaks", false, func(s *testServer) { s.engine.listeners[0].SetReadDeadline(time.Unix(1, 0)) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkLeaks(t)
			cfg := Config{LinkOf: loLink, Relaxed: true}
			if tt.kept {
				k := newKeeper(t, false)
				cfg.Registry, cfg.Keeper = k.reg, k
			}
			s := serve(t, cfg)
			s.register("a", everyIP...)
			p, still := s.watchPeer(), dialSlow(t, s.addr)
			still.ask(WatchReq{&testHello})
			if nodes := snapshotOf(t, p); len(nodes) != 1 {
				t.Fatalf("nodes %q", nodes)
			}
			tt.end(s)
			if tt.says {
				wantLine(t, p, minusA)
			}
			if l, err := p.Next(); err != io.EOF && !isReset(err) {
				t.Errorf("got %+v, %v; want the end", l, err)
			}
			<-s.ended
		})
	}
}

// TestPeerFarewellUnread ends a server of which a peer reads nothing.
func TestPeerFarewellUnread(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{LinkOf: loLink})
	for i := range 5000 {
		s.register(fmt.Sprint(strings.Repeat("x", 200), i), everyIP...)
	}
	p := dialSlow(t, s.addr)
	p.ask(WatchReq{&testHello})
	p.read(4)
	s.cancel()
	wait.Must(t, s.wait())
}

// TestPeerFarewellBusy ends a server that has no time for its streams for more than one round. They
// say farewell all the same.
func TestPeerFarewellBusy(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{LinkOf: loLink})
	s.register("a", everyIP...)
	p := s.watchPeer()
	if nodes := snapshotOf(t, p); len(nodes) != 1 {
		t.Fatalf("nodes %q", nodes)
	}
	const rounds = 1000
	s.feeds.mu.Lock()
	s.feeds.rounds = rounds
	s.feeds.mu.Unlock()
	for range cap(s.feeds.turns) {
		s.feeds.turns <- struct{}{}
	}
	s.cancel()
	wait.True(t, "a round is over", func() bool {
		s.feeds.mu.Lock()
		defer s.feeds.mu.Unlock()
		return s.feeds.rounds < rounds
	})
	for range cap(s.feeds.turns) {
		<-s.feeds.turns
	}
	wantLine(t, p, minusA)
	wait.Must(t, s.wait())
}

// TestPeerHandOver ends streams without a word when another server goes on.
func TestPeerHandOver(t *testing.T) {
	checkLeaks(t)
	l, err := listen("127.0.0.1:0")
	wait.Must(t, err)
	server := NewServer(Config{Registry: registry.New("test.local", 0), LinkOf: loLink})
	s := &testServer{Server: server, tb: t, addr: l.Addr().(*net.TCPAddr).AddrPort(), reg: server.cfg.Registry}
	s.client = NewClient(s.addr)
	s.register("a", everyIP...)
	ctx, end := context.WithCancelCause(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	p := s.watchPeer()
	wantLine(t, p, plusA)
	wantLine(t, p, "= nodes=1")
	listeners, _ := handOver(t, s.Server, end, ended)
	for _, f := range listeners {
		f.Close()
	}
	if l, err := p.Next(); err != io.EOF && !isReset(err) {
		t.Errorf("got %+v, %v; want the end", l, err)
	}
}

// TestPeerSlow has a peer that reads nothing while another reads all. It is cut off once it is
// behind by 32,768 events.
func TestPeerSlow(t *testing.T) {
	need.Time(t)
	checkLeaks(t)
	s := serve(t, Config{LinkOf: loLink})
	slow := dialSlow(t, s.addr)
	slow.ask(WatchReq{&testHello})
	slow.read(4)
	p := s.watchPeer()
	snapshotOf(t, p)
	began := time.Now()
	const round = maxAtOnce / 4 // which is told as it happens
	for events := 0; events < maxBehind+4*round; {
		for range round {
			reg := s.register(strings.Repeat("x", 200), everyIP...)
			s.reg.Unregister(reg)
			events += 2
		}
		for range round {
			if l, err := p.Next(); err != nil || l.Kind != NodeKnown {
				t.Fatalf("after %d events: %+v, %v", events, l, err)
			}
			if l, err := p.Next(); err != nil || l.Kind != NodeGone {
				t.Fatalf("after %d events: %+v, %v", events, l, err)
			}
		}
		if events < maxBehind && s.streaming() != 2 && time.Since(began) < peerWriteTimeout/2 {
			t.Fatalf("cut off after %d events", events)
		}
	}
	wait.True(t, "it has been cut off", func() bool { return s.streaming() == 1 })
	p.conn.SetReadDeadline(time.Now().Add(wait.Patience))
	s.register("a", everyIP...)
	wantLine(t, p, plusA)
	if _, err := io.Copy(io.Discard, slow); err != nil && !isReset(err) {
		t.Errorf("the slow peer's connection: %v; want it closed", err)
	}
}

// TestPeerChurn registers a node very often. Peers are told what is left, and of other nodes at
// once.
func TestPeerChurn(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{LinkOf: loLink})
	p := s.watchPeer()
	snapshotOf(t, p)
	const often = 20 * maxAtOnce
	began := time.Now()
	for range often {
		s.reg.Unregister(s.register("churn", everyIP...))
	}
	s.register("churn", everyIP...)
	s.register("a", everyIP...)
	lines, last := 0, Line{}
	for l := (Line{}); l.Get("name") != "a"; lines++ {
		last = l
		var err error
		if l, err = p.Next(); err != nil {
			t.Fatal(err)
		}
	}
	// The feed may take that much twice before it rests, and once after.
	most := 3 * maxAtOnce * (1 + int(time.Since(began)/joinInterval))
	if lines > most || last.Kind != NodeKnown || last.Get("name") != "churn" {
		t.Errorf("%d lines for %d changes, the last is %+v; want %d at most, and the node", lines, 2*often, last, most)
	}
	for range minRedraw { // at a pace that hides nothing
		s.reg.Unregister(s.register("b", everyIP...))
		for range 2 {
			if _, err := p.Next(); err != nil {
				t.Fatal(err)
			}
		}
	}
	wait.True(t, "the old snapshot is dropped, and the log since then", func() bool {
		s.feeds.mu.Lock()
		defer s.feeds.mu.Unlock()
		return s.feeds.byLink["lo"].snapshot == nil
	})
}

// TestPeersKeepNobodyWaiting answers lookups while all that streams wait for is slow.
func TestPeersKeepNobodyWaiting(t *testing.T) {
	checkLeaks(t)
	wedged := make(chan struct{})
	s := serve(t, Config{
		LinkOf: func(a netip.Addr) (string, []netip.Addr) { <-wedged; return loLink(a) },
		Asked:  func(PeerAsk) { <-wedged },
		Hello:  func() PeerHello { <-wedged; return PeerHello{} },
	})
	s.register("a", everyIP...)
	var peers []*peer
	for range maxStreamsOfOne {
		p := dial(t, s.addr)
		p.ask(WatchReq{&testHello})
		peers = append(peers, p)
	}
	wait.True(t, "all have asked", func() bool { return s.streaming() == maxStreamsOfOne })
	for i := range 100 {
		s.stillAnswers()
		dial(t, s.addr).register(fmt.Sprint("n", i), 6)
	}
	close(wedged)
	for _, p := range peers {
		p.read(4 + len("* host=test.local\n"+plusA))
	}
}

// TestPeersBegin has 2,000 peers begin at once. Lookups go on meanwhile.
func TestPeersBegin(t *testing.T) {
	need.Time(t)
	checkLeaks(t)
	s := serve(t, Config{LinkOf: loLink, UserOf: manyUsers})
	const peers, nodes = 2000, 1000
	for i := range nodes {
		s.register(fmt.Sprint("n", i), everyIP...)
	}
	var all sync.WaitGroup
	for i := range peers {
		local := netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)})
		all.Go(func() {
			conn, err := send(local.String(), s.addr.String(), WatchReq{&testHello})
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			lines := bufio.NewScanner(conn)
			count := 0
			for lines.Scan() && !bytes.HasPrefix(lines.Bytes(), []byte("= ")) {
				count++
			}
			if want := fmt.Sprintf("= nodes=%d", nodes); lines.Text() != want || count != nodes+1 {
				t.Errorf("got %q after %d lines, %v; want %q", lines.Text(), count, lines.Err(), want)
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	var slowest time.Duration
	lookups := 0
	for running := true; running; lookups++ {
		select {
		case <-done:
			running = false
		default:
		}
		began := time.Now()
		s.stillAnswers()
		slowest = max(slowest, time.Since(began))
	}
	t.Logf("%d lookups meanwhile, the slowest took %v", lookups, slowest)
	if slowest > wait.Patience/2 {
		t.Errorf("%d lookups, the slowest took %v", lookups, slowest)
	}
}

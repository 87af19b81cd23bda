package epmd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/wait"
)

// toy is a protocol of requests that begin with a letter:
//
//	e TEXT   answers TEXT and closes
//	n TEXT   answers TEXT and stays
//	r NAME   registers NAME and answers "ok"
//	w NAME   does the same, but withholds the answer
//	b, B     answers with big, shared or not, and closes
//	s TEXT   goes on as a stream that sends TEXT, until the engine ends
//	k TEXT   answers TEXT and ends the engine
//
// It answers nothing else.
type toy struct {
	tb      testing.TB
	big     []byte
	strange bool          // admits nobody
	names   chan *toyName // that registered
	ended   chan string
}

// toyName is a registration of toy.
type toyName struct{ text string }

var errToy = errors.New("asked to")

func (y *toy) admits(from caller) bool { return !y.strange && from.local }

func (y *toy) handle(_ caller, req []byte) answer {
	text := bytes.Clone(req[1:])
	switch req[0] {
	case 'e':
		return answer{out: text}
	case 'n':
		return answer{out: text, stay: true}
	case 'r', 'w':
		n := &toyName{string(text)}
		y.names <- n
		return answer{out: []byte("ok"), reg: n, withhold: req[0] == 'w'}
	case 'b', 'B':
		a := answer{out: y.big}
		if req[0] == 'b' {
			a.of = &shared{out: y.big}
		}
		return a
	case 's':
		return answer{stream: &stream{shares: []share{{"toy", 2, false}}, run: func(ctx context.Context, conn *os.File, _ any) {
			conn.Write(text)
			<-ctx.Done()
			conn.Close()
		}}}
	case 'k':
		return answer{out: text, stop: errToy}
	}
	return answer{}
}

func (y *toy) gone(r registration, reason string) { y.ended <- r.(*toyName).text + ": " + reason }

// toyServer is an engine that serves a toy on loopback.
type toyServer struct {
	*engine
	*toy
	addr  netip.AddrPort
	serve func()
	end   context.CancelCauseFunc
	ended chan error // what run returned
	cause func() error
}

// serveToy starts an engine. The test must end it with finish.
func serveToy(tb testing.TB, cfg engineConfig) *toyServer {
	tb.Helper()
	s := newToy(tb, cfg)
	s.serve()
	return s
}

// newToy returns an engine that serves once serve is called.
func newToy(tb testing.TB, cfg engineConfig) *toyServer {
	tb.Helper()
	l, err := listen("127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	if cfg.silence == 0 {
		cfg.silence = time.Hour
	}
	cfg.log = slog.New(slog.DiscardHandler)
	y := &toy{tb: tb, big: bytes.Repeat([]byte("x"), 1<<20), names: make(chan *toyName, 10), ended: make(chan string, 10)}
	s := &toyServer{
		engine: &engine{engineConfig: cfg, protocol: y}, toy: y,
		addr: l.Addr().(*net.TCPAddr).AddrPort(), ended: make(chan error, 1),
	}
	ctx, end := context.WithCancelCause(context.Background())
	s.end, s.cause = end, func() error { return context.Cause(ctx) }
	s.serve = func() {
		if err := s.open(ctx, end, []*net.TCPListener{l}); err != nil {
			tb.Fatal(err)
		}
		go func() { s.ended <- s.run(ctx) }()
	}
	return s
}

// finish ends the engine.
func (s *toyServer) finish() {
	s.tb.Helper()
	s.end(nil)
	select {
	case err := <-s.ended:
		if err != nil {
			s.tb.Errorf("run returned %v", err)
		}
	case <-time.After(wait.Patience):
		s.tb.Fatalf("run has not returned after %v", wait.Patience)
	}
	s.close("the end")
}

// ask sends a toy's request on a new connection.
func (s *toyServer) ask(req string) *peer {
	s.tb.Helper()
	p := dial(s.tb, s.addr)
	p.send(append([]byte{0, byte(len(req))}, req...))
	return p
}

// wantGone waits for the end of a registration.
func (s *toyServer) wantGone(want string) {
	s.tb.Helper()
	select {
	case got := <-s.toy.ended:
		if got != want {
			s.tb.Errorf("gone %q; want %q", got, want)
		}
	case <-time.After(wait.Patience):
		s.tb.Fatalf("still not gone after %v: %q", wait.Patience, want)
	}
}

// wantText reads that text and no more.
func (p *peer) wantText(want string) {
	p.tb.Helper()
	if got := string(p.read(len(want))); got != want {
		p.tb.Errorf("got %q; want %q", got, want)
	}
}

// TestEngineStates brings a connection into the states of the engine's table. In each its peer
// ends it in every way there is.
func TestEngineStates(t *testing.T) {
	ends := []struct {
		name, reason string
		do           func(p *peer)
	}{
		{"FIN", "connection closed", func(p *peer) { p.CloseWrite() }},
		{"reset", "connection reset by peer", func(p *peer) { p.reset() }},
		{"surplus", "sent more than its registration", func(p *peer) { p.send([]byte{0}) }},
	}
	for _, tt := range []struct {
		name, request, answer string
		want                  state
		registered            bool
	}{
		{"part", "", "", state{conns: 1, waiting: 1}, false},
		{"refused", "nno", "no", state{conns: 1, waiting: 1}, false},
		{"withheld", "wa", "", state{conns: 1, nodes: 1, withheld: 1}, true},
		{"registered", "ra", "ok", state{conns: 1, nodes: 1}, true},
	} {
		for _, end := range ends {
			t.Run(tt.name+", "+end.name, func(t *testing.T) {
				checkLeaks(t)
				s := serveToy(t, engineConfig{})
				defer s.finish()
				p := dial(t, s.addr)
				if tt.request == "" {
					p.send([]byte{0})
				} else {
					p = s.ask(tt.request)
				}
				p.wantText(tt.answer)
				wait.True(t, "it is in that state", func() bool { return s.state() == tt.want })
				end.do(p)
				if tt.registered {
					s.wantGone("a: " + end.reason)
				}
				wait.True(t, "nothing is left", func() bool { return s.state() == state{} })
			})
		}
	}
}

// TestEngineUnsent has answers that the peer has no room for. They arrive whole all the same.
// What they keep in memory is counted: all of a shared answer, the rest of another.
func TestEngineUnsent(t *testing.T) {
	for _, req := range []string{"b", "B"} {
		t.Run(req, func(t *testing.T) {
			checkLeaks(t)
			s := serveToy(t, engineConfig{})
			defer s.finish()
			p := dialSlow(t, s.addr)
			p.send([]byte{0, 1, req[0]})
			wait.True(t, "a part is unsent", func() bool { return s.state().unsent > 0 })
			if whole := s.state().unsent == len(s.big); whole != (req == "b") {
				t.Errorf("%d bytes are kept of %d", s.state().unsent, len(s.big))
			}
			s.ask("esee").wantAll("736565")
			if got := p.all(); !bytes.Equal(got, s.big) {
				t.Errorf("got %d bytes; want %d", len(got), len(s.big))
			}
			wait.True(t, "nothing is left", func() bool { return s.state() == state{} })
		})
	}
}

// TestEngineRelease sends withheld answers, once, and to nobody who has gone.
func TestEngineRelease(t *testing.T) {
	checkLeaks(t)
	s := serveToy(t, engineConfig{})
	defer s.finish()
	a := s.ask("wa")
	first := <-s.names
	a.wantOpen()
	s.release(first)
	a.wantText("ok")
	s.release(first)
	a.wantOpen()

	b := s.ask("wb")
	second := <-s.names
	b.Close()
	s.wantGone("b: connection closed")
	c := s.ask("rc") // has the descriptor of b
	c.wantText("ok")
	s.release(second)
	c.wantOpen()
	if got := s.state(); got.nodes != 2 {
		t.Errorf("%d are registered; want a and c", got.nodes)
	}
}

// TestEngineStream hands a connection over. It is in the table no more.
func TestEngineStream(t *testing.T) {
	checkLeaks(t)
	s := serveToy(t, engineConfig{})
	p := s.ask("ssee")
	p.wantText("see")
	if got := s.state(); got != (state{}) || s.streams.others != 1 {
		t.Errorf("state %+v and %d streams; want one stream alone", got, s.streams.others)
	}
	s.finish()
	p.wantAll("")
	if s.streams.others != 0 {
		t.Errorf("%d streams are left", s.streams.others)
	}
}

// TestEngineStop has a request end the engine.
func TestEngineStop(t *testing.T) {
	checkLeaks(t)
	s := serveToy(t, engineConfig{})
	s.ask("kbye").wantAll("627965")
	wait.True(t, "the engine ends", func() bool { return s.cause() != nil }) // after its answer
	s.finish()
	if !errors.Is(s.cause(), errToy) {
		t.Errorf("the engine ended by %v; want %v", s.cause(), errToy)
	}
}

// TestEngineAdmits has a protocol that admits nobody. Callers are closed, even if they say
// nothing.
func TestEngineAdmits(t *testing.T) {
	checkLeaks(t)
	s := serveToy(t, engineConfig{})
	defer s.finish()
	s.mu.Lock()
	s.strange = true
	s.mu.Unlock()
	s.ask("ehello").wantAll("")
	dial(t, s.addr).wantAll("")
}

// TestEngineEnds ends an engine with connections in each state. Registrations end with it, unless
// they are kept or another goes on with them.
func TestEngineEnds(t *testing.T) {
	for _, tt := range []struct {
		name        string
		kept, leave bool
		gone        []string
	}{
		{"close", false, false, []string{"a: the end", "w: the end"}},
		{"close, kept", true, false, nil},
		{"leave", false, true, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkLeaks(t)
			s := serveToy(t, engineConfig{kept: tt.kept})
			registered, refused, part := s.ask("ra"), s.ask("nno"), dial(t, s.addr)
			registered.wantText("ok")
			withheld := s.ask("ww")
			refused.wantText("no")
			part.send([]byte{0})
			wait.True(t, "all are there", func() bool { return s.state() == state{conns: 4, nodes: 2, waiting: 2, withheld: 1} })
			s.end(nil)
			if err := <-s.ended; err != nil {
				t.Errorf("run returned %v", err)
			}
			if tt.leave {
				s.leave()
				defer s.closeLeft()
			} else {
				s.close("the end")
			}
			for range 2 {
				s.release(<-s.names) // too late: it must neither be sent nor end anything
			}
			refused.wantAll("")
			part.wantAll("")
			close(s.toy.ended)
			var gone []string
			for text := range s.toy.ended {
				gone = append(gone, text)
			}
			slices.Sort(gone)
			if !slices.Equal(gone, tt.gone) {
				t.Errorf("gone: %q; want %q", gone, tt.gone)
			}
			for _, p := range []*peer{registered, withheld} {
				if tt.leave {
					p.wantOpen()
				} else if _, err := p.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("read: %v; want the end", err)
				}
			}
		})
	}
}

// closeLeft closes what leave has left open.
func (s *toyServer) closeLeft() {
	for _, l := range s.listeners {
		l.Close()
	}
	for _, c := range s.conns {
		if c != nil {
			closeSocket(c.fd)
		}
	}
}

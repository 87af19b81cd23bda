package epmd

import (
	"bytes"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/goerlang/eclus/registry"

	"github.com/goerlang/eclus/test/wait"
)

// wedge makes a listing that takes until the test says so. It returns how often it was made.
func (s *testServer) wedge(l *listing) (made *atomic.Int32, goOn chan struct{}) {
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	made, goOn = new(atomic.Int32), make(chan struct{})
	appendAll := l.append
	l.append = func(dst []byte) []byte {
		made.Add(1)
		<-goOn
		return appendAll(dst)
	}
	return made, goOn
}

// asking returns how many wait for the next listing, and whether one is being made.
func (s *testServer) asking(l *listing) (askers int, making bool) {
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	return len(l.askers), l.making
}

// TestListing asks for long answers while one is being made. Nobody else waits for that. Those who
// ask before it begins share it, and the rest share the next one.
func TestListing(t *testing.T) {
	for _, tt := range []struct {
		name string
		req  Request
		of   func(*Server) *listing
	}{
		{"names", NamesReq{}, func(s *Server) *listing { return s.names }},
		{"dump", DumpReq{}, func(s *Server) *listing { return s.dump }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkLeaks(t)
			s := serve(t, Config{})
			s.addNodes(2*shortLines, "x")
			l := tt.of(s.Server)
			made, goOn := s.wedge(l)
			ask := func() *peer {
				p := dial(t, s.addr)
				p.ask(tt.req)
				return p
			}
			first := ask()
			if err := first.CloseWrite(); err != nil { // as nc -N does
				t.Fatal(err)
			}
			wait.True(t, "it is being made", func() bool { return made.Load() == 1 })
			later := dial(t, s.addr)
			later.register("later", 6)
			var rest []*peer
			for range 20 {
				rest = append(rest, ask())
			}
			goes := ask()
			wait.True(t, "all have asked", func() bool { askers, _ := s.asking(l); return askers == 21 })
			goes.reset()
			wait.True(t, "one has gone", func() bool { return s.state().waiting == 21 })
			s.stillAnswers()
			close(goOn)
			if got := first.all(); bytes.Count(got, []byte("x")) != 2*shortLines {
				t.Errorf("got %q", got)
			}
			for _, p := range rest {
				if got := string(p.all()); !strings.Contains(got, "later") {
					t.Fatalf("got %q", got)
				}
			}
			ask().all()
			if got := made.Load(); got != 2 {
				t.Errorf("it was made %d times; want 2", got)
			}
			wait.True(t, "nothing is left", func() bool { return s.state() == state{conns: 1, nodes: 1} })
		})
	}
}

// TestListingEnds ends a server while a listing is being made.
func TestListingEnds(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{})
	s.addNodes(2*shortLines, "x")
	made, goOn := s.wedge(s.names)
	p := dial(t, s.addr)
	p.ask(NamesReq{})
	wait.True(t, "it is being made", func() bool { return made.Load() == 1 })
	s.cancel()
	p.wantAll("")
	close(goOn)
	wait.Must(t, s.wait())
}

// TestListingShared has many slow readers of one answer. It is in memory once.
func TestListingShared(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{})
	answer := s.addNodes(5000, strings.Repeat("x", 200))
	const readers = 2 * maxUnsentBytes / (5000 * 200)
	var peers []*peer
	for range readers {
		p := dialSlow(t, s.addr)
		p.ask(NamesReq{})
		peers = append(peers, p)
	}
	wait.True(t, "all are being answered", func() bool { return s.state().waiting == readers })
	wait.True(t, "nobody asks any more", func() bool { _, making := s.asking(s.names); return !making })
	if got := s.state().unsent; got != len(answer) {
		t.Errorf("%d bytes are unsent; want %d", got, len(answer))
	}
	reg, err := s.reg.Register(registry.Node{Name: "new"})
	wait.Must(t, err)
	defer s.reg.Unregister(reg)
	dial(t, s.addr).ask(NamesReq{})
	for _, p := range peers[1 : readers-1] {
		p.reset()
	}
	for _, p := range []*peer{peers[0], peers[readers-1]} {
		if got := p.all(); !bytes.Equal(got, answer) {
			t.Fatalf("got %d bytes; want %d, as they were when asked for", len(got), len(answer))
		}
	}
}

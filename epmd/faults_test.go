package epmd

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/test/wait"
)

// fault is what becomes of a system call.
type fault struct {
	call  string
	err   error // nil: it reads or writes one byte
	harms bool  // the connection ends. Else all goes on as if nothing had been
}

// faults are those that the kernel knows. The ones that harm nothing include what it does not do
// to sockets that don't block.
var faults = []fault{
	{"accept", unix.EMFILE, false}, {"accept", unix.ENOMEM, false},
	{"accept", unix.ECONNABORTED, false}, {"accept", unix.EINTR, false},
	{"read", nil, false}, {"read", unix.EAGAIN, false}, {"read", unix.EINTR, false},
	{"read", unix.ECONNRESET, true}, {"read", unix.ETIMEDOUT, true},
	{"write", nil, false}, {"write", unix.EINTR, false},
	{"write", unix.EAGAIN, true}, {"write", unix.EPIPE, true}, {"write", unix.ENOBUFS, true},
	{"epoll_wait", unix.EINTR, false},
	{"epoll_add", unix.ENOSPC, true}, {"epoll_add", unix.ENOMEM, true},
	{"epoll_mod", unix.ENOMEM, true}, {"epoll_del", unix.ENOENT, false},
	{"ppoll", unix.EINTR, false},
}

// saboteur has the at-th call of a kind come to grief.
type saboteur struct {
	fault
	mu     sync.Mutex
	at     int
	victim netip.AddrPort // the peer of that connection
	struck bool
	full   bool // a peer had no room for a long answer
	off    bool
}

// strike is the engine's sockets.fault.
func (s *saboteur) strike(call string, fd, size int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.call == "epoll_mod" && call == "write" && size > pieceBytes && !s.full {
		s.full = true
		return 0, unix.EAGAIN
	}
	if s.off || s.struck || call != s.call {
		return size, nil
	}
	if s.at--; s.at > 0 {
		return size, nil
	}
	s.struck = true
	if at, err := unix.Getpeername(fd); err == nil { // the listener and epoll have none
		s.victim = netip.AddrPortFrom(netip.AddrFrom4(at.(*unix.SockaddrInet4).Addr), uint16(at.(*unix.SockaddrInet4).Port))
	}
	return min(1, size), s.err
}

// hit reports whether the peer's connection may have ended: a call of its own failed. So it may if
// it waits, and an accept found no room.
func (s *saboteur) hit(p *peer, waits bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.struck && (s.harms && s.victim == p.LocalAddr().(*net.TCPAddr).AddrPort() || waits && s.call == "accept")
}

func (s *saboteur) stop() (struck bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.off = true
	return s.struck
}

// TestEngineFaults has each system call fail in each way, in turn, while clients bring connections
// into all states. Only the connection suffers of which that call was. A registration is told to
// have gone once, when its connection ends. Nothing is left at the end, and the engine answers.
func TestEngineFaults(t *testing.T) {
	checkLeaks(t)
	for _, f := range faults {
		for at := 1; ; at++ {
			if !f.try(t, at) {
				if at == 1 {
					t.Errorf("%s is not called", f.call)
				}
				break
			}
			if t.Failed() {
				t.Fatalf("after %s number %d: %v", f.call, at, f.err)
			}
		}
	}
}

// try has the at-th call come to grief. It reports whether there are so many.
func (f fault) try(t *testing.T, at int) bool {
	b := &saboteur{fault: f, at: at}
	s := newToy(t, engineConfig{})
	s.big = s.big[:200<<10]
	s.sockets.fault = b.strike
	s.serve()
	play := &play{toyServer: s, saboteur: b, t: t}
	play.run()
	struck := b.stop()
	play.end()
	s.ask("estill").wantAll("7374696c6c")
	wait.True(t, "nothing is left", func() bool { return s.state() == state{} })
	s.finish()
	for _, p := range play.peers {
		p.Close()
	}
	play.checkGone()
	return struck
}

// play is what clients do while a call fails.
type play struct {
	*toyServer
	*saboteur
	t     *testing.T
	peers []*peer
	came  []string // registrations
}

func (p *play) dial() *peer {
	c := dial(p.t, p.addr)
	p.peers = append(p.peers, c)
	return c
}

// say sends a toy's request.
func (p *play) say(req string) *peer {
	c := p.dial()
	c.send(append([]byte{0, byte(len(req))}, req...))
	return c
}

// wants reads an answer. A connection that was hit may have ended instead. None is left waiting.
func (p *play) wants(c *peer, want string, waits bool) {
	p.t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if errors.Is(err, os.ErrDeadlineExceeded) || (err != nil || string(got) != want) && !p.hit(c, waits) {
		p.t.Errorf("got %q, %v; want %q", got[:n], err, want)
	}
}

// wantsLife finds a connection open, unless it was hit. It returns whether that is so.
func (p *play) wantsLife(c *peer) {
	p.t.Helper()
	c.SetReadDeadline(time.Now())
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) && !p.hit(c, false) {
		p.t.Errorf("read: %v; want an open connection", err)
	}
	c.SetReadDeadline(time.Now().Add(wait.Patience))
}

// run brings connections into all states.
func (p *play) run() {
	p.t.Helper()
	part := p.dial() // gives way where an accept finds no room
	late := p.dial()
	for _, c := range []*peer{part, late} {
		c.send([]byte{0})
	}
	p.settled("the parts are there", func(st state) bool { return st.waiting == 2 || p.hit(part, true) || p.hit(late, true) })
	p.wants(p.say("ehello"), "hello", false)
	refused := p.say("nno")
	p.wants(refused, "no", true)
	registered := p.say("ra")
	p.wants(registered, "ok", false)
	withheld := p.say("wb")
	p.wantsWithheld(withheld)
	stream := p.say("ssee")
	p.wants(stream, "see", false)
	late.send([]byte{5, 's', 'l', 'a', 't', 'e'})
	p.wants(late, "late", true)
	slow := p.say("B")
	p.wants(slow, string(p.big), true)
	part.send([]byte{4, 'e', 'r', 'e', 's'}) // the rest of its request
	p.wants(part, "res", true)
	p.wantsLife(registered)
	p.wantsLife(withheld)
	p.wantsLife(stream)
	p.wants(p.say("eagain"), "again", false)
}

// wantsWithheld has an answer withheld until its registration is kept.
func (p *play) wantsWithheld(c *peer) {
	p.t.Helper()
	p.settled("b is there", func(st state) bool { return st.withheld == 1 || p.hit(c, false) })
	for range len(p.names) {
		n := <-p.names
		p.came = append(p.came, n.text)
		p.release(n) // which does nothing for a
	}
	p.wants(c, "ok", false)
}

func (p *play) settled(what string, is func(state) bool) {
	p.t.Helper()
	wait.True(p.t, what, func() bool { return is(p.state()) })
}

// end ends all connections but streams, in different ways.
func (p *play) end() {
	for i, c := range p.peers {
		switch i % 3 {
		case 0:
			c.CloseWrite()
		case 1:
			c.reset()
		default:
			c.Close()
		}
	}
}

// checkGone compares the registrations that came with those that have gone.
func (p *play) checkGone() {
	p.t.Helper()
	close(p.toyServer.toy.ended)
	count := make(map[string]int)
	for _, name := range p.came {
		count[name]++
	}
	for text := range p.toyServer.toy.ended {
		count[text[:1]]--
	}
	for name, n := range count {
		if n != 0 {
			p.t.Errorf("%s came %d times more than it went", name, n)
		}
	}
}

// Package streamtest plays epmds that give streams, for tests in which time is faked.
package streamtest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/told"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
)

// Network is what those who connect find at addresses: nothing, at first. Its methods may be called
// concurrently.
type Network struct {
	mu    sync.Mutex
	tries []time.Time // when each connection was tried
	at    map[netip.AddrPort]func(context.Context) (*Stream, error)
	given []*Stream
}

// Connect tries addresses, the best first.
func (n *Network) Connect(ctx context.Context, addrs []netip.AddrPort) (*Stream, error) {
	n.mu.Lock()
	n.tries = append(n.tries, time.Now())
	n.mu.Unlock()
	var errs []error
	for _, a := range addrs {
		s, err := n.connect(ctx, a)
		if err == nil {
			return s, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (n *Network) connect(ctx context.Context, at netip.AddrPort) (*Stream, error) {
	n.mu.Lock()
	f := n.at[at]
	n.mu.Unlock()
	if f == nil {
		return nil, syscall.ECONNREFUSED
	}
	s, err := f(ctx)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	s.who.Addr = at
	n.given = append(n.given, s)
	return s, nil
}

// Since returns when connections were tried, counted from a time.
func (n *Network) Since(start time.Time) []time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []time.Duration
	for _, t := range n.tries {
		list = append(list, t.Sub(start))
	}
	return list
}

// Streams returns the streams that are open.
func (n *Network) Streams() []*Stream {
	n.mu.Lock()
	defer n.mu.Unlock()
	var open []*Stream
	for _, s := range n.given {
		select {
		case <-s.closed:
		default:
			open = append(open, s)
		}
	}
	return open
}

// At has an epmd at an address, to which those connect who try it.
func (n *Network) At(at netip.AddrPort, connect func(context.Context) (*Stream, error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.at == nil {
		n.at = make(map[netip.AddrPort]func(context.Context) (*Stream, error))
	}
	n.at[at] = connect
}

// Offer has the epmd at an address give that stream, once. It returns the stream.
func (n *Network) Offer(at netip.AddrPort, s *Stream) *Stream {
	var once sync.Once
	n.At(at, func(context.Context) (*Stream, error) {
		err := error(syscall.ECONNREFUSED)
		once.Do(func() { err = nil })
		return s, err
	})
	return s
}

// Fail has tries at an address fail.
func (n *Network) Fail(at netip.AddrPort, err error) {
	n.At(at, func(context.Context) (*Stream, error) { return nil, err })
}

// Hang has tries at an address last.
func (n *Network) Hang(at netip.AddrPort) {
	n.At(at, func(ctx context.Context) (*Stream, error) { <-ctx.Done(); return nil, ctx.Err() })
}

// Stream is a stream that says what the test wants. Make it with New.
type Stream struct {
	who    told.Who
	mu     sync.Mutex
	lines  []line
	more   chan struct{} // holds a token when lines have come
	closed chan struct{}
	once   sync.Once
}

type line struct {
	text string
	err  error
}

// New returns the stream of a host's epmd with that ID, which says what the words stand for.
func New(host string, id byte, words ...string) *Stream {
	s := &Stream{
		who: told.Who{
			Hello: epmd.PeerHello{Version: "1.2", ID: epmd.PeerID{1, 15: id}, Host: host, Port: 4369},
			Local: netip.MustParseAddr("192.0.2.2"),
		},
		more:   make(chan struct{}, 1),
		closed: make(chan struct{}),
	}
	s.Say(words...)
	return s
}

// WithID has another ID. It is called before anybody has the stream.
func (s *Stream) WithID(id epmd.PeerID) *Stream {
	s.who.Hello.ID = id
	return s
}

// Say has it say the lines that words stand for: "+a" and "-a" for a node that listens by IPv4, "="
// for the end of the snapshot.
func (s *Stream) Say(words ...string) {
	for _, w := range words {
		text := "="
		if w != "=" {
			host := s.who.Hello.Host
			text = fmt.Sprintf("%c node=%s@%s name=%s host=%s port=41233 type=normal ip=4", w[0], w[1:], host, w[1:], host)
		}
		s.Line(text)
	}
}

// Line has it say a line.
func (s *Stream) Line(text string) { s.add(line{text: text}) }

// Fail has it end with an error.
func (s *Stream) Fail(err error) { s.add(line{err: err}) }

func (s *Stream) add(l line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, l)
	select {
	case s.more <- struct{}{}:
	default: // the token is there already
	}
}

// take returns the next line, if there is one.
func (s *Stream) take() (l line, found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lines) == 0 {
		return line{}, false
	}
	l, s.lines = s.lines[0], s.lines[1:]
	return l, true
}

// Next returns the next line, or why there is none.
func (s *Stream) Next() (epmd.Line, error) {
	for {
		if l, found := s.take(); found {
			if l.err != nil {
				return epmd.Line{}, l.err
			}
			return epmd.ParseLine(l.text)
		}
		select {
		case <-s.more:
		case <-s.closed:
			return epmd.Line{}, os.ErrClosed
		}
	}
}

// Who returns who is at the other end.
func (s *Stream) Who() told.Who { return s.who }

// SetKeepAlive does nothing.
func (s *Stream) SetKeepAlive(epmd.KeepAlive) error { return nil }

// Close ends it.
func (s *Stream) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// Neighbours returns the nodes of other hosts, and whether they can be reached, to compare.
func Neighbours(reg *registry.Registry) string {
	var lines []string
	for _, n := range reg.Nodes() {
		if n.Origin != registry.Local {
			lines = append(lines, fmt.Sprintf("%s@%s %v", n.Name, n.Host, n.Reach))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, ", ")
}

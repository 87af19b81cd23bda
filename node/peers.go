package node

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
)

// errGaveWay is the error of a handshake given up in favour of one that the peer has begun.
var errGaveWay = errors.New("gave way to the peer's own attempt to connect")

// errDialling says that there is another attempt to connect to the peer.
var errDialling = errors.New("another attempt to connect is under way")

// attempt is a handshake that this node has begun, or one in which the peer has proved the cookie.
type attempt struct {
	giveUp context.CancelCauseFunc // nil: the peer has begun
	named  bool                    // our name is sent, so that the peer may give way
	ended  chan struct{}
}

// peers holds the connections of a node with others, and the handshakes that it has begun, by their
// names. There is to be one connection with each, whoever begins it. Handshakes that others begin
// hold no name before they have proved the cookie. So nobody without it keeps a node out by its
// name. peers may be used concurrently.
//
// When both have begun, the one with the greater name goes on (OTP "Distribution Protocol",
// Distribution Handshake). It may hear of the other's handshake before it begins its own. So the
// other one may be first. Then its own gives way, unless its name is sent. If it is, the other one
// waits for it.
type peers struct {
	mu       sync.Mutex
	conns    map[string]*Conn
	attempts map[string]*attempt
}

// standing says how the peer called name stands, which wants to connect to the node called own.
func (p *peers) standing(own, name string) StatusCode {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.ours(name) != nil && own > name:
		return NotOK
	case p.ours(name) != nil:
		return OKSimultaneous
	case p.alive(name) != nil:
		return Alive
	}
	return OK
}

// ours returns the attempt that this node has begun. It wants p.mu.
func (p *peers) ours(name string) *attempt {
	if a := p.attempts[name]; a != nil && a.giveUp != nil {
		return a
	}
	return nil
}

// settle has the attempt of a peer go on that has proved the cookie, and returns it. The peer may
// count on it then. stands is what standing has said. If another connection has come up since, the
// error is errGaveWay.
func (p *peers) settle(ctx context.Context, own, name string, stands StatusCode) (*attempt, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ours := p.ours(name); ours != nil && ours.named && own > name; ours = p.ours(name) {
		p.mu.Unlock()
		select {
		case <-ours.ended:
		case <-ctx.Done():
		}
		p.mu.Lock()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		stands = OK
	}
	if stands != Alive && p.alive(name) != nil {
		return nil, errGaveWay
	}
	if ours := p.ours(name); ours != nil {
		ours.giveUp(errGaveWay)
	}
	return p.begin(name, nil), nil
}

// begin enters an attempt. It wants p.mu.
func (p *peers) begin(name string, giveUp context.CancelCauseFunc) *attempt {
	if p.attempts == nil {
		p.attempts = map[string]*attempt{}
	}
	a := &attempt{giveUp: giveUp, ended: make(chan struct{})}
	p.attempts[name] = a
	return a
}

// open notes that our name is about to be sent. It fails if our attempt has given way before.
func (p *peers) open(name string, ours *attempt) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.attempts[name] != ours {
		return errGaveWay
	}
	ours.named = true
	return nil
}

// enter returns the connection that was there before. It wants p.mu.
func (p *peers) enter(c *Conn) (old *Conn) {
	if p.conns == nil {
		p.conns = map[string]*Conn{}
	}
	old, p.conns[c.PeerName()] = p.conns[c.PeerName()], c
	context.AfterFunc(c.ctx, func() { p.leave(c) })
	return old
}

// dial begins to connect to name, or returns the connection there is.
func (p *peers) dial(name string, giveUp context.CancelCauseFunc) (*Conn, *attempt, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.alive(name); c != nil {
		return c, nil, nil
	}
	if p.attempts[name] != nil {
		return nil, nil, errDialling
	}
	return nil, p.begin(name, giveUp), nil
}

// alive returns the connection with name, if it lasts. It wants p.mu.
func (p *peers) alive(name string) *Conn {
	if c := p.conns[name]; c != nil && c.Err() == nil {
		return c
	}
	return nil
}

// end ends an attempt, with a connection unless that is nil. It closes an earlier connection: its
// own node has said that it is broken. It returns false if another attempt has taken its place.
func (p *peers) end(name string, a *attempt, c *Conn) bool {
	p.mu.Lock()
	close(a.ended)
	was := p.attempts[name] == a
	var old *Conn
	if was {
		delete(p.attempts, name)
	}
	if was && c != nil {
		old = p.enter(c)
	}
	p.mu.Unlock()
	if old != nil {
		old.Close()
	}
	return was
}

// leave forgets a connection that has ended, unless another has taken its place.
func (p *peers) leave(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns[c.PeerName()] == c {
		delete(p.conns, c.PeerName())
	}
}

// all returns the connections, in the order of their names.
func (p *peers) all() []*Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	conns := make([]*Conn, 0, len(p.conns))
	for _, c := range p.conns {
		conns = append(conns, c)
	}
	slices.SortFunc(conns, func(a, b *Conn) int { return cmp.Compare(a.PeerName(), b.PeerName()) })
	return conns
}

// connect returns the connection with name, or the one that dial makes. dial calls open before it
// sends our name.
func (p *peers) connect(ctx context.Context, name string, dial func(ctx context.Context, open func() error) (*Conn, error)) (*Conn, error) {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	c, a, err := p.dial(name, giveUp)
	if c != nil || err != nil {
		return c, err
	}
	c, err = dial(ctx, func() error { return p.open(name, a) })
	if p.end(name, a, c) {
		return c, err
	}
	if c != nil {
		c.Close()
	}
	return nil, errGaveWay
}

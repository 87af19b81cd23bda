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

// attempt is a handshake that this node has begun.
type attempt struct {
	giveUp context.CancelCauseFunc
}

// peers holds the connections of a node with others, and the handshakes that it has begun, by their
// names. There is to be one connection with each, whoever begins it. Handshakes that others begin
// hold no name before they have proved the cookie. So nobody without it keeps a node out by its
// name. peers may be used concurrently.
type peers struct {
	mu       sync.Mutex
	conns    map[string]*Conn
	attempts map[string]*attempt
}

// standing says how the peer called name stands, which wants to connect to the node called own.
// When both have begun, the one with the greater name goes on (OTP "Distribution Protocol",
// Distribution Handshake).
func (p *peers) standing(own, name string) StatusCode {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.attempts[name] != nil && own > name:
		return NotOK
	case p.attempts[name] != nil:
		return OKSimultaneous
	case p.alive(name) != nil:
		return Alive
	}
	return OK
}

// accepted enters a connection that the peer has begun. It closes an earlier connection: its own
// node has said that it is broken. An attempt of ours gives way.
func (p *peers) accepted(c *Conn) {
	name := c.PeerName()
	p.mu.Lock()
	if ours := p.attempts[name]; ours != nil {
		delete(p.attempts, name)
		ours.giveUp(errGaveWay)
	}
	old := p.enter(c)
	p.mu.Unlock()
	if old != nil {
		old.Close()
	}
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
	if p.attempts == nil {
		p.attempts = map[string]*attempt{}
	}
	a := &attempt{giveUp}
	p.attempts[name] = a
	return nil, a, nil
}

// alive returns the connection with name, if it lasts. It wants p.mu.
func (p *peers) alive(name string) *Conn {
	if c := p.conns[name]; c != nil && c.Err() == nil {
		return c
	}
	return nil
}

// end ends an attempt, with a connection unless that is nil. It returns false if the peer's own
// attempt has taken its place.
func (p *peers) end(name string, a *attempt, c *Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.attempts[name] != a {
		return false
	}
	delete(p.attempts, name)
	if c != nil {
		p.enter(c) // what was there before has ended
	}
	return true
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

// connect returns the connection with name, or the one that dial makes.
func (p *peers) connect(ctx context.Context, name string, dial func(context.Context) (*Conn, error)) (*Conn, error) {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	c, a, err := p.dial(name, giveUp)
	if c != nil || err != nil {
		return c, err
	}
	c, err = dial(ctx)
	if p.end(name, a, c) {
		return c, err
	}
	if c != nil {
		c.Close()
	}
	return nil, errGaveWay
}

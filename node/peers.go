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

// errComing says that the peer is about to connect.
var errComing = errors.New("the peer is connecting already")

// attempt is a handshake under way.
type attempt struct {
	giveUp context.CancelCauseFunc // nil for one that the peer has begun
}

// peers holds the connections and handshakes of a node with others, by their names. There is to
// be one connection with each, whoever begins it. peers may be used concurrently.
type peers struct {
	mu       sync.Mutex
	conns    map[string]*Conn
	attempts map[string]*attempt
}

// accept says how the peer called name stands, which wants to connect to the node called own.
// Unless that is NotOK, end the attempt. When both have begun, the one with the greater name goes
// on (OTP "Distribution Protocol", Distribution Handshake).
func (p *peers) accept(own, name string) (StatusCode, *attempt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	code := OK
	other := p.attempts[name]
	switch {
	case other != nil && (other.giveUp == nil || own > name):
		return NotOK, nil
	case other != nil:
		other.giveUp(errGaveWay)
		code = OKSimultaneous
	case p.alive(name) != nil:
		code = Alive
	}
	return code, p.begin(name, nil)
}

// dial begins to connect to name, or returns the connection there is.
func (p *peers) dial(name string, giveUp context.CancelCauseFunc) (*Conn, *attempt, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.alive(name); c != nil {
		return c, nil, nil
	}
	if p.attempts[name] != nil {
		return nil, nil, errComing
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

// begin wants p.mu.
func (p *peers) begin(name string, giveUp context.CancelCauseFunc) *attempt {
	if p.attempts == nil {
		p.attempts, p.conns = map[string]*attempt{}, map[string]*Conn{}
	}
	a := &attempt{giveUp}
	p.attempts[name] = a
	return a
}

// end ends an attempt, with a connection unless that is nil. It returns false if another has
// taken its place. It closes an earlier connection: its own node has said that it is broken.
func (p *peers) end(name string, a *attempt, c *Conn) bool {
	p.mu.Lock()
	current := p.attempts[name] == a
	var old *Conn
	if current {
		delete(p.attempts, name)
	}
	if current && c != nil {
		old, p.conns[name] = p.conns[name], c
		context.AfterFunc(c.ctx, func() { p.leave(c) })
	}
	p.mu.Unlock()
	if old != nil {
		old.Close()
	}
	return current
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

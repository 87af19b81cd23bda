package node

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	acceptTime = 7 * time.Second // for a handshake, as a node allows
	maxConns   = 256             // of a Server, after the handshake
	acceptWait = 50 * time.Millisecond
)

// Server is a hidden node that others connect to. It registers nowhere: its owner makes it known.
// A node that has not proved the cookie gets no further than the handshake.
type Server struct {
	Name string // full node name
	// NameFor returns the full node name to have towards a node. peer is its name, and local the
	// address that it has connected to. A node closes the connection if this is not the name it
	// wants. nil: always Name.
	NameFor func(peer string, local net.Addr) string
	Cookie  Cookie
	TLS     *tls.Config // for distribution over TLS; nil for a plain node
	Options
	// Connected is called with each connection accepted, after its handshake, if it is set. The
	// connection lasts until either side closes it.
	Connected func(*Conn)
	// Refused is called with each connection that ends before that, if it is set: the address and
	// why.
	Refused func(net.Addr, error)

	peers    peers
	once     sync.Once
	creation uint32 // the same for all connections, so that peers see one node
	guests   guests
	account  account
	places   places
}

// places are for connections after the handshake.
type places struct {
	mu    sync.Mutex
	taken int
}

var errFull = fmt.Errorf("there are %d connections", maxConns)

// take returns false if there is no place.
func (p *places) take() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken == maxConns {
		return false
	}
	p.taken++
	return true
}

func (p *places) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
}

// Serve accepts connections until ctx ends or ln fails. It then closes ln and all connections,
// and returns ctx's or ln's error once the handlers have returned.
//
// At most 256 connections are open at a time, beside 128 handshakes. When a handshake more begins,
// one of those gives way, the oldest of the subnet and the address that have most. At most 32 MiB
// of messages wait on all connections together, for a Handler or for the peer to read them. When
// there are more, the connection with most of them is closed.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	us, err := s.self()
	if err != nil {
		ln.Close()
		return fmt.Errorf("serve node: %w", err)
	}
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	var conns sync.WaitGroup
	defer s.closeAll() // those it has dialled too
	defer conns.Wait()
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		c, err := ln.Accept()
		if temporary := (interface{ Temporary() bool })(nil); errors.As(err, &temporary) && temporary.Temporary() &&
			sleep(ctx, acceptWait) {
			continue // out of descriptors, perhaps
		}
		if err != nil {
			ln.Close()
			return errors.Join(context.Cause(ctx), err)
		}
		conns.Go(func() { s.serve(serving, us, c) })
	}
}

func (s *Server) closeAll() {
	for _, c := range s.peers.all() {
		c.Close()
	}
}

// self returns this node's side of a connection.
func (s *Server) self() (self, error) {
	us, err := newSelf(s.Name, s.Cookie, s.Options)
	s.once.Do(func() { s.creation = us.creation })
	us.creation = s.creation
	return us, err
}

// serve serves one connection until it ends.
func (s *Server) serve(ctx context.Context, us self, c net.Conn) {
	conn, err := s.welcome(ctx, us, c)
	if err != nil {
		c.Close()
		if s.Refused != nil {
			s.Refused(c.RemoteAddr(), err)
		}
		return
	}
	defer s.places.leave()
	if s.Connected != nil {
		s.Connected(conn)
	}
	select {
	case <-ctx.Done():
	case <-conn.Closed():
	}
	conn.Close()
	conn.idle.Wait()
}

// welcome goes through the handshake, unless that has to give way to another. The caller leaves
// the connection's place afterwards.
func (s *Server) welcome(ctx context.Context, us self, c net.Conn) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, acceptTime)
	defer cancel()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	defer s.guests.leave(s.guests.enter(c.RemoteAddr(), giveUp))
	conn, err := s.accept(ctx, us, c)
	if err != nil && context.Cause(ctx) == errCrowded {
		err = errCrowded
	}
	return conn, err
}

// accept goes through the handshake until ctx ends. The connection has a place.
func (s *Server) accept(ctx context.Context, us self, c net.Conn) (*Conn, error) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	f := frames{c, plainLenSize}
	if s.TLS != nil {
		f = frames{tls.Server(c, s.TLS), secureLenSize}
	}
	name, err := readName(f)
	if err != nil {
		return nil, fmt.Errorf("accept node: %w", err)
	}
	if s.NameFor != nil {
		us.name = s.NameFor(name.Name, c.LocalAddr())
	}
	if name.Name == us.name {
		f.write(Status{Code: NotAllowed}.Append(nil))
		return nil, fmt.Errorf("accept node: peer has our own name %q", us.name)
	}
	code := s.peers.standing(us.name, name.Name)
	status := Status{Code: code}
	if code == OK && name.Flags&NameMe != 0 {
		status = Status{Named, name.Name, name.Creation}
	}
	var a *attempt
	err = us.greet(f, status, func() (err error) {
		a, err = s.peers.settle(ctx, us.name, name.Name, code)
		return err
	})
	if err == nil && !stop() {
		err = context.Cause(ctx)
	}
	if err == nil && !s.places.take() {
		err = errFull
	}
	if err != nil {
		if a != nil {
			s.peers.end(name.Name, a, nil)
		}
		return nil, fmt.Errorf("accept node %q: %w", name.Name, err)
	}
	conn := newConn(f.rw.(net.Conn), us, them{name.Name, name.Flags, name.Creation})
	conn.account = &s.account
	conn.start()
	if !s.peers.end(name.Name, a, conn) { // the peer has begun once more meanwhile
		conn.Close()
	}
	return conn, nil
}

// readName reads the name of a node that may connect, as far as its name and its flags go. A node
// that asks for a name (erl -sname undefined) tells its host alone. It gets a name that nobody
// has.
func readName(f frames) (SendName, error) {
	b, err := f.read()
	if err != nil {
		return SendName{}, fmt.Errorf("read name: %w", err)
	}
	m, err := ParseSendName(b)
	if err == nil && m.Flags&NameMe != 0 {
		m.Name, m.Creation = rand.Text()+"@"+m.Name, random()|4
	}
	if err == nil {
		err = CheckName(m.Name)
	}
	if err == nil && m.Flags.missing() != 0 {
		err = &FlagsError{m.Flags.missing()}
	}
	if err != nil {
		f.write(Status{Code: NotAllowed}.Append(nil))
	}
	return m, err
}

// greet goes through the rest of the handshake of the accepting side. It calls settle once the peer
// has proved the cookie, and ends if that fails.
func (s self) greet(f frames, status Status, settle func() error) error {
	if err := admit(f, status); err != nil {
		return err
	}
	flags := connected
	if status.Code == Named {
		flags |= NameMe // or the peer would not take the name
	}
	return s.challenge(f, flags, settle)
}

// admit tells the peer how it stands with its name.
func admit(f frames, status Status) error {
	if err := f.write(status.Append(nil)); err != nil {
		return fmt.Errorf("send status: %w", err)
	}
	switch status.Code {
	case NotOK:
		return errors.New("in a handshake already")
	case OK, OKSimultaneous, Named:
		return nil
	}
	b, err := f.read()
	if err != nil {
		return fmt.Errorf("connected already: read answer: %w", err)
	}
	if m, err := ParseStatus(b); err != nil || m.Code != True {
		return errors.Join(errors.New("connected already"), err)
	}
	return nil
}

// Conns returns the connections with other nodes, in the order of their names.
func (s *Server) Conns() []*Conn { return s.peers.all() }

// challenge has the peer prove that it knows the cookie, and proves it in turn.
func (s self) challenge(f frames, flags Flags, settle func() error) error {
	ours := random()
	if err := f.write(Challenge{flags, ours, s.creation, s.name}.Append(nil)); err != nil {
		return fmt.Errorf("send challenge: %w", err)
	}
	b, err := f.read()
	if err != nil {
		return fmt.Errorf("read proof: %w", err)
	}
	m, err := ParseChallengeReply(b)
	if err != nil {
		return err
	}
	if !s.convinced(m.Digest, ours) {
		return ErrCookie
	}
	if err := settle(); err != nil {
		return err
	}
	return f.write(ChallengeAck{s.cookie.digest(m.Challenge)}.Append(nil))
}

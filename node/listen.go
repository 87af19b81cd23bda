package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	acceptTime = 7 * time.Second // for a handshake, as a node allows
	maxConns   = 256             // of a Server, handshakes included
	acceptWait = 50 * time.Millisecond
)

// Server is a hidden node that others connect to. It registers nowhere: how others find it is its owner's
// affair. A node that has not proved that it knows the cookie gets no further than the handshake.
type Server struct {
	Name   string // full node name
	Cookie Cookie
	TLS    *tls.Config // for distribution over TLS; nil for a plain node
	Options
	// Connected is called with each connection after its handshake, if it is set. The connection lasts until
	// either side closes it.
	Connected func(*Conn)
	// Refused is called with each connection that ends before that, if it is set: the address and why.
	Refused func(net.Addr, error)

	mu      sync.Mutex
	peers   map[string]*Conn // connected, by node name
	pending map[string]bool  // node names of handshakes under way
}

// Serve accepts connections until ctx ends or ln fails, closes ln and all connections, and returns ctx's or
// ln's error. At most 256 connections are open at a time; more are closed at once.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	if s.Creation == 0 { // the same for all connections, so that a peer sees one node
		s.Creation = random() | 4
	}
	us, err := newSelf(s.Name, s.Cookie, s.Options)
	if err != nil {
		ln.Close()
		return fmt.Errorf("serve node: %w", err)
	}
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	var conns sync.WaitGroup
	defer conns.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	free := make(chan struct{}, maxConns)
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
		select {
		case free <- struct{}{}:
			conns.Go(func() {
				s.serve(ctx, us, c)
				<-free
			})
		default:
			c.Close()
		}
	}
}

// serve serves one connection until it ends.
func (s *Server) serve(ctx context.Context, us self, c net.Conn) {
	addr := c.RemoteAddr()
	conn, err := s.accept(ctx, us, c)
	if err != nil {
		c.Close()
		if s.Refused != nil {
			s.Refused(addr, err)
		}
		return
	}
	if s.Connected != nil {
		s.Connected(conn)
	}
	select {
	case <-ctx.Done():
	case <-conn.Closed():
	}
	conn.Close()
	s.leave(conn)
}

// accept goes through the handshake.
func (s *Server) accept(ctx context.Context, us self, c net.Conn) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, acceptTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	f := frames{c, plainLenSize}
	if s.TLS != nil {
		f = frames{tls.Server(c, s.TLS), secureLenSize}
	}
	name, err := readName(f, us.name)
	if err != nil {
		return nil, fmt.Errorf("accept node: %w", err)
	}
	code := s.begin(name.Name)
	if code != NotOK {
		defer s.finish(name.Name)
	}
	if err := us.greet(f, code); err != nil {
		return nil, fmt.Errorf("accept node %q: %w", name.Name, err)
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	conn := newConn(f.rw.(net.Conn), us, them{name.Name, name.Flags, name.Creation})
	s.enter(conn)
	return conn, nil
}

// readName reads the name of a node that may connect, as far as its name and its flags go.
func readName(f frames, own string) (SendName, error) {
	b, err := f.read()
	if err != nil {
		return SendName{}, fmt.Errorf("read name: %w", err)
	}
	m, err := ParseSendName(b)
	if err == nil {
		err = CheckName(m.Name)
	}
	if err == nil && m.Name == own {
		err = fmt.Errorf("peer has our own name %q", own)
	}
	if err == nil && m.Flags.missing() != 0 {
		err = &FlagsError{m.Flags.missing()}
	}
	if err != nil {
		f.write(Status{Code: NotAllowed}.Append(nil))
	}
	return m, err
}

// greet goes through the rest of the handshake of the accepting side.
func (s self) greet(f frames, code StatusCode) error {
	if err := admit(f, code); err != nil {
		return err
	}
	return s.challenge(f)
}

// admit tells the peer how it stands with its name.
func admit(f frames, code StatusCode) error {
	if err := f.write(Status{Code: code}.Append(nil)); err != nil {
		return fmt.Errorf("send status: %w", err)
	}
	if code == NotOK {
		return errors.New("in a handshake already")
	}
	if code == OK {
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

// begin returns OK, NotOK during another handshake under the same name, or Alive if a node of this name is connected.
// Unless it is NotOK, the name is the handshake's until finish.
func (s *Server) begin(name string) StatusCode {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending[name] {
		return NotOK
	}
	if s.pending == nil {
		s.pending, s.peers = map[string]bool{}, map[string]*Conn{}
	}
	s.pending[name] = true
	if s.peers[name] != nil {
		return Alive
	}
	return OK
}

func (s *Server) finish(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, name)
}

// enter takes in a connection. It closes an earlier one, of which the peer has said that it is broken.
func (s *Server) enter(c *Conn) {
	s.mu.Lock()
	old := s.peers[c.PeerName()]
	s.peers[c.PeerName()] = c
	s.mu.Unlock()
	if old != nil {
		old.Close()
	}
}

// leave forgets a connection that has ended, unless another has taken its place.
func (s *Server) leave(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.peers[c.PeerName()] == c {
		delete(s.peers, c.PeerName())
	}
}

// Conns returns the connections with other nodes, in the order of their names.
func (s *Server) Conns() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	var conns []*Conn
	for _, c := range s.peers {
		conns = append(conns, c)
	}
	slices.SortFunc(conns, func(a, b *Conn) int { return strings.Compare(a.PeerName(), b.PeerName()) })
	return conns
}

// challenge has the peer prove that it knows the cookie, and proves it in turn.
func (s self) challenge(f frames) error {
	ours := random()
	if err := f.write(Challenge{connected, ours, s.creation, s.name}.Append(nil)); err != nil {
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
	return f.write(ChallengeAck{s.cookie.digest(m.Challenge)}.Append(nil))
}

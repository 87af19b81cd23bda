package epmd

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/registry"
)

// Streams that are given, to programs of this host and to peers.
const (
	maxPeerStreams     = 2560             // in all; at most a quarter of the descriptors
	maxStreamsOfOne    = 8                // of one address
	writeTimeout       = 10 * time.Second // that a program may take over 16 KiB or so
	peerWriteTimeout   = 30 * time.Second // the same for a peer
	peerKeepAliveIdle  = 30 * time.Second
	peerKeepAliveProbe = 10 * time.Second
)

// Why streams end; see also feed.go.
var (
	// errPeerEnded: the other side has closed it, or said more than its request.
	errPeerEnded = errors.New("peer has ended it")
	// errBehind: it reads more slowly than nodes come and go. To learn what has gone, it must ask
	// anew.
	errBehind = errors.New("subscriber fell behind")
)

// subscriber is a stream that answers one NodesReq or WatchReq.
type subscriber struct {
	server *Server
	from   caller
	peer   bool       // it is told what peers are told, else all
	hello  *PeerHello // nil: it has not said who it is
	follow bool
	name   string           // of a peer, not empty: the full or alive name that it asks for
	found  []*registry.Node // of a program, not nil: it is told of these alone

	conn   *os.File // a non-blocking socket
	raw    syscall.RawConn
	local  netip.Addr
	turn   func(job func()) // has something rendered or sent in turn with others
	feed   *feed            // nil: it has joined none
	closed chan struct{}    // closed when the other side has closed, or said more

	at      atomic.Pointer[chunk] // of the feed, which it has read or is about to
	blocked atomic.Bool           // a write waits for the other side to read
	cutOff  context.CancelCauseFunc
}

// programStream returns the stream that answers a program of this host. NodesReq and WatchReq each
// have a share of their own.
func (s *Server) programStream(from caller, follow bool) *stream {
	p := &subscriber{server: s, from: from, follow: follow}
	requests := "nodes"
	if follow {
		requests = "watch"
	}
	return &stream{shares: []share{{requests, maxStreams, true}}, reserve: true, run: p.run}
}

// foundStream returns the stream that tells a program of the nodes that were found.
func (s *Server) foundStream(from caller, found []*registry.Node) *stream {
	p := &subscriber{server: s, from: from, found: found}
	return &stream{shares: []share{{"nodes", maxStreams, true}}, reserve: true, run: p.run}
}

// peerStream returns the stream that answers a peer. The share of peers is bounded, and that of
// each address. Whoever answers at many of them gets no more than half of all; see users.go.
func (s *Server) peerStream(from caller, follow bool, hello *PeerHello, name string) *stream {
	p := &subscriber{server: s, from: from, peer: true, follow: follow, hello: hello, name: name}
	return &stream{
		shares: []share{
			{"peers", min(maxPeerStreams, s.engine.files/4), true},
			{addrShare{from.peer.Addr()}, maxStreamsOfOne, false},
		},
		addr: from.peer.Addr(),
		run:  p.run,
	}
}

// run sends the snapshot and, if it is to follow, every change. It ends when the other side ends,
// falls behind, or when the feed ends. It closes the connection. ctx is the engine's. A peer's
// stream that has begun outlasts it: the feed has a farewell to say.
func (p *subscriber) run(ctx context.Context, conn *os.File, whose any) {
	p.conn = conn
	p.turn = func(job func()) { p.server.engine.doInLane(whose, job) }
	mine, cut := context.WithCancelCause(context.Background())
	defer cut(nil)
	p.cutOff = func(reason error) {
		cut(reason)
		conn.SetDeadline(time.Unix(1, 0)) // a write that waits ends
	}
	if !p.peer {
		defer context.AfterFunc(ctx, func() { p.cutOff(errOver) })()
	}
	p.closed = make(chan struct{})
	go p.awaitEnd()
	err := p.begin()
	if err == nil {
		err = p.awaitLooked(ctx, mine)
	}
	if err == nil {
		err = p.send(mine)
	}
	if cause := context.Cause(mine); cause != nil {
		err = cause
	}
	p.server.feeds.leave(p)
	conn.Close()
	<-p.closed
	p.log(err)
}

// awaitEnd waits until the other side closes, or says anything. It has nothing more to say. It is
// still told what there is now, unless it is a peer that follows.
func (p *subscriber) awaitEnd() {
	defer close(p.closed)
	var b [1]byte
	p.conn.Read(b[:])
	if p.peer && p.follow {
		p.cutOff(errPeerEnded)
	}
}

// begin prepares the connection. It says who watches.
func (p *subscriber) begin() (err error) {
	if p.raw, err = p.conn.SyscallConn(); err != nil || !p.peer {
		return err
	}
	var far, near netip.AddrPort
	err = controlRaw(p.raw, func(fd int) (err error) {
		if near, err = sockaddr(unix.Getsockname(fd)); err != nil {
			return err
		}
		if far, err = sockaddr(unix.Getpeername(fd)); err != nil {
			return err
		}
		alive := KeepAlive{peerKeepAliveIdle, peerKeepAliveProbe, peerWriteTimeout}
		return errors.Join(alive.set(fd), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	})
	if err != nil {
		return err
	}
	p.local = near.Addr()
	if asked := p.server.cfg.Asked; asked != nil && p.hello != nil && !p.from.local {
		asked(PeerAsk{*p.hello, far, near.Addr()})
	}
	return nil
}

// awaitLooked returns once it is known which of the restored nodes a peer can reach.
func (p *subscriber) awaitLooked(engine, ctx context.Context) error {
	looked := p.server.cfg.Looked
	if looked == nil || !p.peer || !p.follow {
		return nil
	}
	select {
	case <-looked:
		return nil
	case <-engine.Done():
		return errOver
	case <-ctx.Done():
		return ctx.Err()
	}
}

// log logs why the stream has ended, if that is worth it.
func (p *subscriber) log(err error) {
	if !errors.Is(err, errBehind) && !errors.Is(err, os.ErrDeadlineExceeded) {
		p.server.log.Debug("stream has ended", "peer", p.from.peer, "err", err)
		return
	}
	e := p.server.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	e.complain(p.from, "subscriber cut off: it does not read", "err", err)
}

// send sends what there is, and then what the feed has for the stream.
func (p *subscriber) send(ctx context.Context) error {
	at, err := p.server.feeds.join(p)
	if err != nil {
		return err
	}
	last, err := p.sendSnapshot(ctx, at)
	if err != nil || !p.follow {
		return err
	}
	p.turn = p.server.feeds.turn
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.closed:
			return errPeerEnded
		case <-last.ready:
		}
		if last.next == nil {
			return errOver
		}
		last = last.next
		p.at.Store(last)
		if err := p.write(ctx, last.lines, 0); err != nil {
			return err
		}
	}
}

// sendSnapshot sends all nodes, or those of the name that was asked for. It returns the chunk after
// which changes go on.
func (p *subscriber) sendSnapshot(ctx context.Context, at start) (*chunk, error) {
	out := binary.BigEndian.AppendUint32(nil, uint32(p.server.cfg.Port))
	if p.peer {
		out = p.server.feeds.appendHello(out, at.host)
	}
	err := p.write(ctx, out, unix.MSG_MORE)
	if p.name != "" {
		return nil, cmp.Or(err, p.write(ctx, p.server.feeds.find(p, p.name), 0))
	}
	for i := range at.snapshot.pieces {
		if err == nil {
			var lines *[]byte
			p.turn(func() { lines = at.snapshot.pieces[i].lines() })
			err = p.write(ctx, *lines, unix.MSG_MORE)
		}
	}
	c := at.snapshot.at
	for c != at.last && err == nil {
		c = c.next
		p.at.Store(c)
		err = p.write(ctx, c.lines, unix.MSG_MORE)
	}
	out = out[:0]
	switch {
	case p.follow && p.peer:
		out = appendPeerEnd(out, at.nodes)
	case p.follow:
		for _, n := range p.server.cfg.Registry.NoStreams() {
			out = appendNoStream(out, n)
		}
		out = appendSnapshotEnd(out, at.nodes, at.lan)
	}
	if err == nil {
		err = p.write(ctx, out, 0)
	}
	return c, err
}

// write sends some lines. What takes longer than the stream's time-out fails.
func (p *subscriber) write(ctx context.Context, b []byte, flags int) error {
	timeout := writeTimeout
	if p.peer {
		timeout = peerWriteTimeout
	}
	if err := p.conn.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if ctx.Err() != nil { // or else that deadline would replace the one of cutOff
		return ctx.Err()
	}
	var sent error
	err := p.raw.Write(func(fd uintptr) bool {
		b, sent = p.transmit(int(fd), b, flags)
		p.blocked.Store(sent == unix.EAGAIN)
		return sent != unix.EAGAIN
	})
	if err != nil {
		return err
	}
	return sent
}

// transmit sends as much of b as the other side's window allows, and returns the rest. Few streams
// do so at a time, so that no lookup has to wait behind all of them.
func (p *subscriber) transmit(fd int, b []byte, flags int) ([]byte, error) {
	for len(b) > 0 {
		var n int
		var err error
		p.turn(func() { n, err = unix.SendmsgN(fd, b, nil, nil, flags|unix.MSG_NOSIGNAL) })
		if err != nil {
			return b, err
		}
		b = b[n:]
	}
	return nil, nil
}

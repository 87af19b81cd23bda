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
)

// Streams that are given to peers.
const (
	maxPeerStreams     = 2560 // in all; at most a quarter of the descriptors
	maxStreamsOfOne    = 8    // of one address
	peerWriteTimeout   = 30 * time.Second
	peerKeepAliveIdle  = 30 * time.Second
	peerKeepAliveProbe = 10 * time.Second
)

// errPeerEnded is why a stream ends whose peer has closed it, or said more than its request.
var errPeerEnded = errors.New("peer has ended it")

// peerStream answers one NodesReq or WatchReq of a peer.
type peerStream struct {
	server *Server
	from   caller
	hello  *PeerHello // nil: it has not said who it is
	follow bool
	name   string // not empty: of the nodes of that full or alive name alone

	conn  *os.File // a non-blocking socket
	raw   syscall.RawConn
	local netip.Addr
	feed  *feed // nil: it has joined none

	events atomic.Uint64 // of the feed, which it has read or is about to
	cutOff context.CancelCauseFunc
}

// peerStream returns the stream that answers a peer. The share of peers is bounded, and that of
// each address.
func (s *Server) peerStream(from caller, follow bool, hello *PeerHello, name string) *stream {
	p := &peerStream{server: s, from: from, follow: follow, hello: hello, name: name}
	return &stream{
		shares: []share{
			{"peers", min(maxPeerStreams, s.engine.files/4)},
			{from.peer.Addr(), maxStreamsOfOne},
		},
		run: p.run,
	}
}

// run sends the snapshot and, if it is to follow, every change. It ends when the peer ends, falls
// behind, or when the feed ends. It closes the connection. The engine's context is no reason to
// end: the feed has a farewell to say.
func (p *peerStream) run(_ context.Context, conn *os.File) {
	p.conn = conn
	ctx, cut := context.WithCancelCause(context.Background())
	defer cut(nil)
	p.cutOff = func(reason error) {
		cut(reason)
		conn.SetDeadline(time.Unix(1, 0)) // a write that waits ends
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		var b [1]byte
		conn.Read(b[:]) // a peer has nothing more to say
		if p.follow {
			cut(errPeerEnded) // else it is still told what it has asked for
		}
	}()
	err := p.begin()
	if err == nil {
		err = p.send(ctx)
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	p.server.feeds.leave(p)
	conn.Close()
	<-closed
	p.log(err)
}

// begin prepares the connection. It says who watches.
func (p *peerStream) begin() (err error) {
	if p.raw, err = p.conn.SyscallConn(); err != nil {
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

// log logs why the stream has ended, if that is worth it.
func (p *peerStream) log(err error) {
	if !errors.Is(err, errBehind) && !errors.Is(err, os.ErrDeadlineExceeded) {
		p.server.log.Debug("stream to a peer has ended", "peer", p.from.peer, "err", err)
		return
	}
	e := p.server.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	e.complain(p.from, "peer cut off: it does not read", "err", err)
}

// send sends what the feed has for the stream.
func (p *peerStream) send(ctx context.Context) error {
	at, err := p.server.feeds.join(p)
	if err != nil {
		return err
	}
	last, err := p.sendSnapshot(ctx, at)
	if err != nil || !p.follow {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-last.ready:
		}
		if last.next == nil {
			return errOver
		}
		last = last.next
		p.events.Store(last.events)
		if err := p.write(ctx, last.lines, 0); err != nil {
			return err
		}
	}
}

// sendSnapshot sends all nodes, or those of the name that was asked for. It returns the chunk after
// which changes go on.
func (p *peerStream) sendSnapshot(ctx context.Context, at start) (*chunk, error) {
	out := binary.BigEndian.AppendUint32(nil, uint32(p.server.cfg.Port))
	out = p.server.feeds.appendHello(out, at.host)
	err := p.write(ctx, out, unix.MSG_MORE)
	if p.name != "" {
		return nil, cmp.Or(err, p.write(ctx, p.server.feeds.find(p, p.name), 0))
	}
	for _, piece := range at.snapshot.pieces {
		if err == nil {
			err = p.write(ctx, piece, unix.MSG_MORE)
		}
	}
	c := at.snapshot.at
	for c != at.last && err == nil {
		c = c.next
		p.events.Store(c.events)
		err = p.write(ctx, c.lines, unix.MSG_MORE)
	}
	out = out[:0]
	if p.follow {
		out = appendPeerEnd(out, at.nodes)
	}
	if err == nil {
		err = p.write(ctx, out, 0)
	}
	return c, err
}

// write sends some lines. What takes longer than peerWriteTimeout fails.
func (p *peerStream) write(ctx context.Context, b []byte, flags int) error {
	if err := p.conn.SetWriteDeadline(time.Now().Add(peerWriteTimeout)); err != nil {
		return err
	}
	if ctx.Err() != nil { // or else that deadline would replace the one of cutOff
		return ctx.Err()
	}
	var sent error
	err := p.raw.Write(func(fd uintptr) bool {
		b, sent = p.transmit(int(fd), b, flags)
		return sent != unix.EAGAIN
	})
	if err != nil {
		return err
	}
	return sent
}

// transmit sends as much of b as the peer's window allows, and returns the rest. Few streams do so
// at a time, so that no lookup has to wait behind all of them.
func (p *peerStream) transmit(fd int, b []byte, flags int) ([]byte, error) {
	for len(b) > 0 {
		p.server.feeds.turns <- struct{}{}
		n, err := unix.SendmsgN(fd, b, nil, nil, flags|unix.MSG_NOSIGNAL)
		<-p.server.feeds.turns
		if err != nil {
			return b, err
		}
		b = b[n:]
	}
	return nil, nil
}

package epmd

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// takeOver makes the engine serve a copy of a listener.
func (e *engine) takeOver(l *net.TCPListener) error {
	f, err := l.File()
	if err != nil {
		return err
	}
	e.listeners = append(e.listeners, f)
	return control(f, func(fd int) error {
		// Connections inherit TCP_QUICKACK=0: the answer acknowledges the request, no packet of its
		// own does. A multipath listener, which package net makes, does without.
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0)
		// The kernel holds a connection back until its request is there. So most are read, answered
		// and closed in one go, and epoll never knows of them.
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1)
	})
}

// control calls op with f's descriptor.
func control(f *os.File, op func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return controlRaw(raw, op)
}

func controlRaw(raw syscall.RawConn, op func(fd int) error) error {
	var opErr error
	if err := raw.Control(func(fd uintptr) { opErr = op(int(fd)) }); err != nil {
		return err
	}
	return opErr
}

// acceptPause is how long accepting rests when the system has no room for another connection. It
// rests only if none of ours can give way.
const acceptPause = 100 * time.Millisecond

// accept takes all connections that are there. It returns an error if the listener no longer
// listens.
func (e *engine) accept(listener int) error {
	for accepted := 0; e.ctx.Err() == nil; {
		fd, peer, err := e.sockets.accept(listener)
		switch err {
		case nil:
			time.Sleep(e.delayAccept) // -delay_accept, for each connection
			e.begin(fd, peer)
			if accepted++; accepted == 1 && !e.sockets.readable(listener) {
				return nil // most come alone, and accept4 costs four times as much
			}
		case unix.EAGAIN:
			return nil
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
			if !e.makeRoom(err) {
				time.Sleep(acceptPause)
			}
		case unix.EBADF, unix.EINVAL, unix.ENOTSOCK:
			return fmt.Errorf("accept: %w", err)
		default: // the peer has gone, or the network to it has
		}
	}
	return nil
}

// begin reads from a connection that was just accepted.
func (e *engine) begin(fd int, peer netip.AddrPort) {
	e.mu.Lock()
	defer e.mu.Unlock()
	from := caller{fd, peer, ofThisHost(fd, peer.Addr())}
	if !e.protocol.admits(from) {
		closeSocket(fd)
		return
	}
	c := e.freshConn()
	c.caller = from
	n, err := e.sockets.receive(fd, e.scratch[:])
	if err == unix.EAGAIN || err == unix.EINTR {
		e.await(c)
	} else if err != nil || n == 0 {
		closeSocket(fd)
	} else {
		e.received(c, e.scratch[:n])
	}
	e.endUnwatched(c)
}

// ofThisHost reports whether the peer of a connection is on this host.
func ofThisHost(fd int, peer netip.Addr) bool {
	if peer.IsLoopback() {
		return true
	}
	local, err := localAddr(fd)
	return err == nil && isLocal(peer, local)
}

// makeRoom ends the connection that has waited for longest. It reports whether there is one. The
// error says why there is no room for another.
func (e *engine) makeRoom(err error) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	oldest := e.waiting.oldest()
	if oldest == nil {
		e.complain(caller{}, "no room for another connection", "err", err)
		return false
	}
	e.end(oldest, "")
	return true
}

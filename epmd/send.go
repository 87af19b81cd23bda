package epmd

import (
	"bytes"
	"time"

	"golang.org/x/sys/unix"
)

// send sends as much of an answer as the peer's window allows, and returns the rest. If more is to
// follow, the kernel keeps what would fill no segment until then, or until close.
func (e *engine) send(fd int, out []byte, more bool) (rest []byte, err error) {
	time.Sleep(e.delayWrite)
	flags := unix.MSG_NOSIGNAL
	if more {
		flags |= unix.MSG_MORE
	}
	for len(out) > 0 {
		n, err := e.sockets.transmit(fd, out, flags)
		switch err {
		case nil, unix.EINTR:
			out = out[n:]
		case unix.EAGAIN:
			return out, nil
		default:
			return nil, err
		}
	}
	return nil, nil
}

// inLane has a job done that is part of a long answer, in turn with those of other users. The
// engine need not be locked.
func (e *engine) inLane(of any, job func()) {
	e.lane.add(of, job, func() { e.streams.ended.Go(func() { e.lane.work(e.ctx) }) })
}

// doInLane is inLane, and returns when the job is done.
func (e *engine) doInLane(of any, job func()) {
	done := make(chan struct{})
	e.inLane(of, func() {
		defer close(done)
		job()
	})
	<-done
}

// sendInLane has a piece more of an unsent answer sent when its turn has come.
func (e *engine) sendInLane(c *conn) {
	generation := c.generation
	e.inLane(c.wait.whose, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.conns[c.fd] == c && c.generation == generation && c.wait != nil && c.wait.unsent != nil {
			e.sendOn(c)
		}
	})
}

// sendOn sends a piece more of an unsent answer. epoll tells again of a peer that takes more.
func (e *engine) sendOn(c *conn) {
	piece := c.wait.unsent[:min(len(c.wait.unsent), pieceBytes)]
	rest, err := e.send(c.fd, piece, len(piece) < len(c.wait.unsent))
	sent := len(piece) - len(rest)
	if err != nil || sent == len(c.wait.unsent) {
		e.end(c, "")
		return
	}
	if sent > 0 {
		c.wait.active = time.Now()
	}
	c.wait.unsent = c.wait.unsent[sent:]
	if len(rest) == 0 {
		e.sendInLane(c)
	} else {
		e.watchOn(c, unix.EPOLLOUT)
	}
}

// confirm tells a registered peer so. A peer that does not take that is gone.
func (e *engine) confirm(c *conn, out []byte) {
	if rest, err := e.send(c.fd, out, false); err != nil || len(rest) > 0 {
		e.end(c, "gone before the answer")
	}
}

// withheld is an answer that must not be sent before its registration is kept.
type withheld struct {
	conn *conn
	out  []byte
}

// withhold leaves it to release to send the answer of a registered connection.
func (e *engine) withhold(c *conn, out []byte) {
	e.withheld[c.reg] = withheld{c, bytes.Clone(out)}
}

// release sends a withheld answer. It does nothing if that has been sent, or its registration has
// ended. It takes the engine's lock.
func (e *engine) release(reg registration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	w, ok := e.withheld[reg]
	if !ok {
		return
	}
	delete(e.withheld, reg)
	e.confirm(w.conn, w.out)
}

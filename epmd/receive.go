package epmd

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// readOn reads what has come on a connection in the table. It reads no more than belongs to the
// request, once its length is known.
func (e *engine) readOn(c *conn) {
	buf := e.scratch[:]
	got := 0
	if c.wait != nil {
		got = copy(buf, c.wait.part)
		if got >= 2 {
			buf = buf[:2+binary.BigEndian.Uint16(buf)]
		}
	}
	n, err := e.sockets.receive(c.fd, buf[got:])
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
	case err != nil:
		e.end(c, err.Error())
	case c.wait != nil && c.wait.asked: // it may end its half, and has nothing more to say
	case n == 0:
		e.end(c, "connection closed")
	case c.reg != nil:
		e.end(c, "sent more than its registration")
	case c.wait.refused:
		e.end(c, "")
	default:
		e.received(c, buf[:got+n])
	}
}

// received goes on with a connection of which in has come. A request is a 2-byte length, and as
// many bytes. in may be the whole of scratch. c need not be in the table.
func (e *engine) received(c *conn, in []byte) {
	want := 2
	if len(in) >= 2 {
		length := int(binary.BigEndian.Uint16(in))
		want = 2 + length
		if length == 0 || length > MaxRequest || len(in) > want {
			e.complain(c.caller, "bad request", "announced", length, "received", len(in)-2)
			e.end(c, "")
			return
		}
	}
	if len(in) < want {
		e.awaitRest(c, in)
		return
	}
	e.carryOut(c, e.protocol.handle(c.caller, in[2:]))
}

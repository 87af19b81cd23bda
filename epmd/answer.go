package epmd

// answer says what becomes of a connection after its request. The zero answer closes it.
type answer struct {
	out      []byte       // to be sent first; valid until the next request, unless it is shared
	of       *shared      // not nil: out is all of that
	listing  *listing     // not nil: the answer is made from it
	reg      registration // not nil: the connection is registered
	withhold bool         // with reg: out is sent by release
	stay     bool         // the connection stays open until the peer ends it or says more
	stream   *stream      // not nil: the connection goes on with a goroutine of its own
	stop     error        // not nil: the engine ends, and this is why
}

// carryOut does what an answer says.
func (e *engine) carryOut(c *conn, a answer) {
	switch {
	case a.listing != nil:
		e.list(c, a.listing)
	case a.stream != nil:
		e.startStream(c, a.stream)
	case a.reg != nil:
		e.register(c, a)
	default:
		e.reply(c, a)
	}
}

// register makes c a registered connection. It tells the peer, unless that is withheld or there is
// nothing to tell.
func (e *engine) register(c *conn, a answer) {
	e.settle(c, a.reg)
	switch {
	case e.endUnwatched(c):
	case len(a.out) == 0:
	case a.withhold:
		e.withhold(c, a.out)
	default:
		e.confirm(c, a.out)
	}
}

// adopt makes a connection registered that an earlier process accepted. An answer without out says
// nothing: the peer has had its answer.
func (e *engine) adopt(from caller, a answer) {
	e.register(&conn{caller: from}, a)
}

// reply sends the answer of a connection that does not register.
func (e *engine) reply(c *conn, a answer) {
	// The FIN follows the answer: close sends both in one segment. That works only if all that had
	// come was read, as from a new connection. Else close sends an RST, and the answer is lost.
	finFollows := !a.stay && c.generation == 0
	rest, err := e.send(c.fd, a.out, finFollows)
	switch {
	case a.stop != nil:
		e.end(c, "")
		e.stop(a.stop)
	case err != nil:
		e.end(c, "")
	case len(rest) > 0:
		e.sendLater(c, rest, a)
	case a.stay:
		e.awaitEnd(c)
	default:
		e.end(c, "")
	}
}

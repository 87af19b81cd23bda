package epmd

// A listing is an answer that grows with what is registered. Everybody who asks gets the same one.
// It is made anew only after something has changed. A short one is made and sent at once. A long
// one would keep others waiting for as long as that takes. So a goroutine makes it, one at a time
// and without the engine's lock, and whoever has asked by then gets it. Then it is sent a piece at
// a time. Both are done in the lane: see lane.go.

const (
	shortLines = 128      // a listing of so many lines is made at once
	pieceBytes = 64 << 10 // of an answer: what a connection is sent in one go
	shortBytes = 16 << 10 // an answer of so many bytes is sent at once
)

// listing makes such an answer.
type listing struct {
	version func() uint64           // changes whenever the answer does; read before lines
	lines   func() int              // about as many as the answer has now
	append  func(dst []byte) []byte // appends the answer; called without the engine's lock too

	// What follows is guarded by the engine's lock.
	made   *shared // nil: none yet, or one is being made
	of     uint64  // the version that made shows
	making bool    // a goroutine makes one
	askers []*conn // that wait for the next one
}

// shared is an answer that several connections may be sending.
type shared struct {
	out     []byte // does not change while anybody sends it
	senders int    // connections that have an unsent part of it
}

// list answers c with a listing.
func (e *engine) list(c *conn, l *listing) {
	version := l.version()
	switch {
	case l.made != nil && l.of == version:
		e.replyShared(c, l.made)
	case !l.making && l.lines() <= shortLines:
		out := l.append(l.spare())
		l.made, l.of = &shared{out: out}, version
		e.replyShared(c, l.made)
	default:
		w := e.await(c)
		w.part, w.asked = nil, true
		if !e.watchOn(c, 0) {
			return
		}
		l.askers = append(l.askers, c)
		if !l.making {
			l.making = true
			e.streams.ended.Go(func() { e.makeListings(l) })
		}
	}
}

// replyShared sends a shared answer. A long one is left to the lane.
func (e *engine) replyShared(c *conn, s *shared) {
	a := answer{out: s.out, of: s}
	if len(s.out) > shortBytes {
		e.sendLater(c, s.out, a)
		return
	}
	e.reply(c, a)
}

// spare returns a buffer for the next answer: that of the last one, unless somebody sends it.
func (l *listing) spare() []byte {
	last := l.made
	l.made = nil
	if last == nil || last.senders > 0 {
		return nil
	}
	return last.out[:0]
}

// makeListings makes a listing for all who have asked, until nobody has.
func (e *engine) makeListings(l *listing) {
	for {
		askers, made, spare := e.takeAskers(l)
		if askers == nil {
			return
		}
		if made == nil {
			version := l.version()
			made = &shared{}
			e.doInLane(l, func() { made.out = l.append(spare) })
			e.mu.Lock()
			l.made, l.of = made, version
			e.mu.Unlock()
		}
		for _, c := range askers {
			e.answerAsker(c, made)
		}
	}
}

// takeAskers returns who waits for a listing, or nil if nobody does. It also returns the last one
// if that still holds, or else a buffer for the next.
func (e *engine) takeAskers(l *listing) (askers []*conn, last *shared, spare []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(l.askers) == 0 || e.ctx.Err() != nil {
		l.making, l.askers = false, nil
		return nil, nil, nil
	}
	askers, l.askers = l.askers, nil
	if l.made != nil && l.of == l.version() {
		return askers, l.made, nil
	}
	return askers, nil, l.spare()
}

// answerAsker answers c, unless it has gone.
func (e *engine) answerAsker(c *conn, made *shared) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx.Err() == nil && e.conns[c.fd] == c && c.wait != nil && c.wait.asked {
		c.wait.asked = false
		e.replyShared(c, made)
	}
}

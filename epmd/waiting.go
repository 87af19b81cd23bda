package epmd

import (
	"container/list"
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// waiting has the connections that have not registered and could not be closed at once.
type waiting struct {
	list   list.List   // of *conn, the oldest first
	unsent int         // bytes that their unsent answers keep in memory; a shared one counts once
	timer  *time.Timer // calls expire; nil while no connection has a time limit
}

// waiter is what is known of such a connection.
type waiter struct {
	part    []byte  // of its request
	asked   bool    // it waits for a listing, or to be refused a stream
	unsent  []byte  // of its answer
	whose   any     // what who returns of the caller, once there was something unsent
	of      *shared // not nil: unsent is a part of that
	memory  int     // else: bytes that unsent keeps, those that have gone included
	refused bool    // its answer has gone; it stays until its peer ends it
	active  time.Time
	place   *list.Element
}

// oldest returns the connection that has waited for longest, or nil.
func (w *waiting) oldest() *conn {
	if first := w.list.Front(); first != nil {
		return first.Value.(*conn)
	}
	return nil
}

// all yields each connection that waits, the oldest first.
func (w *waiting) all(yield func(*conn) bool) {
	for el := w.list.Front(); el != nil; el = el.Next() {
		if !yield(el.Value.(*conn)) {
			return
		}
	}
}

func (w *waiting) stopTimer() {
	if w.timer != nil {
		w.timer.Stop()
	}
}

// await makes c wait unless it does, and returns what is known of that. If too many wait, the
// oldest give way.
func (e *engine) await(c *conn) *waiter {
	if c.wait != nil {
		return c.wait
	}
	e.enter(c)
	c.wait = &waiter{active: time.Now()}
	c.wait.place = e.waiting.list.PushBack(c)
	for e.waiting.list.Len() > e.maxWaiting() {
		e.end(e.waiting.oldest(), "")
	}
	if e.waiting.timer == nil {
		e.waiting.timer = time.AfterFunc(e.silence, e.expire)
	}
	return c.wait
}

// maxWaiting returns how many connections may wait: what nodes leave of the descriptors.
func (e *engine) maxWaiting() int {
	return max(lookupFiles, min(maxWaiting, e.files-reservedFiles-e.registered-e.streams.beyondReserve()))
}

// awaitRest makes c wait for the rest of its request.
func (e *engine) awaitRest(c *conn, part []byte) {
	w := e.await(c)
	w.part = append(w.part[:0], part...)
	w.active = time.Now()
}

// awaitEnd makes c wait until its peer ends it or says more.
func (e *engine) awaitEnd(c *conn) {
	w := e.await(c)
	w.part, w.refused = nil, true
}

// sendLater makes c wait until its peer has room for the rest of its answer. If there are too many
// bytes of such answers, the connections that have waited for longest give way.
func (e *engine) sendLater(c *conn, rest []byte, a answer) {
	w := e.await(c)
	w.part, w.of, w.whose = nil, a.of, e.who(c.caller)
	if a.of == nil {
		rest = append([]byte(nil), rest...)
		w.memory = len(rest)
		e.waiting.unsent += w.memory
	} else if a.of.senders++; a.of.senders == 1 {
		e.waiting.unsent += len(a.of.out)
	}
	w.unsent = rest
	w.active = time.Now()
	if !e.watchOn(c, unix.EPOLLOUT) {
		return
	}
	for e.waiting.unsent > maxUnsentBytes && e.endOldestUnsent() {
	}
}

// endOldestUnsent ends the connection that has been slow to read for longest. It reports whether
// there is one.
func (e *engine) endOldestUnsent() bool {
	for c := range e.waiting.all {
		if c.wait.unsent != nil {
			e.end(c, "")
			return true
		}
	}
	return false
}

// endWait makes c wait no more.
func (e *engine) endWait(c *conn) {
	if c.wait == nil {
		return
	}
	e.waiting.list.Remove(c.wait.place)
	e.waiting.unsent -= c.wait.memory
	if of := c.wait.of; of != nil {
		if of.senders--; of.senders == 0 {
			e.waiting.unsent -= len(of.out)
		}
	}
	c.wait = nil
}

// expire ends the connections that have said nothing for too long. It looks through all that wait,
// but at most once a second.
func (e *engine) expire() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx.Err() != nil {
		return
	}
	now := time.Now()
	for _, c := range e.overdue(now) {
		if e.conns[c.fd] != c {
			continue
		}
		e.goOn(c) // the peer may have spoken in time while this process was stopped
		if e.conns[c.fd] == c && e.due(c, now) <= 0 {
			e.log.Debug("connection timed out", "peer", c.peer)
			e.end(c, "")
		}
	}
	e.waiting.timer = nil
	if next := e.nextDue(now); next != never {
		e.waiting.timer = time.AfterFunc(max(next, time.Second), e.expire)
	}
}

// never is when a connection without a time limit is due.
const never = time.Duration(math.MaxInt64)

// due returns for how long c may still say nothing.
func (e *engine) due(c *conn, now time.Time) time.Duration {
	if c.wait == nil || c.wait.refused {
		return never
	}
	return c.wait.active.Add(e.silence).Sub(now)
}

// overdue returns the connections that have said nothing for too long.
func (e *engine) overdue(now time.Time) []*conn {
	var all []*conn
	for c := range e.waiting.all {
		if e.due(c, now) <= 0 {
			all = append(all, c)
		}
	}
	return all
}

// nextDue returns how long it takes until the next connection is due.
func (e *engine) nextDue(now time.Time) time.Duration {
	next := never
	for c := range e.waiting.all {
		next = min(next, e.due(c, now))
	}
	return next
}

package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/told"
	"github.com/goerlang/eclus/epmd"
)

// Follower follows one epmd, on one link. Make it with New.
type Follower struct {
	*Options
	owner    Owner
	wake     chan struct{} // holds a token when something is news to the goroutine
	sessions sync.WaitGroup

	// What follows is the goroutine's own.

	now     Facts
	session *session
	stream  Stream    // nil: the session is a try still
	tried   time.Time // when the session began
	retry   retry
	urgent  bool          // the next try is for KickNow
	slot    chan struct{} // which the try has a token in
	closes  int           // tries in a row that were closed
	parked  error         // why it is not tried; nil: it is
	said    bool          // that it gives no stream
	lastErr error         // of the last try
	due     deadlines
	at      netip.AddrPort // where it has last told of all nodes
	nodes   *told.Nodes
}

// deadlines are when a Follower does what. Zero stands for never.
type deadlines struct {
	try      time.Time // next
	slot     time.Time // the place among the tries is left
	timeout  time.Time // the try is given up
	snapshot time.Time // the epmd must have told of all nodes
	decide   time.Time // that it gives no stream
	grace    time.Time // the stream must be back
	forget   time.Time // an unreachable epmd's nodes go
}

// New returns a Follower that does nothing before Run. The epmd has 2 seconds from now to give a
// stream.
func New(o *Options, owner Owner) *Follower {
	now := time.Now()
	return &Follower{
		Options: o,
		owner:   owner,
		wake:    make(chan struct{}, 1),
		retry:   retry{since: now},
		due:     deadlines{decide: now.Add(Patience), forget: now.Add(Forgets)},
		nodes:   o.Nodes.New(),
	}
}

// Wake has the Follower look at what has changed.
func (f *Follower) Wake() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Run keeps a stream until ctx ends, or until the Owner releases the Follower. It is called once.
func (f *Follower) Run(ctx context.Context) {
	defer f.sessions.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	f.learn(time.Now())
	for {
		if f.isOver() && f.owner.Release() {
			return
		}
		now := time.Now()
		var slots chan struct{}
		if f.session == nil && isDue(f.due.try, now) && len(f.now.Addrs) > 0 {
			slots = f.slots()
		}
		timer.Reset(f.next(now).Sub(now))
		select {
		case <-ctx.Done():
			f.end()
			return
		case <-f.wake:
			f.learn(time.Now())
		case <-timer.C:
			f.expire(time.Now())
		case slots <- struct{}{}:
			f.slot = slots
			f.try(ctx)
		case e := <-f.events():
			f.handle(time.Now(), e)
		}
	}
}

// isOver reports whether there is nothing to wait for.
func (f *Follower) isOver() bool {
	return !f.now.Sourced && f.session == nil && f.nodes.Len() == 0
}

func (f *Follower) events() chan event {
	if f.session == nil {
		return nil
	}
	return f.session.events
}

func isDue(at, now time.Time) bool { return !at.IsZero() && !at.After(now) }

// next returns the next deadline. A try that is due waits for a slot instead.
func (f *Follower) next(now time.Time) time.Time {
	d, n := &f.due, &f.nodes.Due
	first := now.Add(parkedFor)
	if d.try.After(now) {
		first = d.try
	}
	for _, at := range []time.Time{d.slot, d.timeout, d.snapshot, d.decide, d.grace, d.forget, n.Flush, n.Held, n.Refresh, n.Find} {
		if !at.IsZero() && at.Before(first) {
			first = at
		}
	}
	return first
}

// expire does what is due.
func (f *Follower) expire(now time.Time) {
	d, n := &f.due, &f.nodes.Due
	for _, it := range []struct {
		at *time.Time
		do func()
	}{
		{&d.slot, func() { <-f.slot }},
		{&d.timeout, func() { f.failed(now, errors.New("no answer in time")) }},
		{&d.snapshot, func() { f.lost(now, errors.New("it does not get to the end of its nodes")) }},
		{&n.Flush, func() { f.nodes.Flush(now) }},
		{&n.Held, f.nodes.DropHeld},
		{&d.grace, func() { f.gaveOut(now) }},
		{&n.Refresh, func() { f.lost(now, errLeftOut) }},
		{&n.Find, func() { f.owner.Moved(); f.nodes.FindLater(now) }},
		{&d.forget, f.forget},
		{&d.decide, f.decide},
	} {
		if isDue(*it.at, now) {
			*it.at = time.Time{}
			it.do()
		}
	}
}

// learn takes note of what has changed about the epmd.
func (f *Follower) learn(now time.Time) {
	was := f.now
	f.now = f.owner.Facts()
	if !f.now.Sourced {
		f.now.Origin, f.now.Named = was.Origin, was.Named
	}
	f.nodes.Move(f.now.Addrs, f.now.Origin, f.now.Named)
	if !f.now.Sourced && f.stream == nil && f.due.grace.IsZero() {
		f.nodes.Drop()
	}
	if f.now.Evicted && f.stream != nil {
		f.hangUp(now)
		f.owner.Lost()
		f.park(now, Impostor)
		return
	}
	if f.stream != nil || f.now.Kick == KickNot {
		return
	}
	if f.session != nil { // try anew what has come to nothing so far
		if now.Sub(f.tried) < firstRetry {
			return
		}
		f.hangUp(now)
	}
	f.parked, f.closes, f.retry = nil, 0, retry{since: now}
	f.urgent = f.now.Kick == KickNow
	at := now
	if f.now.Kick == KickSoon {
		at = now.Add(rand.N(Jitter))
	}
	f.tryAt(at)
}

// tryAt has the epmd tried then, or as soon as may be, or earlier if that is planned.
func (f *Follower) tryAt(at time.Time) {
	at = latest(at, f.tried.Add(firstRetry), f.nodes.Told().Add(time.Second))
	if f.due.try.IsZero() || at.Before(f.due.try) {
		f.due.try = at
	}
}

func latest(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }

// slots returns those of which the next try needs one.
func (f *Follower) slots() chan struct{} {
	switch {
	case f.urgent:
		return f.Slots.Now
	case f.retry.last == 0:
		return f.Slots.First
	}
	return f.Slots.Again
}

// try begins a session. It has a slot.
func (f *Follower) try(ctx context.Context) {
	now := time.Now()
	f.urgent = false
	f.tried, f.due.try = now, time.Time{}
	f.due.slot, f.due.timeout = now.Add(SlotTime), now.Add(f.retry.timeout())
	f.session = f.open(ctx, f.owner.Tries(f.now.Addrs))
}

// hangUp ends the session.
func (f *Follower) hangUp(now time.Time) {
	f.session.cancel()
	f.session, f.stream = nil, nil
	f.settled()
	f.nodes.End(now)
	f.due.snapshot = time.Time{}
}

// settled notes that a try has ended, one way or the other.
func (f *Follower) settled() {
	if !f.due.slot.IsZero() {
		<-f.slot
	}
	f.due.slot, f.due.timeout = time.Time{}, time.Time{}
}

// handle takes note of what a session has to say.
func (f *Follower) handle(now time.Time, e event) {
	switch {
	case e.stream != nil:
		f.settled()
		f.stream, f.due.snapshot = e.stream, now.Add(snapshotIn)
		f.greet(now, e.who, f.nodes.Begin)
	case e.err != nil && f.stream == nil:
		f.failed(now, e.err)
	case e.err != nil:
		f.lost(now, e.err)
	case e.line.Kind == epmd.PeerName:
		f.greet(now, e.who, f.nodes.Rename)
	case e.line.Kind == epmd.SnapshotEnd && !f.due.snapshot.IsZero():
		f.complete(now)
	default:
		f.nodes.Line(now, e.line)
	}
}

// greet takes note of who is at the other end, and has the nodes meet them if they are welcome.
func (f *Follower) greet(now time.Time, w told.Who, meet func(told.Who)) {
	if v := f.owner.Settle(w, f.stream); v != Welcome {
		f.hangUp(now)
		f.park(now, v)
		return
	}
	meet(w)
	f.closes, f.parked = 0, nil
}

// complete notes that the epmd has told of all its nodes.
func (f *Follower) complete(now time.Time) {
	f.due.snapshot, f.due.grace, f.due.forget, f.due.decide = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	f.said, f.retry.since = false, now
	f.nodes.Complete(now)
	f.owner.AskNames(false)
	f.owner.SetStreamed(true)
	f.owner.Explain(nil)
	if at := f.nodes.Who().Addr; at != f.at {
		if f.at.IsValid() {
			f.owner.Moved()
		}
		f.at = at
	}
	f.Log.Debug("stream from the epmd of a host", "host", f.nodes.Who().Hello.Host, "address", f.nodes.Who().Addr, "nodes", f.nodes.Len())
}

// failed takes note of a try that has come to nothing.
func (f *Follower) failed(now time.Time, err error) {
	f.hangUp(now)
	if f.lastErr = err; f.said {
		f.owner.Explain(err)
	}
	if !errors.Is(err, epmd.ErrNoAnswer) {
		f.closes = 0
	} else if f.closes++; f.closes == maxCloses {
		f.park(now, errCloses)
		return
	}
	if errors.Is(err, syscall.ECONNREFUSED) && f.due.decide.After(now) {
		f.due.decide = now
	}
	f.tryAt(latest(now, f.tried.Add(f.retry.next(now))))
}

// errLeftOut is why a stream is made anew now and then.
var errLeftOut = errors.New("there was no place for all its nodes")

// errCloses is why an epmd is parked that closes on W.
var errCloses = errors.New("it gives no streams")

// park has the epmd left alone for an hour, or until it is kicked. What it has told goes soon,
// unless it turns out to be no impostor by then: records come in any order.
func (f *Follower) park(now time.Time, why error) {
	f.parked, f.lastErr = why, why
	f.due.try, f.due.decide = now.Add(parkedFor), time.Time{}
	if f.due.forget.IsZero() {
		f.due.forget = now.Add(Forgets)
	}
	if f.nodes.Len() > 0 && f.due.grace.IsZero() {
		f.due.grace = now.Add(Grace)
	}
	f.owner.SetStreamed(why == Twin)
	switch why {
	case Twin, Ourselves:
		f.owner.Explain(nil)
	case errCloses:
		f.owner.AskNames(true)
		fallthrough
	default:
		f.complain()
	}
}

// lost takes note that the stream has failed.
func (f *Follower) lost(now time.Time, err error) {
	incomplete := !f.due.snapshot.IsZero()
	lasted := now.Sub(f.tried)
	f.hangUp(now)
	f.owner.Lost()
	f.lastErr = err
	if lasted >= steadyFor {
		f.retry = retry{since: now}
	}
	f.tryAt(now.Add(f.retry.next(now)))
	switch {
	case isSilence(err):
		f.tryAt(now)
		f.due.grace = now.Add(Recheck)
		f.owner.Moved()
	case incomplete:
	default:
		f.due.grace = now.Add(Grace)
	}
	if f.due.forget.IsZero() {
		f.due.forget = now.Add(Forgets)
	}
	f.Log.Debug("stream from the epmd of a host lost", "host", f.nodes.Who().Hello.Host, "address", f.nodes.Who().Addr, "err", err)
}

// gaveOut notes that the stream has not come back. What no source says any more, or what is told
// elsewhere, goes.
func (f *Follower) gaveOut(now time.Time) {
	f.due.grace = time.Time{}
	f.due.forget = now.Add(Forgets)
	if f.parked != nil || !f.now.Sourced {
		f.nodes.Drop()
		return
	}
	f.nodes.SetUnreachable()
}

// forget notes that the epmd has been unreachable for so long that its nodes are gone.
func (f *Follower) forget() {
	f.nodes.Drop()
	if f.parked != Twin {
		f.owner.SetStreamed(false)
	}
	if f.now.Sourced && f.parked == nil {
		f.complain()
	}
	f.owner.Forget()
}

// decide notes that a host has not given a stream in time.
func (f *Follower) decide() {
	f.owner.SetStreamed(false)
	f.complain()
}

// complain says why there is no stream. The log has it once.
func (f *Follower) complain() {
	if f.lastErr == nil {
		f.lastErr = fmt.Errorf("no answer within %v", Patience)
	}
	f.owner.Explain(f.lastErr)
	if f.said {
		return
	}
	f.said = true
	if f.now.Host != "" && !f.Once.May(fmt.Sprint(f.now.Host, f.lastErr)) {
		return // it was said where not all its addresses were known to be of one host
	}
	about := fmt.Sprint(f.now.Addrs)
	if f.lastErr == Greedy { // of one with any number of addresses
		about = Greedy.Error()
	}
	if withheld, ok := f.Say.May(about); ok {
		log := f.Log
		if f.now.Host != "" { // a configured epmd has none before it has answered
			log = log.With("host", f.now.Host)
		}
		log.Warn("no stream from the epmd of a host", "addresses", f.now.Addrs, "err", f.lastErr, "withheld", withheld)
	}
}

// end ends all at the end of the program.
func (f *Follower) end() {
	if f.session != nil {
		f.hangUp(time.Now())
	}
	f.owner.Lost()
}

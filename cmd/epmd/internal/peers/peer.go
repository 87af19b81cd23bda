package peers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
)

// kick says that a peer without a stream is to be tried.
type kick uint8

const (
	kickNot  kick = iota
	kickSoon      // after some jitter, as others are kicked too
	kickNow
)

// peer is an epmd on a link.
type peer struct {
	ps   *Peers
	wake chan struct{} // holds a token when something is news to the goroutine

	// What follows is guarded by ps.mu.

	host     hostKey                          // announced, or as it says of itself when it asks us
	places   map[avahi.Place][]netip.AddrPort // where it is announced
	askedAt  addrKey                          // where it asked us from; zero: it has not
	askedBy  netip.Addr                       // our address that it asked
	address  netip.AddrPort                   // configured; not valid: it is not
	kick     kick                             // set until the goroutine has seen it
	evicted  bool                             // another peer has its host name now
	waitsFor *peer                            // when that has no stream any more, this is tried
	live     *live                            // nil: it has no stream
	streamed bool                             // see Streamed

	// What follows is the goroutine's own.

	now     facts
	session *session
	stream  Stream    // nil: the session is a try still
	tried   time.Time // when the session began
	retry   retry
	closes  int   // tries in a row that were closed
	parked  error // why it is not tried; nil: it is
	said    bool  // that it gives no stream
	lastErr error // of the last try
	due     deadlines
	nodes   nodes
}

// facts are what Peers know of a peer.
type facts struct {
	addrs    []netip.AddrPort // the best first
	origin   registry.Origin
	sourced  bool // it is announced, has asked us or is configured
	kick     kick
	evicted  bool
	address  netip.AddrPort
	hostname string // for the log
}

// deadlines are when a peer does what. Zero stands for never.
type deadlines struct {
	try      time.Time // next
	slot     time.Time // the place among the tries is left
	timeout  time.Time // the try is given up
	snapshot time.Time // the peer must have told of all nodes
	decide   time.Time // that it gives no stream
	flush    time.Time // changes that wait are entered
	held     time.Time // nodes that are missing after a restart go
	grace    time.Time // the stream must be back
	refresh  time.Time // the peer is asked anew for what was left out
	forget   time.Time // an unreachable peer's nodes go
}

func newPeer(ps *Peers) *peer {
	now := time.Now()
	p := &peer{
		ps:       ps,
		wake:     make(chan struct{}, 1),
		places:   make(map[avahi.Place][]netip.AddrPort),
		streamed: true,
		retry:    retry{since: now},
		due:      deadlines{decide: now.Add(patience), forget: now.Add(forgets)},
	}
	p.nodes = nodes{p: p, all: make(map[string]*node)}
	return p
}

// poke has the goroutine look at what has changed. ps.mu is held.
func (p *peer) poke(k kick) {
	p.kick = max(p.kick, k)
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// hasSource reports whether anything says that this epmd exists. ps.mu is held.
func (p *peer) hasSource() bool {
	return len(p.places) > 0 || p.askedAt != (addrKey{}) || p.address.IsValid()
}

// isLive reports whether there is a stream to an epmd of that ID. ps.mu is held.
func (p *peer) isLive(id epmd.PeerID) bool { return p.live != nil && p.live.Hello.ID == id }

// addrs returns all addresses, link-local ones last. ps.mu is held.
func (p *peer) addrs() []netip.AddrPort {
	var list []netip.AddrPort
	add := func(a netip.AddrPort) {
		if a.IsValid() && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	places := slices.SortedFunc(maps.Keys(p.places), func(a, b avahi.Place) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Interface, b.Interface), cmp.Compare(a.Label, b.Label))
	})
	for _, at := range places {
		for _, a := range p.places[at] {
			add(a)
		}
	}
	add(p.askedAt.addr)
	add(p.address)
	slices.SortStableFunc(list, func(a, b netip.AddrPort) int { return lastIfLinkLocal(a.Addr(), b.Addr()) })
	return list
}

// lastIfLinkLocal puts link-local addresses last.
func lastIfLinkLocal(a, b netip.Addr) int {
	rank := map[bool]int{true: 1}
	return rank[a.IsLinkLocalUnicast()] - rank[b.IsLinkLocalUnicast()]
}

// facts returns what is known, and takes the kick.
func (p *peer) facts() facts {
	p.ps.mu.Lock()
	defer p.ps.mu.Unlock()
	f := facts{
		addrs: p.addrs(), origin: registry.LAN, sourced: p.hasSource(),
		kick: p.kick, evicted: p.evicted, address: p.address, hostname: p.host.host,
	}
	switch {
	case !f.sourced:
		f.origin = p.now.origin
	case len(p.places) == 0 && p.askedAt == (addrKey{}):
		f.origin = registry.Peer
	}
	p.kick, p.evicted = kickNot, false
	return f
}

// run keeps a stream until ctx ends or nothing says any more that the epmd exists.
func (p *peer) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	p.learn(time.Now())
	for {
		if p.isOver() && p.ps.remove(p) {
			return
		}
		now := time.Now()
		var slots chan struct{}
		if p.session == nil && isDue(p.due.try, now) && len(p.now.addrs) > 0 {
			slots = p.ps.slots
		}
		timer.Reset(p.next(now).Sub(now))
		select {
		case <-ctx.Done():
			p.end()
			return
		case <-p.wake:
			p.learn(time.Now())
		case <-timer.C:
			p.expire(time.Now())
		case slots <- struct{}{}:
			p.try(ctx)
		case e := <-p.events():
			p.handle(time.Now(), e)
		}
	}
}

// isOver reports whether there is nothing to wait for.
func (p *peer) isOver() bool {
	return !p.now.sourced && p.session == nil && len(p.nodes.all) == 0
}

func (p *peer) events() chan event {
	if p.session == nil {
		return nil
	}
	return p.session.events
}

func isDue(at, now time.Time) bool { return !at.IsZero() && !at.After(now) }

// next returns the next deadline. A try that is due waits for a slot instead.
func (p *peer) next(now time.Time) time.Time {
	d := &p.due
	first := now.Add(parkedFor)
	if d.try.After(now) {
		first = d.try
	}
	for _, at := range []time.Time{d.slot, d.timeout, d.snapshot, d.decide, d.flush, d.held, d.grace, d.refresh, d.forget} {
		if !at.IsZero() && at.Before(first) {
			first = at
		}
	}
	return first
}

// expire does what is due.
func (p *peer) expire(now time.Time) {
	d := &p.due
	for _, it := range []struct {
		at *time.Time
		do func()
	}{
		{&d.slot, func() { <-p.ps.slots }},
		{&d.timeout, func() { p.failed(now, errors.New("no answer in time")) }},
		{&d.snapshot, func() { p.lost(now, errors.New("it does not get to the end of its nodes")) }},
		{&d.flush, func() { p.nodes.flush(now) }},
		{&d.held, p.nodes.dropHeld},
		{&d.grace, func() { p.gaveOut(now) }},
		{&d.refresh, func() { p.lost(now, errLeftOut) }},
		{&d.forget, p.forget},
		{&d.decide, p.decide},
	} {
		if isDue(*it.at, now) {
			*it.at = time.Time{}
			it.do()
		}
	}
}

// learn takes note of what has changed about the peer.
func (p *peer) learn(now time.Time) {
	was := p.now
	p.now = p.facts()
	if !slices.Equal(was.addrs, p.now.addrs) || was.origin != p.now.origin {
		p.nodes.enterAll()
	}
	if !p.now.sourced && p.stream == nil && p.due.grace.IsZero() {
		p.nodes.drop()
	}
	if p.now.evicted && p.stream != nil {
		p.hangUp(now)
		p.ps.dropStream(p)
		p.park(now, impostor)
		return
	}
	if p.stream != nil || p.now.kick == kickNot {
		return
	}
	if p.session != nil { // try anew what has come to nothing so far
		if now.Sub(p.tried) < firstRetry {
			return
		}
		p.hangUp(now)
	}
	p.parked, p.closes, p.retry = nil, 0, retry{since: now}
	at := now
	if p.now.kick == kickSoon {
		at = now.Add(rand.N(jitter))
	}
	p.tryAt(at)
}

// tryAt has the peer tried then, or as soon as may be, or earlier if that is planned.
func (p *peer) tryAt(at time.Time) {
	at = latest(at, p.tried.Add(firstRetry), p.nodes.told.Add(time.Second))
	if p.due.try.IsZero() || at.Before(p.due.try) {
		p.due.try = at
	}
}

func latest(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }

// try begins a session. It has a slot.
func (p *peer) try(ctx context.Context) {
	now := time.Now()
	p.tried, p.due.try = now, time.Time{}
	p.due.slot, p.due.timeout = now.Add(slotTime), now.Add(p.retry.timeout())
	p.session = p.ps.open(ctx, p.now.addrs)
}

// hangUp ends the session.
func (p *peer) hangUp(now time.Time) {
	p.session.cancel()
	p.session, p.stream = nil, nil
	p.settled()
	p.nodes.flush(now)
	p.due.snapshot, p.due.refresh, p.due.flush = time.Time{}, time.Time{}, time.Time{}
}

// settled notes that a try has ended, one way or the other.
func (p *peer) settled() {
	if !p.due.slot.IsZero() {
		<-p.ps.slots
	}
	p.due.slot, p.due.timeout = time.Time{}, time.Time{}
}

// handle takes note of what a session has to say.
func (p *peer) handle(now time.Time, e event) {
	switch {
	case e.stream != nil:
		p.settled()
		p.stream, p.due.snapshot = e.stream, now.Add(snapshotIn)
		p.greet(now, e.who)
	case e.err != nil && p.stream == nil:
		p.failed(now, e.err)
	case e.err != nil:
		p.lost(now, e.err)
	case e.line.Kind == epmd.PeerName:
		p.greet(now, e.who)
	case e.line.Kind == epmd.SnapshotEnd && !p.due.snapshot.IsZero():
		p.complete(now)
	default:
		p.nodes.line(now, e.line)
	}
}

// greet takes note of who is at the other end.
func (p *peer) greet(now time.Time, w Who) {
	if v := p.ps.settle(p, w, p.stream); v != welcome {
		p.hangUp(now)
		p.park(now, v)
		return
	}
	p.nodes.meet(w)
	p.closes, p.parked = 0, nil
}

// complete notes that the peer has told of all its nodes.
func (p *peer) complete(now time.Time) {
	p.due.snapshot, p.due.grace, p.due.forget, p.due.decide = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	p.said, p.retry.since = false, now
	p.nodes.snapshot(now)
	p.askNames(false)
	p.ps.setStreamed(p, true)
	p.ps.Log.Debug("stream from the epmd of a host", "host", p.nodes.who.Hello.Host, "address", p.nodes.who.Addr, "nodes", len(p.nodes.all))
}

// failed takes note of a try that has come to nothing.
func (p *peer) failed(now time.Time, err error) {
	p.hangUp(now)
	p.lastErr = err
	if !errors.Is(err, epmd.ErrNoAnswer) {
		p.closes = 0
	} else if p.closes++; p.closes == maxCloses {
		p.park(now, errCloses)
		return
	}
	if errors.Is(err, syscall.ECONNREFUSED) && p.due.decide.After(now) {
		p.due.decide = now
	}
	p.tryAt(latest(now, p.tried.Add(p.retry.next(now))))
}

// errLeftOut is why a stream is made anew now and then.
var errLeftOut = errors.New("there was no place for all its nodes")

// errCloses is why a peer is parked that closes on W.
var errCloses = errors.New("it gives no streams")

func (v verdict) Error() string { return v.String() }

// park has the peer left alone for an hour, or until it is kicked. What it has told goes soon.
func (p *peer) park(now time.Time, why error) {
	p.parked, p.lastErr = why, why
	p.due.try, p.due.decide = now.Add(parkedFor), time.Time{}
	if len(p.nodes.all) > 0 && p.due.grace.IsZero() {
		p.due.grace = now.Add(grace)
	}
	p.ps.setStreamed(p, why == twin)
	switch why {
	case twin, ourselves:
	case errCloses:
		p.askNames(true)
		fallthrough
	default:
		p.complain()
	}
}

// askNames has a configured epmd asked by NAMES_REQ, or no longer.
func (p *peer) askNames(ask bool) {
	if p.now.address.IsValid() && p.ps.Others != nil {
		p.ps.Others.Configured(p.now.address, ask)
	}
}

// lost takes note that the stream has failed.
func (p *peer) lost(now time.Time, err error) {
	incomplete := !p.due.snapshot.IsZero()
	lasted := now.Sub(p.tried)
	p.hangUp(now)
	p.ps.dropStream(p)
	p.lastErr = err
	if lasted >= steadyFor {
		p.retry = retry{since: now}
	}
	p.tryAt(now.Add(p.retry.next(now)))
	switch {
	case isSilence(err):
		p.gaveOut(now)
	case incomplete:
	default:
		p.due.grace = now.Add(grace)
	}
	if p.due.forget.IsZero() {
		p.due.forget = now.Add(forgets)
	}
	p.ps.Log.Debug("stream from the epmd of a host lost", "host", p.nodes.who.Hello.Host, "address", p.nodes.who.Addr, "err", err)
}

// gaveOut notes that the stream has not come back. What no source says any more, or what is told
// elsewhere, goes.
func (p *peer) gaveOut(now time.Time) {
	p.due.grace = time.Time{}
	p.due.forget = now.Add(forgets)
	if p.parked != nil || !p.now.sourced {
		p.nodes.drop()
		return
	}
	p.nodes.setUnreachable()
}

// forget notes that the peer has been unreachable for so long that its nodes are gone.
func (p *peer) forget() {
	p.nodes.drop()
	if p.parked != twin {
		p.ps.setStreamed(p, false)
	}
	p.ps.mu.Lock()
	p.ps.unask(p)
	p.poke(kickNot)
	p.ps.mu.Unlock()
}

// decide notes that a host has not given a stream in time.
func (p *peer) decide() {
	p.ps.setStreamed(p, false)
	p.complain()
}

// complain logs once why there is no stream.
func (p *peer) complain() {
	if p.said {
		return
	}
	p.said = true
	if p.lastErr == nil {
		p.lastErr = fmt.Errorf("no answer within %v", patience)
	}
	if withheld, ok := p.ps.say.May(fmt.Sprint(p.now.addrs)); ok {
		log := p.ps.Log
		if p.now.hostname != "" { // a configured epmd has none before it has answered
			log = log.With("host", p.now.hostname)
		}
		log.Warn("no stream from the epmd of a host", "addresses", p.now.addrs, "err", p.lastErr, "withheld", withheld)
	}
}

// end ends all at the end of the program.
func (p *peer) end() {
	if p.session != nil {
		p.hangUp(time.Now())
	}
	p.ps.dropStream(p)
}

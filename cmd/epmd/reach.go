package main

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"eclus/registry"
)

// When the epmds of the LAN are asked whether they still have their nodes.
const (
	reachEvery   = time.Minute            // give or take reachJitter
	reachJitter  = 10 * time.Second       // so that hosts that were switched on together don't ask together
	reachRetry   = 5 * time.Second        // after a first failure; doubled after each up to reachEvery
	reachSettle  = 100 * time.Millisecond // what is announced together is asked for together
	reachPause   = time.Second            // between two questions to one epmd
	linkSettle   = 250 * time.Millisecond // from the last of several changes of links to asking all
	reachTime    = 4 * time.Second        // that an epmd is given: a SYN is sent again after 1 s and 3 s
	reachAtOnce  = 32                     // epmds asked at once
	maxReachable = 1024                   // epmds asked at all
)

// epmdAsker asks the epmd at any of these addresses which nodes it has.
type epmdAsker func(ctx context.Context, addrs []netip.Addr, port uint16) (*epmdNames, error)

// epmdNames are the alive names that an epmd has.
type epmdNames struct {
	has map[string]bool
	cut bool // it has more than were read
}

// reacher keeps the registry told which neighbours can be reached. A neighbour whose host went without a goodbye is
// remembered by Avahi for up to 75 minutes. So the epmd of each host that has nodes is asked when one of them appears or
// is announced in another way, when a link of this host came or went, and else about once a minute, more often while it
// does not answer.
type reacher struct {
	reg *registry.Registry
	ask epmdAsker
	log *slog.Logger

	epmds   map[epmdKey]*lanEPMD
	answers chan reachAnswer
	slots   chan struct{} // one in it for each epmd that is being asked
	asking  sync.WaitGroup
}

// epmdKey is what makes an epmd on the LAN.
type epmdKey struct {
	host string
	port uint16
}

func epmdKeyOf(n *registry.Node) epmdKey { return epmdKey{n.Host, n.EPMDPort} }

// lanEPMD is an epmd on the LAN that has nodes.
type lanEPMD struct {
	nodes map[uint64]*registry.Node // by ID, as they are known now
	due   time.Time                 // when it is to be asked; zero: it is being asked
	again bool                      // something was announced since it began to be asked
	asked time.Time                 // when it last began to be
	fails int                       // in a row
}

type reachAnswer struct {
	key   epmdKey
	names *epmdNames
	err   error
}

func newReacher(reg *registry.Registry, ask epmdAsker, log *slog.Logger) *reacher {
	return &reacher{reg: reg, ask: ask, log: log}
}

// run returns when ctx has ended and no epmd is being asked any more. The channel yields when links of this host have
// changed; nil never does.
func (r *reacher) run(ctx context.Context, links <-chan struct{}) {
	r.answers, r.slots = make(chan reachAnswer), make(chan struct{}, reachAtOnce)
	defer r.asking.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := r.begin()
	defer func() { changes.Close() }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			r.askDue(ctx)
		case a := <-r.answers:
			r.answered(a)
		case <-links:
			r.askAll()
		case <-changes.Ready():
			events, err := changes.Take()
			if errors.Is(err, registry.ErrBehind) {
				changes = r.begin()
			}
			for _, e := range events {
				r.changed(e)
			}
		}
		if next, found := r.next(); found {
			timer.Reset(time.Until(next))
		}
	}
}

// begin forgets all and looks at the registry anew.
func (r *reacher) begin() *registry.Subscription {
	nodes, changes := r.reg.Subscribe()
	r.epmds = make(map[epmdKey]*lanEPMD)
	for _, n := range nodes {
		r.changed(registry.Event{Kind: registry.Up, Node: n})
	}
	return changes
}

// changed takes note of what has become of a neighbour. That it can be reached is no news here.
func (r *reacher) changed(e registry.Event) {
	n := e.Node
	if n.Origin != registry.LAN {
		return
	}
	epmd := r.epmds[epmdKeyOf(n)]
	if e.Kind == registry.Down {
		r.remove(n)
		return
	}
	if epmd != nil && epmd.nodes[n.ID] != nil && slices.Equal(epmd.nodes[n.ID].Addresses, n.Addresses) {
		epmd.nodes[n.ID] = n
		return
	}
	r.add(n)
}

func (r *reacher) remove(n *registry.Node) {
	key := epmdKeyOf(n)
	e := r.epmds[key]
	if e == nil {
		return
	}
	if delete(e.nodes, n.ID); len(e.nodes) == 0 {
		delete(r.epmds, key)
	}
}

func (r *reacher) add(n *registry.Node) {
	e := r.epmds[epmdKeyOf(n)]
	if e == nil {
		if len(r.epmds) == maxReachable {
			r.log.Debug("neighbour not checked: too many epmds on the LAN", n.LogNames(), "host", n.Host)
			return
		}
		e = &lanEPMD{nodes: make(map[uint64]*registry.Node), due: time.Now().Add(reachSettle)}
		r.epmds[epmdKeyOf(n)] = e
	}
	e.nodes[n.ID] = n
	e.hurry(reachSettle)
}

// hurry has the epmd asked after a pause, or when it has been asked, if it is being.
func (e *lanEPMD) hurry(pause time.Duration) {
	if e.due.IsZero() {
		e.again = true
		return
	}
	soon := time.Now().Add(pause)
	if earliest := e.asked.Add(reachPause); soon.Before(earliest) {
		soon = earliest
	}
	if soon.Before(e.due) {
		e.due = soon
	}
}

func (r *reacher) askAll() {
	for _, e := range r.epmds {
		e.hurry(linkSettle)
	}
}

// next returns when the next epmd is due, if any is and there is a slot for it.
func (r *reacher) next() (next time.Time, found bool) {
	if len(r.slots) == cap(r.slots) {
		return next, false // an answer comes first
	}
	for _, e := range r.epmds {
		if !e.due.IsZero() && (!found || e.due.Before(next)) {
			next, found = e.due, true
		}
	}
	return next, found
}

// askDue begins to ask the epmds that are due, as many as there are slots for.
func (r *reacher) askDue(ctx context.Context) {
	now := time.Now()
	for key, e := range r.epmds {
		if e.due.IsZero() || e.due.After(now) {
			continue
		}
		select {
		case r.slots <- struct{}{}:
		default:
			return
		}
		e.due, e.asked, e.again = time.Time{}, now, false
		addrs := e.addresses()
		r.asking.Go(func() { r.askOne(ctx, key, addrs) })
	}
}

func (r *reacher) askOne(ctx context.Context, key epmdKey, addrs []netip.Addr) {
	limited, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	names, err := r.ask(limited, addrs, key.port)
	select {
	case <-ctx.Done():
	case r.answers <- reachAnswer{key, names, err}:
	}
}

// maxReachAddresses is at how many addresses an epmd is looked for.
const maxReachAddresses = 8

// addresses returns where the epmd may be.
func (e *lanEPMD) addresses() []netip.Addr { return epmdAddresses(maps.Values(e.nodes)) }

// epmdAddresses returns the addresses of an epmd's nodes, in the order in which they are likely to work.
func epmdAddresses(nodes iter.Seq[*registry.Node]) []netip.Addr {
	var list []netip.Addr
	for n := range nodes {
		for _, a := range n.Addresses {
			if len(list) < maxReachAddresses && !slices.Contains(list, a) {
				list = append(list, a)
			}
		}
	}
	return list
}

// answered tells the registry what an epmd has answered, or that it has not.
func (r *reacher) answered(a reachAnswer) {
	<-r.slots
	e := r.epmds[a.key]
	if e == nil || !e.due.IsZero() {
		return // its nodes have gone meanwhile
	}
	if a.err == nil {
		e.fails = 0
		e.due = time.Now().Add(reachEvery - reachJitter + rand.N(2*reachJitter))
	} else {
		e.due = time.Now().Add(min(reachRetry<<min(e.fails, 8), reachEvery))
		e.fails++
		r.log.Debug("epmd on the LAN doesn't answer", "host", a.key.host, "port", a.key.port, "err", a.err)
	}
	for _, n := range e.nodes {
		r.reg.SetReach(n, reachOf(n.Name, a.names))
	}
	if e.again {
		e.hurry(reachSettle)
	}
}

// reachOf reports whether a node can be reached whose epmd has those names; nil: it did not answer. If it
// has more names than were read, any other is taken to be one of them.
func reachOf(name string, names *epmdNames) registry.Reach {
	if names != nil && (names.has[name] || names.cut) {
		return registry.Reachable
	}
	return registry.Unreachable
}

// askEPMD asks the epmd at any of addrs which nodes it has. The first answer counts.
func askEPMD(ctx context.Context, addrs []netip.Addr, port uint16) (*epmdNames, error) {
	places := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		places[i] = netip.AddrPortFrom(a, port)
	}
	answer, err := strangers(places...).Names(ctx)
	if err != nil {
		return nil, err
	}
	names := &epmdNames{make(map[string]bool, len(answer.Nodes)), answer.Cut}
	for _, n := range answer.Nodes {
		names.has[n.Name] = true
	}
	return names, nil
}

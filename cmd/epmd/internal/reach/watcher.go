package reach

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/internal/throttle"
	"github.com/goerlang/eclus/registry"
)

// When the epmds of the LAN are asked for their nodes.
const (
	reachEvery   = time.Minute            // give or take reachJitter
	reachJitter  = 10 * time.Second       // hosts that boot together don't ask together
	reachRetry   = 5 * time.Second        // after a failure; doubles up to reachEvery
	reachSettle  = 100 * time.Millisecond // what is announced together is asked for together
	reachPause   = time.Second            // between two questions to one epmd
	linkSettle   = 250 * time.Millisecond // from the last of several changes of links to asking all
	reachMost    = 60                     // questions to one host a minute; see payer
	reachTime    = 4 * time.Second        // for an epmd: SYNs are repeated after 1 s and 3 s
	reachAtOnce  = 32                     // epmds asked at once
	maxReachable = 1024                   // epmds asked at all
)

// Watcher keeps the registry told which neighbours can be reached. Avahi remembers a neighbour
// for up to 75 minutes if its host went without a goodbye. So the Watcher asks the epmd of each
// host that has nodes. It asks when a node appears or is announced in another way, and when a
// link of this host came or went. Else it asks about once a minute, and more often while the
// epmd does not answer.
type Watcher struct {
	reg    *registry.Registry
	ask    Asker
	onLink OnLink
	minute *throttle.Minute
	links  <-chan struct{}
	log    *slog.Logger

	epmds   map[epmdKey]*lanEPMD
	full    bool // some epmds have no place
	said    bool // once
	answers chan reachAnswer
	slots   chan struct{} // one in it for each epmd that is being asked
	asking  sync.WaitGroup
}

// lanEPMD is an epmd on the LAN that has nodes.
type lanEPMD struct {
	nodes map[uint64]*registry.Node // by ID, as they are known now
	due   time.Time                 // when it is to be asked; zero: it is being asked
	again bool                      // something was announced since it began to be asked
	asked time.Time                 // when it last began to be
	fails int                       // in a row

	answers bool // it has answered once
}

// reachAnswer is what an epmd has answered.
type reachAnswer struct {
	key   epmdKey
	epmd  *lanEPMD // as it was known when it was asked
	names *Names
	err   error
}

// Options are what a Watcher needs.
type Options struct {
	Registry *registry.Registry
	Ask      Asker           // usually the function Ask
	OnLink   OnLink          // usually that of a netif.Links
	Links    <-chan struct{} // yields when links of this host have changed; nil: never
	Log      *slog.Logger
}

// NewWatcher returns a Watcher that asks nobody before Run.
func NewWatcher(o Options) *Watcher {
	return &Watcher{
		reg:     o.Registry,
		ask:     o.Ask,
		onLink:  o.OnLink,
		minute:  throttle.NewMinute(reachMost),
		links:   o.Links,
		log:     o.Log,
		epmds:   make(map[epmdKey]*lanEPMD),
		answers: make(chan reachAnswer),
		slots:   make(chan struct{}, reachAtOnce),
	}
}

// Run returns nil when ctx has ended and no epmd is being asked. It is called once.
func (w *Watcher) Run(ctx context.Context) error {
	defer w.asking.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := w.reg.SubscribeNeighbours()
	defer changes.Close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			w.askDue(ctx)
		case a := <-w.answers:
			w.answered(a)
		case <-w.links:
			w.askAll()
		case <-changes.Ready():
			w.take(changes.Take())
		}
		if next, found := w.next(); found {
			timer.Reset(time.Until(next))
		}
	}
}

// take takes note of what has become of the neighbours.
func (w *Watcher) take(b registry.Batch) {
	if b.Anew {
		clear(w.epmds)
	}
	for _, n := range b.Nodes {
		w.changed(registry.Event{Kind: registry.Up, Node: n})
	}
	for _, e := range b.Events {
		w.changed(e)
	}
}

// changed takes note of what has become of a neighbour. That it can be reached is no news here.
// Nodes of which their host's epmd tells over a stream are nobody's to check.
func (w *Watcher) changed(e registry.Event) {
	n := e.Node
	epmd := w.epmds[epmdKeyOf(n)]
	if e.Kind == registry.Down || n.Rank == registry.Told || n.HasNoEPMD() {
		w.remove(n)
		return
	}
	if epmd != nil && epmd.nodes[n.ID] != nil && isSame(epmd.nodes[n.ID], n) {
		epmd.nodes[n.ID] = n
		return
	}
	w.add(n)
}

// isSame reports whether a neighbour is announced as before. Its epmd needn't be asked again then.
func isSame(was, is *registry.Node) bool {
	return slices.Equal(was.Addresses, is.Addresses) && was.ClaimsAs(is)
}

func (w *Watcher) remove(n *registry.Node) {
	key := epmdKeyOf(n)
	e := w.epmds[key]
	if e == nil {
		return
	}
	if delete(e.nodes, n.ID); len(e.nodes) > 0 {
		return
	}
	delete(w.epmds, key)
	if !w.full {
		return
	}
	w.full = false
	for _, n := range w.reg.Nodes() { // one may have waited for the place
		if n.Origin != registry.Local && w.epmds[epmdKeyOf(n)] == nil {
			w.changed(registry.Event{Kind: registry.Up, Node: n})
		}
	}
}

func (w *Watcher) add(n *registry.Node) {
	e := w.epmds[epmdKeyOf(n)]
	if e == nil {
		if len(w.epmds) == maxReachable {
			w.full = true
			if !w.said {
				w.said = true
				w.log.Warn("too many epmds on the LAN: not all are checked", "limit", maxReachable)
			}
			return
		}
		e = &lanEPMD{nodes: make(map[uint64]*registry.Node), due: time.Now().Add(reachSettle)}
		w.epmds[epmdKeyOf(n)] = e
	}
	e.nodes[n.ID] = n
	e.hurry(reachSettle)
}

// hurry has the epmd asked after a pause. One that is being asked is asked again afterwards.
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

func (w *Watcher) askAll() {
	for _, e := range w.epmds {
		e.hurry(linkSettle)
	}
}

// next returns when the next epmd is due. It needs a slot for it.
func (w *Watcher) next() (next time.Time, found bool) {
	if len(w.slots) == cap(w.slots) {
		return next, false // an answer comes first
	}
	for _, e := range w.epmds {
		if !e.due.IsZero() && (!found || e.due.Before(next)) {
			next, found = e.due, true
		}
	}
	return next, found
}

// askDue begins to ask the epmds that are due, if there are slots for them.
func (w *Watcher) askDue(ctx context.Context) {
	now := time.Now()
	for key, e := range w.epmds {
		if e.due.IsZero() || e.due.After(now) {
			continue
		}
		if !w.minute.May(e.payer(key)) {
			e.due = now.Add(reachRetry)
			continue
		}
		select {
		case w.slots <- struct{}{}:
		default:
			return
		}
		e.due, e.asked, e.again = time.Time{}, now, false
		addrs := addressesOf(maps.Values(e.nodes), w.onLink)
		w.asking.Go(func() { w.askOne(ctx, key, e, addrs) })
	}
}

// payer returns for whose sake an epmd is asked. Whoever announces nodes of a host at many ports,
// at which nobody has answered, has them asked in the place of each other. The usual port, and one
// at which an epmd has answered, count apart.
func (e *lanEPMD) payer(key epmdKey) string {
	if e.answers || key.port == epmd.DefaultPort {
		return fmt.Sprint(key.host, ":", key.port)
	}
	return key.host
}

func (w *Watcher) askOne(ctx context.Context, key epmdKey, e *lanEPMD, addrs []netip.Addr) {
	limited, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	names, err := w.ask(limited, addrs, key.port)
	select {
	case <-ctx.Done():
	case w.answers <- reachAnswer{key, e, names, err}:
	}
}

// answered tells the registry what an epmd has answered, if anything.
func (w *Watcher) answered(a reachAnswer) {
	<-w.slots
	e := a.epmd
	if w.epmds[a.key] != e {
		return // its nodes have gone meanwhile; others may have come, for which it is asked again
	}
	if a.err == nil {
		e.fails, e.answers = 0, true
		e.due = time.Now().Add(reachEvery - reachJitter + rand.N(2*reachJitter))
	} else {
		e.due = time.Now().Add(min(reachRetry<<min(e.fails, 8), reachEvery))
		e.fails++
		w.log.Debug("epmd on the LAN doesn't answer", "host", a.key.host, "port", a.key.port, "err", a.err)
	}
	for _, n := range e.nodes {
		var port uint16
		if a.names != nil {
			port = a.names.Ports[n.Name]
		}
		w.reg.Answered(n, Of(n.Name, a.names), port)
	}
	if e.again {
		e.hurry(reachSettle)
	}
}

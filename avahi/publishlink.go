package avahi

import (
	"container/list"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/goerlang/eclus/registry"
)

// publishLink is what is published on one link in one session. Its methods run in one goroutine.
type publishLink struct {
	all       *publishSession
	log       *slog.Logger
	iface     int32
	addrs     []netip.Addr                  // of the interface, without zones
	host      *publishedInstance            // the host's own
	instances map[uint64]*publishedInstance // the nodes, by ID

	// Every instance waits in at most one of these.
	fresh  *list.List // until settle is over
	unsure *list.List // for what is still to be known, until patience is over
	due    byUser     // for a place, and for its turn
	turns  turns

	placed      byUser // have one of Avahi's places, the last that got one at the end
	full        bool   // Avahi had no place for the last one
	established int

	// Avahi says nothing of an interface that it does not use.
	unused          bool
	looking, relook bool
	lookAgain       time.Duration // pause before the next look while unused
}

func newPublishLink(all *publishSession, iface int32) *publishLink {
	p := &publishLink{
		all: all, log: all.part.log.With("interface", all.session.names[iface]), iface: iface,
		addrs:     all.session.addresses[iface],
		instances: make(map[uint64]*publishedInstance),
		fresh:     list.New(), unsure: list.New(), due: make(byUser), placed: make(byUser),
	}
	p.host = &publishedInstance{link: p}
	p.lookAgain = firstLookAgain
	return p
}

// close takes back all that was published on the interface.
func (p *publishLink) close() {
	for _, e := range p.instances {
		p.drop(e)
	}
	p.host.gone = true
	p.host.wait(nil)
	p.free(p.host)
}

// readdress follows the addresses of the interface.
func (p *publishLink) readdress(addrs []netip.Addr) {
	if slices.Equal(addrs, p.addrs) {
		if p.unused {
			p.look()
		}
		return
	}
	p.addrs = addrs
	p.look()
	p.consider(p.host)
	for _, e := range p.instances {
		p.consider(e)
	}
}

// resync makes up what has happened since the last look at the registry.
func (p *publishLink) resync(nodes []*registry.Node) {
	there := make(map[uint64]bool, len(nodes))
	for _, n := range nodes {
		there[n.ID] = true
	}
	for id, e := range p.instances {
		if !there[id] {
			p.drop(e)
		}
	}
	oldestFirst := slices.SortedFunc(slices.Values(nodes), func(a, b *registry.Node) int { return a.Since.Compare(b.Since) })
	for _, n := range oldestFirst {
		p.up(n)
	}
}

func (p *publishLink) apply(events []registry.Event) {
	for _, event := range events {
		if event.Kind != registry.Down {
			p.up(event.Node)
		} else if e := p.instances[event.Node.ID]; e != nil {
			p.drop(e)
		}
	}
}

// up notes a node that is new or has changed.
func (p *publishLink) up(n *registry.Node) {
	if n.Origin != registry.Local {
		return
	}
	e := p.instances[n.ID]
	if e == nil {
		e = &publishedInstance{link: p, since: since(n)}
		e.wait(p.fresh)
		p.instances[n.ID] = e
	}
	e.node = n
	p.consider(e)
}

// consider does with an instance what is due now.
func (p *publishLink) consider(e *publishedInstance) {
	age := time.Since(e.since)
	switch {
	case e.gone, p.all.refused != nil:
	case !p.reaches(e):
		p.withdraw(e)
	case e.client != nil:
		p.setUser(e)
		p.update(e)
	case e.node != nil && age < settle:
	case e.node == nil && !p.isDue(e):
		p.place(e)
	case p.isDue(e), e.node.Sure && e.node.Listens != nil, age >= patience:
		p.awaitPlace(e)
	case e.queue != p.unsure:
		e.wait(p.unsure)
	}
}

// reaches reports whether hosts on this link can reach what the instance stands for, as far as
// is known. They must reach epmd too.
func (p *publishLink) reaches(e *publishedInstance) bool {
	epmd := registry.Node{Listens: p.all.part.opts.Listens}
	if !epmd.ListensOn(p.addrs) {
		return false
	}
	return e.node == nil || e.node.Why == "" && e.node.ListensOn(p.addrs)
}

// withdraw takes back what was announced of something that is still there. A node that is fresh
// waits on: more may become known of it.
func (p *publishLink) withdraw(e *publishedInstance) {
	switch {
	case e.queue == p.fresh && e.queue != nil:
	case e.client == nil:
		e.wait(nil)
	case e.node == nil:
		p.host = &publishedInstance{link: p}
		e.gone = true
		p.free(e)
	default:
		p.drop(e)
		p.instances[e.node.ID] = &publishedInstance{link: p, node: e.node, since: e.since}
	}
}

// since returns when a node was registered, by the monotonic clock and not later than now. A
// restored node's Since is by the wall clock. That may have been set back. Then it would hold
// up all that wait behind the node.
func since(n *registry.Node) time.Time {
	now := time.Now()
	return now.Add(-max(0, now.Sub(n.Since)))
}

// wait takes the instance out of its queue and puts it at the end of another. nil is none.
func (e *publishedInstance) wait(queue *list.List) {
	if e.queue != nil {
		e.queue.Remove(e.elem)
	}
	if e.queue = queue; queue != nil {
		e.elem = queue.PushBack(e)
	}
}

// publishDue publishes whose time has come. It returns when the next one's does; zero: none
// waits. Nodes wait in the order in which they became known here. So none waits longer than
// patience for those before it.
func (p *publishLink) publishDue() (next time.Time) {
	now := time.Now()
	for e := first(p.fresh); e != nil && !now.Before(e.since.Add(settle)); e = first(p.fresh) {
		e.wait(nil)
		p.consider(e)
	}
	for e := first(p.unsure); e != nil && !now.Before(e.since.Add(patience)); e = first(p.unsure) {
		p.awaitPlace(e)
	}
	next = p.placeDue(now)
	if e := first(p.unsure); e != nil {
		next = earlier(next, e.since.Add(patience))
	}
	if e := first(p.fresh); e != nil {
		next = earlier(next, e.since.Add(settle))
	}
	return next
}

// turns paces what is announced on one link. A burst of new instances costs every avahi-daemon
// on the link far less if it comes bit by bit. The zero turns is ready.
type turns struct{ used time.Time } // when all turns taken are paid for, at one a pace

// At most burst instances are announced at once, and one every pace after that.
const (
	burst = 8
	pace  = 50 * time.Millisecond
)

// next returns when the next turn is. It may have been already.
func (t *turns) next() time.Time { return t.used.Add(-(burst - 1) * pace) }

func (t *turns) take(now time.Time) {
	if t.used.Before(now) {
		t.used = now
	}
	t.used = t.used.Add(pace)
}

// earlier returns the earlier one of two times. Zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// first returns the instance at the head of a queue, or nil.
func first(queue *list.List) *publishedInstance {
	if queue.Len() == 0 {
		return nil
	}
	return queue.Front().Value.(*publishedInstance)
}

package avahi

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"eclus/registry"

	"github.com/godbus/dbus/v5"
	goavahi "github.com/holoplot/go-avahi"
)

// When a node is published, counted from its registration.
const (
	settle   = 150 * time.Millisecond // not before; who has gone by then was never there
	patience = 500 * time.Millisecond // at the latest, whether or not its full name is known
)

// maxRenames is how many other names are tried for an instance whose name is taken.
const maxRenames = 100

// Publisher announces this host and the nodes that are registered here.
type Publisher struct{ *link }

// NewPublisher returns a Publisher of the nodes in reg, to which it also tells the name that this host
// has on the network.
func NewPublisher(reg *registry.Registry, opts Options, log *slog.Logger) *Publisher {
	return &Publisher{newLink("publishing", reg, opts, log)}
}

// State returns how it is doing. It may be called at any time.
func (p *Publisher) State() State { return *p.state.Load() }

// Run publishes until ctx ends, and then withdraws all it has published: it closes its connection to the bus, upon which
// avahi-daemon says goodbye on the network for all that was announced over it. That is several times faster than freeing
// one group after the other, and needs no time of ours.
func (p *Publisher) Run(ctx context.Context) { p.run(ctx, p.publish) }

// publish is one session of Run.
func (p *Publisher) publish(ctx context.Context, s *session) error {
	pub := &publishing{link: p.link, session: s, publications: make(map[int32]*publication)}
	s.onSignal = pub.signal
	return pub.follow(ctx)
}

// publishing is one session's: a publication on each interface. A service that Avahi has been told of can't be extended
// to another interface, and what comes and goes on one must not make the others say goodbye.
type publishing struct {
	link         *link
	session      *session
	publications map[int32]*publication // by interface
	changes      *registry.Subscription
}

// follow publishes what happens in the registry until the session is over.
func (p *publishing) follow(ctx context.Context) error {
	if err := p.open(p.session.interfaces); err != nil {
		return err
	}
	defer func() { p.changes.Close() }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.session.mail.ready:
			err = p.session.mail.handle()
		case <-p.session.links.Changed():
			err = p.relink()
		case <-timer.C:
		case <-p.changes.Ready():
			p.take()
		}
		if err != nil {
			return err
		}
		p.publishDue(timer)
		p.link.setState(p.state())
	}
}

// open begins to publish on more interfaces.
func (p *publishing) open(interfaces []int32) error {
	for _, i := range interfaces {
		c, err := p.session.dial()
		if err != nil {
			return err
		}
		pub := newPublication(p.link, p.session, i, c)
		pub.place(&entry{})
		p.publications[i] = pub
	}
	p.resync()
	return nil
}

// relink follows the interfaces. With its connection all goes that was published on one.
func (p *publishing) relink() error {
	gone, come, err := p.session.relink()
	if err != nil {
		return err
	}
	for _, i := range gone {
		p.session.hangUp(p.publications[i].avahi)
		delete(p.publications, i)
	}
	if len(come) == 0 {
		return nil
	}
	return p.open(come)
}

// resync looks at the registry anew.
func (p *publishing) resync() {
	if p.changes != nil {
		p.changes.Close()
	}
	var nodes []*registry.Node
	nodes, p.changes = p.link.reg.Subscribe()
	for _, pub := range p.publications {
		pub.resync(nodes)
	}
}

// take deals with what has happened in the registry.
func (p *publishing) take() {
	events, behind := p.changes.Take()
	if behind != nil {
		p.resync()
		return
	}
	for _, pub := range p.publications {
		pub.apply(events)
	}
}

// publishDue publishes whose time has come and sets the timer to when the next one's does.
func (p *publishing) publishDue(timer *time.Timer) {
	var next time.Time
	for _, pub := range p.publications {
		if due := pub.publishDue(); next.IsZero() || !due.IsZero() && due.Before(next) {
			next = due
		}
	}
	timer.Stop()
	if !next.IsZero() {
		timer.Reset(time.Until(next))
	}
}

// state tells of the interface on which most is published, and of that on which most waits.
func (p *publishing) state() (s State) {
	for _, pub := range p.publications {
		s.Instances = max(s.Instances, pub.established)
		s.Waiting = max(s.Waiting, pub.full.Len())
	}
	return s
}

// signal deals with what Avahi tells of its own accord.
func (p *publishing) signal(sig signal) error {
	for _, pub := range p.publications {
		if e := pub.groups[sig.path]; e != nil {
			return pub.signal(e, sig)
		}
	}
	return nil
}

// publication is what has been published on one interface in one session. Its methods run in one goroutine.
type publication struct {
	session *session
	opts    Options
	log     *slog.Logger
	iface   int32
	avahi   *client
	entries map[uint64]*entry          // the nodes, by ID
	groups  map[dbus.ObjectPath]*entry // all that have a group

	// Every entry waits in at most one of these.
	fresh  *list.List // until settle is over
	unsure *list.List // for the full name, until patience is over
	full   *list.List // for Avahi to have a place

	placed      int // entries that have one of Avahi's places
	limit       int // of placed
	established int
	saidFull    bool
}

// entry is a service instance, from when its node was registered.
type entry struct {
	node   *registry.Node // nil: the host's own
	since  time.Time      // registered, as far as settle and patience go
	queue  *list.List     // in which it waits, or nil
	elem   *list.Element
	placed bool
	gone   bool

	group       dbus.ObjectPath // once Avahi has made it
	announced   service         // what Avahi was told
	attempt     int             // counts the names that were tried; replies to earlier ones don't matter
	established bool
	saidLeftOut bool
}

func newPublication(l *link, s *session, iface int32, c *client) *publication {
	return &publication{
		session: s, opts: l.opts, log: l.log.With("interface", interfaceName(iface)), iface: iface, avahi: c,
		entries: make(map[uint64]*entry), groups: make(map[dbus.ObjectPath]*entry),
		fresh: list.New(), unsure: list.New(), full: list.New(),
		limit: l.maxObjects,
	}
}

// resync makes up what has happened since the registry was last looked at.
func (p *publication) resync(nodes []*registry.Node) {
	there := make(map[uint64]bool, len(nodes))
	for _, n := range nodes {
		there[n.ID] = true
	}
	for id, e := range p.entries {
		if !there[id] {
			p.drop(e)
		}
	}
	for _, n := range nodes {
		p.up(n)
	}
}

func (p *publication) apply(events []registry.Event) {
	for _, event := range events {
		if event.Kind != registry.Down {
			p.up(event.Node)
		} else if e := p.entries[event.Node.ID]; e != nil {
			p.drop(e)
		}
	}
}

// up takes note of a node that is new or of which something else is known.
func (p *publication) up(n *registry.Node) {
	if n.Origin != registry.Local {
		return
	}
	e := p.entries[n.ID]
	switch {
	case e == nil && !printable(n.Name):
		return // no other host would take it
	case e == nil:
		e = &entry{node: n, since: since(n)}
		p.entries[n.ID] = e
		e.wait(p.fresh)
	case e.queue == p.unsure && n.Sure:
		e.node = n
		p.place(e)
	default:
		e.node = n
		p.update(e)
	}
}

// since returns when a node was registered, by the monotonic clock and not later than now. A restored node's Since is
// by the wall clock, which may have been set back: taken as it is, it could hold up all that wait behind that node.
func since(n *registry.Node) time.Time {
	now := time.Now()
	return now.Add(-max(0, now.Sub(n.Since)))
}

// wait puts the entry at the end of a queue and takes it out of the one it is in; nil is none.
func (e *entry) wait(queue *list.List) {
	if e.queue != nil {
		e.queue.Remove(e.elem)
	}
	if e.queue = queue; queue != nil {
		e.elem = queue.PushBack(e)
	}
}

// publishDue publishes whose time has come and returns when the next one's does; zero: none waits. Nodes wait in the
// order in which they became known here, so that none waits longer than patience for those before it.
func (p *publication) publishDue() (next time.Time) {
	now := time.Now()
	for e := first(p.fresh); e != nil && !now.Before(e.since.Add(settle)); e = first(p.fresh) {
		if e.node.Sure {
			p.place(e)
		} else {
			e.wait(p.unsure)
		}
	}
	for e := first(p.unsure); e != nil && !now.Before(e.since.Add(patience)); e = first(p.unsure) {
		p.place(e)
	}
	if e := first(p.unsure); e != nil {
		next = e.since.Add(patience)
	}
	if e := first(p.fresh); e != nil && (next.IsZero() || e.since.Add(settle).Before(next)) {
		next = e.since.Add(settle)
	}
	return next
}

// first returns the entry at the head of a queue, or nil.
func first(queue *list.List) *entry {
	if queue.Len() == 0 {
		return nil
	}
	return queue.Front().Value.(*entry)
}

// place gives the entry one of Avahi's places and publishes it, or lets it wait for one.
func (p *publication) place(e *entry) {
	if p.placed >= p.limit {
		e.wait(p.full)
		p.sayFull()
		return
	}
	e.wait(nil)
	e.placed = true
	p.placed++
	p.avahi.call(serverPath, ifaceServer, "EntryGroupNew", func(r reply) { p.made(e, r) })
}

func (p *publication) sayFull() {
	if !p.saidFull {
		p.saidFull = true
		p.log.Warn("more nodes than Avahi takes: not all are published", "limit", p.limit)
	}
}

// made goes on once Avahi has made a group for the entry.
func (p *publication) made(e *entry, r reply) {
	path, err := r.path()
	switch {
	case e.gone: // and its place was given back then
		if err == nil {
			p.avahi.call(path, ifaceGroup, "Free", nil)
		}
	case r.is(errObjects): // others of this user's programs may count too
		e.placed = false
		p.placed--
		p.limit = p.placed
		p.place(e)
	case err != nil:
		p.fail(e, err)
	default:
		e.group = path
		p.groups[path] = e
		e.announced = p.service(e)
		p.announce(e)
	}
}

// service returns what the entry is to announce as things are now.
func (p *publication) service(e *entry) service {
	if e.node == nil {
		return hostService(p.session.host, p.opts.Port, p.opts.Version)
	}
	svc, leftOut := nodeService(e.node, p.session.host, p.opts.Port)
	if len(leftOut) > 0 && !e.saidLeftOut {
		e.saidLeftOut = true
		p.log.Warn("too long for a TXT record, left out", "node", e.node.Node, "keys", leftOut)
	}
	return svc
}

// announce tells Avahi the entry's service.
func (p *publication) announce(e *entry) {
	e.attempt++
	attempt := e.attempt
	added := func(r reply) {
		switch {
		case r.err == nil || e.gone || e.attempt != attempt:
		case r.is(errCollision):
			p.rename(e)
		default:
			p.fail(e, r.err)
		}
	}
	svc := e.announced
	p.avahi.call(e.group, ifaceGroup, "AddService", added, p.iface, int32(goavahi.ProtoUnspec), uint32(0),
		svc.label, ServiceType, Domain, "", svc.port, svc.text)
	p.avahi.call(e.group, ifaceGroup, "Commit", nil)
}

// rename announces the entry under another name, because the one it has is taken.
func (p *publication) rename(e *entry) {
	p.unestablish(e)
	if e.attempt++; e.attempt > 2*maxRenames {
		p.fail(e, errors.New("all names taken"))
		return
	}
	p.avahi.call(e.group, ifaceGroup, "Reset", nil)
	p.avahi.call(serverPath, ifaceServer, "GetAlternativeServiceName", func(r reply) {
		if e.gone {
			return
		}
		var label string
		if err := errors.Join(r.err, dbus.Store(r.body, &label)); err != nil {
			p.fail(e, err)
			return
		}
		e.announced = p.service(e)
		e.announced.label = label
		p.announce(e)
	}, e.announced.label)
}

// update tells Avahi what else has become known of the node.
func (p *publication) update(e *entry) {
	if e.group == "" {
		return
	}
	svc := p.service(e)
	if slices.EqualFunc(svc.text, e.announced.text, slices.Equal) {
		return
	}
	e.announced.text = svc.text
	p.avahi.call(e.group, ifaceGroup, "UpdateServiceTxt", func(r reply) { p.updated(e, r) }, p.iface,
		int32(goavahi.ProtoUnspec), uint32(0), e.announced.label, ServiceType, Domain, svc.text)
}

// updated notes a refusal. One that comes while another name is being looked for doesn't matter: the announcement
// to come brings the present text.
func (p *publication) updated(e *entry, r reply) {
	if r.err != nil && !e.gone && e.established {
		p.log.Warn("update of a TXT record refused", "instance", e.announced.label, "err", r.err)
	}
}

// drop withdraws a node that has gone.
func (p *publication) drop(e *entry) {
	delete(p.entries, e.node.ID)
	e.gone = true
	e.wait(nil)
	p.free(e)
}

// fail gives up an entry that Avahi refuses. It is tried again when the node registers anew, or in the next session.
func (p *publication) fail(e *entry, reason error) {
	what := p.session.host
	if e.node != nil {
		what = e.node.Node
	}
	p.log.Warn("Avahi refuses to publish", "node", what, "err", reason)
	e.gone = true
	p.free(e)
}

// free gives back what Avahi holds for the entry.
func (p *publication) free(e *entry) {
	p.unestablish(e)
	if e.group != "" {
		delete(p.groups, e.group)
		p.avahi.call(e.group, ifaceGroup, "Free", nil)
		e.group = ""
	}
	p.release(e)
}

// release gives the entry's place to one that waits for it.
func (p *publication) release(e *entry) {
	if !e.placed {
		return
	}
	e.placed = false
	p.placed--
	if next := first(p.full); next != nil {
		p.place(next)
	}
}

func (p *publication) unestablish(e *entry) {
	if e.established {
		e.established = false
		p.established--
	}
}

// signal deals with what Avahi tells of an entry's group.
func (p *publication) signal(e *entry, sig signal) error {
	if sig.iface != ifaceGroup || sig.member != "StateChanged" {
		return nil
	}
	var state int32
	var reason string
	if err := dbus.Store(sig.body, &state, &reason); err != nil {
		return fmt.Errorf("read the state of an entry group: %w", err)
	}
	p.unestablish(e)
	switch state {
	case goavahi.EntryGroupEstablished:
		e.established = true
		p.established++
	case goavahi.EntryGroupCollision:
		p.rename(e)
	case goavahi.EntryGroupFailure:
		p.fail(e, fmt.Errorf("entry group failed: %s", reason))
	}
	return nil
}

package avahi

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/goerlang/eclus/registry"

	"github.com/godbus/dbus/v5"
	goavahi "github.com/holoplot/go-avahi"
)

// When a node is published, counted from its registration.
const (
	settle   = 150 * time.Millisecond // not before; who has gone by then was never there
	patience = 500 * time.Millisecond // at the latest, whether or not its full name is known
)

// redial is how long after a failure another connection to the bus is tried.
const redial = 10 * time.Second

// maxRenames is how many other names are tried for an instance whose name is taken.
const maxRenames = 100

// publisher announces this host and the nodes that are registered here.
type publisher struct{ *link }

func newPublisher(b *board, opts Options, log *slog.Logger) *publisher {
	return &publisher{newLink("publishing", b, &b.lan.Publishing, opts, log)}
}

// Run publishes until ctx ends, and then withdraws all it has published: it closes its connection to the bus, upon which
// avahi-daemon says goodbye on the network for all that was announced over it. That is several times faster than freeing
// one group after the other, and needs no time of ours.
func (p *publisher) Run(ctx context.Context) { p.run(ctx, p.publish) }

// publish is one session of Run.
func (p *publisher) publish(ctx context.Context, s *session) error {
	pub := &publishing{
		link: p.link, session: s,
		publications: make(map[int32]*publication), groups: make(map[dbus.ObjectPath]*entry),
	}
	s.onSignal = pub.signal
	return pub.follow(ctx)
}

// publishing is one session's: a publication on each interface. A service that Avahi has been told of can't be extended
// to another interface, and what comes and goes on one must not make the others say goodbye. Interfaces share the
// session's connections, of which the bus allows a user but 256.
type publishing struct {
	link         *link
	session      *session
	publications map[int32]*publication // by interface
	groups       map[dbus.ObjectPath]*entry
	changes      *registry.Subscription

	begun    bool      // Avahi has taken something
	refused  error     // why Avahi takes nothing; nil: it does
	dialNext time.Time // another connection is tried, after one has failed; zero: none has
	saidFull bool
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
		p.tell()
	}
}

// open begins to publish on more interfaces.
func (p *publishing) open(interfaces []int32) error {
	for _, i := range interfaces {
		pub := newPublication(p, i)
		p.publications[i] = pub
		pub.consider(pub.host)
	}
	p.resync()
	return nil
}

// relink follows the interfaces and their addresses.
func (p *publishing) relink() error {
	gone, come, err := p.session.relink()
	if err != nil {
		return err
	}
	for _, i := range gone {
		pub := p.publications[i]
		delete(p.publications, i)
		pub.close()
	}
	for i, pub := range p.publications {
		pub.readdress(p.session.addresses[i])
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
	p.changes = p.link.reg.Subscribe()
	p.take()
}

// take deals with what has happened in the registry.
func (p *publishing) take() {
	b := p.changes.Take()
	for _, pub := range p.publications {
		if b.Anew {
			pub.resync(b.Nodes)
		}
		pub.apply(b.Events)
	}
}

// publishDue publishes whose time has come and sets the timer to when the next one's does.
func (p *publishing) publishDue(timer *time.Timer) {
	if !p.dialNext.IsZero() && !time.Now().Before(p.dialNext) {
		p.dialNext = time.Time{}
		p.fill()
	}
	next := p.dialNext
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

// connection returns a connection on which Avahi has a place for another group, or nil.
func (p *publishing) connection() *client {
	for _, c := range p.session.clients {
		if c.objects < c.limit {
			return c
		}
	}
	if len(p.session.clients) >= p.link.maxClients || !p.dialNext.IsZero() {
		return nil
	}
	c, err := p.session.dial()
	if err != nil { // other programs of this user have connections too
		p.dialNext = time.Now().Add(redial)
		p.link.log.Debug("no further connection to the bus", "err", err)
		return nil
	}
	return c
}

// fill gives the places that there are to entries that wait for one.
func (p *publishing) fill() {
	for _, pub := range p.publications {
		for e := first(pub.full); e != nil && pub.place(e); e = first(pub.full) {
		}
	}
}

// sayFull says once that not all is published, for which there are Avahi's limits and ours.
func (p *publishing) sayFull() {
	if !p.saidFull {
		p.saidFull = true
		p.link.log.Warn("more nodes than Avahi takes: not all are published everywhere",
			"limit", p.link.maxObjects, "limit of all interfaces", p.link.maxObjects*p.link.maxClients)
	}
}

// accept notes that Avahi has taken something.
func (p *publishing) accept() {
	if !p.begun {
		p.begun = true
		p.link.on(p.session)
	}
}

// refuse gives up publishing in this session, because Avahi takes nothing from us. What its
// configuration says holds until it is restarted.
func (p *publishing) refuse(reason error) {
	if p.refused != nil {
		return
	}
	p.refused = reason
	p.link.log.Warn("nothing is published", "reason", reason)
	for _, pub := range p.publications {
		pub.close()
	}
	clear(p.publications)
}

// tell tells the world how publishing does: of the interface on which most is published, and of that on which
// most waits.
func (p *publishing) tell() {
	s, begun := p.state()
	if !begun {
		return
	}
	was := *p.link.doing.Load()
	switch {
	case s.Off != "" && was.Off == "":
		p.link.off(errors.New(s.Off))
		return
	case s.Off == "" && was.Off != "" && !p.link.silent.Load():
		p.link.on(p.session)
	}
	p.link.setState(s)
}

// state returns how publishing does, and whether it does anything: at first nothing has been heard of
// Avahi.
func (p *publishing) state() (s state, begun bool) {
	if p.refused != nil {
		return state{Off: p.refused.Error()}, true
	}
	reaches, used := false, false
	for _, pub := range p.publications {
		s.Instances = max(s.Instances, pub.established)
		s.Waiting = max(s.Waiting, pub.full.Len())
		reach := pub.reaches(pub.host)
		reaches, used = reaches || reach, used || reach && !pub.unused
	}
	switch {
	case !reaches:
		return state{Off: "epmd listens on no address of " + p.interfaceNames()}, true
	case !used:
		return state{Off: "avahi-daemon does not use " + p.interfaceNames() + ": no address, or excluded in avahi-daemon.conf"}, true
	}
	return s, p.begun
}

// interfaceNames returns the names of the interfaces, of many only some.
func (p *publishing) interfaceNames() string {
	var names []string
	for _, i := range p.session.interfaces {
		names = append(names, p.session.names[i])
	}
	list := strings.Join(names[:min(len(names), maxNamed)], ", ")
	if len(names) > maxNamed {
		list += fmt.Sprintf(" and %d more", len(names)-maxNamed)
	}
	return list
}

// maxNamed is how many interfaces are named in a message.
const maxNamed = 3

// signal deals with what Avahi tells of its own accord.
func (p *publishing) signal(sig signal) error {
	if e := p.groups[sig.path]; e != nil {
		return e.pub.signal(e, sig)
	}
	return nil
}

// publication is what has been published on one interface in one session. Its methods run in one goroutine.
type publication struct {
	all     *publishing
	log     *slog.Logger
	iface   int32
	addrs   []netip.Addr      // of the interface, without zones
	host    *entry            // the host's own
	entries map[uint64]*entry // the nodes, by ID

	// Every entry waits in at most one of these.
	fresh  *list.List // until settle is over
	unsure *list.List // for what is still to be known, until patience is over
	full   *list.List // for Avahi to have a place

	placed      int // entries that have one of Avahi's places
	established int

	// Avahi says nothing of an interface that it does not use.
	unused          bool
	looking, relook bool
	lookAgain       time.Duration // pause before the next look while unused
}

// entry is a service instance, from when its node was registered, on one interface.
type entry struct {
	pub    *publication
	node   *registry.Node // nil: the host's own
	since  time.Time      // registered, as far as settle and patience go
	queue  *list.List     // in which it waits, or nil
	elem   *list.Element
	client *client // on which it has one of Avahi's places, or nil
	gone   bool

	group       dbus.ObjectPath // once Avahi has made it
	announced   service         // what Avahi was told
	attempt     int             // counts the names that were tried; replies to earlier ones don't matter
	established bool
	saidLeftOut bool
}

func newPublication(all *publishing, iface int32) *publication {
	p := &publication{
		all: all, log: all.link.log.With("interface", all.session.names[iface]), iface: iface,
		addrs:   all.session.addresses[iface],
		entries: make(map[uint64]*entry),
		fresh:   list.New(), unsure: list.New(), full: list.New(),
	}
	p.host = &entry{pub: p}
	p.lookAgain = firstLookAgain
	return p
}

// close takes back all that was published on the interface.
func (p *publication) close() {
	for _, e := range p.entries {
		p.drop(e)
	}
	p.host.gone = true
	p.host.wait(nil)
	p.free(p.host)
}

// readdress follows the addresses of the interface.
func (p *publication) readdress(addrs []netip.Addr) {
	if slices.Equal(addrs, p.addrs) {
		if p.unused {
			p.look()
		}
		return
	}
	p.addrs = addrs
	p.look()
	p.consider(p.host)
	for _, e := range p.entries {
		p.consider(e)
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
	if e == nil {
		e = &entry{pub: p, since: since(n)}
		e.wait(p.fresh)
		p.entries[n.ID] = e
	}
	e.node = n
	p.consider(e)
}

// consider does with an entry what is to be done as things are now.
func (p *publication) consider(e *entry) {
	age := time.Since(e.since)
	switch {
	case e.gone, p.all.refused != nil:
	case !p.reaches(e):
		p.withdraw(e)
	case e.client != nil:
		p.update(e)
	case e.queue == p.full, e.node != nil && age < settle:
	case e.node == nil, e.node.Sure && e.node.Listens != nil, age >= patience:
		p.place(e)
	case e.queue != p.unsure:
		e.wait(p.unsure)
	}
}

// reaches reports whether hosts that this interface leads to can reach what the entry stands for, as far
// as is known. They need epmd too.
func (p *publication) reaches(e *entry) bool {
	epmd := registry.Node{Listens: p.all.link.opts.Listens}
	if !epmd.ListensOn(p.addrs) {
		return false
	}
	return e.node == nil || e.node.Why == "" && e.node.ListensOn(p.addrs)
}

// withdraw takes back what was announced of something that is still there. A node that is fresh waits on: more may
// become known of it.
func (p *publication) withdraw(e *entry) {
	switch {
	case e.queue == p.fresh && e.queue != nil:
	case e.client == nil:
		e.wait(nil)
	case e.node == nil:
		p.host = &entry{pub: p}
		e.gone = true
		p.free(e)
	default:
		p.drop(e)
		p.entries[e.node.ID] = &entry{pub: p, node: e.node, since: e.since}
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
		e.wait(nil)
		p.consider(e)
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

// place gives the entry one of Avahi's places and publishes it, or lets it wait for one. It reports
// whether there was one.
func (p *publication) place(e *entry) bool {
	if p.all.refused != nil {
		e.wait(nil)
		return false
	}
	var c *client
	if p.placed < p.all.link.maxObjects {
		c = p.all.connection()
	}
	if c == nil {
		if e.queue != p.full {
			e.wait(p.full)
		}
		p.all.sayFull()
		return false
	}
	e.wait(nil)
	e.client = c
	c.objects++
	p.placed++
	c.call(serverPath, ifaceServer, "EntryGroupNew", func(r reply) { p.made(e, c, r) })
	return true
}

// made goes on once Avahi has made a group for the entry.
func (p *publication) made(e *entry, c *client, r reply) {
	path, err := r.path()
	switch {
	case e.gone: // and its place was given back then
		if err == nil {
			c.call(path, ifaceGroup, "Free", nil)
		}
	case r.is(errObjects), r.is(errClients): // others of this user's programs may count too
		p.unplace(e)
		c.limit = c.objects
		p.place(e)
	case err != nil:
		p.fail(e, err)
	default:
		e.group = path
		p.all.groups[path] = e
		e.announced = p.service(e)
		p.announce(e)
	}
}

// service returns what the entry is to announce as things are now.
func (p *publication) service(e *entry) service {
	opts, host := p.all.link.opts, p.all.session.host
	if e.node == nil {
		return hostService(host, opts.Port, opts.Version)
	}
	svc, leftOut := nodeService(e.node, host, opts.Port)
	if len(leftOut) > 0 && !e.saidLeftOut {
		e.saidLeftOut = true
		p.log.Warn("too long for a TXT record, left out", e.node.LogNames(), "keys", leftOut)
	}
	return svc
}

// announce tells Avahi the entry's service.
func (p *publication) announce(e *entry) {
	e.attempt++
	attempt := e.attempt
	added := func(r reply) {
		switch {
		case r.err == nil:
			p.all.accept()
		case e.gone || e.attempt != attempt:
		case r.is(errCollision):
			p.all.accept()
			p.rename(e)
		default:
			p.fail(e, r.err)
		}
	}
	svc := e.announced
	e.client.call(e.group, ifaceGroup, "AddService", added, p.iface, int32(goavahi.ProtoUnspec), uint32(0),
		svc.label, ServiceType, Domain, "", svc.port, svc.text)
	e.client.call(e.group, ifaceGroup, "Commit", nil)
}

// rename announces the entry under another name, because the one it has is taken.
func (p *publication) rename(e *entry) {
	p.unestablish(e)
	if e.attempt++; e.attempt > 2*maxRenames {
		p.fail(e, errors.New("all names taken"))
		return
	}
	e.client.call(e.group, ifaceGroup, "Reset", nil)
	e.client.call(serverPath, ifaceServer, "GetAlternativeServiceName", func(r reply) {
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
	e.client.call(e.group, ifaceGroup, "UpdateServiceTxt", func(r reply) { p.updated(e, r) }, p.iface,
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

// refusal returns what to say of an error of Avahi's that any other entry would meet too, or nil.
func refusal(err error) error {
	switch r := (reply{err: err}); {
	case r.is(errForbidden):
		return errors.New("avahi-daemon forbids it (disable-publishing or disable-user-service-publishing in avahi-daemon.conf)")
	case r.is(errDenied):
		return fmt.Errorf("the system bus forbids it: %w", err)
	}
	return nil
}

// fail gives up an entry that Avahi refuses, unless it refuses all. It is tried again when the node registers anew, or
// in the next session.
func (p *publication) fail(e *entry, reason error) {
	if reason := refusal(reason); reason != nil {
		p.all.refuse(reason)
		return
	}
	what := slog.String("host", p.all.session.host)
	if e.node != nil {
		what = e.node.LogNames()
	}
	p.log.Warn("Avahi refuses to publish", what, "err", reason)
	e.gone = true
	p.free(e)
}

// free gives back what Avahi holds for the entry. Its place goes to one that waits.
func (p *publication) free(e *entry) {
	p.unestablish(e)
	if e.group != "" {
		delete(p.all.groups, e.group)
		e.client.call(e.group, ifaceGroup, "Free", nil)
		e.group = ""
	}
	if e.client != nil {
		p.unplace(e)
		p.all.fill()
	}
}

// unplace takes note that the entry has no place any more.
func (p *publication) unplace(e *entry) {
	e.client.objects--
	e.client = nil
	p.placed--
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
		p.all.session.reached = true
		if e.node == nil {
			p.look()
		}
	case goavahi.EntryGroupCollision:
		p.rename(e)
	case goavahi.EntryGroupFailure:
		p.fail(e, fmt.Errorf("entry group failed: %s", reason))
	}
	return nil
}

// noAddress is the flag with which Avahi resolves a service without its address
// (AVAHI_LOOKUP_NO_ADDRESS).
const noAddress = 8

// While an interface seems to be unused, Avahi is asked again after pauses that double: it may have had
// too much to do, or has yet to notice the interface.
const (
	firstLookAgain = 5 * time.Second
	lastLookAgain  = 5 * time.Minute
)

// doubt takes the interface for unused, and looks again later.
func (p *publication) doubt() {
	if !p.unused {
		p.unused = true
		p.log.Debug("Avahi does not use this interface")
	}
	mail := p.all.session.mail
	time.AfterFunc(p.lookAgain, func() {
		mail.post(func() error {
			if p.unused && !p.host.gone {
				p.look()
			}
			return nil
		})
	})
	p.lookAgain = min(2*p.lookAgain, lastLookAgain)
}

// look finds out whether Avahi uses the interface at all: on one that it does not use it calls every
// group established, and announces nothing. What the host is announced as is looked for there, which
// Avahi gives up after 5 s.
func (p *publication) look() {
	e := p.host
	if p.relook = p.looking; p.looking || !e.established {
		return
	}
	p.looking = true
	p.all.session.main.call(serverPath, ifaceServer, "ResolveService", func(r reply) {
		p.looking = false
		switch {
		case p.relook:
			p.look()
		case r.err == nil:
			p.unused, p.lookAgain = false, firstLookAgain
		case r.is(errTimeout):
			p.doubt()
		}
	}, p.iface, int32(goavahi.ProtoUnspec), e.announced.label, ServiceType, Domain, int32(goavahi.ProtoUnspec), uint32(noAddress))
}

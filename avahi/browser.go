package avahi

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goerlang/eclus/internal/throttle"
	"github.com/goerlang/eclus/registry"

	"github.com/godbus/dbus/v5"
	goavahi "github.com/holoplot/go-avahi"
)

// How long neighbours count that were known before avahi-daemon went.
const (
	absence = 5 * time.Second         // from when it went
	rebirth = 3500 * time.Millisecond // from when it is back: it asks at 0, 1 and 3 s
)

// An instance that couldn't be resolved is tried again after 1 s, 2 s and so on, up to 64 s.
const (
	firstResolve    = time.Second
	maxResolveTries = 8
)

// Flags of Avahi's results (avahi-common/defs.h).
const (
	flagLocal  = 8  // of this host
	flagOurOwn = 16 // of this program
)

// browser finds the nodes that other hosts announce.
type browser struct{ *part }

func newBrowser(b *board, opts Options, log *slog.Logger) *browser {
	return &browser{newPart("browsing", b, &b.lan.Browsing, opts, log)}
}

// Run browses until ctx ends, then removes the neighbours from the registry.
func (b *browser) Run(ctx context.Context) {
	known := newFindings(b.reg, b.opts.EPMDs)
	say := throttle.New()
	defer known.close()
	b.run(ctx, func(ctx context.Context, s *session) error { return b.browse(ctx, s, known, say) })
}

// streamsChanged has the instances reviewed.
func (b *browser) streamsChanged() {
	if s := b.present.Load(); s != nil {
		s.mail.post(func() error {
			if s.onStreams != nil {
				s.onStreams()
			}
			return nil
		})
	}
}

// browse is one session of Run.
func (b *browser) browse(ctx context.Context, s *session, known *findings, say *throttle.Throttle) error {
	bs := &browseSession{
		part: b.part, session: s, known: known, say: say, ctx: ctx,
		browsers:  make(map[dbus.ObjectPath]int32),
		instances: make(map[Place]*foundInstance),
		resolvers: make(map[dbus.ObjectPath]*foundInstance),
		full:      list.New(),
	}
	defer bs.end()
	known.doubt(rebirth)
	defer known.doubt(absence)
	b.on(s)
	s.onSignal, s.onStreams = bs.signal, bs.reviewAll
	bs.readdress()
	bs.start(s.interfaces)
	return bs.follow()
}

// browseSession is what one session sees. Its methods run in one goroutine.
type browseSession struct {
	part    *part
	session *session
	known   *findings
	say     *throttle.Throttle
	ctx     context.Context

	browsers  map[dbus.ObjectPath]int32 // and their interfaces
	instances map[Place]*foundInstance
	resolvers map[dbus.ObjectPath]*foundInstance
	full      *list.List // instances for which Avahi has no place

	own ownAddresses

	resolved int
	saidFull bool
	failed   error // ends the session
}

// foundInstance is a service instance in one place, from ItemNew to ItemRemove.
type foundInstance struct {
	Place
	gone  bool
	elem  *list.Element // in full, or nil
	tries int           // to resolve it, that failed in a row
	timer *time.Timer   // to the next try, or nil

	client   *client         // that has the resolver, or is about to
	resolver dbus.ObjectPath // once Avahi has made it

	record   *record // what it was last resolved to; nil: it is not
	resolved bool    // and that can be used
	kind     kind
}

// start begins to browse on more interfaces.
func (b *browseSession) start(interfaces []int32) {
	main := b.session.main
	for _, i := range interfaces {
		main.objects++
		main.call(serverPath, ifaceServer, "ServiceBrowserNew", func(r reply) {
			path, err := r.path()
			if err != nil {
				b.failed = fmt.Errorf("browse: %w", err)
				return
			}
			b.browsers[path] = i
			b.session.reached = true
			if !slices.Contains(b.session.interfaces, i) {
				b.stop(path)
			}
		}, i, int32(goavahi.ProtoUnspec), ServiceType, Domain, uint32(0))
	}
}

// stop ends a service browser. It forgets all that was seen on its interface.
func (b *browseSession) stop(path dbus.ObjectPath) {
	iface := b.browsers[path]
	delete(b.browsers, path)
	b.session.main.call(path, ifaceBrowser, "Free", nil)
	b.session.main.objects--
	for _, it := range b.instances {
		if it.Interface == iface {
			b.drop(it)
		}
	}
}

// relink follows the interfaces.
func (b *browseSession) relink() error {
	gone, come, err := b.session.relink()
	if err != nil {
		return err
	}
	for path, i := range b.browsers {
		if slices.Contains(gone, i) {
			b.stop(path)
		}
	}
	b.start(come)
	b.readdress()
	return nil
}

// readdress follows the addresses of this host.
func (b *browseSession) readdress() {
	own, subnets, err := readOwnAddresses(b.session.interfaces)
	if err != nil {
		b.failed = err
		return
	}
	b.part.reg.SetLANPrefixes(subnets)
	was := b.own
	b.own = own
	for _, it := range b.instances {
		if r := it.record; r != nil && was.has(r.addr, it.Interface) != own.has(r.addr, it.Interface) {
			b.consider(it, *r)
		}
	}
}

// follow deals with what comes in until the session is over.
func (b *browseSession) follow() error {
	for {
		var err error
		select {
		case <-b.ctx.Done():
			return b.ctx.Err()
		case <-b.session.mail.ready:
			err = b.session.mail.handle()
		case <-b.session.links.Changed():
			err = b.relink()
		}
		if err = errors.Join(err, b.failed); err != nil {
			return err
		}
		b.part.setState(state{Instances: b.resolved, Waiting: b.full.Len()})
	}
}

// end stops the timers that the session has set.
func (b *browseSession) end() {
	for _, it := range b.instances {
		it.stop()
	}
}

// signal deals with what Avahi tells of its own accord.
func (b *browseSession) signal(sig signal) error {
	if _, found := b.browsers[sig.path]; found && sig.iface == ifaceBrowser {
		return b.browsed(sig)
	}
	it := b.resolvers[sig.path]
	if it == nil || sig.iface != ifaceResolve {
		return nil // of an object that has been freed
	}
	if sig.member == "Found" {
		return b.found(it, sig)
	}
	b.lost(it)
	b.retry(it)
	return nil
}

// browsed deals with a signal of a service browser.
func (b *browseSession) browsed(sig signal) error {
	switch sig.member {
	case "ItemNew", "ItemRemove":
	case "Failure":
		return fmt.Errorf("browse: %v", sig.body)
	default: // AllForNow and CacheExhausted: nothing is done at the end of a list
		return nil
	}
	var p Place
	var kind, domain string
	var flags uint32
	if err := dbus.Store(sig.body, &p.Interface, &p.Protocol, &p.Label, &kind, &domain, &flags); err != nil {
		return fmt.Errorf("read %s: %w", sig.member, err)
	}
	it := b.instances[p]
	switch {
	case sig.member == "ItemRemove" && it != nil:
		b.drop(it)
	case sig.member == "ItemNew" && it == nil && flags&(flagLocal|flagOurOwn) == 0:
		it = &foundInstance{Place: p}
		b.instances[p] = it
		b.review(it)
	}
	return nil
}

// review resolves an instance, or ends that if its host tells its nodes over a stream.
func (b *browseSession) review(it *foundInstance) {
	streamed := it.streamed(b.part.opts.Streams)
	switch {
	case streamed && it.elem != nil:
		b.full.Remove(it.elem)
		it.elem = nil
	case streamed:
		b.lost(it)
	case it.client == nil && it.elem == nil && it.timer == nil && it.tries < maxResolveTries:
		b.resolve(it)
	}
}

func (b *browseSession) reviewAll() {
	for _, it := range b.instances {
		b.review(it)
	}
}

// streamed reports whether the instance is called NAME@HOST, and HOST gives a stream.
func (it *foundInstance) streamed(streams Streams) bool {
	_, host, found := strings.Cut(it.Label, "@")
	return found && streams != nil && streams.Streamed(host)
}

// drop forgets an instance that has gone.
func (b *browseSession) drop(it *foundInstance) {
	delete(b.instances, it.Place)
	it.gone = true
	if it.elem != nil {
		b.full.Remove(it.elem)
		it.elem = nil
	}
	b.lost(it)
}

// resolve has Avahi resolve the instance, now and whenever one of its records changes. If Avahi
// has no place for it, it waits for one. Avahi looks for an address of the IP version over
// which the instance was seen: this host can use that one. After a failure any will do.
func (b *browseSession) resolve(it *foundInstance) {
	c := b.client()
	if c == nil {
		it.elem = b.full.PushBack(it)
		b.sayFull()
		return
	}
	it.client = c
	c.objects++
	addresses := it.Protocol
	if it.tries > 0 {
		addresses = goavahi.ProtoUnspec
	}
	c.call(serverPath, ifaceServer, "ServiceResolverNew", func(r reply) { b.resolving(it, c, r) },
		it.Interface, it.Protocol, it.Label, ServiceType, Domain, addresses, uint32(0))
}

// client returns a connection that has a place for another object. nil: none has.
func (b *browseSession) client() *client {
	for _, c := range b.session.clients {
		if c.objects < b.part.maxObjects {
			return c
		}
	}
	if len(b.session.clients) >= b.part.maxClients {
		return nil
	}
	c, err := b.session.dial()
	if err != nil {
		b.failed = err
		return nil
	}
	return c
}

func (b *browseSession) sayFull() {
	if !b.saidFull {
		b.saidFull = true
		b.part.log.Warn("more instances on the LAN than Avahi resolves for us: not all nodes are seen",
			"limit", b.part.maxClients*b.part.maxObjects)
	}
}

// resolving goes on once Avahi has made a resolver.
func (b *browseSession) resolving(it *foundInstance, c *client, r reply) {
	path, err := r.path()
	switch {
	case err != nil:
		b.release(c)
		if it.client = nil; !it.gone {
			b.part.log.Debug("Avahi refuses to resolve", "instance", it.Label, "err", err)
			b.retry(it)
		}
	case it.gone:
		c.call(path, ifaceResolve, "Free", nil)
		b.release(c)
	default:
		it.resolver = path
		b.resolvers[path] = it
	}
}

// release notes that an object has gone. Its place goes to an instance that waits for one.
func (b *browseSession) release(c *client) {
	c.objects--
	if e := b.full.Front(); e != nil {
		it := b.full.Remove(e).(*foundInstance)
		it.elem = nil
		b.resolve(it)
	}
}

// lost ends the resolver and forgets what it found.
func (b *browseSession) lost(it *foundInstance) {
	b.forget(it)
	it.record = nil
	if it.resolver != "" {
		delete(b.resolvers, it.resolver)
		it.client.call(it.resolver, ifaceResolve, "Free", nil)
		it.resolver = ""
		b.release(it.client)
		it.client = nil
	}
}

// retry resolves the instance again after a pause. If that has failed too often, the instance
// is left until it goes and comes again.
func (b *browseSession) retry(it *foundInstance) {
	if it.tries++; it.tries < maxResolveTries {
		b.after(it, firstResolve<<(it.tries-1), func() { b.resolve(it) })
	}
}

// after sets the instance's timer.
func (b *browseSession) after(it *foundInstance, d time.Duration, do func()) {
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		b.session.mail.post(func() error {
			if it.timer == t {
				it.timer = nil
				do()
			}
			return nil
		})
	})
	it.timer = t
}

func (it *foundInstance) stop() {
	if it.timer != nil {
		it.timer.Stop()
		it.timer = nil
	}
}

// found takes note of what an instance has been resolved to.
func (b *browseSession) found(it *foundInstance, sig signal) error {
	var s goavahi.Service
	err := dbus.Store(sig.body, &s.Interface, &s.Protocol, &s.Name, &s.Type, &s.Domain, &s.Host, &s.Aprotocol,
		&s.Address, &s.Port, &s.Txt, &s.Flags)
	if err != nil {
		return fmt.Errorf("read a resolved service: %w", err)
	}
	slices.Reverse(s.Txt) // avahi-daemon gives the last string first
	it.tries = 0
	if s.Flags&(flagLocal|flagOurOwn) != 0 || strings.EqualFold(s.Host, b.session.fqdn) {
		b.forget(it)
		return nil
	}
	r := record{it.Label, s.Host, s.Port, s.Txt, address(s.Address, s.Interface)}
	b.consider(it, r)
	return nil
}

// consider checks what an instance has been resolved to. What leads to an address of this host
// is no news of another host. It is another name of this host, a reflector, or a lie.
func (b *browseSession) consider(it *foundInstance, r record) {
	it.record = &r
	if b.own.has(r.addr, it.Interface) {
		b.part.log.Debug("announcement leads to this host", "instance", it.Label, "host", r.host, "address", r.addr)
		b.forget(it)
		return
	}
	kind, n, err := parse(r)
	if err != nil {
		b.forget(it)
		b.reject("bad announcement on the LAN", it, r.host, err)
		return
	}
	b.learn(it, kind, n)
}

// reject logs that something of a host can't be used, once a minute for each host.
func (b *browseSession) reject(what string, it *foundInstance, host string, reason error) {
	if withheld, ok := b.say.May(host); ok {
		b.part.log.Warn(what, "instance", it.Label, "host", host, "err", reason, "withheld", withheld)
	}
}

// address returns the address that Avahi gives as a string. A link-local one gets its interface
// as its zone. What is no address is the zero Addr.
func address(s string, iface int32) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is6() || !a.IsLinkLocalUnicast() {
		return a
	}
	return a.WithZone(interfaceName(iface))
}

// interfaceName returns the name of the interface with that index. If it has gone, it returns
// the number.
func interfaceName(index int32) string {
	i, err := net.InterfaceByIndex(int(index))
	if err != nil {
		return strconv.Itoa(int(index))
	}
	return i.Name
}

// learn enters what an instance stands for.
func (b *browseSession) learn(it *foundInstance, kind kind, n registry.Node) {
	if it.resolved && it.kind != kind {
		b.forget(it)
	}
	if !it.resolved {
		it.resolved = true
		b.resolved++
	}
	it.kind = kind
	if kind == kindNode {
		b.see(it, n)
	} else {
		b.known.found(it.Place, EPMD{
			Host: n.Host, Interface: interfaceName(it.Interface), Announces: kind == kindHost,
			Addrs: []netip.AddrPort{netip.AddrPortFrom(n.Addresses[0], n.Port)},
		})
	}
}

// see enters a node.
func (b *browseSession) see(it *foundInstance, n registry.Node) {
	err := b.known.nodes.See(it.Place, n)
	if err == nil {
		return
	}
	if withheld, ok := b.say.May("limit"); ok {
		b.part.log.Warn("LAN node left out", "err", err, "withheld", withheld)
	}
}

// forget takes back what learn has entered.
func (b *browseSession) forget(it *foundInstance) {
	it.stop()
	if !it.resolved {
		return
	}
	it.resolved = false
	b.resolved--
	if it.kind == kindNode {
		b.known.nodes.Lose(it.Place)
	} else {
		b.known.gone(it.Place)
	}
}

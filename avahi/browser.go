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

	"github.com/goerlang/eclus/internal/netif"
	"github.com/goerlang/eclus/internal/throttle"

	"github.com/godbus/dbus/v5"
	goavahi "github.com/holoplot/go-avahi"
)

// How long neighbours count that were known before avahi-daemon went.
const (
	absence = 5 * time.Second // from when it went
	rebirth = 5 * time.Second // from when it is back: it asks at 0, 1 and 3 s, of nodes nodesLater
)

// nodesLater is how much later than hosts all instances are looked for, where hosts may give
// streams. By then most of these have given one, even if many began together. So their nodes'
// instances, of which Avahi may bring hundreds at once, needn't be resolved.
const nodesLater = 1500 * time.Millisecond

// hostsEnd is how long hosts are looked for by their subtype, after all instances are. They are
// among these. Avahi asks the LAN again and again for what is browsed.
const hostsEnd = 10 * time.Second

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

// streamsChanged has the session look at all instances again. Several calls in a row may count as
// one.
func (b *browser) streamsChanged() {
	s := b.present.Load()
	if s == nil || s.streamsAsked.Swap(true) {
		return
	}
	s.mail.post(func() error {
		if s.streamsAsked.Store(false); s.onStreams != nil {
			s.onStreams()
		}
		return nil
	})
}

// findAgain has the session look for the addresses of a host.
func (b *browser) findAgain(host string) {
	if s := b.present.Load(); s != nil {
		s.mail.post(func() error {
			if s.onFind != nil {
				s.onFind(host)
			}
			return nil
		})
	}
}

// browse is one session of Run.
func (b *browser) browse(ctx context.Context, s *session, known *findings, say *throttle.Throttle) error {
	bs := &browseSession{
		part: b.part, session: s, known: known, say: say, ctx: ctx,
		links:     make(map[int32]*browseLink),
		browsers:  make(map[dbus.ObjectPath]*serviceBrowser),
		instances: make(map[Place]*foundInstance),
		resolvers: make(map[dbus.ObjectPath]*foundInstance),
		hosts:     make(map[hostKey]*foundHost),
		records:   make(map[dbus.ObjectPath]*foundHost),
		starting:  make(map[string]int),
		full:      list.New(), hostsFull: list.New(),
	}
	defer bs.end()
	known.doubt(rebirth)
	defer known.doubt(absence)
	b.on(s)
	s.onSignal, s.onStreams, s.onFind = bs.signal, bs.reviewAll, bs.findAgain
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

	links     map[int32]*browseLink // by index of the interface
	browsers  map[dbus.ObjectPath]*serviceBrowser
	instances map[Place]*foundInstance
	resolvers map[dbus.ObjectPath]*foundInstance
	hosts     map[hostKey]*foundHost
	records   map[dbus.ObjectPath]*foundHost // by their record browsers
	starting  map[string]int                 // instances of each host that are starting

	full, hostsFull *list.List // instances and hosts for which Avahi has no place

	own     ownAddresses
	subnets []netif.Address // of this host, on the interfaces in use

	resolved int
	saidFull bool
	failed   error // ends the session
}

// browseLink is one link on which instances are looked for.
type browseLink struct {
	iface int32
	gone  bool
	later alarm // to nodesLater, then to hostsEnd
}

// serviceBrowser is one of Avahi's.
type serviceBrowser struct {
	link *browseLink
	kind string // HostSubtype or ServiceType
}

// start begins to browse on more interfaces: for hosts first.
func (b *browseSession) start(interfaces []int32) {
	for _, i := range interfaces {
		l := &browseLink{iface: i}
		b.links[i] = l
		b.browseFor(l, HostSubtype)
		if b.part.opts.Streams == nil {
			b.browseFor(l, ServiceType)
			continue
		}
		l.later.set(b.session.mail, nodesLater, func() {
			b.browseFor(l, ServiceType)
			b.endHostsLater(l)
		})
	}
}

// endHostsLater stops looking for hosts by their subtype, once they have been found without.
func (b *browseSession) endHostsLater(l *browseLink) {
	l.later.set(b.session.mail, hostsEnd, func() {
		for _, it := range b.instances {
			if it.Interface == l.iface && !slices.Contains(it.kinds, ServiceType) {
				b.endHostsLater(l)
				return
			}
		}
		for path, sb := range b.browsers {
			if sb.link == l && sb.kind == HostSubtype {
				b.free(path)
			}
		}
		for _, it := range b.instances {
			if it.Interface == l.iface {
				it.kinds = []string{ServiceType}
			}
		}
	})
}

// browseFor begins to look for instances of a kind on a link.
func (b *browseSession) browseFor(l *browseLink, kind string) {
	main := b.session.main
	main.objects++
	main.call(serverPath, ifaceServer, "ServiceBrowserNew", func(r reply) {
		path, err := r.path()
		if err != nil {
			b.failed = fmt.Errorf("browse: %w", err)
			return
		}
		b.browsers[path] = &serviceBrowser{l, kind}
		b.session.reached = true
		if l.gone {
			b.free(path)
		}
	}, l.iface, int32(goavahi.ProtoUnspec), kind, Domain, uint32(0))
}

// free ends a service browser.
func (b *browseSession) free(path dbus.ObjectPath) {
	delete(b.browsers, path)
	b.session.main.call(path, ifaceBrowser, "Free", nil)
	b.session.main.objects--
}

// stop ends browsing on a link. It forgets all that was seen there.
func (b *browseSession) stop(l *browseLink) {
	l.gone = true
	l.later.stop()
	delete(b.links, l.iface)
	for path, sb := range b.browsers {
		if sb.link == l {
			b.free(path)
		}
	}
	for _, it := range b.instances {
		if it.Interface == l.iface {
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
	for _, i := range gone {
		b.stop(b.links[i])
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
	prefixes := make([]netip.Prefix, len(subnets))
	for i, a := range subnets {
		prefixes[i] = a.Prefix
	}
	b.part.reg.SetLANPrefixes(prefixes)
	b.own, b.subnets = own, subnets
	for _, h := range b.hosts {
		b.readdressed(h)
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
		b.part.setState(state{Instances: b.resolved, Waiting: b.full.Len() + b.hostsFull.Len()})
	}
}

// end stops the timers that the session has set.
func (b *browseSession) end() {
	for _, l := range b.links {
		l.later.stop()
	}
	for _, it := range b.instances {
		it.retry.stop()
		it.start.stop()
	}
	for _, h := range b.hosts {
		h.settle.stop()
		h.next.stop()
	}
}

// signal deals with what Avahi tells of its own accord. Of an object that has been freed, that
// doesn't matter.
func (b *browseSession) signal(sig signal) error {
	switch sig.iface {
	case ifaceBrowser:
		if sb := b.browsers[sig.path]; sb != nil {
			return b.browsed(sb, sig)
		}
	case ifaceResolve:
		if it := b.resolvers[sig.path]; it != nil {
			return b.answered(it, sig)
		}
	case ifaceRecord:
		if h := b.records[sig.path]; h != nil {
			return b.addressed(h, sig)
		}
	}
	return nil
}

// browsed deals with a signal of a service browser.
func (b *browseSession) browsed(sb *serviceBrowser, sig signal) error {
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
	if flags&(flagLocal|flagOurOwn) != 0 {
		return nil
	}
	if sig.member == "ItemNew" {
		b.come(p, sb.kind)
	} else {
		b.goes(p, sb.kind)
	}
	return nil
}

// client returns a connection that has places for so many other objects below a limit. nil:
// none has.
func (b *browseSession) client(objects, limit int) *client {
	for _, c := range b.session.clients {
		if c.objects+objects <= limit {
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

// release notes that objects have gone. Their places go to what waits for them.
func (b *browseSession) release(c *client, objects int) {
	c.objects -= objects
	if e := b.hostsFull.Front(); e != nil {
		h := b.hostsFull.Remove(e).(*foundHost)
		h.elem = nil
		b.find(h)
		b.tend(h)
	}
	if e := b.full.Front(); e != nil {
		it := b.full.Remove(e).(*foundInstance)
		it.elem = nil
		b.resolve(it)
	}
}

// reject logs that something of a host can't be used, once a minute for each host.
func (b *browseSession) reject(what string, it *foundInstance, host string, reason error) {
	if withheld, ok := b.say.May(host); ok {
		b.part.log.Warn(what, "instance", it.Label, "host", host, "err", reason, "withheld", withheld)
	}
}

// streamed reports whether the epmd of a host tells its nodes over a stream, or may be about
// to. host is a label.
func (b *browseSession) streamed(host string) bool {
	s := b.part.opts.Streams
	return s != nil && (b.starting[strings.ToLower(host)] > 0 || s.Streamed(host))
}

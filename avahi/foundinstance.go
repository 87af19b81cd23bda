package avahi

import (
	"container/list"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/goerlang/eclus/internal/netif"
	"github.com/goerlang/eclus/registry"

	"github.com/godbus/dbus/v5"
	goavahi "github.com/holoplot/go-avahi"
)

// An instance that couldn't be resolved is tried again after 1 s, 2 s and so on, up to 64 s.
const (
	firstResolve    = time.Second
	maxResolveTries = 8
)

// startTime is how long a host may take to be resolved. Until then, the instances of its nodes
// are not.
const startTime = 2 * time.Second

// foundInstance is a service instance in one place, from ItemNew to ItemRemove.
type foundInstance struct {
	Place
	kinds []string // HostSubtype or ServiceType, or both: what it was seen as
	gone  bool
	start alarm         // of the host's own: to startTime; set while the host is starting
	elem  *list.Element // in full, or nil
	tries int           // to resolve it, that failed in a row
	retry alarm         // to the next try

	client   *client         // that has the resolver, or is about to
	resolver dbus.ObjectPath // once Avahi has made it
	unwanted bool            // the resolver that Avahi is about to make

	record   *record    // what it was last resolved to; nil: it is not
	host     *foundHost // where the record leads; nil: nowhere
	resolved bool       // and that can be used
	kind     kind
}

// come notes that an instance is seen as one of a kind.
func (b *browseSession) come(p Place, kind string) {
	it := b.instances[p]
	if it == nil {
		it = &foundInstance{Place: p}
		b.instances[p] = it
	}
	if !slices.Contains(it.kinds, kind) {
		it.kinds = append(it.kinds, kind)
	}
	if _, isNode := it.nodeHost(); !isNode && !it.resolved {
		b.starts(it)
	}
	b.review(it)
}

// goes notes that an instance is gone as one of a kind. It may still be there as one of the other.
func (b *browseSession) goes(p Place, kind string) {
	it := b.instances[p]
	if it == nil {
		return
	}
	it.kinds = slices.DeleteFunc(it.kinds, func(k string) bool { return k == kind })
	if len(it.kinds) == 0 {
		b.drop(it)
	}
}

// starts notes that what may be a host was found. Its nodes may soon come over a stream.
func (b *browseSession) starts(it *foundInstance) {
	if it.start.isSet() {
		return
	}
	b.starting[strings.ToLower(it.Label)]++
	it.start.set(b.session.mail, startTime, func() { b.endStart(it) })
}

// started notes that others know now of the host that was found. They decide what becomes of
// its nodes.
func (b *browseSession) started(it *foundInstance) {
	if it.start.isSet() {
		it.start.stop()
		b.endStart(it)
	}
}

func (b *browseSession) endStart(it *foundInstance) {
	host := strings.ToLower(it.Label)
	if b.starting[host]--; b.starting[host] > 0 {
		return
	}
	delete(b.starting, host)
	for _, other := range b.instances {
		if of, found := other.nodeHost(); found && strings.EqualFold(of, host) {
			b.review(other)
		}
	}
}

// drop forgets an instance that has gone.
func (b *browseSession) drop(it *foundInstance) {
	delete(b.instances, it.Place)
	it.gone = true
	b.lose(it)
	b.started(it)
}

// nodeHost returns HOST of an instance that is called NAME@HOST. Avahi may have added a number,
// because the name was taken.
func (it *foundInstance) nodeHost() (host string, found bool) {
	if _, host, found = strings.Cut(it.Label, "@"); !found {
		return "", false
	}
	if name, n, numbered := strings.Cut(host, " #"); numbered && number(n, 16) > 0 {
		host = name
	}
	return host, true
}

func (b *browseSession) reviewAll() {
	for _, it := range b.instances {
		b.review(it)
	}
}

// review resolves an instance unless a stream makes that needless. A node comes over the stream.
// Of the host itself, what was found is kept.
func (b *browseSession) review(it *foundInstance) {
	host, isNode := it.nodeHost()
	switch {
	case isNode && b.streamed(host):
		b.lose(it)
		it.tries = 0
	case !isNode && it.resolved && it.kind == kindHost && b.streamed(registry.HostLabel(it.record.host)):
		b.unresolve(it)
		it.tries = 0
	case it.client != nil:
		it.unwanted = false
	case it.elem == nil && !it.retry.isSet() && it.tries < maxResolveTries:
		b.resolve(it)
	}
	if it.host != nil {
		b.tend(it.host)
	}
}

// resolve has Avahi resolve the instance, now and whenever one of its records changes. If Avahi
// has no place for it, it waits for one. A third of the places are for hosts, which have the
// addresses.
func (b *browseSession) resolve(it *foundInstance) {
	c := b.client(1, b.part.maxObjects-b.part.maxObjects/3)
	if c == nil {
		it.elem = b.full.PushBack(it)
		b.sayFull()
		return
	}
	it.client = c
	c.objects++
	c.call(serverPath, ifaceServer, "ServiceResolverNew", func(r reply) { b.resolving(it, c, r) },
		it.Interface, it.Protocol, it.Label, ServiceType, Domain, int32(goavahi.ProtoUnspec), uint32(noAddress))
}

// resolving goes on once Avahi has made a resolver.
func (b *browseSession) resolving(it *foundInstance, c *client, r reply) {
	path, err := r.path()
	if err == nil && !it.unwanted {
		it.resolver = path
		b.resolvers[path] = it
		return
	}
	wanted := !it.unwanted
	it.client, it.unwanted = nil, false
	if err == nil {
		c.call(path, ifaceResolve, "Free", nil)
	}
	b.release(c, 1)
	if wanted {
		b.part.log.Debug("Avahi refuses to resolve", "instance", it.Label, "err", err)
		b.again(it)
	}
}

// unresolve ends the resolver. What was found counts on.
func (b *browseSession) unresolve(it *foundInstance) {
	it.retry.stop()
	if it.elem != nil {
		b.full.Remove(it.elem)
		it.elem = nil
	}
	switch c := it.client; {
	case it.resolver != "":
		delete(b.resolvers, it.resolver)
		c.call(it.resolver, ifaceResolve, "Free", nil)
		it.resolver, it.client = "", nil
		b.release(c, 1)
	case c != nil:
		it.unwanted = true
	}
}

// lose ends the resolver and forgets what it found.
func (b *browseSession) lose(it *foundInstance) {
	b.forget(it)
	b.leave(it)
	it.record = nil
	b.unresolve(it)
}

// again resolves the instance again after a pause. If that has failed too often, the instance is
// left until it goes and comes again.
func (b *browseSession) again(it *foundInstance) {
	if it.tries++; it.tries < maxResolveTries {
		it.retry.set(b.session.mail, firstResolve<<(it.tries-1), func() { b.resolve(it) })
	}
}

// answered deals with what a resolver says. An epmd that can't be resolved any more is still
// announced: others find out whether it is there.
func (b *browseSession) answered(it *foundInstance, sig signal) error {
	if sig.member == "Found" {
		return b.found(it, sig)
	}
	if it.resolved && it.kind != kindNode {
		b.unresolve(it)
	} else {
		b.lose(it)
	}
	b.again(it)
	return nil
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
		b.leave(it)
		b.started(it)
		return nil
	}
	it.record = &record{label: it.Label, host: s.Host, port: s.Port, text: s.Txt}
	b.join(it)
	b.consider(it)
	return nil
}

// consider checks what an instance has been resolved to, once its host's addresses are known. If
// all of them are ours, it is left out: it is another name of this host, a reflector, or a lie.
func (b *browseSession) consider(it *foundInstance) {
	r, h := *it.record, it.host
	if h != nil && h.own {
		b.part.log.Debug("announcement leads to this host", "instance", it.Label, "host", r.host)
		b.forget(it)
		b.started(it)
		return
	}
	if h != nil {
		if r.addrs = h.addrs; len(r.addrs) == 0 {
			return // to come
		}
	}
	kind, n, err := parse(r)
	if err != nil {
		b.forget(it)
		b.reject("bad announcement on the LAN", it, r.host, err)
	} else {
		b.learn(it, kind, n)
	}
	b.started(it)
	b.review(it)
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
		return
	}
	e := EPMD{Host: n.Host, Interface: netif.Name(int(it.Interface)), Announces: kind == kindHost, Version: it.record.version()}
	for _, a := range n.Addresses {
		e.Addrs = append(e.Addrs, netip.AddrPortFrom(a, n.Port))
	}
	b.known.found(it.Place, e)
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

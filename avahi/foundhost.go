package avahi

import (
	"cmp"
	"container/list"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/goerlang/eclus/internal/netif"
	"github.com/goerlang/eclus/registry"

	"github.com/godbus/dbus/v5"
	goavahi "github.com/holoplot/go-avahi"
)

// Class and types of DNS records with addresses.
const (
	classIN  = 1
	typeA    = 1
	typeAAAA = 28
)

// settleAddrs is how long more addresses of a host are waited for, once one has come or gone.
const settleAddrs = 20 * time.Millisecond

// maxAddrs is how many addresses of a host count on one link.
const maxAddrs = 16

// The addresses of a host are browsed for as long as anything of the host is resolved. If a stream
// makes that needless, they are browsed for searchTime every searchEvery, or when somebody doubts
// them. Avahi asks the LAN again and again for what is browsed.
const (
	searchTime  = 5 * time.Second
	searchEvery = 10 * time.Minute
)

// foundHost is a host on one link, to which found instances lead. A resolver finds one address.
// So Avahi browses all of the host's records.
type foundHost struct {
	hostKey
	users  map[*foundInstance]struct{} // never empty
	elem   *list.Element               // in hostsFull, or nil
	search *search                     // or nil
	next   alarm                       // to when the search ends or another begins

	named  map[netip.Addr]bool // all addresses in the records; whether the present search found it
	settle alarm

	addrs []netip.Addr // that this host can use, best first. The last ones, if all have gone.
	own   bool         // all that are usable are of this host
}

// search is the time in which Avahi browses the addresses of a host. It does so over the IP
// version that an address is for: this host can use that one.
type search struct {
	client  *client
	records []dbus.ObjectPath // record browsers, once Avahi has made them
	ended   bool
}

// hostKey is what makes a foundHost. The name is in lower case.
type hostKey struct {
	iface int32
	name  string
}

// join has an instance know the addresses of the host that its record names.
func (b *browseSession) join(it *foundInstance) {
	if !registry.ValidHost(strings.TrimSuffix(it.record.host, ".")) {
		b.leave(it)
		return
	}
	key := hostKey{it.Interface, strings.ToLower(it.record.host)}
	h := b.hosts[key]
	if h != nil && it.host == h {
		return
	}
	if h == nil {
		h = &foundHost{hostKey: key, users: make(map[*foundInstance]struct{}), named: make(map[netip.Addr]bool)}
		b.hosts[key] = h
	}
	b.leave(it)
	it.host = h
	h.users[it] = struct{}{}
	b.tend(h)
}

// leave undoes join. A host to which no instance leads is forgotten.
func (b *browseSession) leave(it *foundInstance) {
	h := it.host
	if h == nil {
		return
	}
	it.host = nil
	if delete(h.users, it); len(h.users) > 0 {
		b.tend(h)
		return
	}
	delete(b.hosts, h.hostKey)
	h.settle.stop()
	h.next.stop()
	b.endSearch(h)
}

// tend sees to it that the host's addresses are looked for when they should be.
func (b *browseSession) tend(h *foundHost) {
	switch {
	case !b.allStreamed(h):
		h.next.stop()
		b.find(h)
	case h.search != nil && !h.next.isSet():
		mail, again := b.session.mail, func() { b.find(h); b.tend(h) }
		h.next.set(mail, b.part.searchTime, func() {
			b.endSearch(h)
			h.next.set(mail, b.part.searchEvery, again)
		})
	}
}

// findAgain looks for the addresses of a host once more, or for longer.
func (b *browseSession) findAgain(host string) {
	for _, h := range b.hosts {
		if strings.EqualFold(strings.TrimSuffix(h.name, "."), host) {
			h.next.stop()
			b.find(h)
			b.tend(h)
		}
	}
}

// allStreamed reports whether a stream makes it needless to resolve what leads to the host.
func (b *browseSession) allStreamed(h *foundHost) bool {
	for it := range h.users {
		if it.client != nil && !it.unwanted || it.elem != nil || it.retry.isSet() {
			return false
		}
	}
	return true
}

// find begins a search for the host's addresses, unless there is one. If Avahi has no place for
// that, the host waits.
func (b *browseSession) find(h *foundHost) {
	const browsers = 2
	if h.search != nil || h.elem != nil {
		return
	}
	c := b.client(browsers, b.part.maxObjects)
	if c == nil {
		h.elem = b.hostsFull.PushBack(h)
		b.sayFull()
		return
	}
	for a := range h.named {
		h.named[a] = false
	}
	h.search = &search{client: c}
	c.objects += browsers
	b.findRecords(h, h.search, goavahi.ProtoInet, typeA)
	b.findRecords(h, h.search, goavahi.ProtoInet6, typeAAAA)
}

func (b *browseSession) findRecords(h *foundHost, s *search, protocol int32, kind uint16) {
	s.client.call(serverPath, ifaceServer, "RecordBrowserNew", func(r reply) {
		path, err := r.path()
		switch {
		case err != nil:
			b.part.log.Debug("Avahi refuses to browse addresses", "host", h.name, "err", err)
			b.release(s.client, 1)
		case s.ended:
			s.client.call(path, ifaceRecord, "Free", nil)
			b.release(s.client, 1)
		default:
			s.records = append(s.records, path)
			b.records[path] = h
		}
	}, h.iface, protocol, h.name, uint16(classIN), kind, uint32(0))
}

// endSearch ends the search for addresses. Those of an IP version that it found replace others.
func (b *browseSession) endSearch(h *foundHost) {
	if h.elem != nil {
		b.hostsFull.Remove(h.elem)
		h.elem = nil
	}
	s := h.search
	if s == nil {
		return
	}
	h.search = nil
	s.ended = true
	for _, path := range s.records {
		delete(b.records, path)
		s.client.call(path, ifaceRecord, "Free", nil)
	}
	var found4, found6 bool
	for a, found := range h.named {
		found4, found6 = found4 || found && a.Is4(), found6 || found && a.Is6()
	}
	maps.DeleteFunc(h.named, func(a netip.Addr, found bool) bool {
		return !found && (a.Is4() && found4 || a.Is6() && found6)
	})
	b.readdressed(h)
	if made := len(s.records); made > 0 {
		b.release(s.client, made)
	}
}

// addressed takes note of an address of a host, that has come or gone.
func (b *browseSession) addressed(h *foundHost, sig signal) error {
	if sig.member != "ItemNew" && sig.member != "ItemRemove" {
		return nil
	}
	var iface, protocol int32
	var name string
	var class, kind uint16
	var data []byte
	var flags uint32
	if err := dbus.Store(sig.body, &iface, &protocol, &name, &class, &kind, &data, &flags); err != nil {
		return fmt.Errorf("read an address: %w", err)
	}
	addr, ok := netip.AddrFromSlice(data)
	if !ok {
		return nil // no A or AAAA record has that length
	}
	if needsZone(addr) {
		addr = addr.WithZone(netif.Name(int(h.iface)))
	}
	if sig.member == "ItemNew" {
		h.named[addr] = true
	} else {
		delete(h.named, addr)
	}
	if !h.settle.isSet() {
		h.settle.set(b.session.mail, settleAddrs, func() { b.readdressed(h) })
	}
	return nil
}

// readdressed looks anew which of a host's addresses can be used. If a host loses all, the last
// ones count on until it isn't announced any more.
func (b *browseSession) readdressed(h *foundHost) {
	addrs, own := b.sift(h)
	if len(addrs) == 0 && !own {
		b.sayOffLink(h)
		return
	}
	if own == h.own && slices.Equal(addrs, h.addrs) {
		return
	}
	h.addrs, h.own = addrs, own
	for it := range h.users {
		b.consider(it)
	}
}

// sayOffLink logs that a host is left out because none of its addresses is on the link. If it had
// some before, those count on, and nothing is logged.
func (b *browseSession) sayOffLink(h *foundHost) {
	if len(h.addrs) > 0 || len(h.named) == 0 {
		return
	}
	for it := range h.users {
		b.reject("announcement leads off the link", it, h.name, fmt.Errorf("addresses %v", slices.Collect(maps.Keys(h.named))))
		return
	}
}

// sift returns those of a host's addresses to which an announcement on that link may lead, best
// first: IPv4 before IPv6, and link-local IPv6 last. All are on a subnet that this host has on the
// link. Anybody can announce any address, and nobody is to be led elsewhere by that. sift also
// reports whether all that is announced leads to this host instead.
func (b *browseSession) sift(h *foundHost) (addrs []netip.Addr, own bool) {
	others := 0
	for a := range h.named {
		switch {
		case !usable(a):
		case b.own.has(a, h.iface):
			own = true
		default:
			if others++; b.isOnLink(a, h.iface) {
				addrs = append(addrs, a)
			}
		}
	}
	slices.SortFunc(addrs, func(a, b netip.Addr) int { return cmp.Or(cmp.Compare(addrRank(a), addrRank(b)), a.Compare(b)) })
	return addrs[:min(len(addrs), maxAddrs)], own && others == 0
}

// isOnLink reports whether an address is on a subnet that this host has on an interface.
func (b *browseSession) isOnLink(a netip.Addr, iface int32) bool {
	return slices.ContainsFunc(b.subnets, func(s netif.Address) bool {
		return s.Index == iface && s.Prefix.Contains(a.WithZone(""))
	})
}

// addrRank is lower for the addresses that are more likely to work.
func addrRank(a netip.Addr) int {
	switch {
	case needsZone(a):
		return 2
	case a.Is6():
		return 1
	}
	return 0
}

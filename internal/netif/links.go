package netif

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

// linksMaxAge is how long Links believes what the kernel has said.
const linksMaxAge = time.Second

// Links knows which interface has which addresses. It asks the kernel when it is asked, at most
// once a second. The zero Links is ready. Its methods may be called concurrently.
type Links struct {
	mu    sync.Mutex
	names map[int32]string
	addrs []Address
	read  time.Time
}

// Of returns the name of the interface that has an address, and all addresses of that interface
// with their subnets. A link-local address has its zone. The loopback interface has all loopback
// addresses of IPv4. If no interface has the address, or the kernel can't be asked, there is no
// name.
func (l *Links) Of(local netip.Addr) (link string, prefixes []netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.read) > linksMaxAge {
		l.refresh()
	}
	index, ok := l.owner(local)
	if !ok {
		return "", nil
	}
	for _, a := range l.addrs {
		if a.Index == index {
			prefixes = append(prefixes, a.Prefix)
		}
	}
	return l.names[index], prefixes
}

// Between returns the name of the interface that has a local address, and whether another address
// is on-link there. A loopback address never is. An unknown interface has no name.
func (l *Links) Between(local, other netip.Addr) (link string, onLink bool) {
	link, prefixes := l.Of(local)
	bare := other.WithZone("")
	return link, !bare.IsLoopback() && slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(bare) })
}

// OnLink reports whether another host with that address is on a link of this one: the address is
// on a subnet of an interface, or it is link-local there and has the zone. Addresses of this host,
// of loopback and of multicast never are.
func (l *Links) OnLink(addr netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.read) > linksMaxAge {
		l.refresh()
	}
	zone, bare := addr.Zone(), addr.Unmap().WithZone("")
	if !bare.IsValid() || bare.IsLoopback() || bare.IsMulticast() || bare.IsUnspecified() {
		return false
	}
	linkLocal, on := bare.Is6() && bare.IsLinkLocalUnicast(), false
	for _, a := range l.addrs {
		here := zone == l.names[a.Index]
		switch {
		case a.Prefix.Addr() == bare && (here || !linkLocal):
			return false
		case a.Prefix.Contains(bare) && (here || !linkLocal):
			on = true
		}
	}
	return on
}

// Forget has the next question go to the kernel.
func (l *Links) Forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.read = time.Time{}
}

func (l *Links) refresh() {
	l.names, l.addrs, l.read = make(map[int32]string), nil, time.Now()
	found, err := Interfaces()
	if err != nil {
		return
	}
	if l.addrs, err = Addresses(); err != nil {
		return
	}
	for _, i := range found {
		l.names[i.Index] = i.Name
	}
}

// owner returns the index of the interface that has an address.
func (l *Links) owner(local netip.Addr) (index int32, ok bool) {
	for _, a := range l.addrs {
		if Has(local, []netip.Prefix{a.Prefix}) && (local.Zone() == "" || local.Zone() == l.names[a.Index]) {
			return a.Index, true
		}
	}
	return 0, false
}

// Name returns the name of an interface, which is a zone of its addresses. If the interface has
// gone, Name returns its index.
func Name(index int) string {
	if i, err := net.InterfaceByIndex(index); err == nil {
		return i.Name
	}
	return strconv.Itoa(index)
}

package registry

import (
	"net/netip"
	"slices"
	"strings"
)

// Why says why no other host can reach a local node. It is a word of the line protocol and of JSON.
type Why string

// Reasons. The first that holds is told. The empty Why says that nothing is known to be in the
// way.
const (
	WhyName      Why = "name"      // OTP takes no such alive name
	WhyHost      Why = "host"      // the host part of its full name leads everybody to themselves
	WhyClosed    Why = "closed"    // nothing listens at its port
	WhyLoopback  Why = "loopback"  // it listens on loopback alone
	WhyInterface Why = "interface" // it listens on addresses that no interface to a LAN has
)

// IsLoopbackHost reports whether the host part of a node name leads everybody to themselves.
// localhost and its like do, and loopback addresses.
func IsLoopbackHost(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().IsLoopback() || addr.IsUnspecified()
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if strings.HasPrefix(host, "127.") && strings.Trim(host, "0123456789.") == "" {
		return true // 127.1, as inet_aton(3) reads it
	}
	label, domain, _ := strings.Cut(host, ".")
	return strings.HasSuffix(host, ".localhost") ||
		slices.Contains([]string{"localhost", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"}, label) &&
			slices.Contains([]string{"", "localdomain", "localdomain4", "localdomain6"}, domain)
}

// ListensOn reports whether a local node takes connections to one of the addresses. They have
// no zone. It is true while Listens is not known.
func (n *Node) ListensOn(addrs []netip.Addr) bool {
	return n.Listens == nil || slices.ContainsFunc(addrs, func(a netip.Addr) bool {
		every := netip.IPv6Unspecified()
		if a.Is4() {
			every = netip.IPv4Unspecified()
		}
		return slices.Contains(n.Listens, a) || slices.Contains(n.Listens, every)
	})
}

// SetListens enters where a local node listens: see [Node.Listens]. Nothing happens if n has
// gone or was registered anew.
func (r *Registry) SetListens(n *Node, addrs []netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	reg := r.local[n.Name]
	if reg == nil || reg.node.ID != n.ID || reg.node.Listens != nil && slices.Equal(reg.node.Listens, addrs) {
		return
	}
	m := *reg.node
	if r.listens == nil || !slices.Equal(addrs, r.listens) {
		r.listens = append([]netip.Addr{}, addrs...) // never nil
	}
	m.Listens = r.listens
	r.replace(reg, m)
}

// SetLANAddresses enters which addresses this host has on interfaces to a LAN. They have no
// zone.
func (r *Registry) SetLANAddresses(addrs []netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lanAddrs = slices.Clone(addrs)
	for reg := r.oldest; reg != nil; reg = reg.newer {
		if r.why(reg.node) != reg.node.Why {
			r.replace(reg, *reg.node)
		}
	}
}

// replace enters what is known of a local node now.
func (r *Registry) replace(reg *Registration, n Node) {
	n.Why = r.why(&n)
	reg.node = &n
	r.changed(Event{Changed, reg.node})
}

// why returns why no other host can reach a local node.
func (r *Registry) why(n *Node) Why {
	_, host, _ := strings.Cut(n.Node, "@")
	switch {
	case !ValidName(n.Name):
		return WhyName
	case n.Sure && IsLoopbackHost(host):
		return WhyHost
	case n.Listens == nil:
		return ""
	case len(n.Listens) == 0:
		return WhyClosed
	case !slices.ContainsFunc(n.Listens, func(a netip.Addr) bool { return !a.IsLoopback() }):
		return WhyLoopback
	case len(r.lanAddrs) > 0 && !n.ListensOn(r.lanAddrs):
		return WhyInterface
	}
	return ""
}

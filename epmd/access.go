package epmd

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Access says which peers an epmd answers. It is decided by the peer's address, so it holds however
// the socket came to be. The zero Access is that of "lan".
type Access struct {
	mode     accessMode
	prefixes []netip.Prefix // beside local peers, in mode listed
}

type accessMode uint8

const (
	allowLAN accessMode = iota
	allowLocal
	allowAny
	allowListed
)

// ParseAccess parses
//
//	local      only this host: loopback, or a peer with the connection's own local address
//	lan        these, on-link addresses and private address space
//	any        everybody, as the epmd of OTP
//	CIDR,CIDR  this host and the addresses in these prefixes; an address alone is a prefix of its length
func ParseAccess(s string) (Access, error) {
	switch s {
	case "local":
		return Access{mode: allowLocal}, nil
	case "lan":
		return Access{}, nil
	case "any":
		return Access{mode: allowAny}, nil
	}
	a := Access{mode: allowListed}
	for part := range strings.SplitSeq(s, ",") {
		prefix, err := parsePrefix(strings.TrimSpace(part))
		if err != nil {
			return Access{}, fmt.Errorf("%q is neither local, lan, any nor a list of CIDR prefixes", s)
		}
		a.prefixes = append(a.prefixes, prefix)
	}
	return a, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.Unmap().Prefix(addr.Unmap().BitLen())
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	if addr := prefix.Addr(); addr.Is4In6() && prefix.Bits() >= 96 {
		return addr.Unmap().Prefix(prefix.Bits() - 96)
	}
	return prefix.Masked(), nil
}

// String returns what ParseAccess parses.
func (a Access) String() string {
	switch a.mode {
	case allowLAN:
		return "lan"
	case allowLocal:
		return "local"
	case allowAny:
		return "any"
	}
	list := make([]string, len(a.prefixes))
	for i, p := range a.prefixes {
		list[i] = p.String()
	}
	return strings.Join(list, ",")
}

// LocalOnly tells whether no other host is answered.
func (a Access) LocalOnly() bool { return a.mode == allowLocal }

// Admits tells whether a peer is answered that has connected to a local address. It looks at this host's interfaces
// for that, if need be.
func (a Access) Admits(peer, local netip.Addr) bool {
	peer, local = peer.Unmap(), local.Unmap()
	return isLocal(peer, local) || a.allows(peer, new(links).contains)
}

// allows tells whether a peer that is not local is answered.
func (a Access) allows(peer netip.Addr, onLink func(netip.Addr) bool) bool {
	switch a.mode {
	case allowLAN:
		return isPrivate(peer) || onLink(peer)
	case allowAny:
		return true
	case allowListed:
		peer = peer.WithZone("")
		return slices.ContainsFunc(a.prefixes, func(p netip.Prefix) bool { return p.Contains(peer) })
	}
	return false
}

// isLocal tells whether a peer is of this host: it has a loopback address, or the one that it connected
// to. IPv4 addresses must not be mapped to IPv6.
func isLocal(peer, local netip.Addr) bool {
	return peer.IsLoopback() || peer == local
}

// sharedSpace is that of carrier-grade NAT, which data centres and overlay networks use (RFC 6598).
var sharedSpace = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, 0}), 10)

// isPrivate tells whether an address is of no use on the internet: RFC 1918, RFC 4193, link-local, or
// RFC 6598.
func isPrivate(addr netip.Addr) bool {
	return addr.IsPrivate() || addr.IsLinkLocalUnicast() || sharedSpace.Contains(addr)
}

// links knows the subnets of this host's interfaces. They are read when an address is asked for, at
// most once a second, so that nothing has to be watched while nobody asks.
type links struct {
	mu       sync.Mutex
	prefixes []netip.Prefix
	read     time.Time
}

const linksMaxAge = time.Second

// contains tells whether addr is on-link.
func (l *links) contains(addr netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.read) > linksMaxAge {
		l.prefixes, l.read = interfacePrefixes(), time.Now()
	}
	addr = addr.WithZone("")
	return slices.ContainsFunc(l.prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// interfacePrefixes returns the subnets of all interfaces; none if they can't be read, which leaves
// private space.
func interfacePrefixes() []netip.Prefix {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var prefixes []netip.Prefix
	for _, a := range addrs {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			prefixes = append(prefixes, prefix.Masked())
		}
	}
	return prefixes
}

// refusals counts the peers that were refused and says when one is worth a log entry: once a minute an
// address. It tells a bounded number of addresses apart; what is beyond them counts as one.
type refusals struct {
	seen  map[netip.Addr]*refusal
	swept time.Time // when addresses were forgotten last
}

type refusal struct {
	logged time.Time
	since  int // refused since then
}

const (
	refusalInterval = time.Minute
	maxRefusals     = 1024
)

// add counts a refused peer. If it is to be logged, count is how many of that address were refused
// since the last entry; otherwise it is 0.
func (r *refusals) add(addr netip.Addr, now time.Time) (count int) {
	seen := r.entry(addr, now)
	seen.since++
	if now.Sub(seen.logged) < refusalInterval {
		return 0
	}
	count = seen.since
	seen.logged, seen.since = now, 0
	return count
}

// entry returns what is known of addr, or what stands for all addresses that there is no room for.
func (r *refusals) entry(addr netip.Addr, now time.Time) *refusal {
	if seen := r.seen[addr]; seen != nil {
		return seen
	}
	if r.seen == nil {
		r.seen = make(map[netip.Addr]*refusal)
	}
	if len(r.seen) >= maxRefusals && now.Sub(r.swept) >= time.Second {
		r.swept = now
		maps.DeleteFunc(r.seen, func(_ netip.Addr, seen *refusal) bool {
			return now.Sub(seen.logged) >= refusalInterval
		})
	}
	if len(r.seen) >= maxRefusals && addr.IsValid() {
		return r.entry(netip.Addr{}, now)
	}
	seen := &refusal{}
	r.seen[addr] = seen
	return seen
}

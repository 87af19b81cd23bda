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

// Access says which peers an epmd answers. The peer's address decides, however the socket came to
// be. The zero Access is that of "lan".
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
//	CIDR,CIDR  this host, and these prefixes; an address alone is a prefix of its length
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

// LocalOnly reports whether no other host is answered.
func (a Access) LocalOnly() bool { return a.mode == allowLocal }

// Admits reports whether a peer that connected to local may be answered. It reads the addresses
// of this host's interfaces if it must.
func (a Access) Admits(peer, local netip.Addr) bool {
	peer, local = peer.Unmap(), local.Unmap()
	return isLocal(peer, local) || a.allows(peer, new(links).contains)
}

// allows reports whether a peer of another host is answered.
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

// isLocal reports whether a peer is of this host. Its address is loopback then, or the one that
// it connected to. IPv4 addresses must not be mapped to IPv6.
func isLocal(peer, local netip.Addr) bool {
	return peer.IsLoopback() || peer == local
}

// sharedSpace belongs to carrier-grade NAT (RFC 6598). Data centres and overlay networks use it.
var sharedSpace = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, 0}), 10)

// isPrivate reports whether an address is of no use on the internet. It is one of RFC 1918, RFC
// 4193 or RFC 6598 then, or link-local.
func isPrivate(addr netip.Addr) bool {
	return addr.IsPrivate() || addr.IsLinkLocalUnicast() || sharedSpace.Contains(addr)
}

// links knows the subnets of this host's interfaces. It reads them when it is asked, at most once
// a second. So nothing has to be watched while nobody asks.
type links struct {
	mu       sync.Mutex
	prefixes []netip.Prefix
	read     time.Time
}

const linksMaxAge = time.Second

// contains reports whether addr is on-link.
func (l *links) contains(addr netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.read) > linksMaxAge {
		l.prefixes, l.read = interfacePrefixes(), time.Now()
	}
	addr = addr.WithZone("")
	return slices.ContainsFunc(l.prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// interfacePrefixes returns the subnets of all interfaces. It returns none if they can't be read.
// Private address space is answered all the same.
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

// refusals counts what is refused, by address or user. It says when that is worth a log entry:
// burst times a minute. It tells at most 1,024 of them apart. All others count as one.
type refusals struct {
	burst int // 0: 1
	seen  map[any]*refusal
	swept time.Time // when some were forgotten last
}

type refusal struct {
	began  time.Time // of the minute
	logged int       // in that minute
	since  int       // refused since the last entry
}

const (
	refusalInterval = time.Minute
	maxRefusals     = 1024
)

// add counts a refused peer. It returns 0 if nothing is to be logged. Else it returns how often
// this one was refused since the last entry.
func (r *refusals) add(who any, now time.Time) (count int) {
	seen := r.entry(who, now)
	seen.since++
	if now.Sub(seen.began) >= refusalInterval {
		seen.began, seen.logged = now, 0
	}
	if seen.logged >= max(r.burst, 1) {
		return 0
	}
	count = seen.since
	seen.logged++
	seen.since = 0
	return count
}

// entry returns what is known of somebody. Those that there is no room for share an entry.
func (r *refusals) entry(who any, now time.Time) *refusal {
	if seen := r.seen[who]; seen != nil {
		return seen
	}
	if r.seen == nil {
		r.seen = make(map[any]*refusal)
	}
	if len(r.seen) >= maxRefusals && now.Sub(r.swept) >= time.Second {
		r.swept = now
		maps.DeleteFunc(r.seen, func(_ any, seen *refusal) bool {
			return now.Sub(seen.began) >= refusalInterval
		})
	}
	if len(r.seen) >= maxRefusals && who != anyPeer {
		return r.entry(anyPeer, now)
	}
	seen := &refusal{}
	r.seen[who] = seen
	return seen
}

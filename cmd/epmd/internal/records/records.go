// Package records knows what is announced of epmds, and decides by it who an epmd is.
//
// Records have a place for each announcement, as [avahi.EPMDs] tells of it. They say nothing of
// whether anybody answers there. Their caller guards them.
package records

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/cmd/epmd/internal/told"
	"github.com/goerlang/eclus/epmd"
)

// Records are what is announced, by where. Some of those epmds give no streams.
type Records map[avahi.Place]avahi.EPMD

// Claim is what an epmd says of itself on a stream, and what this host knows of it.
type Claim struct {
	told.Who
	Configured bool // its address is
	Trusted    bool // if so, this host's owner has done that, not a program alone
}

// Gives reports whether what is announced may give a stream.
func Gives(e avahi.EPMD) bool { return e.Announces && len(e.Addrs) > 0 }

// Giving yields what may give a stream.
func (r Records) Giving() iter.Seq2[avahi.Place, avahi.EPMD] {
	return func(yield func(avahi.Place, avahi.EPMD) bool) {
		for at, e := range r {
			if Gives(e) && !yield(at, e) {
				return
			}
		}
	}
}

// Addrs returns all addresses of places, in an order that does not change.
func Addrs(places map[avahi.Place][]netip.AddrPort) (list []netip.AddrPort) {
	for _, at := range slices.SortedFunc(maps.Keys(places), func(a, b avahi.Place) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Interface, b.Interface), cmp.Compare(a.Label, b.Label))
	}) {
		list = append(list, places[at]...)
	}
	return list
}

// Has reports whether an address is in the records that announce the epmd of a host.
func (r Records) Has(host string, addr netip.AddrPort) bool {
	for _, e := range r.Giving() {
		if e.Host == host && slices.Contains(e.Addrs, addr) {
			return true
		}
	}
	return false
}

// Vouched reports whether a host name is an epmd's by more than its own word.
func (r Records) Vouched(c Claim) bool {
	return c.Configured && c.Trusted || r.Has(c.Hello.Host, c.Addr)
}

// MayBe reports whether an epmd may have the host name that it says. Unless it is configured, it
// may not have that of an epmd that is announced elsewhere and gives no streams: nobody would
// contradict. Of two that give streams, both claims are compared.
func (r Records) MayBe(c Claim) bool {
	elsewhere := false
	for _, e := range r {
		switch {
		case e.Announces, !strings.EqualFold(e.Host, c.Hello.Host):
		case slices.ContainsFunc(e.Addrs, func(a netip.AddrPort) bool { return a.Addr() == c.Addr.Addr() }):
			return true
		default:
			elsewhere = true
		}
	}
	return c.Configured || !elsewhere
}

// AreSame reports whether two streams lead to one epmd. Both gave the same ID, and both are
// configured or in the records of their host.
func (r Records) AreSame(a, b Claim) bool {
	if a.Hello.ID != b.Hello.ID || a.Hello.ID == (epmd.PeerID{}) {
		return false
	}
	return a.Addr == b.Addr || a.Configured && b.Configured || r.haveBoth(a, b)
}

// AreRivals reports whether two epmds claim one host name. A host may have several, at other ports.
func (r Records) AreRivals(a, b Claim) bool {
	return a.Hello.Host == b.Hello.Host &&
		(a.Addr.Port() == b.Addr.Port() || a.Addr.Addr() != b.Addr.Addr() && !r.haveBoth(a, b))
}

// haveBoth reports whether two epmds are announced as those of the one host that both claim.
func (r Records) haveBoth(a, b Claim) bool {
	host := a.Hello.Host
	return host == b.Hello.Host && r.Has(host, a.Addr) && r.Has(host, b.Addr)
}

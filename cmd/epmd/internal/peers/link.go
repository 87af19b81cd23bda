package peers

import (
	"net/netip"
	"slices"

	"github.com/goerlang/eclus/internal/netif"
)

// LinkFunc returns the name of the interface that owns a local address, and whether another address
// is on-link there. A loopback address never is. An unknown interface has no name.
type LinkFunc func(local, other netip.Addr) (link string, onLink bool)

// kernelLink returns a LinkFunc that says what the kernel does.
func kernelLink(links *netif.Links) LinkFunc {
	return func(local, other netip.Addr) (link string, onLink bool) {
		link, prefixes := links.Of(local)
		bare := other.WithZone("")
		return link, !bare.IsLoopback() && slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(bare) })
	}
}

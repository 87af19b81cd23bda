package avahi

import (
	"net/netip"
	"slices"

	"github.com/goerlang/eclus/internal/netif"
)

// ownAddresses are the addresses of this host, without zones. The value of a link-local IPv6 address says on which
// interfaces it is this host's: others may have the same address on another link.
type ownAddresses map[netip.Addr][]int32

// has reports whether an address that was found on an interface is this host's.
func (o ownAddresses) has(a netip.Addr, iface int32) bool {
	a = a.Unmap().WithZone("")
	interfaces, found := o[a]
	if !found || !needsZone(a) {
		return found
	}
	return slices.Contains(interfaces, iface)
}

func needsZone(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }

// readOwnAddresses returns the addresses of the network namespace that the caller is in, and those of
// chosen interfaces with their subnets.
func readOwnAddresses(chosen []int32) (own ownAddresses, subnets []netip.Prefix, err error) {
	addrs, err := netif.Addresses()
	own = make(ownAddresses, len(addrs))
	for _, a := range addrs {
		own[a.Prefix.Addr()] = append(own[a.Prefix.Addr()], a.Index)
		if slices.Contains(chosen, a.Index) {
			subnets = append(subnets, a.Prefix)
		}
	}
	return own, subnets, err
}

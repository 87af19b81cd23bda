package avahi

import (
	"net/netip"
	"slices"

	"github.com/goerlang/eclus/internal/netif"
)

// ownAddresses are the addresses of this host, without zones. For a link-local IPv6 address the
// value says on which interfaces this host has it. Others may have the same address on another
// link.
type ownAddresses map[netip.Addr][]int32

// has reports whether this host has an address that was found on an interface.
func (o ownAddresses) has(a netip.Addr, iface int32) bool {
	a = a.Unmap().WithZone("")
	interfaces, found := o[a]
	if !found || !needsZone(a) {
		return found
	}
	return slices.Contains(interfaces, iface)
}

func needsZone(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }

// readOwnAddresses returns the addresses of the caller's network namespace. It also returns
// those of chosen interfaces with their subnets.
func readOwnAddresses(chosen []int32) (own ownAddresses, subnets []netif.Address, err error) {
	addrs, err := netif.Addresses()
	own = make(ownAddresses, len(addrs))
	for _, a := range addrs {
		own[a.Prefix.Addr()] = append(own[a.Prefix.Addr()], a.Index)
		if slices.Contains(chosen, a.Index) {
			subnets = append(subnets, a)
		}
	}
	return own, subnets, err
}

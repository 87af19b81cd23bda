// Package address finds the address at which other hosts find this one.
package address

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/goerlang/eclus/internal/netif"
)

// Find returns the address to advertise. what is an IP address, the name of an interface, or empty
// for the interface of the default route. An IPv4 address comes before one of IPv6.
func Find(what string) (netip.Addr, error) {
	if addr, err := netip.ParseAddr(what); err == nil {
		return addr.Unmap(), nil
	}
	all, err := netif.Addresses()
	if err != nil {
		return netip.Addr{}, err
	}
	if what != "" {
		i, err := net.InterfaceByName(what)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("interface %s: %w", what, err)
		}
		index := []int32{int32(i.Index)}
		return first(all, index, index, "interface "+what+" has no address for other hosts")
	}
	four, six, err := netif.DefaultLinks()
	if err != nil {
		return netip.Addr{}, err
	}
	return first(all, four, six, "no default route: give -advertise an address")
}

// first returns an address that one of the interfaces has. Those in four are for IPv4.
func first(all []netif.Address, four, six []int32, none string) (netip.Addr, error) {
	for _, index := range four {
		for _, a := range all {
			if a.Index == index && a.Prefix.Addr().Is4() && IsHost(a.Prefix.Addr()) {
				return a.Prefix.Addr(), nil
			}
		}
	}
	for _, a := range all {
		if slices.Contains(six, a.Index) && a.Prefix.Addr().Is6() && IsHost(a.Prefix.Addr()) {
			return a.Prefix.Addr(), nil
		}
	}
	return netip.Addr{}, errors.New(none)
}

// IsHost reports whether an address may be that of another host beyond one link.
func IsHost(a netip.Addr) bool {
	return a.IsGlobalUnicast() && a.Zone() == "" && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// Package interfaces reads the addresses of this host's interfaces from the kernel. It starts no goroutines;
// one call takes as long as the kernel's answer.
package interfaces

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// Prefixes returns the addresses that the interfaces of this host have now, with their subnets.
func Prefixes() ([]netip.Prefix, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list addresses of this host: %w", err)
	}
	prefixes := make([]netip.Prefix, 0, len(addrs))
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			prefixes = append(prefixes, p)
		}
	}
	return prefixes, nil
}

// Has reports whether one of the interfaces has an address, as the loopback interface has all on its
// subnet.
func Has(addr netip.Addr, interfaces []netip.Prefix) bool {
	addr = addr.Unmap().WithZone("")
	return slices.ContainsFunc(interfaces, func(p netip.Prefix) bool {
		return p.Addr() == addr || addr.IsLoopback() && p.Contains(addr)
	})
}

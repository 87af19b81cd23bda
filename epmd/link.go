package epmd

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/internal/netif"
)

// kernelLinkOf returns the default of Config.LinkOf.
func kernelLinkOf(links *netif.Links) func(netip.Addr) (string, []netip.Addr) {
	return func(local netip.Addr) (link string, addrs []netip.Addr) {
		link, prefixes := links.Of(local)
		for _, p := range prefixes {
			addrs = append(addrs, p.Addr())
		}
		return link, addrs
	}
}

// sockaddr returns a socket address in Go's form. A link-local address gets its zone.
func sockaddr(sa unix.Sockaddr, err error) (netip.AddrPort, error) {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), err
	case *unix.SockaddrInet6:
		addr := netip.AddrFrom16(sa.Addr).Unmap()
		if addr.IsLinkLocalUnicast() && addr.Is6() {
			addr = addr.WithZone(netif.Name(int(sa.ZoneId)))
		}
		return netip.AddrPortFrom(addr, uint16(sa.Port)), err
	}
	return netip.AddrPort{}, err
}

package netif

import (
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Gateways returns the gateways of all default routes in the main table, of IPv4 and IPv6, in the
// kernel's order. A link-local one has its zone.
func Gateways() ([]netip.Addr, error) {
	messages, err := dump(unix.RTM_GETROUTE, unix.SizeofRtMsg)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var list []netip.Addr
	for _, m := range messages {
		if !isDefaultRoute(m) {
			continue
		}
		for _, addr := range parseGateways(m.Data) {
			if !slices.Contains(list, addr) {
				list = append(list, addr)
			}
		}
	}
	return list, nil
}

// DefaultLinks returns the indexes of the interfaces that the default routes of the main table lead
// to: of IPv4 first, then of IPv6, each in the kernel's order.
func DefaultLinks() (four, six []int32, err error) {
	messages, err := dump(unix.RTM_GETROUTE, unix.SizeofRtMsg)
	if err != nil {
		return nil, nil, fmt.Errorf("list routes: %w", err)
	}
	for _, m := range messages {
		switch {
		case !isDefaultRoute(m):
		case m.Data[0] == unix.AF_INET:
			four = append(four, parseRouteLinks(m.Data)...)
		default:
			six = append(six, parseRouteLinks(m.Data)...)
		}
	}
	return four, six, nil
}

// parseRouteLinks reads the interfaces of an rtmsg and of its next hops (see parseGateways).
func parseRouteLinks(b []byte) []int32 {
	var list []int32
	for kind, value := range attributes(b[unix.SizeofRtMsg:]) {
		switch {
		case kind == unix.RTA_OIF && len(value) == 4:
			list = append(list, int32(binary.NativeEndian.Uint32(value)))
		case kind == unix.RTA_MULTIPATH:
			for index := range hops(value) {
				list = append(list, index)
			}
		}
	}
	return list
}

// isDefaultRoute reports whether a message is about a default route of the main table. Routes that
// the kernel has cached, or that lead nowhere, are none.
func isDefaultRoute(m netlink.Message) bool {
	if m.Header.Type != unix.RTM_NEWROUTE && m.Header.Type != unix.RTM_DELROUTE || len(m.Data) < unix.SizeofRtMsg {
		return false
	}
	family, bits, table, kind := m.Data[0], m.Data[1], m.Data[4], m.Data[7]
	return (family == unix.AF_INET || family == unix.AF_INET6) && bits == 0 && table == unix.RT_TABLE_MAIN &&
		kind == unix.RTN_UNICAST && binary.NativeEndian.Uint32(m.Data[8:])&unix.RTM_F_CLONED == 0
}

// parseGateways reads an rtmsg and its attributes. A route may have several next hops.
//
//	family  dst length  src length  tos  table  protocol  scope  type  flags
//	   1        1           1        1     1       1        1      1     4    bytes
func parseGateways(b []byte) []netip.Addr {
	rest := b[unix.SizeofRtMsg:]
	var list []netip.Addr
	if addr := parseHop(rest); addr.IsValid() {
		list = append(list, addr)
	}
	for kind, value := range attributes(rest) {
		if kind == unix.RTA_MULTIPATH {
			list = append(list, parseHops(value)...)
		}
	}
	return list
}

// parseHop reads the attributes of a next hop. IPv4 routes by way of IPv6 have RTA_VIA, which
// begins with 2 bytes of the family.
func parseHop(b []byte) netip.Addr {
	var addr netip.Addr
	index := 0
	for kind, value := range attributes(b) {
		switch {
		case kind == unix.RTA_GATEWAY:
			addr, _ = netip.AddrFromSlice(value)
		case kind == unix.RTA_VIA && len(value) > 2:
			addr, _ = netip.AddrFromSlice(value[2:])
		case kind == unix.RTA_OIF && len(value) == 4:
			index = int(binary.NativeEndian.Uint32(value))
		}
	}
	return withZone(addr, index)
}

// parseHops reads the gateways of RTA_MULTIPATH.
func parseHops(b []byte) []netip.Addr {
	var list []netip.Addr
	for index, attrs := range hops(b) {
		if addr := parseHop(attrs); addr.IsValid() {
			list = append(list, withZone(addr, int(index)))
		}
	}
	return list
}

// hops yields the interface and the attributes of each rtnexthop. The attributes follow it.
//
//	length  flags  hops  index
//	  2       1     1      4    bytes
func hops(b []byte) iter.Seq2[int32, []byte] {
	return func(yield func(int32, []byte) bool) {
		for len(b) >= unix.SizeofRtNexthop {
			n := int(binary.NativeEndian.Uint16(b))
			if n < unix.SizeofRtNexthop || n > len(b) {
				return
			}
			if !yield(int32(binary.NativeEndian.Uint32(b[4:])), b[unix.SizeofRtNexthop:n]) {
				return
			}
			b = b[min((n+3)&^3, len(b)):]
		}
	}
}

// withZone gives a link-local address of IPv6 the interface as its zone.
func withZone(addr netip.Addr, index int) netip.Addr {
	if index == 0 || !addr.Is6() || !addr.IsLinkLocalUnicast() {
		return addr
	}
	return addr.WithZone(Name(index))
}

// Package netif reads this host's network interfaces, their addresses and the neighbours there from
// the kernel, and watches interfaces (rtnetlink(7)). It sees the network namespace that the caller
// is in.
//
// A call takes as long as the kernel's answer, a few milliseconds with hundreds of interfaces. Only
// a [Watcher] runs a goroutine.
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

// Interface is a network interface.
type Interface struct {
	Name   string
	Kind   string // of software: "bridge", "veth", "vlan"; empty: a device, or as good as one
	Index  int32
	Master int32  // index of the interface it is a port of; 0: none
	Flags  uint32 // such as unix.IFF_UP
}

// Address is an address of an interface, without a zone, and its subnet.
type Address struct {
	Index  int32 // of the interface
	Prefix netip.Prefix
}

// Interfaces returns the network interfaces.
func Interfaces() ([]Interface, error) {
	messages, err := dump(unix.RTM_GETLINK, unix.SizeofIfInfomsg)
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	var interfaces []Interface
	for _, m := range messages {
		if m.Header.Type == unix.RTM_NEWLINK && len(m.Data) >= unix.SizeofIfInfomsg {
			interfaces = append(interfaces, parseInterface(m.Data))
		}
	}
	return interfaces, nil
}

// Addresses returns the addresses of all interfaces, in the kernel's order.
func Addresses() ([]Address, error) {
	messages, err := dump(unix.RTM_GETADDR, unix.SizeofIfAddrmsg)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var addrs []Address
	for _, m := range messages {
		if m.Header.Type != unix.RTM_NEWADDR || len(m.Data) < unix.SizeofIfAddrmsg {
			continue
		}
		if a := parseAddress(m.Data); a.Prefix.IsValid() {
			addrs = append(addrs, a)
		}
	}
	return addrs, nil
}

// Prefixes returns the addresses of all interfaces with their subnets.
func Prefixes() ([]netip.Prefix, error) {
	addrs, err := Addresses()
	prefixes := make([]netip.Prefix, 0, len(addrs))
	for _, a := range addrs {
		prefixes = append(prefixes, a.Prefix)
	}
	return prefixes, err
}

// Has reports whether an address is one of prefixes. The loopback interface has all addresses of
// its subnet.
func Has(addr netip.Addr, prefixes []netip.Prefix) bool {
	addr = addr.Unmap().WithZone("")
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool {
		return p.Addr() == addr || addr.IsLoopback() && p.Contains(addr)
	})
}

// dump asks the kernel for all interfaces (RTM_GETLINK), addresses (RTM_GETADDR) or neighbours
// (RTM_GETNEIGH). size is that of the question.
func dump(kind netlink.HeaderType, size int) ([]netlink.Message, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.Execute(netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Dump},
		Data:   make([]byte, size), // AF_UNSPEC
	})
}

// parseInterface reads an ifinfomsg and its attributes. All numbers are in the host's byte order.
//
//	family  pad  type  index  flags  change
//	   1     1    2      4      4      4     bytes
func parseInterface(b []byte) Interface {
	i := Interface{Index: int32(binary.NativeEndian.Uint32(b[4:])), Flags: binary.NativeEndian.Uint32(b[8:])}
	for kind, value := range attributes(b[unix.SizeofIfInfomsg:]) {
		switch {
		case kind == unix.IFLA_IFNAME:
			i.Name = unix.ByteSliceToString(value)
		case kind == unix.IFLA_MASTER && len(value) == 4:
			i.Master = int32(binary.NativeEndian.Uint32(value))
		case kind == unix.IFLA_LINKINFO:
			for kind, value := range attributes(value) {
				if kind == unix.IFLA_INFO_KIND {
					i.Kind = unix.ByteSliceToString(value)
				}
			}
		}
	}
	return i
}

// parseAddress reads an ifaddrmsg and its attributes. On a point-to-point link IFA_ADDRESS is the
// address of the other end, and IFA_LOCAL ours.
//
//	family  prefix length  flags  scope  index
//	   1          1          1      1      4   bytes
func parseAddress(b []byte) Address {
	var addr netip.Addr
	for kind, value := range attributes(b[unix.SizeofIfAddrmsg:]) {
		if kind == unix.IFA_LOCAL || kind == unix.IFA_ADDRESS && !addr.IsValid() {
			addr, _ = netip.AddrFromSlice(value)
		}
	}
	return Address{int32(binary.NativeEndian.Uint32(b[4:])), netip.PrefixFrom(addr, int(b[1]))}
}

// attributes yields the types and values of attributes. It ends where they are malformed.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		list, err := netlink.NewAttributeDecoder(b)
		if err != nil {
			return
		}
		for list.Next() && yield(list.Type(), list.Bytes()) {
		}
	}
}

package avahi

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
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

// readOwnAddresses returns the addresses of the network namespace that the caller is in.
func readOwnAddresses() (ownAddresses, error) {
	dump, err := syscall.NetlinkRIB(unix.RTM_GETADDR, unix.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(dump)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	own := make(ownAddresses)
	for _, m := range messages {
		if m.Header.Type == unix.RTM_NEWADDR && len(m.Data) >= unix.SizeofIfAddrmsg {
			if a, ok := parseAddress(&m); ok {
				own[a] = append(own[a], int32(binary.NativeEndian.Uint32(m.Data[4:])))
			}
		}
	}
	return own, nil
}

// parseAddress returns the address of this host's end that an ifaddrmsg is about. Its attribute IFA_ADDRESS is the other end's
// of a point-to-point link; where that is so, IFA_LOCAL is there too.
func parseAddress(m *syscall.NetlinkMessage) (a netip.Addr, ok bool) {
	for _, attr := range attributes(m) {
		switch attr.Attr.Type {
		case unix.IFA_LOCAL:
			return netip.AddrFromSlice(attr.Value)
		case unix.IFA_ADDRESS:
			a, ok = netip.AddrFromSlice(attr.Value)
		}
	}
	return a, ok
}

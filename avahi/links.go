package avahi

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// netLink is a network interface as rtnetlink tells of it.
type netLink struct {
	name   string
	kind   string // of software: "bridge", "veth", "vlan"; empty: a device, or as good as one
	index  int32
	master int32 // index of the interface it is a port of; 0: none
	flags  uint32
}

// readLinks returns the network interfaces of the network namespace that the caller is in.
func readLinks() ([]netLink, error) {
	dump, err := syscall.NetlinkRIB(unix.RTM_GETLINK, unix.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(dump)
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	var links []netLink
	for _, m := range messages {
		if m.Header.Type == unix.RTM_NEWLINK && len(m.Data) >= unix.SizeofIfInfomsg {
			links = append(links, parseLink(&m))
		}
	}
	return links, nil
}

// parseLink reads an ifinfomsg (see linkNews.link) and its attributes.
func parseLink(m *syscall.NetlinkMessage) netLink {
	l := netLink{index: int32(binary.NativeEndian.Uint32(m.Data[4:])), flags: binary.NativeEndian.Uint32(m.Data[8:])}
	for _, a := range attributes(m) {
		switch {
		case a.Attr.Type == unix.IFLA_IFNAME:
			l.name = text0(a.Value)
		case a.Attr.Type == unix.IFLA_MASTER && len(a.Value) == 4:
			l.master = int32(binary.NativeEndian.Uint32(a.Value))
		case a.Attr.Type == unix.IFLA_LINKINFO:
			l.kind = linkKind(a.Value)
		}
	}
	return l
}

// linkKind finds IFLA_INFO_KIND among the attributes within IFLA_LINKINFO, each with its length and type before it in 2
// bytes each and padded to a multiple of 4 bytes.
func linkKind(b []byte) string {
	for len(b) >= unix.SizeofRtAttr {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtAttr || n > len(b) {
			break
		}
		if binary.NativeEndian.Uint16(b[2:]) == unix.IFLA_INFO_KIND {
			return text0(b[unix.SizeofRtAttr:n])
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return ""
}

// text0 returns a string of which C marks the end by a zero byte.
func text0(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

// lanLinks returns the indexes of the interfaces that lead to a LAN, in ascending order: those of devices, of what is made
// of them (bonds, VLANs, bridges with one among their ports) and taps that are nobody's port. On a host without any, which is
// a container, the ends of veths are its way out; elsewhere they lead to containers, as bridges do that have no device.
func lanLinks(links []netLink) []int32 {
	byIndex := make(map[int32]*netLink, len(links))
	devices := make(map[int32]bool) // bridges with a device among their ports
	for i, l := range links {
		byIndex[l.index] = &links[i]
	}
	for _, l := range links {
		if !slices.Contains([]string{"veth", "tun", "vxlan", "geneve"}, l.kind) {
			devices[l.master] = true
		}
	}
	var found, taps, veths []int32
	for _, l := range links {
		switch master := byIndex[l.master]; {
		case !isLANLink(l), master != nil && hasPorts(master.kind), l.kind == "bridge" && !devices[l.index]:
		case l.kind == "veth":
			veths = append(veths, l.index)
		case l.kind == "tun":
			taps = append(taps, l.index)
		default:
			found = append(found, l.index)
		}
	}
	if len(found) == 0 {
		found = veths
	}
	found = append(found, taps...)
	slices.Sort(found)
	return found
}

// isLANLink tells whether an interface can be one to a LAN, whatever it may be joined to. Overlays join the containers of
// a cluster.
func isLANLink(l netLink) bool {
	const never = unix.IFF_LOOPBACK | unix.IFF_POINTOPOINT | unix.IFF_NOARP
	return l.flags&never == 0 && l.flags&unix.IFF_MULTICAST != 0 && !slices.Contains([]string{"vxlan", "geneve"}, l.kind)
}

// hasPorts tells whether interfaces can be ports of one of that kind, and lead nowhere by themselves then. (A VRF
// is a master of interfaces that remain what they are.)
func hasPorts(kind string) bool {
	return slices.Contains([]string{"bridge", "bond", "team", "openvswitch"}, kind)
}

// chooseLinks returns the indexes of the interfaces to publish and browse on, in ascending order: those of the names, or
// by default those that lead to a LAN.
func chooseLinks(names []string) ([]int32, error) {
	links, err := readLinks()
	if err != nil {
		return nil, err
	}
	return pickLinks(links, names), nil
}

func pickLinks(links []netLink, names []string) []int32 {
	if len(names) == 0 {
		return lanLinks(links)
	}
	var found []int32
	for _, l := range links {
		if slices.Contains(names, l.name) {
			found = append(found, l.index)
		}
	}
	slices.Sort(found)
	return found
}

// noLinks is why nothing is done while there are no interfaces.
func noLinks(names []string) error {
	if len(names) == 0 {
		return errNoLAN
	}
	return fmt.Errorf("no network interface named %q", strings.Join(names, ","))
}

// LANAddresses returns the addresses, without zones, of the interfaces to a LAN, or of those of the
// names if there are any; see [Options].
func LANAddresses(names []string) ([]netip.Addr, error) {
	chosen, err := chooseLinks(names)
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, p := range linkPrefixes(chosen) {
		addrs = append(addrs, p.Addr())
	}
	return addrs, nil
}

// linkPrefixes returns the addresses of interfaces with their subnets. One that goes at the moment has none.
func linkPrefixes(indexes []int32) []netip.Prefix {
	all, err := readAddrs()
	if err != nil {
		return nil
	}
	var prefixes []netip.Prefix
	for _, index := range indexes {
		prefixes = append(prefixes, all[index]...)
	}
	return prefixes
}

// readAddrs returns the addresses of each interface, without zones, with their subnets.
func readAddrs() (map[int32][]netip.Prefix, error) {
	dump, err := syscall.NetlinkRIB(unix.RTM_GETADDR, unix.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(dump)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	addrs := make(map[int32][]netip.Prefix)
	for _, m := range messages {
		if m.Header.Type != unix.RTM_NEWADDR || len(m.Data) < unix.SizeofIfAddrmsg {
			continue
		}
		if p := parseAddr(&m); p.IsValid() {
			index := int32(binary.NativeEndian.Uint32(m.Data[4:]))
			addrs[index] = append(addrs[index], p)
		}
	}
	return addrs, nil
}

// parseAddr reads an ifaddrmsg (see linkNews.addr) and its attributes. IFA_LOCAL, if there, is the
// address, and IFA_ADDRESS then that of the other end.
func parseAddr(m *syscall.NetlinkMessage) netip.Prefix {
	var addr netip.Addr
	for _, a := range attributes(m) {
		if a.Attr.Type == unix.IFA_LOCAL || a.Attr.Type == unix.IFA_ADDRESS && !addr.IsValid() {
			addr, _ = netip.AddrFromSlice(a.Value)
		}
	}
	return netip.PrefixFrom(addr, int(m.Data[1]))
}

package netif

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Choose returns the indexes of the interfaces to use, in ascending order. They are those with one
// of the names. Without names, they are those that lead to a LAN.
func Choose(interfaces []Interface, names []string) []int32 {
	if len(names) == 0 {
		return onLAN(interfaces)
	}
	var found []int32
	for _, i := range interfaces {
		if slices.Contains(names, i.Name) {
			found = append(found, i.Index)
		}
	}
	slices.Sort(found)
	return found
}

// LANAddresses returns the addresses of the interfaces that Choose chooses.
func LANAddresses(names []string) ([]netip.Addr, error) {
	interfaces, err := Interfaces()
	if err != nil {
		return nil, err
	}
	all, err := Addresses()
	if err != nil {
		return nil, err
	}
	chosen := Choose(interfaces, names)
	var addrs []netip.Addr
	for _, a := range all {
		if slices.Contains(chosen, a.Index) {
			addrs = append(addrs, a.Prefix.Addr())
		}
	}
	return addrs, nil
}

// onLAN returns the indexes of the interfaces that lead to a LAN, in ascending order:
//
//   - devices, and what is made of them: bonds, VLANs, and bridges with a device among their ports;
//   - taps that are nobody's port;
//   - the ends of veths, if there is nothing of the first kind. Then this is a container, and they
//     are its way out. Elsewhere veths and bridges without a device lead to containers.
func onLAN(interfaces []Interface) []int32 {
	byIndex := make(map[int32]*Interface, len(interfaces))
	devices := make(map[int32]bool) // bridges with a device among their ports
	for n, i := range interfaces {
		byIndex[i.Index] = &interfaces[n]
	}
	for _, i := range interfaces {
		if !slices.Contains([]string{"veth", "tun", "vxlan", "geneve"}, i.Kind) {
			devices[i.Master] = true
		}
	}
	var found, taps, veths []int32
	for _, i := range interfaces {
		switch master := byIndex[i.Master]; {
		case !canBeLAN(i), master != nil && hasPorts(master.Kind), i.Kind == "bridge" && !devices[i.Index]:
		case i.Kind == "veth":
			veths = append(veths, i.Index)
		case i.Kind == "tun":
			taps = append(taps, i.Index)
		default:
			found = append(found, i.Index)
		}
	}
	if len(found) == 0 {
		found = veths
	}
	found = append(found, taps...)
	slices.Sort(found)
	return found
}

// canBeLAN reports whether an interface can lead to a LAN, whatever its master is. Overlays lead to
// the containers of a cluster.
func canBeLAN(i Interface) bool {
	const never = unix.IFF_LOOPBACK | unix.IFF_POINTOPOINT | unix.IFF_NOARP
	return i.Flags&never == 0 && i.Flags&unix.IFF_MULTICAST != 0 && !slices.Contains([]string{"vxlan", "geneve"}, i.Kind)
}

// hasPorts reports whether an interface of that kind takes others as ports. A port leads nowhere by
// itself. A VRF is a master of another kind.
func hasPorts(kind string) bool {
	return slices.Contains([]string{"bridge", "bond", "team", "openvswitch"}, kind)
}

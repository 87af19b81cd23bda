package netif

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Flags of the links of a table.
const (
	ethernet = unix.IFF_BROADCAST | unix.IFF_MULTICAST
	loopback = unix.IFF_LOOPBACK
	toPeer   = unix.IFF_POINTOPOINT | unix.IFF_NOARP | unix.IFF_MULTICAST
)

var onLANTests = []struct {
	name, links, want string
}{
	{"laptop", "lo, eth0, wlan0, wwan0 - - p2p", "eth0 wlan0"},
	{"docker", "lo, eth0, docker0 bridge, veth1 veth docker0, veth2 veth docker0, br-5e bridge", "eth0"},
	{"libvirt", "lo, br0 bridge, eth0 - br0, vnet0 tun br0, virbr0 bridge, vnet1 tun virbr0", "br0"},
	{"bonded", "lo, bond0 bond, eth0 - bond0, eth1 - bond0, vlan7 vlan", "bond0 vlan7"},
	{"bridge of a bond", "lo, br0 bridge, bond0 bond br0, eth0 - bond0", "br0"},
	{"bridge of a VLAN", "lo, eth0, vlan7 vlan br7, br7 bridge", "eth0 br7"},
	{"calico", "lo, ens3, cali1 veth, cali2 veth, vxlan.calico vxlan, tunl0 ipip - p2p, wg0 wireguard - p2p", "ens3"},
	{"flannel", "lo, ens3, flannel.1 vxlan, cni0 bridge, veth1 veth cni0", "ens3"},
	{"overlay of docker", "lo, ens3, br0 bridge, vxlan0 vxlan br0, veth1 veth br0", "ens3"},
	{"container", "lo, eth0 veth", "eth0"},
	{"container with two networks and engines of its own", "lo, eth0 veth, eth1 veth, docker0 bridge, veth7 veth docker0", "eth0 eth1"},
	{"container with macvlan", "lo, eth0 macvlan", "eth0"},
	{"ZeroTier", "lo, eth0, ztabc tun, tun0 tun - p2p", "eth0 ztabc"},
	{"container in ZeroTier", "lo, eth0 veth, ztabc tun", "eth0 ztabc"},
	{"VRF", "lo, red vrf - noarp, eth0 - red", "eth0"},
	{"master unknown", "lo, eth0 - 99", "eth0"},
	{"nothing", "lo", ""},
}

func TestOnLAN(t *testing.T) {
	for _, tt := range onLANTests {
		t.Run(tt.name, func(t *testing.T) {
			links := parseLinks(tt.links)
			var got []string
			for _, i := range onLAN(links) {
				got = append(got, links[i-1].Name)
			}
			slices.Sort(got)
			want := strings.Fields(tt.want)
			if slices.Sort(want); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// parseLinks reads links separated by commas: NAME [KIND [MASTER [FLAGS]]], with "-" for what is
// not there.
func parseLinks(text string) []Interface {
	var links []Interface
	for i, line := range strings.Split(text, ",") {
		f := append(strings.Fields(line), "-", "-", "-")
		l := Interface{Name: f[0], Index: int32(i + 1), Flags: ethernet}
		if f[1] != "-" {
			l.Kind = f[1]
		}
		switch {
		case l.Name == "lo":
			l.Flags = loopback
		case f[3] == "p2p":
			l.Flags = toPeer
		case f[3] == "noarp":
			l.Flags = unix.IFF_NOARP
		}
		links = append(links, l)
	}
	for i, line := range strings.Split(text, ",") {
		f := append(strings.Fields(line), "-", "-")
		if f[2] == "-" {
			continue
		}
		links[i].Master = 99
		for _, l := range links {
			if l.Name == f[2] {
				links[i].Master = l.Index
			}
		}
	}
	return links
}

// TestInterfaces has the kernel tell of real interfaces.
func TestInterfaces(t *testing.T) {
	inNetNS(t, func() error {
		for _, command := range []string{
			"link add eth0 type veth peer name port0", "link add br0 type bridge", "link set port0 master br0",
			"link add docker0 type bridge", "link add v1 type veth peer name v2",
			"link set v1 master docker0", "link set v2 master br0", "link add flannel.1 type vxlan id 1 dstport 4789", "tuntap add tun0 mode tun",
			"tuntap add tap0 mode tap", "link set v2 up", "link set docker0 up", "link set v1 up",
		} {
			if err := ip(t.Context(), command); err != nil {
				return err
			}
		}
		links, err := Interfaces()
		if err != nil {
			return err
		}
		var told []string
		names := make(map[int32]string)
		for _, l := range links {
			names[l.Index] = l.Name
		}
		for _, l := range links {
			told = append(told, fmt.Sprintf("%s %s %s", l.Name, l.Kind, names[l.Master]))
		}
		for _, want := range []string{"lo  ", "eth0 veth ", "docker0 bridge ", "v1 veth docker0", "flannel.1 vxlan ", "tun0 tun ", "tap0 tun "} {
			if !slices.Contains(told, want) {
				t.Errorf("got %q, want %q among them", told, want)
			}
		}
		for _, tt := range []struct{ names, want string }{
			{"", "eth0 tap0"}, {"eth0,docker0,none", "eth0 docker0"}, {"none", ""},
		} {
			var got []string
			for _, i := range Choose(links, strings.FieldsFunc(tt.names, func(r rune) bool { return r == ',' })) {
				got = append(got, names[i])
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("-interface %q: got %q, want %q", tt.names, got, tt.want)
			}
		}
		return nil
	})
}

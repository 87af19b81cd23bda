package avahi

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/goerlang/eclus/internal/netif"
)

func TestSift(t *testing.T) {
	const iface, other = 2, 3
	v4, v6 := netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")
	linkLocal := netip.MustParsePrefix("fe80::1/64")
	both := []netip.Prefix{v4, v6, linkLocal}
	for _, tt := range []struct {
		name    string
		subnets []netip.Prefix
		named   []string
		want    []string
		own     bool
	}{
		{"best first", both,
			[]string{"fe80::2%eth0", "2001:db8:1::2", "203.0.113.77", "2001:db8::2", "192.0.2.9", "192.0.2.2"},
			[]string{"192.0.2.2", "192.0.2.9", "2001:db8::2", "fe80::2%eth0"}, false},
		{"elsewhere", both, []string{"8.8.8.8", "169.254.169.254", "10.66.0.1", "203.0.113.77", "2001:db8:1::2"}, nil, false},
		{"elsewhere and here", both, []string{"8.8.8.8", "192.0.2.1"}, nil, false},
		{"no IPv6 here", both[:1], []string{"fe80::2%eth0", "192.0.2.2", "2001:db8::2"}, []string{"192.0.2.2"}, false},
		{"no IPv4 here", both[2:], []string{"fe80::2%eth0", "192.0.2.2"}, []string{"fe80::2%eth0"}, false},
		{"no link-local IPv6 here", both[:1], []string{"fe80::2%eth0"}, nil, false},
		{"no use to anybody", both, []string{"127.0.0.1", "0.0.0.0", "224.0.0.1", "::1", "192.0.2.2"}, []string{"192.0.2.2"}, false},
		{"some of this host", both, []string{"192.0.2.1", "192.0.2.2"}, []string{"192.0.2.2"}, false},
		{"this host", both, []string{"192.0.2.1", "2001:db8::1", "fe80::1%eth0"}, nil, true},
		{"none", both, nil, nil, false},
	} {
		b := &browseSession{own: make(ownAddresses)}
		for _, p := range tt.subnets {
			b.own[p.Addr()] = []int32{iface}
			b.subnets = append(b.subnets, netif.Address{Index: iface, Prefix: p})
		}
		b.subnets = append(b.subnets, netif.Address{Index: other, Prefix: netip.MustParsePrefix("203.0.113.1/24")},
			netif.Address{Index: other, Prefix: netip.MustParsePrefix("2001:db8:1::1/64")})
		h := &foundHost{hostKey: hostKey{iface: iface}, named: make(map[netip.Addr]bool)}
		for _, a := range tt.named {
			h.named[netip.MustParseAddr(a)] = true
		}
		addrs, own := b.sift(h)
		var got []string
		for _, a := range addrs {
			got = append(got, a.String())
		}
		if !slices.Equal(got, tt.want) || own != tt.own {
			t.Errorf("%s: got %v, %v; want %v, %v", tt.name, got, own, tt.want, tt.own)
		}
	}
	h := &foundHost{named: make(map[netip.Addr]bool)}
	for i := range 100 {
		h.named[netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})] = true
	}
	here := &browseSession{subnets: []netif.Address{{Prefix: v4}}}
	if addrs, _ := here.sift(h); len(addrs) != maxAddrs {
		t.Errorf("%d of 100 addresses count, want %d", len(addrs), maxAddrs)
	}
}

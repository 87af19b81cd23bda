package avahi

import (
	"net"
	"net/netip"
	"testing"
)

// TestReadOwnAddresses compares the addresses with those that the standard library finds.
func TestReadOwnAddresses(t *testing.T) {
	own, _, err := readOwnAddresses(nil)
	if err != nil {
		t.Fatal(err)
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			found++
			p := netip.MustParsePrefix(a.String())
			if !own.has(p.Addr(), int32(i.Index)) {
				t.Errorf("%v of %s is not among %v", p, i.Name, own)
			}
		}
	}
	if count := len(own); found == 0 || count > found {
		t.Errorf("%d addresses, where there are %d", count, found)
	}
}

func TestOwnAddresses(t *testing.T) {
	v4, v6, linkLocal := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("fe80::1")
	own := ownAddresses{v4: {2}, v6: {2}, linkLocal: {2, 3}}
	for _, tt := range []struct {
		addr  string
		iface int32
		want  bool
	}{
		{"192.0.2.1", 2, true},
		{"192.0.2.1", 9, true},
		{"::ffff:192.0.2.1", 2, true},
		{"192.0.2.2", 2, false},
		{"2001:db8::1", 9, true},
		{"fe80::1%eth1", 3, true},
		{"fe80::1%eth2", 4, false},
		{"fe80::2%eth1", 3, false},
	} {
		if got := own.has(netip.MustParseAddr(tt.addr), tt.iface); got != tt.want {
			t.Errorf("%s on interface %d: got %v", tt.addr, tt.iface, got)
		}
	}
}

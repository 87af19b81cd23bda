package netif

import (
	"net/netip"
	"testing"
)

func TestHas(t *testing.T) {
	prefixes := []netip.Prefix{
		netip.MustParsePrefix("127.0.0.1/8"),
		netip.MustParsePrefix("192.168.1.5/24"),
		netip.MustParsePrefix("fe80::1/64"),
	}
	for addr, want := range map[string]bool{
		"127.0.0.1":          true,
		"127.0.0.2":          true,
		"::1":                false, // IPv6 may have been switched off
		"192.168.1.5":        true,
		"::ffff:192.168.1.5": true,
		"192.168.1.6":        false, // another host's, or this one's until its lease ended
		"fe80::1%eth0":       true,
		"fe80::2%eth0":       false,
	} {
		if got := Has(netip.MustParseAddr(addr), prefixes); got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
}

func TestPrefixes(t *testing.T) {
	prefixes, err := Prefixes()
	if err != nil || !Has(netip.AddrFrom4([4]byte{127, 0, 0, 1}), prefixes) {
		t.Errorf("got %v, %v; want loopback among them", prefixes, err)
	}
}

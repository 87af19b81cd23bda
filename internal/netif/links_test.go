package netif

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// TestLinks asks for addresses of the loopback interface, and for one that nobody has. What was
// read last counts until it is forgotten.
func TestLinks(t *testing.T) {
	l := Links{read: time.Now()}
	loopback := netip.MustParsePrefix("127.0.0.1/8")
	if link, prefixes := l.Of(loopback.Addr()); link != "" || prefixes != nil {
		t.Errorf("got %q with %v; want what was read last", link, prefixes)
	}
	l.Forget()
	for _, a := range []string{"127.0.0.1", "127.7.7.7"} {
		if link, prefixes := l.Of(netip.MustParseAddr(a)); link != "lo" || !slices.Contains(prefixes, loopback) {
			t.Errorf("%s: got %q with %v; want lo with %v", a, link, prefixes, loopback)
		}
	}
	for _, a := range []string{"192.0.2.1", "fe80::1%nowhere"} {
		if link, prefixes := l.Of(netip.MustParseAddr(a)); link != "" || prefixes != nil {
			t.Errorf("%s: got %q with %v for an address that nobody has", a, link, prefixes)
		}
	}
}

// TestOnLink has addresses of three interfaces.
func TestOnLink(t *testing.T) {
	l := Links{read: time.Now().Add(time.Hour), names: map[int32]string{1: "lo", 2: "eth0", 3: "eth1"}}
	for i, list := range [][]string{{"127.0.0.1/8", "::1/128"}, {"192.0.2.1/24", "2001:db8::1/64", "fe80::1/64"}, {"198.51.100.7/25", "169.254.3.3/16"}} {
		for _, p := range list {
			l.addrs = append(l.addrs, Address{int32(i + 1), netip.MustParsePrefix(p)})
		}
	}
	for addr, want := range map[string]bool{
		"192.0.2.7": true, "192.0.2.1": false, "::ffff:192.0.2.7": true, "::ffff:192.0.2.1": false, "8.8.8.8": false,
		"198.51.100.126": true, "198.51.100.129": false, "127.0.0.2": false, "::1": false, "0.0.0.0": false,
		"2001:db8::2": true, "2001:db8::1": false, "2001:db8:1::2": false, "ff02::fb%eth0": false, "224.0.0.251": false,
		"fe80::2%eth0": true, "fe80::1%eth0": false, "fe80::1%eth1": false, "fe80::2%eth1": false, "fe80::2": false,
		"169.254.169.254": true,
	} {
		if got := l.OnLink(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
	if l.OnLink(netip.Addr{}) {
		t.Error("no address is on-link")
	}
}

func TestName(t *testing.T) {
	if lo, none := Name(1), Name(1<<30); lo != "lo" || none != "1073741824" {
		t.Errorf("got %q and %q", lo, none)
	}
}

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

func TestName(t *testing.T) {
	if lo, none := Name(1), Name(1<<30); lo != "lo" || none != "1073741824" {
		t.Errorf("got %q and %q", lo, none)
	}
}

package getent

import (
	"context"
	"net/netip"
	"slices"
	"testing"
)

func TestParseHosts(t *testing.T) {
	const out = "198.51.100.12   STREAM hostb.local\n198.51.100.12   DGRAM  \nfe80::1%eth0 STREAM \nnonsense\n\n"
	got := parseHosts(out)
	if len(got) != 2 || got[0].String() != "198.51.100.12" || got[1].String() != "fe80::1%eth0" {
		t.Errorf("got %v", got)
	}
}

// TestResolve asks the system for addresses of this host, and for a host that nobody has.
func TestResolve(t *testing.T) {
	for host, want := range map[string]string{"198.51.100.12": "198.51.100.12", "::1": "::1", "127.1": "127.0.0.1"} {
		addrs, err := Resolve(t.Context(), host)
		if err != nil || !slices.Contains(addrs, netip.MustParseAddr(want)) {
			t.Errorf("%s is %v, %v; want %s", host, addrs, err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if addrs, err := Resolve(ctx, "127.1"); err == nil {
		t.Errorf("resolved to %v after the end", addrs)
	}
}

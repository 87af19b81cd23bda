package epmd

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

var accessTests = []struct {
	in, out string // out: what String returns, and in if empty
	err     bool
}{
	{in: "local"},
	{in: "lan"},
	{in: "any"},
	{in: "198.51.100.0/24"},
	{in: "198.51.100.7/24", out: "198.51.100.0/24"},
	{in: "198.51.100.7", out: "198.51.100.7/32"},
	{in: "2001:db8::1", out: "2001:db8::1/128"},
	{in: "10.0.0.0/8, 2001:db8::/32", out: "10.0.0.0/8,2001:db8::/32"},
	{in: "0.0.0.0/0,::/0"},
	{in: "::ffff:198.51.100.7", out: "198.51.100.7/32"},
	{in: "::ffff:198.51.100.0/120", out: "198.51.100.0/24"},
	{in: "fe80::1%eth0", out: "fe80::1/128"},
	{in: "", err: true},
	{in: "LAN", err: true},
	{in: "lan,local", err: true},
	{in: "10.0.0.0/33", err: true},
	{in: "10.0.0.0/8,", err: true},
	{in: "10.0.0", err: true},
	{in: "fe80::/64%eth0", err: true},
	{in: "example.com", err: true},
}

func TestParseAccess(t *testing.T) {
	for _, tt := range accessTests {
		a, err := ParseAccess(tt.in)
		if tt.err {
			if err == nil || !strings.Contains(err.Error(), `"`+tt.in+`"`) {
				t.Errorf("%q: %v, %v; want an error naming it", tt.in, a, err)
			}
			continue
		}
		want := tt.out
		if want == "" {
			want = tt.in
		}
		if err != nil || a.String() != want {
			t.Errorf("%q: %v, %v; want %s", tt.in, a, err, want)
		}
		if a.LocalOnly() != (tt.in == "local") {
			t.Errorf("%q: only local: %t", tt.in, a.LocalOnly())
		}
	}
}

func FuzzParseAccess(f *testing.F) {
	for _, tt := range accessTests {
		f.Add(tt.in)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAccess(s)
		if err != nil {
			return
		}
		if again, err := ParseAccess(a.String()); err != nil || again.String() != a.String() {
			t.Errorf("%q: reparsed %q as %v, %v", s, a, again, err)
		}
	})
}

// TestAccess asks each Access about peers of other hosts. Two prefixes are on-link,
// 198.51.100.0/24 and 2001:db8:1::/64.
func TestAccess(t *testing.T) {
	onLink := func(a netip.Addr) bool {
		return netip.MustParsePrefix("198.51.100.0/24").Contains(a) || netip.MustParsePrefix("2001:db8:1::/64").Contains(a)
	}
	const list = "203.0.113.0/25,2001:db8:2::/48,fe80::7,::ffff:192.0.2.0/121"
	for _, tt := range []struct {
		peer      string
		lan, list bool
	}{
		{"198.51.100.9", true, false},    // on-link
		{"2001:db8:1::9", true, false},   // on-link
		{"10.255.0.1", true, false},      // RFC 1918, as the next two
		{"172.16.0.1", true, false},      //
		{"192.168.0.1", true, false},     //
		{"169.254.0.1", true, false},     // link-local
		{"100.64.0.0", true, false},      // RFC 6598, first
		{"100.127.255.255", true, false}, // and last
		{"fd00::1", true, false},         // RFC 4193
		{"fc00::1", true, false},         //
		{"fe80::1%eth0", true, false},    // link-local
		{"fe80::7%eth0", true, true},     // and listed
		{"100.63.255.255", false, false},
		{"100.128.0.0", false, false},
		{"172.32.0.1", false, false},
		{"172.15.255.255", false, false},
		{"11.0.0.1", false, false},
		{"192.169.0.1", false, false},
		{"203.0.113.127", false, true},
		{"203.0.113.128", false, false},
		{"192.0.2.127", false, true},
		{"192.0.2.128", false, false},
		{"2001:db8:2::1", false, true},
		{"2001:db8:3::1", false, false},
		{"2001:4860:4860::8888", false, false},
		{"0.0.0.0", false, false},
	} {
		peer := netip.MustParseAddr(tt.peer)
		for allow, want := range map[string]bool{"local": false, "lan": tt.lan, "any": true, list: tt.list} {
			a, err := ParseAccess(allow)
			if err != nil {
				t.Fatal(err)
			}
			if got := a.allows(peer, onLink); got != want {
				t.Errorf("%s: %s allowed: %t; want %t", allow, peer, got, want)
			}
		}
	}
	if (Access{}).String() != "lan" {
		t.Errorf("the zero Access is %v; want lan", Access{})
	}
}

func TestIsLocal(t *testing.T) {
	for _, tt := range []struct {
		peer, local string
		want        bool
	}{
		{"127.0.0.1", "127.0.0.1", true},
		{"127.1.2.3", "127.0.0.1", true},
		{"::1", "::1", true},
		{"198.51.100.1", "198.51.100.1", true},
		{"198.51.100.1", "198.51.100.2", false},
		{"fd00::1", "fd00::1", true},
		{"fd00::1", "fd00::2", false},
		{"10.0.0.1", "198.51.100.1", false},
	} {
		if got := isLocal(netip.MustParseAddr(tt.peer), netip.MustParseAddr(tt.local)); got != tt.want {
			t.Errorf("peer %s at %s is local: %t; want %t", tt.peer, tt.local, got, tt.want)
		}
	}
}

func TestLinks(t *testing.T) {
	var l links
	for addr, want := range map[string]bool{"127.1.2.3": true, "::1": true, "203.0.113.77": false, "2001:db8:77::1": false} {
		if got := l.contains(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s on-link: %t; want %t", addr, got, want)
		}
	}
}

func TestRefusals(t *testing.T) {
	var r refusals
	start := time.Now()
	addr := netip.MustParseAddr("203.0.113.1")
	for _, tt := range []struct {
		after time.Duration
		want  int
	}{{0, 1}, {0, 0}, {time.Second, 0}, {59 * time.Second, 0}, {60 * time.Second, 4}, {61 * time.Second, 0}, {200 * time.Second, 2}} {
		if got := r.add(addr, start.Add(tt.after)); got != tt.want {
			t.Errorf("after %v: log %d; want %d", tt.after, got, tt.want)
		}
	}
	if got := r.add(netip.MustParseAddr("203.0.113.2"), start); got != 1 {
		t.Errorf("another address: log %d; want 1", got)
	}
}

func TestRefusalsLimit(t *testing.T) {
	var r refusals
	now := time.Now()
	addr := netip.MustParseAddr("10.0.0.0")
	flood := func(n int) (logged int) {
		for range n {
			addr = addr.Next()
			if r.add(addr, now) > 0 {
				logged++
			}
		}
		return logged
	}
	if got := flood(maxRefusals); got != maxRefusals {
		t.Errorf("%d of %d addresses logged", got, maxRefusals)
	}
	if got := flood(5000); got != 1 {
		t.Errorf("%d entries for all addresses beyond the limit; want 1", got)
	}
	if len(r.seen) > maxRefusals+1 {
		t.Errorf("%d addresses are kept", len(r.seen))
	}
	now = now.Add(refusalInterval)
	if got := r.add(anyPeer, now); got != 5000 {
		t.Errorf("those beyond the limit a minute later: log %d; want 5000", got)
	}
	if got := flood(100); got != 100 {
		t.Errorf("%d of 100 new addresses logged once the old ones are forgotten", got)
	}
}

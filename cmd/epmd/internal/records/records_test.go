package records

import (
	"net/netip"
	"testing"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/cmd/epmd/internal/told"
	"github.com/goerlang/eclus/epmd"
)

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func claim(host string, id byte, addr string) Claim {
	return Claim{Who: told.Who{Hello: epmd.PeerHello{ID: epmd.PeerID{id}, Host: host}, Addr: at(addr)}, Trusted: true}
}

func configured(c Claim) Claim {
	c.Configured = true
	return c
}

// announced are hosta with two addresses, and hostb, which gives no streams.
var announced = Records{
	{Interface: 2, Label: "hosta"}: {Host: "hosta.local", Announces: true, Addrs: []netip.AddrPort{at("192.0.2.1:4369")}},
	{Interface: 3, Label: "hosta"}: {Host: "hosta.local", Announces: true, Addrs: []netip.AddrPort{at("198.51.100.1:4369")}},
	{Interface: 2, Label: "hostb"}: {Host: "hostb.local", Addrs: []netip.AddrPort{at("192.0.2.2:4369")}},
	{Interface: 2, Label: "hostc"}: {Host: "hostc.local", Announces: true},
}

// TestTwoClaims compares two streams. An ID is known to its epmd alone. An old epmd has none.
func TestTwoClaims(t *testing.T) {
	a := claim("hosta.local", 1, "192.0.2.1:4369")
	for _, tt := range []struct {
		name         string
		a, b         Claim
		same, rivals bool
	}{
		{"one address", a, a, true, true},
		{"one address, no IDs", claim("x", 0, "192.0.2.9:4369"), claim("x", 0, "192.0.2.9:4369"), false, true},
		{"two addresses of one host", a, claim("hosta.local", 1, "198.51.100.1:4369"), true, true},
		{"other port of one host", a, claim("hosta.local", 2, "192.0.2.1:4370"), false, false},
		{"a thief of the ID", a, claim("hosta.local", 1, "203.0.113.1:4369"), false, true},
		{"another claims the name at another port", a, claim("hosta.local", 2, "203.0.113.1:4370"), false, true},
		{"both configured", configured(a), configured(claim("hosta.local", 1, "203.0.113.1:4369")), true, true},
		{"one configured", a, configured(claim("hosta.local", 1, "203.0.113.1:4369")), false, true},
		{"two hosts", a, claim("hostb.local", 2, "192.0.2.2:4369"), false, false},
		{"two hosts with one ID", a, claim("hostb.local", 1, "192.0.2.2:4369"), false, false},
	} {
		if same := announced.AreSame(tt.a, tt.b); same != tt.same {
			t.Errorf("%s: same %t", tt.name, same)
		}
		if rivals := announced.AreRivals(tt.a, tt.b); rivals != tt.rivals {
			t.Errorf("%s: rivals %t", tt.name, rivals)
		}
	}
}

// TestClaim has epmds with and without a right to their host name.
func TestClaim(t *testing.T) {
	written := configured(claim("hosta.local", 1, "203.0.113.1:4369"))
	written.Trusted = false
	for _, tt := range []struct {
		name           string
		is             Claim
		mayBe, vouched bool
	}{
		{"announced there", claim("hosta.local", 1, "192.0.2.1:4369"), true, true},
		{"announced elsewhere", claim("hosta.local", 1, "203.0.113.1:4369"), true, false},
		{"another port", claim("hosta.local", 1, "192.0.2.1:4370"), true, false},
		{"announced there, gives no streams", claim("HOSTB.local", 1, "192.0.2.2:5000"), true, false},
		{"announced elsewhere, gives no streams", claim("HOSTB.local", 1, "192.0.2.3:4369"), false, false},
		{"not announced", claim("hostd.local", 1, "192.0.2.3:4369"), true, false},
		{"configured", configured(claim("hosta.local", 1, "203.0.113.1:4369")), true, true},
		{"written by a program", written, true, false},
	} {
		if may := announced.MayBe(tt.is); may != tt.mayBe {
			t.Errorf("%s: may be %t", tt.name, may)
		}
		if is := announced.Vouched(tt.is); is != tt.vouched {
			t.Errorf("%s: vouched %t", tt.name, is)
		}
	}
}

// TestGiving yields only what may give a stream.
func TestGiving(t *testing.T) {
	n := 0
	for place, e := range announced.Giving() {
		if n++; e.Host != "hosta.local" {
			t.Errorf("%v gives a stream: %+v", place, e)
		}
	}
	if n != 2 || Gives(avahi.EPMD{}) {
		t.Errorf("%d places give streams, of 2", n)
	}
}

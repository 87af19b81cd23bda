package nodeserver

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"github.com/goerlang/eclus/registry"
)

// TestNameFor has nodes call this host by the names that need no DNS.
func TestNameFor(t *testing.T) {
	o := Options{
		Registry: registry.New("hosta.local", registry.OldNames),
		Host:     func() string { return "hosta" },
		Log:      slog.New(slog.DiscardHandler),
	}
	local := net.TCPAddrFromAddrPort(netip.MustParseAddrPort("[::ffff:198.51.100.5]:4711"))
	for peer, want := range map[string]string{
		"b@hostb":        "epmd@hosta",
		"b@localhost":    "epmd@localhost",
		"b@hostb.local":  "epmd@hosta.local",
		"b@198.51.100.6": "epmd@198.51.100.5",
	} {
		if got := New(o).nameFor(peer, local); got != want {
			t.Errorf("for %s: %s, want %s", peer, got, want)
		}
	}
	o.Name = "x@host.example"
	if got := New(o).nameFor("b@hostb", local); got != o.Name {
		t.Errorf("with a name of its own: %s, want %s", got, o.Name)
	}
}

// TestOwns has no node registered.
func TestOwns(t *testing.T) {
	s := New(Options{})
	peer := netip.MustParseAddrPort("127.0.0.1:4711")
	if s.Owns(peer) {
		t.Error("owns a registration before it has one")
	}
	s.peer.Store(&peer)
	if !s.Owns(peer) || s.Owns(netip.MustParseAddrPort("127.0.0.1:4712")) {
		t.Error("owns another than its own registration")
	}
}

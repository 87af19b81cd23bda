package peers

import (
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/cmd/epmd/internal/stream"
	"github.com/goerlang/eclus/cmd/epmd/internal/stream/streamtest"
	"github.com/goerlang/eclus/registry"
)

// wantNamed lets time pass, then checks what counts of the one node that is known.
func (w *world) wantNamed(what string, origin registry.Origin, named bool) {
	w.Helper()
	w.after(time.Minute, "a@hosta.local yes")
	for _, n := range w.ps.Registry.Nodes() {
		if n.Origin != origin || n.Named != named {
			w.Errorf("%s: origin %v, named %t; want %v, %t", what, n.Origin, n.Named, origin, named)
		}
	}
}

// TestNamed has an epmd that is known in several ways, in any order. Its word is that of this
// host's owner if he has named each address that it has.
func TestNamed(t *testing.T) {
	at, second := []netip.AddrPort{addrA}, netip.MustParseAddrPort("192.0.2.3:4369")
	configures := func(w *world) { w.ps.Configure(at, nil) }
	writes := func(w *world) { w.ps.Configure(nil, at) }
	forgets := func(w *world) { w.ps.Configure(nil, nil) }
	asks := func(w *world) { w.ask("hosta.local", 1, addrA) }
	found := func(w *world) { w.found("hosta.local", addrA) }
	foundAtTwo := func(w *world) { w.found("hosta.local", addrA, second) }
	for _, tt := range []struct {
		name   string
		steps  []func(*world)
		origin registry.Origin
		named  bool
	}{
		{"named", []func(*world){configures}, registry.Peer, true},
		{"written", []func(*world){writes}, registry.Peer, false},
		{"written, then named", []func(*world){writes, configures}, registry.Peer, true},
		{"asks", []func(*world){asks}, registry.LAN, false},
		{"asks, then named", []func(*world){asks, configures}, registry.Peer, true},
		{"named, then asks", []func(*world){configures, asks}, registry.Peer, true},
		{"asks, then written", []func(*world){asks, writes}, registry.LAN, false},
		{"announced, then named", []func(*world){found, configures}, registry.Peer, true},
		{"named, then announced", []func(*world){configures, found}, registry.Peer, true},
		{"announced with another address, then named", []func(*world){foundAtTwo, configures}, registry.LAN, false},
		{"asks, then named, then no longer", []func(*world){asks, configures, forgets}, registry.LAN, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a", "="))
				for _, step := range tt.steps[:len(tt.steps)-1] {
					step(w)
					w.after(time.Minute, "a@hosta.local yes")
				}
				tt.steps[len(tt.steps)-1](w)
				w.wantNamed(tt.name, tt.origin, tt.named)
			})
		})
	}
}

// TestNamedAddress has somebody announce another address of an epmd that is named. What answers
// there has not been named.
func TestNamedAddress(t *testing.T) {
	inBubble(t, func(w *world) {
		evil := netip.MustParseAddrPort("192.0.2.3:4369")
		genuine := w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a", "="))
		w.ps.Configure([]netip.AddrPort{addrA}, nil)
		w.wantNamed("named", registry.Peer, true)
		w.ps.Found(place("hosta", 2), avahi.EPMD{Host: "hosta.local", Interface: "eth0", Addrs: []netip.AddrPort{addrA}})
		w.found("hosta.local", addrA, evil)
		w.net.Offer(evil, streamtest.New("hosta.local", 7, "+evil", "="))
		genuine.Fail(io.EOF)
		w.after(stream.Grace+stream.Forgets, "")
	})
}

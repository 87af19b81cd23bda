package registry

import (
	"strings"
	"testing"
)

func TestLANState(t *testing.T) {
	on, gone, busy := Discovery{Wanted: true}, Discovery{Wanted: true, Off: "Avahi has gone"}, Discovery{Wanted: true, Waiting: 7}
	many := Discovery{Wanted: true, Unannounced: 9}
	private := Discovery{Off: "-allow local"}
	for _, tt := range []struct {
		name              string
		lan               LANState
		off, unpublished  string
		says, saysNothing string // in String
	}{
		{"nothing said", LANState{}, "", "", "on", "off"},
		{"both on", LANState{on, on}, "", "", "LAN discovery on", ","},
		{"both off", LANState{gone, Discovery{Wanted: true, Off: "another reason"}}, "Avahi has gone", "", "off: Avahi has gone", "another"},
		{"announced alone", LANState{on, gone}, "", "", "no other hosts are looked for: Avahi has gone", "off"},
		{"seen alone", LANState{gone, on}, "", "Avahi has gone", "on, but this host is not announced: Avahi has gone", "off"},
		{"not to be announced", LANState{private, on}, "", "-allow local", "not announced: -allow local", "off"},
		{"neither", LANState{private, gone}, "Avahi has gone", "", "off: Avahi has gone", "-allow"},
		{"only browsing", LANState{Discovery{}, on}, "", "", "LAN discovery on", ","},
		{"only browsing, off", LANState{Discovery{}, gone}, "Avahi has gone", "", "off: Avahi has gone", ","},
		{"only publishing, off", LANState{gone, Discovery{}}, "Avahi has gone", "", "off: Avahi has gone", ","},
		{"none wanted", LANState{Discovery{Off: "-lan off"}, Discovery{}}, "-lan off", "", "off: -lan off", ","},
		{"many nodes", LANState{many, on}, "", "", "on, 9 nodes not announced by mDNS", "Avahi"},
		{"past the limits", LANState{on, busy}, "", "", "on, 7 past Avahi's limits", "off"},
	} {
		if got := tt.lan.Off(); got != tt.off {
			t.Errorf("%s: off %q; want %q", tt.name, got, tt.off)
		}
		if got := tt.lan.Unpublished(); got != tt.unpublished {
			t.Errorf("%s: unpublished %q; want %q", tt.name, got, tt.unpublished)
		}
		if got := tt.lan.String(); !strings.Contains(got, tt.says) || strings.Contains(got, tt.saysNothing) {
			t.Errorf("%s: says %q; want %q and not %q", tt.name, got, tt.says, tt.saysNothing)
		}
	}
}

// TestSetLAN has a subscriber told of changes, and of nothing else.
func TestSetLAN(t *testing.T) {
	r := New(testHost, OldNames)
	off := LANState{Publishing: Discovery{Off: "-lan off"}}
	r.SetLAN(off)
	s := r.Subscribe()
	if b := taken(s, true); b.LAN == nil || *b.LAN != off {
		t.Errorf("first batch has %v; want %v", b.LAN, off)
	}
	r.SetLAN(off)
	if b := taken(s, true); b.LAN != nil {
		t.Errorf("the same again is told as %v", b.LAN)
	}
	register(t, r, "a", 6)
	if b := taken(s, true); b.LAN != nil || len(b.Events) != 1 {
		t.Errorf("took %+v; want an event, and nothing of the LAN", b)
	}
	r.SetLAN(LANState{})
	if b, err := s.Next(t.Context()); err != nil || b.LAN == nil || *b.LAN != r.LAN() || r.LAN() != (LANState{}) {
		t.Errorf("took %+v, %v; want the LAN as it is", b, err)
	}
}

package registry

import (
	"net/netip"
	"slices"
	"testing"
)

func TestNoStreams(t *testing.T) {
	r := New(testHost, OldNames)
	a := NoStream{"a.local", netip.MustParseAddrPort("192.0.2.2:4369"), "closed"}
	other, b := a, a
	other.EPMD = netip.MustParseAddrPort("192.0.2.1:4369")
	b.Host = "b.local"
	for i, n := range []NoStream{b, a, other} {
		r.SetNoStream(i, n)
	}
	if got := r.NoStreams(); !slices.Equal(got, []NoStream{other, a, b}) {
		t.Errorf("got %v", got)
	}
	r.SetNoStream(1, NoStream{})
	b.Why = "refused"
	r.SetNoStream(0, b)
	if got := r.NoStreams(); !slices.Equal(got, []NoStream{other, b}) {
		t.Errorf("got %v", got)
	}
	r.SetNoStream(0, NoStream{})
	r.SetNoStream(2, NoStream{})
	r.SetNoStream(2, NoStream{})
	if got := r.NoStreams(); len(got) != 0 {
		t.Errorf("left are %v", got)
	}
}

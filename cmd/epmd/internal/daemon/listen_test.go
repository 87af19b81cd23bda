package daemon

import (
	"net/netip"
	"strings"
	"testing"
)

func TestPlaces(t *testing.T) {
	for _, tt := range []struct{ list, want string }{
		{"", "0.0.0.0 ::"},
		{"127.0.0.1", "127.0.0.1 ::1"},
		{"::1", "127.0.0.1 ::1"},
		{"192.0.2.1 192.0.2.1", "127.0.0.1 ::1 192.0.2.1"},
		{"0.0.0.0", "::1 0.0.0.0"},
		{":: 192.0.2.1", "127.0.0.1 :: 192.0.2.1"},
	} {
		var list []netip.Addr
		for word := range strings.FieldsSeq(tt.list) {
			list = append(list, netip.MustParseAddr(word))
		}
		var got []string
		for _, p := range places(list) {
			got = append(got, p.addr.String())
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%q: got %q, want %q", tt.list, got, tt.want)
		}
	}
}

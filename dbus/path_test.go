package dbus

import (
	"net/url"
	"strings"
	"testing"

	godbus "github.com/godbus/dbus/v5"
)

var escapeTests = []struct{ s, want string }{
	{"a@hosta.local", "a_40hosta_2elocal"},
	{"rabbit", "rabbit"},
	{"", "_"},
	{"_", "_5f"},
	{"1a1", "_31a1"},
	{"é", "_c3_a9"},
	{"a\x00\xff/", "a_00_ff_2f"},
}

func TestEscape(t *testing.T) {
	for _, tt := range escapeTests {
		if got := escape(tt.s); got != tt.want {
			t.Errorf("escape(%q) = %q; want %q", tt.s, got, tt.want)
		}
	}
}

// FuzzEscape holds that what is escaped is an element of a path and can be read back.
func FuzzEscape(f *testing.F) {
	for _, tt := range escapeTests {
		f.Add(tt.s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := escape(s)
		if path := godbus.ObjectPath(Root + "/" + got); !path.IsValid() {
			t.Errorf("escape(%q) = %q, which is no element of a path", s, got)
		}
		hex := strings.NewReplacer("%", "", "_", "%").Replace(got)
		if back, err := url.PathUnescape(hex); s != "" && (err != nil || back != s) {
			t.Errorf("escape(%q) = %q, which reads back as %q, %v", s, got, back, err)
		}
	})
}

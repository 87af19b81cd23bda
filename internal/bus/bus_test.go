package bus

import (
	"slices"
	"testing"
)

func TestParse(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "")
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "")
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/1000 of a;b")
	for _, tt := range []struct {
		given string
		want  []string // empty: refused
	}{
		{"system", []string{"/run/dbus/system_bus_socket"}},
		{"session", []string{"/run/user/1000 of a;b/bus"}},
		{"unix:path=/run/bus", []string{"/run/bus"}},
		{"unix:path=/tmp/a%20b,guid=0123", []string{"/tmp/a b"}},
		{"unix:guid=0123,abstract=/tmp/x", []string{"@/tmp/x"}},
		{"unix:path=/run/a;unix:path=/run/b;", []string{"/run/a", "/run/b"}},
		{"unix:path=run/a", nil},
		{"unix:path=/run/a;tcp:host=localhost,port=1", nil},
		{"unix:path=%zz", nil},
		{"unix:", nil},
		{"autolaunch:", nil},
		{"systems", nil},
		{"", nil},
	} {
		got, err := Parse(tt.given)
		if !slices.Equal(got.sockets, tt.want) || (err == nil) != (tt.want != nil) {
			t.Errorf("Parse(%q) = %q, %v; want %q", tt.given, got.sockets, err, tt.want)
		}
		if err == nil && got.String() != tt.given {
			t.Errorf("Parse(%q) says %q", tt.given, got)
		}
	}
}

func TestParseEnvironment(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/other")
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "autolaunch:")
	system, err := Parse("system")
	if err != nil || !slices.Equal(system.sockets, []string{"/run/other"}) {
		t.Errorf("system bus at %q, %v; want /run/other", system.sockets, err)
	}
	session, err := Parse("session")
	if err != nil || session.err == nil || session.IsZero() {
		t.Errorf("session bus %+v, %v; want one that can't be used", session, err)
	}
}

package named

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

var whoTests = []struct {
	text string
	want Who
	err  string // what the message must name; empty: must parse
}{
	{"192.0.2.7", Who{Addr: netip.MustParseAddr("192.0.2.7")}, ""},
	{"192.0.2.7:1", Who{Addr: netip.MustParseAddr("192.0.2.7"), Port: 1}, ""},
	{"::ffff:192.0.2.7", Who{Addr: netip.MustParseAddr("192.0.2.7")}, ""},
	{"2001:db8::7", Who{Addr: netip.MustParseAddr("2001:db8::7")}, ""},
	{"[2001:db8::7]", Who{Addr: netip.MustParseAddr("2001:db8::7")}, ""},
	{"[2001:db8::7]:4369", Who{Addr: netip.MustParseAddr("2001:db8::7"), Port: 4369}, ""},
	{"fe80::7%eth0", Who{Addr: netip.MustParseAddr("fe80::7%eth0")}, ""},
	{"dns:web", Who{Name: "web"}, ""},
	{"dns:_epmd.Web-1.lab.example.", Who{Name: "_epmd.web-1.lab.example"}, ""},
	{"dns:web:5000", Who{Name: "web", Port: 5000}, ""},
	{"gateway", Who{Gateway: true}, ""},
	{"gateway:5000", Who{Gateway: true, Port: 5000}, ""},

	{"", Who{}, `""`},
	{"hostb", Who{}, `"hostb" is not the address`},
	{"0.0.0.0", Who{}, "0.0.0.0"},
	{"224.0.0.251", Who{}, "224.0.0.251"},
	{"192.0.2.7:0", Who{}, "192.0.2.7:0"},
	{"192.0.2.7:65536", Who{}, "192.0.2.7:65536"},
	{"fe80::7%../x", Who{}, "fe80::7%../x"},
	{"dns:", Who{}, `"dns:" does not name a host`},
	{"dns:a..b", Who{}, "dns:a..b"},
	{"dns:-a", Who{}, "dns:-a"},
	{"dns:a b", Who{}, "dns:a b"},
	{"dns:ä", Who{}, "dns:ä"},
	{"dns:" + strings.Repeat("a", 64), Who{}, "aaaa"},
	{"dns:" + strings.Repeat("a.", 127) + "a", Who{}, "a.a."},
	{"dns:192.0.2.7", Who{}, "dns: does not go"},
	{"dns:192.0.2.7.", Who{}, "dns: does not go"}, // found by FuzzParse
	{"dns:192.0.2.7:5000", Who{}, "dns: does not go"},
	{"dns:2001:db8::7", Who{}, "dns: does not go"},
	{"dns:web:0", Who{}, `"0" is not a port`},
	{"dns:web:", Who{}, `"" is not a port`},
	{"gateway:x", Who{}, `"x" is not a port`},
	{"gateways", Who{}, "gateways"},
	{"Gateway", Who{}, "Gateway"},
}

func TestParse(t *testing.T) {
	for _, tt := range whoTests {
		got, err := Parse(tt.text)
		switch {
		case tt.err == "" && (err != nil || got != tt.want):
			t.Errorf("%q: got %+v, %v; want %+v", tt.text, got, err, tt.want)
		case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err) || got != Who{}):
			t.Errorf("%q: got %+v, %v; want an error with %s", tt.text, got, err, tt.err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, tt := range whoTests {
		f.Add(tt.text)
	}
	f.Fuzz(func(t *testing.T, s string) {
		w, err := Parse(s)
		if err != nil {
			return
		}
		if again, err := Parse(w.String()); err != nil || again != w {
			t.Errorf("%q is %+v, and %q is %+v, %v", s, w, w, again, err)
		}
	})
}

// TestParseList has as many as may be, and one more.
func TestParseList(t *testing.T) {
	var list []string
	for i := range MaxWhos {
		list = append(list, fmt.Sprintf("10.0.%d.%d", i/256, i%256))
	}
	all := strings.Join(list, ",")
	if got, err := ParseList(all + ", "); err != nil || len(got) != MaxWhos {
		t.Errorf("got %d, %v; want %d", len(got), err, MaxWhos)
	}
	if got, err := ParseList(all + ",gateway"); err == nil || !strings.Contains(err.Error(), "more than 2048") {
		t.Errorf("got %d, %v; want an error", len(got), err)
	}
	if got, err := ParseList("gateway,x"); err == nil || got != nil {
		t.Errorf("got %v, %v; want an error", got, err)
	}
}

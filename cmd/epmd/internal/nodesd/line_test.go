package nodesd

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/goerlang/eclus/cmd/epmd/internal/named"
	"github.com/goerlang/eclus/registry"
)

var lineTests = []struct {
	text string
	want string // of the node, host, epmd port and addresses, or of the epmd; empty: nothing
	err  string // what the message must name; empty: must parse
}{
	{"", "", ""},
	{"  \t\r", "", ""},
	{"# b@hostb 192.0.2.7:9100", "", ""},
	{"@192.0.2.7", "@192.0.2.7", ""},
	{"  @dns:web:5000\r", "@dns:web:5000", ""},
	{"@gateway", "@gateway", ""},
	{"b@hostb 192.0.2.7:9100", "b@hostb hostb.local 0 normal 6 5 192.0.2.7 9100", ""},
	{"b@hostb.lab.example\t[2001:db8::7]:1", "b@hostb.lab.example hostb.lab.example 0 normal 6 5 2001:db8::7 1", ""},
	{"b@192.0.2.7 ::ffff:192.0.2.7:9100", "", "not an address with a port"},
	{"b@192.0.2.7 [::ffff:192.0.2.7]:9100", "b@192.0.2.7 192.0.2.7 0 normal 6 5 192.0.2.7 9100", ""},
	{"b@hostb [fe80::1%eth0]:9100", "b@hostb hostb.local 0 normal 6 5 fe80::1%eth0 9100", ""},
	{"b@hostb 192.0.2.7:9100 epmd=4369 type=hidden dist=tls high=5 low=5 host=x.local color=red addresses=192.0.2.7,192.0.2.8",
		"b@hostb x.local 4369 hidden tls 5 5 192.0.2.7 192.0.2.8 9100", ""},
	{"b@hostb 192.0.2.7:9100 origin=local via=x since=y pid=z reachable=no named=yes node=c@hostc", "b@hostb hostb.local 0 normal 6 5 192.0.2.7 9100", ""},

	{"@", "", `"" is not the address`},
	{"@hostb", "", "hostb"},
	{"@gateway now", "", `"now" follows "@gateway"`},
	{"b", "", "neither the full name of a node"},
	{"b@", "", "neither"},
	{"ü@hostb 192.0.2.7:9100", "", "neither"},
	{"b@h\x1b[2J 192.0.2.7:9100", "", `\x1b`},
	{"b@localhost 192.0.2.7:9100", "", "localhost"},
	{"b@127.0.0.1 192.0.2.7:9100", "", "127.0.0.1"},
	{"b@hostb", "", "without address"},
	{"b@hostb hostb:9100", "", "not an address"},
	{"b@hostb 192.0.2.7", "", "not an address"},
	{"b@hostb 192.0.2.7:0", "", "not an address"},
	{"b@hostb 0.0.0.0:9100", "", "0.0.0.0"},
	{"b@hostb [ff02::1]:9100", "", "ff02::1"},
	{"b@hostb [fe80::1]:9100", "", "no zone"},
	{"b@hostb [fe80::1%a/b]:9100", "", "a/b"},
	{"b@hostb 192.0.2.7:9100 hidden", "", `"hidden" is not KEY=VALUE`},
	{"b@hostb 192.0.2.7:9100 type=odd", "", "odd"},
	{"b@hostb 192.0.2.7:9100 dist=quic", "", "quic"},
	{"b@hostb 192.0.2.7:9100 epmd=70000", "", "70000"},
	{"b@hostb 192.0.2.7:9100 high=x", "", "x"},
	{"b@hostb 192.0.2.7:9100 host=x", "", `host name "x"`},
	{"b@hostb 192.0.2.7:9100 host=%1b[2J.local", "", `\x1b`},
	{"b@hostb 192.0.2.7:9100 host=%zz", "", "%zz"},
	{"b@hostb 192.0.2.7:9100 addresses=192.0.2.8,x", "", "x"},
	{"b@hostb 192.0.2.7:9100 addresses=" + strings.Repeat("2001:db8::1,2001:db8::2,", 9) + "2001:db8::3", "", "addresses"},
	{"# " + strings.Repeat("x", maxLine), "", "4096 bytes"},
}

// text returns what lineTests have.
func (e entry) text() string {
	n := e.node
	if n.Name == "" {
		return "@" + e.who.String()
	}
	words := []string{n.Node, n.Host, number(n.EPMDPort), n.Type.String(), n.Dist.String(), number(n.High), number(n.Low)}
	for _, a := range n.Addresses {
		words = append(words, a.String())
	}
	words = append(words, number(n.Port))
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " ")
}

func number(n uint16) string {
	_, port, _ := strings.Cut(netip.AddrPortFrom(netip.IPv4Unspecified(), n).String(), ":")
	return port
}

func TestParseLine(t *testing.T) {
	for _, tt := range lineTests {
		e, ok, err := parseLine(tt.text)
		got := ""
		if ok {
			got = e.text()
		}
		switch {
		case tt.err == "" && (err != nil || got != tt.want):
			t.Errorf("%q: got %q, %v; want %q", tt.text, got, err, tt.want)
		case tt.err != "" && (err == nil || ok || !strings.Contains(err.Error(), tt.err)):
			t.Errorf("%.100q: got %q, %v; want an error with %q", tt.text, got, err, tt.err)
		}
	}
}

// FuzzParseLine holds that what is taken can be shown, and leads to a host.
func FuzzParseLine(f *testing.F) {
	for _, tt := range lineTests {
		f.Add(tt.text)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, ok, err := parseLine(s)
		if ok == (err != nil) && ok {
			t.Fatalf("%q: %v, %v", s, ok, err)
		}
		if !ok || e.who != (named.Who{}) {
			return
		}
		n := e.node
		_, notIP := netip.ParseAddr(n.Host)
		if !registry.ValidNode(n.Node) || notIP != nil && !registry.ValidHost(n.Host) || n.Port == 0 || len(n.Addresses) == 0 ||
			len(n.Addresses) > maxAddresses || n.Origin != registry.Peer {
			t.Errorf("%q: %+v", s, n)
		}
		for _, a := range n.Addresses {
			if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
				t.Errorf("%q: %v", s, a)
			}
		}
	})
}

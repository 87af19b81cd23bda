package avahi

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/goerlang/eclus/registry"
)

var testAddr = netip.MustParseAddr("198.51.100.11")

var parseTests = []struct {
	name  string
	label string
	host  string
	port  uint16
	text  []string
	addr  string // empty: testAddr

	kind kind
	// Node, Name, Type, Dist, High, Low, Protocol, EPMDPort and Sure count. EPMDPort 0 is 4369.
	want registry.Node
	err  string // what the message must name; empty: must parse
}{
	{name: "our form", label: "a@hosta", host: "hosta.local", port: 4711,
		text: []string{"txtvers=1", "node=a@x.example", "name=a", "type=hidden", "proto=1", "high=6", "low=5", "epmd=4370", "dist=tls"},
		want: registry.Node{Node: "a@x.example", Name: "a", Type: registry.Hidden, Dist: registry.TLS, Protocol: 1, High: 6, Low: 5, EPMDPort: 4370, Sure: true}},
	{name: "our form before the name is known", label: "a@hosta", host: "hosta.local", port: 4711,
		text: []string{"txtvers=1", "name=a", "type=normal", "proto=0", "high=6", "low=5", "epmd=4369"},
		want: registry.Node{Node: "a@hosta.local", Name: "a", Type: registry.Normal, High: 6, Low: 5}},
	{name: "node= suffices", label: "x", host: "hosta.local", port: 4369, text: []string{"node=a@b"},
		want: registry.Node{Node: "a@b", Name: "a", Type: registry.Normal, Sure: true}},
	{name: "full name in name=", label: "x", host: "hosta.local", port: 1, text: []string{"name=a@b"},
		want: registry.Node{Node: "a@b", Name: "a", Type: registry.Normal, Sure: true}},
	{name: "keys in any case, first counts", label: "x", host: "hosta.local", port: 1, text: []string{"NoDe=a@b", "node=c@d"},
		want: registry.Node{Node: "a@b", Name: "a", Type: registry.Normal, Sure: true}},
	{name: "all that OTP takes", label: "x", host: "hosta.local", port: 1, text: []string{"node=A-z_09@ünï"},
		want: registry.Node{Node: "A-z_09@ünï", Name: "A-z_09", Type: registry.Normal, Sure: true}},
	{name: "numbers that aren't", label: "x", host: "hosta.local", port: 1, text: []string{"node=a@b", "high=-1", "low=65536", "proto=256", "epmd=65536", "dist=quic", "type=M"},
		want: registry.Node{Node: "a@b", Name: "a", Type: registry.Normal, Sure: true}},
	{name: "host ends in a dot", label: "a", host: "hosta.local.", port: 1,
		want: registry.Node{Node: "a@hosta.local", Name: "a", Type: registry.Normal}},
	{name: "Eclus of 2014, full", label: "a@somewhere", host: "hosta.local", port: 1,
		want: registry.Node{Node: "a@somewhere", Name: "a", Type: registry.Normal}},
	{name: "Eclus of 2014, bare", label: "a", host: "hosta.local", port: 1, text: []string{""},
		want: registry.Node{Node: "a@hosta.local", Name: "a", Type: registry.Normal}},
	{name: "Eclus of 2014, its keys", label: "a", host: "hosta.local", port: 1, text: []string{"email=a@b.example", "jid=", "status=avail"},
		want: registry.Node{Node: "a@hosta.local", Name: "a", Type: registry.Normal}},
	{name: "full, other keys", label: "a@b", host: "hosta.local", port: 1, text: []string{"a=b"},
		want: registry.Node{Node: "a@b", Name: "a", Type: registry.Normal}},
	{name: "Nerves", label: "nerves-1234", host: "nerves-1234.local", port: 4369, kind: kindEpmd},
	{name: "epmd with other keys", label: "x", host: "hosta.local", port: 4369, text: []string{"a=b"}, kind: kindEpmd},
	{name: "our host", label: "hosta", host: "hosta.local", port: 4369, text: []string{"txtvers=1", "eclus=1"}, kind: kindHost},
	{name: "our host on another port", label: "hosta", host: "hosta.local", port: 5000, text: []string{"eclus"}, kind: kindHost},

	{name: "port 0", label: "a", host: "hosta.local", err: "port 0"},
	{name: "epmd at the port of another service", label: "a", host: "hosta.local", port: 4711, text: []string{"node=a@b", "epmd=22"}, err: "epmd at port 22"},
	{name: "host at the port of another service", label: "hosta", host: "hosta.local", port: 53, text: []string{"eclus=1"}, err: "epmd at port 53"},
	{name: "epmd at the lowest port", label: "a", host: "hosta.local", port: 4711, text: []string{"node=a@b", "epmd=1024"},
		want: registry.Node{Node: "a@b", Name: "a", Type: registry.Normal, EPMDPort: 1024, Sure: true}},
	{name: "name left out for its length", label: "a@b~12345678", host: "hosta.local", port: 1, text: []string{"txtvers=1", "type=normal"}, err: "TXT"},
	{name: "names that differ", label: "a@b", host: "hosta.local", port: 1, text: []string{"node=a@b", "name=c"}, err: `"c"`},
	{name: "two at signs", label: "a", host: "hosta.local", port: 1, text: []string{"node=a@b@c"}, err: `"a@b@c"`},
	{name: "no alive name", label: "a", host: "hosta.local", port: 1, text: []string{"node=@b"}, err: `"@b"`},
	{name: "no host part", label: "a", host: "hosta.local", port: 1, text: []string{"node=a@"}, err: `"a@"`},
	{name: "quotes", label: "a", host: "hosta.local", port: 1, text: []string{`node=q'"\@hosta.local`}, err: `q'\"`},
	{name: "dot", label: "a.b", host: "hosta.local", port: 1, err: `"a.b"`},
	{name: "letter that OTP refuses", label: "a", host: "hosta.local", port: 1, text: []string{"name=bücher"}, err: `"bücher"`},
	{name: "host that OTP refuses", label: "a", host: "hosta.local", port: 1, text: []string{"node=a@ł"}, err: `"a@ł"`},
	{name: "other program of the type", label: "Printer (2)", host: "hosta.local", port: 1, text: []string{"a=b"}, err: `"Printer (2)"`},
	{name: "space", label: "a b", host: "hosta.local", port: 1, err: `"a b"`},
	{name: "no-break space", label: "a\u00a0b", host: "hosta.local", port: 1, err: `\u00a0`},
	{name: "escape", label: "a", host: "hosta.local", port: 1, text: []string{"name=a\x1b[31m"}, err: `\x1b`},
	{name: "C1 control", label: "a", host: "hosta.local", port: 1, text: []string{"name=a\u009b31m"}, err: `\u009b`},
	{name: "right-to-left override", label: "a", host: "hosta.local", port: 1, text: []string{"name=a\u202eb"}, err: `\u202e`},
	{name: "NUL", label: "a", host: "hosta.local", port: 1, text: []string{"name=a\x00"}, err: `\x00`},
	{name: "no UTF-8", label: "a", host: "hosta.local", port: 1, text: []string{"name=a\xff"}, err: `\xff`},
	{name: "too long", label: "a", host: "hosta.local", port: 1, text: []string{"node=a@" + strings.Repeat("b", 254)}, err: "node name"},
	{name: "too long with the host", label: "a", host: "hosta.local", port: 1, text: []string{"name=" + strings.Repeat("b", 250)}, err: "node name"},
	{name: "no host", label: "a", port: 1, err: `host name ""`},
	{name: "host of one label", label: "a", host: "local", port: 1, err: `host name "local"`},
	{name: "host with an empty label", label: "a", host: "a..local", port: 1, err: "host name"},
	{name: "host with a long label", label: "a", host: strings.Repeat("a", 64) + ".local", port: 1, err: "host name"},
	{name: "host that is too long", label: "a", host: strings.Repeat("a.", 126) + "aa", port: 1, err: "host name"},
	{name: "host with an escape", label: "a", host: `a\032b.local`, port: 1, err: "host name"},
	{name: "host with a line end", label: "a", host: "a\n.local", port: 1, err: `"a\n.local"`},
	{name: "loopback", label: "a", host: "a.local", port: 1, addr: "127.0.0.2", err: "address in [127.0.0.2]"},
	{name: "mapped loopback", label: "a", host: "a.local", port: 1, addr: "::ffff:127.0.0.2", err: "address"},
	{name: "unspecified", label: "a", host: "a.local", port: 1, addr: "::", err: "address in [::]"},
	{name: "multicast", label: "a", host: "a.local", port: 1, addr: "224.0.0.251", err: "address"},
	{name: "broadcast", label: "a", host: "a.local", port: 1, addr: "255.255.255.255", err: "address"},
	{name: "link-local without zone", label: "a", host: "a.local", port: 1, addr: "fe80::1", err: "address in [fe80::1]"},
}

func TestParse(t *testing.T) {
	for _, tt := range parseTests {
		t.Run(tt.name, func(t *testing.T) {
			r := record{tt.label, tt.host, tt.port, bytesOf(tt.text), []netip.Addr{testAddr}}
			if tt.addr != "" {
				r.addrs = []netip.Addr{netip.MustParseAddr(tt.addr)}
			}
			kind, n, err := parse(r)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %+v, %v; want error naming %q", n, err, tt.err)
				}
				return
			}
			got := registry.Node{Node: n.Node, Name: n.Name, Type: n.Type, Dist: n.Dist, High: n.High, Low: n.Low, Protocol: n.Protocol, EPMDPort: n.EPMDPort, Sure: n.Sure}
			if kind != kindNode {
				got.Type = 0
			}
			if got.EPMDPort == epmdPort {
				got.EPMDPort = 0
			}
			if err != nil || kind != tt.kind || keyed(got) != keyed(tt.want) {
				t.Errorf("got %v %+v, %v; want %v %+v", kind, got, err, tt.kind, tt.want)
			}
			if n.Port != tt.port || n.Host != strings.TrimSuffix(tt.host, ".") || len(n.Addresses) != 1 || n.Addresses[0] != r.addrs[0] || n.Origin != registry.LAN {
				t.Errorf("got %+v", n)
			}
		})
	}
}

// keyed makes nodes without addresses comparable.
func keyed(n registry.Node) [9]any {
	return [9]any{n.Node, n.Name, n.Type, n.Dist, n.High, n.Low, n.Protocol, n.EPMDPort, n.Sure}
}

func bytesOf(text []string) [][]byte {
	var b [][]byte
	for _, s := range text {
		b = append(b, []byte(s))
	}
	return b
}

func FuzzParse(f *testing.F) {
	for _, tt := range parseTests {
		f.Add(tt.label, tt.host, tt.port, strings.Join(tt.text, "\n"), testAddr.AsSlice())
	}
	f.Fuzz(func(t *testing.T, label, host string, port uint16, text string, addr []byte) {
		a, _ := netip.AddrFromSlice(addr)
		kind, n, err := parse(record{label, host, port, bytesOf(strings.Split(text, "\n")), []netip.Addr{a}})
		if err != nil {
			return
		}
		if n.Port == 0 || len(n.Addresses) != 1 || !usable(n.Addresses[0]) || !harmless(n.Host) || len(n.Host) > 253 {
			t.Errorf("%+v", n)
		}
		if kind != kindNode {
			return
		}
		if !harmless(n.Node) || len(n.Node) > 255 || strings.Count(n.Node, "@") != 1 || !strings.HasPrefix(n.Node, n.Name+"@") || !otpName.MatchString(n.Name) {
			t.Errorf("%+v", n)
		}
	})
}

var otpName = regexp.MustCompile(`^[0-9A-Za-z_\-]+$`)

// harmless is written in another way than what it tests.
func harmless(s string) bool {
	return utf8.ValidString(s) && s != "" && strings.IndexFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f && r <= 0xa0 || r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202f || r >= 0x2066 && r <= 0x2069
	}) < 0
}

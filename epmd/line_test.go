package epmd

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/goerlang/eclus/registry"
)

var (
	lanNode = registry.Node{
		Node: "a@hosta.local", Name: "a", Host: "hosta.local", Port: 41237, Type: registry.Normal, Origin: registry.LAN,
		Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.11"), netip.MustParseAddr("fe80::1%eth0")},
		Creation:  1795367590, Dist: registry.TLS, Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Sure: true,
		High: 6, Low: 5, Protocol: 1, EPMDPort: 4370, Reach: registry.Unreachable,
	}
	guessedNode = registry.Node{
		Node: "Bj\u00f6 rn%@h", Name: "\x1b[2J\n\u0085\u200e\u3000\xff=", Host: "", Port: 0, Type: registry.Hidden,
		Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	heldNode = registry.Node{
		Node: "c@hosta.local", Name: "c", Host: "hosta.local", Port: 1, Type: registry.Normal, Sure: true,
		Reach: registry.Reachable, Why: registry.WhyLoopback,
		Since:  time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Holder: &registry.Holder{PID: 812, UID: 4294967294, Unit: `c\x2d d.service`},
	}
	rootsNode = registry.Node{
		Node: "d@hosta.local", Name: "d", Host: "hosta.local", Port: 1, Type: registry.Normal, Sure: true,
		Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Holder: &registry.Holder{},
	}
)

func TestAppendNode(t *testing.T) {
	for _, tt := range []struct {
		kind LineKind
		node registry.Node
		want string
	}{
		{NodeKnown, lanNode, "+ node=a@hosta.local name=a host=hosta.local address=198.51.100.11 port=41237 type=normal" +
			" origin=lan creation=1795367590 dist=tls since=2026-01-02T03:04:05Z addresses=198.51.100.11,fe80::1%25eth0" +
			" high=6 low=5 proto=1 epmd=4370 reachable=no\n"},
		{NodeGone, lanNode, "- node=a@hosta.local name=a host=hosta.local address=198.51.100.11 port=41237 origin=lan epmd=4370\n"},
		{NodeKnown, guessedNode, "+ node=Björn%25@h name=%1B[2J%0A%C2%85%E2%80%8E%E3%80%80%FF= host= port=0 type=hidden" +
			" origin=local since=2026-01-02T03:04:05Z sure=no\n"},
		{NodeKnown, heldNode, "+ node=c@hosta.local name=c host=hosta.local port=1 type=normal origin=local" +
			` since=2026-01-02T03:04:05Z reachable=yes lan=no why=loopback pid=812 uid=4294967294 unit=c\x2d%20d.service` + "\n"},
		{NodeKnown, rootsNode, "+ node=d@hosta.local name=d host=hosta.local port=1 type=normal origin=local" +
			" since=2026-01-02T03:04:05Z uid=0\n"},
		{NodeGone, heldNode, "- node=c@hosta.local name=c host=hosta.local port=1 origin=local\n"},
		{NodeGone, guessedNode, "- node=Björn%25@h name=%1B[2J%0A%C2%85%E2%80%8E%E3%80%80%FF= host= port=0 origin=local\n"},
	} {
		tt.want = strings.Replace(tt.want, "Björn", "Bjö%20rn", 1)
		if got := string(appendNode(nil, tt.kind, &tt.node)); got != tt.want {
			t.Errorf("got  %q\nwant %q", got, tt.want)
		}
	}
}

// TestLineRoundTrip makes a node of the line made of it.
func TestLineRoundTrip(t *testing.T) {
	for _, n := range []registry.Node{lanNode, guessedNode, heldNode, rootsNode} {
		l, err := ParseLine(string(appendNode(nil, NodeKnown, &n)))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := l.Node(); err != nil || l.Kind != NodeKnown || !reflect.DeepEqual(got, n) {
			t.Errorf("got  %+v, %v\nwant %+v", got, err, n)
		}
	}
}

// TestLineEncoding encodes every byte. None may end a line or a field, or reach a terminal
// unasked. None is lost.
func TestLineEncoding(t *testing.T) {
	var values []string
	for c := range 256 {
		values = append(values, string([]byte{byte(c)}), string(rune(c)), "x"+string([]byte{byte(c)})+"y")
	}
	values = append(values, "", "%41", "%", "%%", "a b=c", "\u2028\u202e\ufeff\ufffd\U0010ffff", "\xed\xa0\x80", "\xf0\x9f\x98")
	for _, value := range values {
		want := Line{NodeKnown, []Field{{"k", value}, {"l", ""}}}
		out := string(want.Append(nil))
		body := strings.TrimSuffix(out, "\n")
		for _, r := range body {
			if r != ' ' && !unicode.IsPrint(r) {
				t.Errorf("value %q: %q has %q", value, out, r)
			}
		}
		if !utf8.ValidString(out) || strings.Count(body, " ") != 2 {
			t.Errorf("value %q: line %q", value, out)
		}
		if got, err := ParseLine(out); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("value %q: got %+v, %v; want %+v", value, got, err, want)
		}
	}
}

var lineTests = []struct {
	line string
	want Line
	err  string
}{
	{"= nodes=1 lan=on\n", Line{SnapshotEnd, []Field{{"nodes", "1"}, {"lan", "on"}}}, ""},
	{"+ node=a name=%61%0a", Line{NodeKnown, []Field{{"node", "a"}, {"name", "a\n"}}}, ""},
	{"-", Line{NodeGone, nil}, ""},
	{"- ", Line{NodeGone, nil}, ""},
	{"~ future=1", Line{'~', []Field{{"future", "1"}}}, ""},
	{"+ word node=a  x==b", Line{NodeKnown, []Field{{"node", "a"}, {"x", "=b"}}}, ""},
	{"", Line{}, `line ""`},
	{"\n", Line{}, `line ""`},
	{"+node=a", Line{}, `line "+node=a"`},
	{"+ node=%", Line{}, `node: "%" ends`},
	{"+ node=a%4", Line{}, `node: "a%4" ends`},
	{"+ node=%zz", Line{}, `"%zz"`},
	{"+ node=%+1", Line{}, `"%+1"`},
}

func TestParseLine(t *testing.T) {
	for _, tt := range lineTests {
		got, err := ParseLine(tt.line)
		if !reflect.DeepEqual(got, tt.want) || !names(err, tt.err) {
			t.Errorf("%q: got %+v, %v; want %+v, error naming %q", tt.line, got, err, tt.want, tt.err)
		}
	}
}

func TestLineNode(t *testing.T) {
	for _, tt := range []struct {
		line string
		want registry.Node
		err  string
	}{
		{"- node=a@h host=h port=1 origin=lan",
			registry.Node{Node: "a@h", Host: "h", Port: 1, Origin: registry.LAN, Type: registry.Normal, Sure: true}, ""},
		{"+ node=a@h port=1 sure=no type=odd origin=odd address=::1",
			registry.Node{Node: "a@h", Port: 1, Type: registry.Normal, Addresses: []netip.Addr{netip.IPv6Loopback()}}, ""},
		{"+ name=a port=1", registry.Node{}, "without node="},
		{"+ node=a@h", registry.Node{}, `node "a@h": port ""`},
		{"+ node=a@h port=65536", registry.Node{}, `port "65536": value out of range`},
		{"+ node=a@h port=x", registry.Node{}, `port "x": invalid syntax`},
		{"+ node=a@h port=1 creation=4294967296", registry.Node{}, `creation "4294967296"`},
		{"+ node=a@h port=1 epmd=65536", registry.Node{}, `epmd "65536": value out of range`},
		{"+ node=a@h port=1 proto=256", registry.Node{}, `proto "256": value out of range`},
		{"+ node=a@h port=1 reachable=perhaps", registry.Node{Node: "a@h", Port: 1, Type: registry.Normal, Sure: true}, ""},
		{"+ node=a@h port=1 since=yesterday", registry.Node{}, `"yesterday"`},
		{"+ node=a@h port=1 pid=1 unit=x", registry.Node{Node: "a@h", Port: 1, Type: registry.Normal, Sure: true}, ""},
		{"+ node=a@h port=1 uid=4294967296", registry.Node{}, `uid "4294967296": value out of range`},
		{"+ node=a@h port=1 uid=1 pid=2147483648", registry.Node{}, `pid "2147483648": value out of range`},
		{"+ node=a@h port=1 uid=1 pid=-1", registry.Node{}, `pid "-1": invalid syntax`},
		{"+ node=a@h port=1 address=here", registry.Node{}, `"here"`},
		{"+ node=a@h port=1 address=::1 addresses=::1,x", registry.Node{}, `"x"`},
	} {
		l, err := ParseLine(tt.line)
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.Node()
		if !reflect.DeepEqual(got, tt.want) || !names(err, tt.err) {
			t.Errorf("%q: got %+v, %v; want %+v, error naming %q", tt.line, got, err, tt.want, tt.err)
		}
	}
}

func TestSnapshotEnd(t *testing.T) {
	if got, want := string(appendSnapshotEnd(nil, 3, registry.LANState{})), "= nodes=3 lan=on\n"; got != want {
		t.Errorf("got %q; want %q", got, want)
	}
	want := "= nodes=0 lan=off reason=no%20bus\n"
	unannounced := registry.LANState{
		Publishing: registry.Discovery{Wanted: true, Off: "avahi forbids it"},
		Browsing:   registry.Discovery{Wanted: true},
	}
	const unpublished = "= nodes=1 lan=on published=no reason=avahi%20forbids%20it\n"
	if got := string(appendSnapshotEnd(nil, 1, unannounced)); got != unpublished {
		t.Errorf("got %q, want %q", got, unpublished)
	}
	if got := string(appendSnapshotEnd(nil, 0, registry.LANState{Publishing: registry.Discovery{Off: "no bus"}})); got != want {
		t.Errorf("got %q; want %q", got, want)
	}
}

func TestNoStreamLine(t *testing.T) {
	for _, tt := range []struct {
		line string
		want registry.NoStream
		err  string
	}{
		{"! host=hosta.local address=192.0.2.1 port=4369 reason=no%20answer%0A\n",
			registry.NoStream{Host: "hosta.local", EPMD: netip.MustParseAddrPort("192.0.2.1:4369"), Why: "no answer\n"}, ""},
		{"! address=fe80::1%25eth0 port=1 reason=x\n", registry.NoStream{EPMD: netip.MustParseAddrPort("[fe80::1%eth0]:1"), Why: "x"}, ""},
		{"! address=here port=1 reason=x", registry.NoStream{}, `"here"`},
		{"! address=192.0.2.1 port=65536 reason=x", registry.NoStream{}, `"65536"`},
	} {
		l, err := ParseLine(tt.line)
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.NoStream()
		if got != tt.want || !names(err, tt.err) {
			t.Errorf("%q: got %+v, %v; want %+v, error naming %q", tt.line, got, err, tt.want, tt.err)
		}
		if again := string(appendNoStream(nil, got)); err == nil && again != tt.line {
			t.Errorf("got %q, want %q", again, tt.line)
		}
	}
}

func FuzzParseLine(f *testing.F) {
	for _, tt := range lineTests {
		f.Add(tt.line)
	}
	f.Add(string(appendNode(nil, NodeKnown, &lanNode)))
	f.Add(string(appendNode(nil, NodeGone, &guessedNode)))
	f.Add(string(appendNode(nil, NodeKnown, &heldNode)))
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLine(s)
		if err != nil {
			return
		}
		if again, err := ParseLine(string(l.Append(nil))); err != nil || !reflect.DeepEqual(again, l) {
			t.Errorf("%q: reparsed as %+v, %v; want %+v", s, again, err, l)
		}
		n, err := l.Node()
		if err != nil {
			return
		}
		l, err = ParseLine(string(appendNode(nil, NodeKnown, &n)))
		if err != nil {
			t.Fatalf("%q: line of its node: %v", s, err)
		}
		if again, err := l.Node(); err != nil || again.Node != n.Node || again.Name != n.Name || again.Port != n.Port {
			t.Errorf("%q: node became %+v, %v; want %+v", s, again, err, n)
		}
	})
}

package avahi

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/goerlang/eclus/registry"
)

func TestInstanceLabel(t *testing.T) {
	tests := []struct{ name, host, want string }{
		{"a", "hosta", "a@hosta"},
		{strings.Repeat("a", 57), "hosta", strings.Repeat("a", 57) + "@hosta"},
		{strings.Repeat("a", 58), "hosta", strings.Repeat("a", 54) + "~49a92587"},
		{strings.Repeat("ä", 30), "hosta", strings.Repeat("ä", 27) + "~"},
		{"a" + strings.Repeat("ä", 30), "hosta", "a" + strings.Repeat("ä", 26) + "~"},
	}
	for _, tt := range tests {
		got := instanceLabel(tt.name, tt.host)
		if len(got) > 63 || !utf8.ValidString(got) || !strings.HasPrefix(got, tt.want) && len(tt.name) != 58 {
			t.Errorf("instanceLabel(%q, %q) is %q of %d bytes, want %q", tt.name, tt.host, got, len(got), tt.want)
		}
	}
	long := strings.Repeat("a", 80)
	if instanceLabel(long+"1", "hosta") == instanceLabel(long+"2", "hosta") {
		t.Error("two long names have one label")
	}
}

func TestNodeService(t *testing.T) {
	n := registry.Node{Node: "a@hosta.local", Name: "a", Port: 4711, High: 6, Low: 5, Type: registry.Normal}
	hidden := n
	hidden.Type, hidden.Sure, hidden.Dist = registry.Hidden, true, registry.TLS
	long := n
	long.Name, long.Node, long.Sure = strings.Repeat("a", 251), strings.Repeat("a", 251)+"@h", true
	fits := n
	fits.Name = strings.Repeat("a", 250)
	tests := []struct {
		name    string
		node    registry.Node
		want    string
		leftOut []string
	}{
		{"not sure", n, "txtvers=1 name=a type=normal proto=0 high=6 low=5 epmd=4369", nil},
		{"sure", hidden, "txtvers=1 node=a@hosta.local name=a type=hidden proto=0 high=6 low=5 epmd=4369 dist=tls", nil},
		{"fits", fits, "txtvers=1 name=" + fits.Name + " type=normal proto=0 high=6 low=5 epmd=4369", nil},
		{"too long", long, "txtvers=1 type=normal proto=0 high=6 low=5 epmd=4369", []string{"node", "name"}},
	}
	for _, tt := range tests {
		s, leftOut := nodeService(&tt.node, "hosta", 4369)
		if got := string(bytes.Join(s.text, []byte(" "))); got != tt.want || s.port != 4711 || !slices.Equal(leftOut, tt.leftOut) {
			t.Errorf("%s: got %q on port %d, left out %q; want %q, left out %q", tt.name, got, s.port, leftOut, tt.want, tt.leftOut)
		}
	}
	if s := hostService("hosta", 4370, "1.0"); s.label != "hosta" || s.port != 4370 || string(bytes.Join(s.text, []byte(" "))) != "txtvers=1 eclus=1.0" {
		t.Errorf("host is announced as %+v", s)
	}
}

// TestServiceParses reads what is published as others read it.
func TestServiceParses(t *testing.T) {
	n := registry.Node{Node: "a@x.example", Name: "a", Port: 4711, High: 6, Low: 5, Type: registry.Hidden, Dist: registry.TCP, EPMDPort: 4370, Sure: true}
	s, _ := nodeService(&n, "hosta", 4370)
	kind, got, err := parse(record{s.label, "hosta.local", s.port, s.text, []netip.Addr{testAddr}})
	if err != nil || kind != kindNode || keyed(got) != keyed(n) {
		t.Errorf("got %v %+v, %v; want %+v", kind, got, err, n)
	}
	s = hostService("hosta", 4369, "1.0")
	if kind, _, err := parse(record{s.label, "hosta.local", s.port, s.text, []netip.Addr{testAddr}}); kind != kindHost || err != nil {
		t.Errorf("host parses as %v, %v", kind, err)
	}
	if got := (record{text: s.text}).version(); got != "1.0" {
		t.Errorf("version %q", got)
	}
	if got := (record{text: [][]byte{[]byte("eclus=\x1b[31m")}}).version(); got != "" {
		t.Errorf("version %q of what can't be shown", got)
	}
}

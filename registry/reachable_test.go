package registry_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/goerlang/eclus/registry"
)

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "rabbit_1-x": true, "0Z": true, "-": true,
		"": false, "a.b": false, "a b": false, "ä": false, `q'"\`: false, "a\n": false, "a@b": false, "[": false, "\x19": false,
	} {
		if got := registry.ValidName(name); got != want {
			t.Errorf("%q: got %v, want %v", name, got, want)
		}
	}
}

func TestIsLoopbackHost(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "LocalHost": true, "localhost.localdomain": true, "localhost6.localdomain6": true,
		"ip6-localhost": true, "a.localhost": true, "127.0.0.1": true, "127.0.1.1": true, "127.1": true, "::1": true,
		"0:0:0:0:0:0:0:1": true, "::ffff:127.0.0.1": true, "0.0.0.0": true, "localhost.": true,
		"hosta": false, "hosta.local": false, "localhost.example.org": false, "127.example.org": false, "198.51.100.11": false,
		"fe80::1": false, "mylocalhost": false, "": false,
	} {
		if got := registry.IsLoopbackHost(host); got != want {
			t.Errorf("%q: got %v, want %v", host, got, want)
		}
	}
}

// addrs parses addresses with commas between them; "-" is none.
func addrs(list string) []netip.Addr {
	found := []netip.Addr{}
	for s := range strings.SplitSeq(list, ",") {
		if s != "-" {
			found = append(found, netip.MustParseAddr(s))
		}
	}
	return found
}

var whyTests = []struct {
	name, full, listens, lan string
	want                     registry.Why
}{
	{"a", "", "", "198.51.100.11", ""},
	{"a", "", "0.0.0.0", "198.51.100.11", ""},
	{"a", "a@hosta.local", "0.0.0.0", "-", ""},
	{"a", "a@hosta.local", "198.51.100.11", "198.51.100.11,fe80::1", ""},
	{"a", "a@hosta.local", "fe80::1", "198.51.100.11,fe80::1", ""},
	{"a b", "", "0.0.0.0", "198.51.100.11", registry.WhyName},
	{"a", "a@localhost", "0.0.0.0", "198.51.100.11", registry.WhyHost},
	{"a", "a@127.0.0.1", "127.0.0.1", "198.51.100.11", registry.WhyHost},
	{"a", "a@hosta.local", "-", "198.51.100.11", registry.WhyClosed},
	{"a", "a@hosta.local", "127.0.0.1,::1", "198.51.100.11", registry.WhyLoopback},
	{"a", "a@hosta.local", "127.0.0.1", "-", registry.WhyLoopback},
	{"a", "a@hosta.local", "127.0.0.1,10.0.0.1", "198.51.100.11", registry.WhyInterface},
	{"a", "a@hosta.local", "10.0.0.1", "-", ""},
	{"a", "a@hosta.local", "0.0.0.0", "fe80::1", registry.WhyInterface},
	{"a", "a@hosta.local", "::", "198.51.100.11", registry.WhyInterface},
}

func TestWhy(t *testing.T) {
	for _, tt := range whyTests {
		reg := registry.New("hosta.local", 0)
		reg.SetLANAddresses(addrs(tt.lan))
		r, err := reg.Register(registry.Node{Name: tt.name, Port: 1})
		if err != nil {
			t.Fatal(err)
		}
		if tt.full != "" {
			if err := reg.Identify(reg.Node(r), registry.Identity{Node: tt.full}); err != nil {
				t.Fatal(err)
			}
		}
		if tt.listens != "" {
			reg.SetListens(reg.Node(r), addrs(tt.listens))
		}
		if got := reg.Node(r).Why; got != tt.want {
			t.Errorf("%+v: got %q, want %q", tt, got, tt.want)
		}
	}
}

// TestWhyEvents has what is in the way come and go.
func TestWhyEvents(t *testing.T) {
	reg := registry.New("hosta.local", 0)
	r, err := reg.Register(registry.Node{Name: "a", Port: 1})
	if err != nil {
		t.Fatal(err)
	}
	first := reg.Node(r)
	sub := reg.Subscribe()
	sub.Take()
	defer sub.Close()
	reg.SetListens(first, nil)
	reg.SetListens(first, addrs("10.0.0.1"))
	reg.SetListens(first, addrs("10.0.0.1"))
	reg.SetLANAddresses(addrs("198.51.100.11"))
	reg.SetLANAddresses(addrs("198.51.100.12"))
	reg.SetLANAddresses(addrs("198.51.100.12,10.0.0.1"))
	var got []registry.Why
	for _, e := range sub.Take().Events {
		if e.Kind != registry.Changed || e.Node.ID != first.ID {
			t.Errorf("got %v of %+v", e.Kind, e.Node)
		}
		got = append(got, e.Node.Why)
	}
	if want := []registry.Why{registry.WhyClosed, "", registry.WhyInterface, ""}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	reg.Unregister(r)
	reg.SetListens(first, nil)
	if events := sub.Take().Events; len(events) != 1 {
		t.Errorf("a node that has gone changed: %+v", events)
	}
}

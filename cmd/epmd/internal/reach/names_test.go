package reach

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/goerlang/eclus/registry"
)

// TestOf has what an epmd may have answered of a node.
func TestOf(t *testing.T) {
	for _, tt := range []struct {
		name  string
		names *Names
		want  registry.Reach
	}{
		{"no answer", nil, registry.Unreachable},
		{"no nodes", &Names{}, registry.Unreachable},
		{"the node", hasNames("a", "b"), registry.Reachable},
		{"another", hasNames("A", "aa"), registry.Unreachable},
		{"cut, another", &Names{Ports: hasNames("b").Ports, Cut: true}, registry.Reachable},
		{"cut, none", &Names{Cut: true}, registry.Reachable},
	} {
		if got := Of("a", tt.names); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestAddressesOf has more addresses than are tried, many of them twice. The first lead.
func TestAddressesOf(t *testing.T) {
	var nodes []*registry.Node
	var want []netip.Addr
	for i := range maxAddresses + 3 {
		addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		nodes = append(nodes, &registry.Node{Addresses: []netip.Addr{addr, netip.AddrFrom4([4]byte{10, 0, 0, 0})}})
		if i < maxAddresses {
			want = append(want, addr)
		}
	}
	if got := addressesOf(slices.Values(nodes), everywhere); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := addressesOf(slices.Values[[]*registry.Node](nil), everywhere); len(got) != 0 {
		t.Errorf("no nodes: %v", got)
	}
}

// TestWhomToAsk orders epmds by what is known. Each is asked once, whatever nodes it has.
func TestWhomToAsk(t *testing.T) {
	of := func(host string, port uint16, r registry.Reach) registry.Node {
		return registry.Node{Host: host, EPMDPort: port, Reach: r, Origin: registry.LAN}
	}
	epmds := neighbourEPMDs([]registry.Node{
		of("dead", 4369, registry.Unreachable), of("new", 0, registry.Unchecked), {Host: "here"},
		of("well", 5000, registry.Unreachable), of("dead", 4369, registry.Unchecked), of("well", 5000, registry.Reachable),
		of("lost", 4369, registry.Unreachable), of("lost", 4370, registry.Unreachable),
	})
	type asked struct {
		host  string
		port  uint16
		nodes int
	}
	var got []asked
	for _, e := range epmds {
		got = append(got, asked{e.nodes[0].Host, e.port, len(e.nodes)})
	}
	want := []asked{{"well", 5000, 2}, {"dead", 4369, 2}, {"new", 4369, 1}, {"lost", 4369, 1}, {"lost", 4370, 1}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

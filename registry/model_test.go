package registry

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// world is what is said of neighbours, and what follows from it by the rules: see Source.See. It is
// written to be read, not to be fast.
type world struct {
	t       *testing.T
	reg     *Registry
	changes *Subscription
	sources []*Source
	rest    []byte // of the script

	said     []*word // the one that came first leads
	gen      []int   // of each source
	epmd     map[NeighbourKey]uint16
	believed map[NeighbourKey]*word // of the announced ones
	resolved map[string][]netip.Addr
	prefixes []netip.Prefix
	known    map[NeighbourKey]*Node // by the model
	mirror   map[NeighbourKey]*Node // by events
	stale    []*Node
}

// word is what a source says under a key.
type word struct {
	source, key, gen int
	node             Node
}

var (
	modelAddrs = []string{"192.0.2.1", "192.0.2.2", "2001:db8::1", "fe80::1%eth0", "203.0.113.1"}
	modelHosts = []string{"hosta.local", "hosta", "HOSTB.local", "db.example.com", "192.0.2.1", "evil.local"}
	modelRanks = []Rank{Announced, Announced, Told, Told}
)

func newWorld(t *testing.T, script []byte) *world {
	w := &world{
		t: t, reg: New("own.local", 0), rest: script, gen: make([]int, len(modelRanks)),
		epmd: make(map[NeighbourKey]uint16), believed: make(map[NeighbourKey]*word), resolved: make(map[string][]netip.Addr),
		known: make(map[NeighbourKey]*Node), mirror: make(map[NeighbourKey]*Node),
	}
	w.changes = w.reg.Subscribe()
	w.changes.Take()
	for _, rank := range modelRanks {
		w.sources = append(w.sources, w.reg.NewSource(rank))
	}
	return w
}

// next returns the next number of the script, less than n.
func (w *world) next(n int) int {
	if len(w.rest) == 0 {
		return 0
	}
	b := w.rest[0]
	w.rest = w.rest[1:]
	return int(b) % n
}

func (w *world) addrs() (list []netip.Addr) {
	for range w.next(3) {
		list = append(list, netip.MustParseAddr(modelAddrs[w.next(len(modelAddrs))]))
	}
	return list
}

// node returns what a source of that rank may say of a node.
func (w *world) node(rank Rank) Node {
	n := Node{
		Name: string(rune('a' + w.next(2))), Host: []string{"hosta.local", "hostb.local"}[w.next(2)], EPMDPort: 4369,
		Port: uint16(1 + w.next(3)), Type: []NodeType{Normal, Hidden}[w.next(2)], Origin: []Origin{LAN, Peer}[w.next(2)],
		Addresses: w.addrs(), Via: []string{ViaMDNS, ViaEPMD}[w.next(2)], Sure: w.next(2) == 1,
	}
	n.Node = n.Name + "@" + modelHosts[w.next(len(modelHosts))]
	if rank == Told {
		n.Reach = []Reach{Reachable, Unreachable}[w.next(2)]
	}
	return n
}

// step does one thing, to the registry and to the model.
func (w *world) step() {
	source, key := w.next(len(w.sources)), w.next(4)
	switch w.next(12) {
	case 0, 1, 2, 3, 4:
		w.see(source, key, w.node(modelRanks[source]))
	case 5, 6:
		w.sources[source].Lose(key)
		w.lose(func(c *word) bool { return c.source == source && c.key == key })
	case 7:
		w.sources[source].Doubt()
		w.gen[source]++
	case 8:
		w.sources[source].Expire()
		w.lose(func(c *word) bool { return c.source == source && c.gen != w.gen[source] })
	case 9:
		w.answered()
	case 10:
		host, addrs := modelHosts[key], w.addrs()
		w.reg.SetResolved(host, addrs)
		w.resolved[strings.ToLower(host)] = addrs
	case 11:
		w.prefixes = nil
		for _, a := range w.addrs() {
			w.prefixes = append(w.prefixes, netip.PrefixFrom(a.WithZone("").Next(), 24))
		}
		w.reg.SetLANPrefixes(w.prefixes)
	}
	w.settle()
}

func (w *world) see(source, key int, n Node) {
	if err := w.sources[source].See(key, n); err != nil {
		w.t.Errorf("see %+v: %v", n, err)
	}
	n.Rank = modelRanks[source]
	i := slices.IndexFunc(w.said, func(c *word) bool { return c.source == source && c.key == key })
	if i >= 0 && w.said[i].node.NeighbourKey() == n.NeighbourKey() {
		w.said[i].node, w.said[i].gen = n, w.gen[source]
		return
	}
	if i >= 0 {
		w.said = slices.Delete(w.said, i, i+1)
	}
	w.said = append(w.said, &word{source, key, w.gen[source], n})
}

func (w *world) lose(which func(*word) bool) {
	w.said = slices.DeleteFunc(w.said, which)
}

// answered has the epmd of a node answer, which may be one that has gone.
func (w *world) answered() {
	nodes := append(w.reg.Nodes(), w.stale...)
	if len(nodes) == 0 {
		return
	}
	n := nodes[w.next(len(nodes))]
	reach, port := []Reach{Reachable, Unreachable}[w.next(2)], uint16(w.next(4))
	w.reg.Answered(n, reach, port)
	k := n.NeighbourKey()
	if is := w.known[k]; is != nil && is.ID == n.ID && is.Rank == Announced {
		is.Reach, w.epmd[k] = reach, port
	}
}

// settle works out what is to be known, and compares it with what is.
func (w *world) settle() {
	by := make(map[NeighbourKey][]*word)
	for _, c := range w.said {
		by[c.node.NeighbourKey()] = append(by[c.node.NeighbourKey()], c)
	}
	for k, was := range w.known {
		if len(by[k]) == 0 {
			w.stale = append(w.stale, was)
			delete(w.known, k)
			delete(w.epmd, k)
			delete(w.believed, k)
		}
	}
	for k, said := range by {
		n := w.merge(k, said)
		if was := w.known[k]; was != nil {
			n.ID, n.Since = was.ID, was.Since
			if n.Rank == Announced {
				n.Reach = was.Reach
			}
		}
		w.known[k] = &n
	}
	w.compare()
}

// merge makes one node of all that is said of it.
func (w *world) merge(k NeighbourKey, said []*word) Node {
	told := slices.DeleteFunc(slices.Clone(said), func(c *word) bool { return c.node.Rank != Told })
	var n Node
	if len(told) > 0 {
		slices.SortStableFunc(told, func(a, b *word) int { return cmp.Or(cmp.Compare(a.node.Reach, b.node.Reach), w.compareFirst(a, b)) })
		said, n = told, told[0].node
		delete(w.epmd, k) // which is older
	} else {
		n = w.believe(k, said).node
		if w.epmd[k] != 0 {
			n.Port = w.epmd[k]
		}
	}
	n.Addresses = nil
	others := make(map[uint16]bool)
	for _, c := range said {
		for _, a := range c.node.Addresses {
			if !slices.Contains(n.Addresses, a) {
				n.Addresses = append(n.Addresses, a)
			}
		}
		if c.node.Origin == LAN {
			n.Origin = LAN
		}
		if c.node.Port != n.Port {
			others[c.node.Port] = true
		}
	}
	if n.Rank == Announced {
		slices.SortFunc(n.Addresses, w.compareAddrs)
	}
	var claims []uint16
	for port := range uint16(5) {
		if others[port] {
			claims = append(claims, port)
		}
	}
	if claims != nil {
		n.Claims = &claims
	}
	w.name(&n, said)
	return n
}

// believe returns which of contradicting announcements counts. That is the one that did before, or
// else the one that came first, but rather one with the port that the node's epmd says.
func (w *world) believe(k NeighbourKey, said []*word) *word {
	is := w.believed[k]
	if !slices.Contains(said, is) {
		is = said[0]
	}
	for _, c := range said {
		if w.epmd[k] != 0 && is.node.Port != w.epmd[k] && c.node.Port == w.epmd[k] {
			is = c
		}
	}
	w.believed[k] = is
	return is
}

// name decides on the full name. That is the first one that is said of this port, but rather one
// that belongs to the host.
func (w *world) name(n *Node, said []*word) {
	names := append([]*word{{node: *n}}, said...)
	n.Sure = false
	for _, c := range slices.Backward(names) {
		if c.node.Sure && c.node.Port == n.Port {
			n.Node = c.node.Node
		}
	}
	for _, c := range slices.Backward(names) {
		if c.node.Sure && c.node.Port == n.Port && w.belongs(c.node.Node, n) {
			n.Node, n.Sure = c.node.Node, true
		}
	}
}

// belongs reports whether the host in a full name is that of a node.
func (w *world) belongs(name string, n *Node) bool {
	_, host, _ := strings.Cut(strings.ToLower(name), "@")
	addrs := w.resolved[host]
	if a, err := netip.ParseAddr(host); err == nil {
		addrs = []netip.Addr{a}
	}
	for _, a := range addrs {
		for _, b := range n.Addresses {
			if a.WithZone("") == b.WithZone("") {
				return true
			}
		}
	}
	return host == n.Host || host+".local" == n.Host
}

func (w *world) compareFirst(a, b *word) int {
	if len(a.node.Addresses)*len(b.node.Addresses) == 0 {
		return len(b.node.Addresses) - len(a.node.Addresses)
	}
	return w.compareAddrs(a.node.Addresses[0], b.node.Addresses[0])
}

// compareAddrs puts on-link addresses first, then IPv4, then global ones.
func (w *world) compareAddrs(a, b netip.Addr) int {
	rank := func(a netip.Addr) int {
		onLink := slices.ContainsFunc(w.prefixes, func(p netip.Prefix) bool { return p.Contains(a.WithZone("")) && p.Addr() != a.WithZone("") })
		return map[bool]int{false: 4}[onLink] + map[bool]int{true: 2}[a.Is6()] + map[bool]int{true: 1}[a.IsLinkLocalUnicast()]
	}
	return cmp.Or(rank(a)-rank(b), a.Compare(b))
}

// compare holds that the registry knows what the model does, and that the events have said so.
func (w *world) compare() {
	for _, e := range w.changes.Take().Events {
		k := e.Node.NeighbourKey()
		if (e.Kind == Up) == (w.mirror[k] != nil) {
			w.t.Errorf("%v of %s, of which is known %v", e.Kind, e.Node.Node, w.mirror[k])
		}
		if w.mirror[k] = e.Node; e.Kind == Down {
			delete(w.mirror, k)
		}
	}
	for _, n := range w.reg.Nodes() {
		k := n.NeighbourKey()
		want := w.known[k]
		if want == nil || !reflect.DeepEqual(w.mirror[k], n) {
			w.t.Errorf("there is %+v\nevents say %+v\nwant %+v", n, w.mirror[k], want)
			continue
		}
		if want.ID == 0 {
			want.ID, want.Since = n.ID, n.Since
		}
		if !reflect.DeepEqual(n, want) {
			w.t.Errorf("there is\n%s\nwant\n%s", modelText(n), modelText(want))
		}
	}
	if got := len(w.reg.Nodes()); got != len(w.known) || got != len(w.mirror) {
		w.t.Errorf("%d nodes; by events %d; want %d", got, len(w.mirror), len(w.known))
	}
}

func modelText(n *Node) string {
	return fmt.Sprintf("%d %s port %d not %v at %v, %v %v %v, reach %v, sure %v, via %s", n.ID, n.Node, n.Port, n.claims(), n.Addresses, n.Type, n.Origin, n.Rank, n.Reach, n.Sure, n.Via)
}

// FuzzMerge has sources say anything of some nodes, in any order. What is known then is what the
// rules say.
func FuzzMerge(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 1, 0, 1, 1, 0, 1, 2})
	f.Add([]byte("merge\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b"))
	for seed := range 100 {
		script := make([]byte, 1000)
		rand.NewChaCha8([32]byte{byte(seed)}).Read(script)
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		w := newWorld(t, script)
		for len(w.rest) > 0 && !t.Failed() {
			w.step()
		}
		for _, s := range w.sources {
			s.Close()
		}
		m := w.reg.sightings
		if n := len(w.reg.Nodes()) + len(w.reg.shares) + len(w.reg.lost) + len(m.nodes) + len(m.waiting) + len(m.chosen) + len(m.ports); n > 0 {
			t.Errorf("%d things are left", n)
		}
	})
}

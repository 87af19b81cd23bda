package avahi

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"

	"github.com/goerlang/eclus/registry"
)

// maxSightings is how many sources of one node count. A host has one for each of its interfaces and
// IP versions; more are somebody's game.
const maxSightings = 64

// place is where a service instance is seen. The same instance is seen in several: by interface and by IP version.
type place struct {
	iface, proto int32
	label        string
}

// sightingKey names one source of what is known of a node: an instance in one place or, where that
// is an epmd's, one of the names the epmd has told.
type sightingKey struct {
	place
	told string
}

// sighting is what one source says of a node.
type sighting struct {
	node registry.Node // with one address
	gen  int           // when it was last seen
}

// merger makes one neighbour of all sightings of a node. It does no I/O.
type merger struct {
	sightings map[sightingKey]*sighting
	nodes     map[registry.NeighbourKey][]*sighting // that say anything of the node, the latest news last
	prefixes  []netip.Prefix                        // addresses of this host on its LANs, with their subnets
	gen       int
}

// change is what has become of a neighbour: its new state or, if gone, that it is no more.
type change struct {
	node registry.Node
	gone bool
}

func newMerger() *merger {
	return &merger{sightings: make(map[sightingKey]*sighting), nodes: make(map[registry.NeighbourKey][]*sighting)}
}

// see takes note of what a source says of a node, and no longer of what it said before. It returns
// what changes by it: nothing, one neighbour, or the one it told of before and the one it tells of now.
func (m *merger) see(key sightingKey, n registry.Node) []change {
	was := m.sightings[key]
	if was != nil && reflect.DeepEqual(was.node, n) {
		was.gen = m.gen
		return nil
	}
	var changes []change
	if was != nil {
		changes = m.remove(key, was, n.NeighbourKey())
	}
	if len(m.nodes[n.NeighbourKey()]) == maxSightings {
		return changes
	}
	s := &sighting{n, m.gen}
	m.sightings[key] = s
	m.nodes[n.NeighbourKey()] = append(m.nodes[n.NeighbourKey()], s)
	return append(changes, m.state(n.NeighbourKey(), n))
}

// lose takes note that a source says nothing any more.
func (m *merger) lose(key sightingKey) []change {
	if s := m.sightings[key]; s != nil {
		return m.remove(key, s, registry.NeighbourKey{})
	}
	return nil
}

// relink takes note of the addresses this host has on its LANs. It returns how each neighbour is reached now.
func (m *merger) relink(prefixes []netip.Prefix) []change {
	if slices.Equal(prefixes, m.prefixes) {
		return nil
	}
	m.prefixes = prefixes
	var changes []change
	for k, sightings := range m.nodes {
		changes = append(changes, m.state(k, sightings[0].node))
	}
	return changes
}

// renew makes all present sightings old: expire removes those not seen again.
func (m *merger) renew() { m.gen++ }

// expire removes what was last seen before renew.
func (m *merger) expire() []change {
	var changes []change
	for key, s := range m.sightings {
		if s.gen != m.gen {
			changes = append(changes, m.remove(key, s, registry.NeighbourKey{})...)
		}
	}
	return changes
}

// remove takes out a sighting. Of what becomes of the neighbour named except it says nothing.
func (m *merger) remove(key sightingKey, s *sighting, except registry.NeighbourKey) []change {
	delete(m.sightings, key)
	k := s.node.NeighbourKey()
	left := slices.DeleteFunc(m.nodes[k], func(o *sighting) bool { return o == s })
	if m.nodes[k] = left; len(left) == 0 {
		delete(m.nodes, k)
	}
	if k == except {
		return nil
	}
	return []change{m.state(k, s.node)}
}

// state returns what is known of a neighbour now; last is what is known if it has gone.
func (m *merger) state(k registry.NeighbourKey, last registry.Node) change {
	sightings := m.nodes[k]
	if len(sightings) == 0 {
		return change{last, true}
	}
	n := sightings[len(sightings)-1].node
	for i := len(sightings) - 2; i >= 0 && !n.Sure; i-- { // what the node's own host says outweighs guesses
		if sightings[i].node.Sure {
			n = sightings[i].node
		}
	}
	n.Addresses = nil
	for _, s := range sightings {
		n.Addresses = append(n.Addresses, s.node.Addresses...)
	}
	slices.SortFunc(n.Addresses, m.compareAddresses)
	n.Addresses = slices.Compact(n.Addresses)
	return change{n, false}
}

// compareAddresses puts what is on the same link before what is not, and of each IPv4 before global IPv6 before link-local
// IPv6: what Erlang nodes use most comes first, and what needs a zone last.
func (m *merger) compareAddresses(a, b netip.Addr) int {
	return cmp.Or(cmp.Compare(m.addressRank(a), m.addressRank(b)), a.Compare(b))
}

func (m *merger) addressRank(a netip.Addr) int {
	rank := 0
	switch {
	case a.Is4():
	case !a.IsLinkLocalUnicast():
		rank = 1
	default:
		rank = 2
	}
	if !m.isOnLink(a) {
		rank += 3
	}
	return rank
}

// isOnLink tells whether an address is on a subnet of this host. Where it is this host's own, that of another host by
// the same address is out of reach, as happens with those that container engines give to bridges.
func (m *merger) isOnLink(a netip.Addr) bool {
	a = a.WithZone("")
	return slices.ContainsFunc(m.prefixes, func(p netip.Prefix) bool { return p.Contains(a) && p.Addr() != a })
}

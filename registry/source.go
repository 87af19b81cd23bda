package registry

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// maxSightings is how many sightings of one node count in each rank. A host has one for each
// interface and IP version. More wait until one of these goes.
const maxSightings = 64

// maxClaims is how many other ports of a node are remembered.
const maxClaims = 8

// maxAmends is how many refused nodes are tried again when one goes.
const maxAmends = 16

// Rank says how much the word of a source counts.
type Rank uint8

// Ranks. What the epmd of a node's host tells wins over all that is announced.
const (
	Announced Rank = iota // others say so, or the epmd was asked: mDNS, NAMES_REQ
	Told                  // its epmd says so over a stream, and if it can be reached
)

// Source tells of neighbours: mDNS, another host's epmd, a file. Several sources may tell of
// one node. The registry makes one neighbour of it. Make a Source with NewSource.
type Source struct {
	rank Rank
	all  *sightings
	seen map[any]*sighting // guarded by all.mu, as gen
	gen  int
}

// sighting is what a source says of a node under one key.
type sighting struct {
	node Node
	gen  int // of the source, when it last said so
}

// sightings are those of all sources.
type sightings struct {
	reg *Registry

	mu       sync.Mutex
	nodes    map[NeighbourKey][]*sighting // those that count, the one that came first leads
	waiting  map[NeighbourKey][]*sighting // those beyond maxSightings, the oldest first
	chosen   map[NeighbourKey]*sighting   // which of several Announced ones is believed
	ports    map[NeighbourKey]uint16      // what the epmds of hosts have answered; see Answered
	resolved map[string][]netip.Addr      // addresses of hosts in full names; see SetResolved
	refused  [2]map[NeighbourKey]bool     // by Rank: for which there is no place; true: it had one
	prefixes []netip.Prefix
}

// NewSource returns a source that has told of nothing.
func (r *Registry) NewSource(rank Rank) *Source {
	return &Source{rank: rank, all: r.sightings, seen: make(map[any]*sighting)}
}

// See enters what the source says of a node under a key. It replaces what the source said under
// that key before. Keys are comparable and the source's own.
//
// If there are Told sightings of a node, others don't count. All that count add their addresses.
// Told ones keep their order, reachable ones leading. For the rest the one counts that came first,
// of those with the port that the node's epmd has answered. Anybody can announce anything of
// anybody's node, and does not change what is known of it by that. If no full name is in it, the
// first of the others counts in which there is one. A Told node is reachable if one sighting says
// so.
//
// A node is Sure only if the host in its full name belongs to it: it is Host or its first label, or
// one of the node's addresses, or a name that has one; see SetResolved.
//
// See returns ErrTooManyNeighbours, ErrTooManyOfHost or ErrTooManyTold if there is no place for
// the node. The node gets one when another goes.
func (s *Source) See(key any, n Node) error {
	m := s.all
	m.mu.Lock()
	defer m.mu.Unlock()
	n.Rank = s.rank
	was := s.seen[key]
	if was != nil && reflect.DeepEqual(was.node, n) {
		was.gen = s.gen
		return nil
	}
	k := n.NeighbourKey()
	if was != nil && was.node.NeighbourKey() == k {
		was.node, was.gen = n, s.gen
		return m.settle(k)
	}
	if was != nil {
		s.take(key, was)
		m.recall(was)
		_ = m.settle(was.node.NeighbourKey()) // a place was refused before, if it is
	}
	is := &sighting{n, s.gen}
	s.seen[key] = is
	switch {
	case len(ofRank(m.nodes[k], s.rank)) < maxSightings:
		m.nodes[k] = append(m.nodes[k], is)
	case !m.displace(k, is):
		m.waiting[k] = append(m.waiting[k], is)
		return nil
	}
	return m.settle(k)
}

// displace has a sighting that the node's epmd contradicts wait for one that the epmd confirms. It
// reports whether there is one.
func (m *sightings) displace(k NeighbourKey, is *sighting) bool {
	if is.node.Rank != Announced || m.ports[k] != is.node.Port {
		return false
	}
	i := slices.IndexFunc(m.nodes[k], func(s *sighting) bool { return s.node.Rank == Announced && s.node.Port != is.node.Port })
	if i < 0 {
		return false
	}
	m.waiting[k] = append(m.waiting[k], m.nodes[k][i])
	m.nodes[k][i] = is
	return true
}

// Lose takes back what the source has said under a key.
func (s *Source) Lose(key any) {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	if is := s.seen[key]; is != nil {
		s.lose(key, is)
	}
}

// Doubt begins to doubt all that the source has said. What it says again is beyond doubt.
func (s *Source) Doubt() {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	s.gen++
}

// Expire takes back what was last said before Doubt.
func (s *Source) Expire() {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	for key, is := range s.seen {
		if is.gen != s.gen {
			s.lose(key, is)
		}
	}
}

// Close takes back all that the source has said.
func (s *Source) Close() {
	s.Doubt()
	s.Expire()
}

func (s *Source) lose(key any, is *sighting) {
	s.take(key, is)
	s.all.recall(is)
	_ = s.all.settle(is.node.NeighbourKey())
}

// take takes out a sighting. The caller settles what becomes of its node.
func (s *Source) take(key any, is *sighting) {
	delete(s.seen, key)
	k := is.node.NeighbourKey()
	for _, of := range []map[NeighbourKey][]*sighting{s.all.nodes, s.all.waiting} {
		of[k] = slices.DeleteFunc(of[k], func(other *sighting) bool { return other == is })
		if len(of[k]) == 0 {
			delete(of, k)
		}
	}
}

// recall has a sighting count that has waited, now that one of the same rank has gone.
func (m *sightings) recall(gone *sighting) {
	k := gone.node.NeighbourKey()
	if len(ofRank(m.nodes[k], gone.node.Rank)) >= maxSightings {
		return
	}
	next := slices.IndexFunc(m.waiting[k], func(s *sighting) bool { return s.node.Rank == gone.node.Rank })
	if next < 0 {
		return
	}
	m.nodes[k] = append(m.nodes[k], m.waiting[k][next])
	if m.waiting[k] = slices.Delete(m.waiting[k], next, next+1); len(m.waiting[k]) == 0 {
		delete(m.waiting, k)
	}
}

// SetLANPrefixes enters the addresses that this host has on its LANs, with their subnets. They
// decide in which order the addresses of neighbours are tried.
func (r *Registry) SetLANPrefixes(prefixes []netip.Prefix) {
	m := r.sightings
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.Equal(prefixes, m.prefixes) {
		return
	}
	m.prefixes = slices.Clone(prefixes)
	for k := range m.nodes {
		_ = m.settle(k)
	}
}

// settle enters what all sources say of a neighbour now. The error says why it has not the place
// that it should have.
func (m *sightings) settle(k NeighbourKey) error {
	is, room, err := m.enter(k)
	if !is {
		m.reg.RemoveNeighbour(k)
	}
	if len(m.nodes[k]) == 0 {
		delete(m.ports, k)
		delete(m.chosen, k)
	}
	if !is || room {
		m.amend()
	}
	return err
}

// enter enters a neighbour. It reports whether there is a place for it, and whether it has left
// another to others.
func (m *sightings) enter(k NeighbourKey) (is, room bool, err error) {
	for _, rank := range []Rank{Told, Announced} {
		var refused error
		if all := ofRank(m.nodes[k], rank); !is && len(all) > 0 {
			room, refused = m.reg.setNeighbour(m.merge(all), m.givesWay(rank, k))
			is = refused == nil
		}
		if refused == nil {
			delete(m.refused[rank], k)
			continue
		}
		if _, known := m.refused[rank][k]; !known {
			m.refused[rank][k] = false
		}
		err = cmp.Or(err, refused)
	}
	return is, room, err
}

// givesWay returns what notes that another neighbour has given way to one. Nobody gives way to one
// that has done so itself.
func (m *sightings) givesWay(rank Rank, k NeighbourKey) func(NeighbourKey) {
	if m.refused[rank][k] {
		return nil
	}
	return func(gone NeighbourKey) { m.refused[Announced][gone] = true }
}

// ofRank returns the sightings of sources of that rank.
func ofRank(all []*sighting, rank Rank) []*sighting {
	of := make([]*sighting, 0, len(all))
	for _, s := range all {
		if s.node.Rank == rank {
			of = append(of, s)
		}
	}
	return of
}

// amend tries again some of the nodes that have no place.
func (m *sightings) amend() {
	for rank := range m.refused {
		tries := 0
		for k := range m.refused[rank] {
			if tries++; tries > maxAmends {
				break
			}
			_, _, _ = m.enter(k)
		}
	}
}

// amendOne tries again until one of the nodes has a place that has had none so far.
func (m *sightings) amendOne() {
	tries := 0
	for k, had := range m.refused[Announced] {
		if tries++; tries > maxAmends {
			return
		}
		if had {
			continue
		}
		if is, _, _ := m.enter(k); is {
			return
		}
	}
}

// merge makes one node of the sightings of it, which are of one rank.
func (m *sightings) merge(all []*sighting) Node {
	if all[0].node.Rank == Told {
		slices.SortStableFunc(all, m.compareTold)
	}
	n := m.choose(all)
	n.Addresses = nil
	for _, s := range all {
		n.Addresses = append(n.Addresses, s.node.Addresses...)
		if s.node.Origin == LAN {
			n.Origin = LAN
		}
	}
	if n.Rank == Told {
		n.Addresses = unique(n.Addresses)
	} else {
		slices.SortFunc(n.Addresses, m.compareAddresses)
		n.Addresses = slices.Compact(n.Addresses)
	}
	n.Sure = n.Sure && m.belongs(&n)
	return n
}

// choose returns what counts of sightings of one rank, beside addresses.
func (m *sightings) choose(all []*sighting) Node {
	n := all[0].node
	if n.Rank == Announced {
		n = m.chooseAnnounced(n.NeighbourKey(), all)
	}
	for _, s := range all {
		if s.node.Sure && !n.Sure && s.node.Port == n.Port {
			n.Node, n.Sure = s.node.Node, true
		}
		if s.node.Port != n.Port && !slices.Contains(n.Claims, s.node.Port) && len(n.Claims) < maxClaims {
			n.Claims = append(n.Claims, s.node.Port)
		}
	}
	slices.Sort(n.Claims)
	return n
}

// chooseAnnounced returns what is announced of a neighbour and counts. That is what counted before,
// or what came first, unless the node's epmd knows another port.
func (m *sightings) chooseAnnounced(k NeighbourKey, all []*sighting) Node {
	port, is := m.ports[k], m.chosen[k]
	if !slices.Contains(all, is) {
		is = all[0]
	}
	if is.node.Port != port && port != 0 {
		if i := slices.IndexFunc(all, func(s *sighting) bool { return s.node.Port == port }); i >= 0 {
			is = all[i]
		}
	}
	m.chosen[k] = is
	n := is.node
	n.Port = cmp.Or(port, n.Port)
	return n
}

// belongs reports whether the host in a node's full name belongs to the node.
func (m *sightings) belongs(n *Node) bool {
	_, host, _ := strings.Cut(n.Node, "@")
	label, _, _ := strings.Cut(n.Host, ".")
	if strings.EqualFold(host, n.Host) || strings.EqualFold(host, label) {
		return true
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return hasAddr(n.Addresses, a)
	}
	return slices.ContainsFunc(m.resolved[strings.ToLower(host)], func(a netip.Addr) bool { return hasAddr(n.Addresses, a) })
}

// hasAddr reports whether an address is among others, whatever the zones.
func hasAddr(all []netip.Addr, a netip.Addr) bool {
	return slices.ContainsFunc(all, func(b netip.Addr) bool { return b.Unmap().WithZone("") == a.Unmap().WithZone("") })
}

// SetResolved enters the addresses of a host by which nodes call themselves, as the resolver has
// them. None: it has none, or not any more. Nodes at one of them may call themselves so.
func (r *Registry) SetResolved(host string, addrs []netip.Addr) {
	m := r.sightings
	m.mu.Lock()
	defer m.mu.Unlock()
	host = strings.ToLower(host)
	if slices.Equal(m.resolved[host], addrs) {
		return
	}
	if m.resolved[host] = slices.Clone(addrs); len(addrs) == 0 {
		delete(m.resolved, host)
	}
	for k, all := range m.nodes {
		if slices.ContainsFunc(all, func(s *sighting) bool {
			_, h, _ := strings.Cut(s.node.Node, "@")
			return strings.EqualFold(h, host)
		}) {
			_ = m.settle(k)
		}
	}
}

// Answered enters what the epmd of a neighbour has answered: whether it can be reached, and its
// port; 0: not known. What the epmd says decides between those who announce the neighbour at
// different ports. Nothing happens if n has gone or was seen anew, or if it is Told.
func (r *Registry) Answered(n *Node, reach Reach, port uint16) {
	m, k := r.sightings, n.NeighbourKey()
	m.mu.Lock()
	if now := r.neighbour(k); now != nil && now.ID == n.ID && m.ports[k] != port && len(m.nodes[k]) > 0 {
		if m.ports[k] = port; port == 0 {
			delete(m.ports, k)
		}
		_ = m.settle(k)
	}
	m.mu.Unlock()
	r.SetReach(n, reach)
	if reach == Unreachable { // it may give way
		m.mu.Lock()
		m.amendOne()
		m.mu.Unlock()
	}
}

// unique drops addresses that are there already.
func unique(addrs []netip.Addr) []netip.Addr {
	var list []netip.Addr
	for _, a := range addrs {
		if !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}

// compareTold puts sightings that say Reachable first, and then those over the better address.
func (m *sightings) compareTold(a, b *sighting) int {
	if a.node.Reach != b.node.Reach {
		return cmp.Compare(a.node.Reach, b.node.Reach)
	}
	if len(a.node.Addresses) == 0 || len(b.node.Addresses) == 0 {
		return cmp.Compare(len(b.node.Addresses), len(a.node.Addresses))
	}
	return m.compareAddresses(a.node.Addresses[0], b.node.Addresses[0])
}

// compareAddresses puts what is on the same link before what is not. Of each it puts IPv4
// first, then global IPv6, then link-local IPv6. What Erlang nodes use most leads. What needs a
// zone is last.
func (m *sightings) compareAddresses(a, b netip.Addr) int {
	return cmp.Or(cmp.Compare(m.addressRank(a), m.addressRank(b)), a.Compare(b))
}

func (m *sightings) addressRank(a netip.Addr) int {
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

// isOnLink reports whether an address is on a subnet of this host. If this host has the address
// itself, another host's is out of reach. Container engines give bridges such addresses.
func (m *sightings) isOnLink(a netip.Addr) bool {
	a = a.WithZone("")
	return slices.ContainsFunc(m.prefixes, func(p netip.Prefix) bool { return p.Contains(a) && p.Addr() != a })
}

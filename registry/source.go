package registry

import (
	"cmp"
	"container/list"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// maxSightings is how many sightings of one node count in each rank. A host has one for each
// interface and IP version. More wait until one of these goes.
const maxSightings = 64

// maxClaims is how many other ports of a node are remembered.
const maxClaims = 8

// Rank says how much the word of a source counts.
type Rank uint8

// Ranks, the lowest first. What the epmd of a node's host tells wins over all others. What a nodes
// file lists wins over what is announced, as anybody can announce anything.
const (
	Announced Rank = iota // others say so, or the epmd was asked: mDNS, NAMES_REQ
	Listed                // a nodes file of this host says so
	Told                  // its epmd says so over a stream, and if it can be reached
	numRanks
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
	node  claim
	gen   int           // of the source, when it last said so
	waits *list.Element // its place in sightings.waiting; nil: it counts
}

// claim is what is kept of a Node that a source tells of. There are as many as neighbours and more,
// so what only local nodes have is left out.
type claim struct {
	claimed
	Addresses []netip.Addr
}

// claimed are the fields of Node of the same names.
type claimed struct {
	Node, Name, Host, Via string

	Creation                  uint32
	Port, EPMDPort, High, Low uint16
	Type                      NodeType
	Protocol                  uint8
	Dist                      Dist
	Origin                    Origin
	Rank                      Rank
	Reach                     Reach
	Named                     bool
	Sure                      bool
}

func claimOf(n *Node) claim {
	return claim{claimed{
		n.Node, n.Name, n.Host, n.Via, n.Creation, n.Port, n.EPMDPort, n.High, n.Low,
		n.Type, n.Protocol, n.Dist, n.Origin, n.Rank, n.Reach, n.Named, n.Sure,
	}, n.Addresses}
}

func (c *claim) toNode() Node {
	return Node{
		Node: c.Node, Name: c.Name, Host: c.Host, Dist: c.Dist, Via: c.Via, Addresses: c.Addresses, Creation: c.Creation,
		Port: c.Port, EPMDPort: c.EPMDPort, High: c.High, Low: c.Low, Type: c.Type, Protocol: c.Protocol,
		Origin: c.Origin, Rank: c.Rank, Reach: c.Reach, Named: c.Named, Sure: c.Sure,
	}
}

func (c *claim) NeighbourKey() NeighbourKey { return NeighbourKey{c.Name, c.Host, c.EPMDPort} }

func (c *claim) equal(other *claim) bool {
	return c.claimed == other.claimed && slices.Equal(c.Addresses, other.Addresses)
}

// sightings are those of all sources.
type sightings struct {
	reg *Registry

	mu       sync.Mutex
	nodes    map[NeighbourKey][]*sighting // those that count, the one that came first leads
	waiting  map[rankedKey]*list.List     // beyond maxSightings, the oldest first; none is empty
	chosen   map[NeighbourKey]*sighting   // which of several Announced ones is believed
	ports    map[NeighbourKey]uint16      // what the epmds of hosts have answered; see Answered
	resolved map[string][]netip.Addr      // addresses of hosts in full names; see SetResolved
	refused  [numRanks]*refused           // by Rank
	prefixes []netip.Prefix
}

// rankedKey is a node as sources of one rank tell of it.
type rankedKey struct {
	NeighbourKey
	rank Rank
}

// NewSource returns a source that has told of nothing.
func (r *Registry) NewSource(rank Rank) *Source {
	return &Source{rank: rank, all: r.sightings, seen: make(map[any]*sighting)}
}

// See enters what the source says of a node under a key. It replaces what the source said under
// that key before. What only local nodes have is left out. Keys are comparable and the source's
// own.
//
// Sightings of the highest rank count alone. All that count add their addresses. A Listed node has
// the port that its epmd has answered, if one was asked.
//
// Told ones keep their order, reachable ones leading. For the rest the one counts that came first,
// of those with the port that the node's epmd has answered. So nobody changes what is known of
// another's node by announcing it too. If that one has no full name, or one that does not belong to
// the node, another one gives it: the first whose name belongs, else the first that has any. A Told
// node is reachable if one sighting says so.
//
// A node is Sure only if the host in its full name belongs to it: it is Host or its first label, or
// one of the node's addresses, or a name that has one; see SetResolved.
//
// See returns ErrTooManyNeighbours, ErrTooManyOfHost, ErrTooManyListed, ErrTooManyTold or ErrGreedy
// if there is no place for the node. The node gets one when another goes.
func (s *Source) See(key any, n Node) error {
	m := s.all
	m.mu.Lock()
	defer m.mu.Unlock()
	n.Rank = s.rank
	now, was := claimOf(&n), s.seen[key]
	if was != nil && was.node.equal(&now) {
		was.gen = s.gen
		return nil
	}
	k := n.NeighbourKey()
	if was != nil && was.node.NeighbourKey() == k {
		was.node, was.gen = now, s.gen
		if was.waits != nil && !m.displace(k, was) {
			return nil
		}
		return m.settle(k)
	}
	if was != nil {
		s.lose(key, was) // a place was refused before, if it is
	}
	is := &sighting{node: now, gen: s.gen}
	s.seen[key] = is
	switch {
	case len(ofRank(m.nodes[k], s.rank)) < maxSightings:
		m.nodes[k] = append(m.nodes[k], is)
	case !m.displace(k, is):
		m.wait(is)
		return nil
	}
	return m.settle(k)
}

// wait has a sighting wait that does not count.
func (m *sightings) wait(is *sighting) {
	k := rankedKey{is.node.NeighbourKey(), is.node.Rank}
	if m.waiting[k] == nil {
		m.waiting[k] = list.New()
	}
	is.waits = m.waiting[k].PushBack(is)
}

// waitNoMore takes out a sighting that waits.
func (m *sightings) waitNoMore(is *sighting) {
	k := rankedKey{is.node.NeighbourKey(), is.node.Rank}
	m.waiting[k].Remove(is.waits)
	if m.waiting[k].Len() == 0 {
		delete(m.waiting, k)
	}
	is.waits = nil
}

// displace has a sighting that the node's epmd contradicts wait for one that the epmd confirms. It
// reports whether there is one. The other one may have waited.
func (m *sightings) displace(k NeighbourKey, is *sighting) bool {
	if is.node.Rank != Announced || m.ports[k] != is.node.Port {
		return false
	}
	i := slices.IndexFunc(m.nodes[k], func(s *sighting) bool { return s.node.Rank == Announced && s.node.Port != is.node.Port })
	if i < 0 {
		return false
	}
	if is.waits != nil {
		m.waitNoMore(is)
	}
	m.wait(m.nodes[k][i])
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

// Expire takes back what was last said before Doubt. It does so at once, however much that is: what
// is left of each node is worked out once.
func (s *Source) Expire() {
	m := s.all
	m.mu.Lock()
	defer m.mu.Unlock()
	left := make(map[NeighbourKey]bool)
	for key, is := range s.seen {
		if is.gen != s.gen && s.take(key, is) {
			left[is.node.NeighbourKey()] = true
		}
	}
	for k := range left {
		for m.recall(rankedKey{k, s.rank}) {
		}
	}
	freed := 0
	for k := range left {
		if room, _ := m.enter(k); room {
			freed++
		}
	}
	for found := 1; freed > 0 && found > 0; freed -= found {
		found = m.amend()
	}
}

// Close takes back all that the source has said.
func (s *Source) Close() {
	s.Doubt()
	s.Expire()
}

func (s *Source) lose(key any, is *sighting) {
	if k := is.node.NeighbourKey(); s.take(key, is) {
		s.all.recall(rankedKey{k, s.rank})
		_ = s.all.settle(k)
	}
}

// take takes out a sighting. It reports whether that one has counted: then the caller settles what
// becomes of its node.
func (s *Source) take(key any, is *sighting) bool {
	delete(s.seen, key)
	if is.waits != nil {
		s.all.waitNoMore(is)
		return false
	}
	of, k := s.all.nodes, is.node.NeighbourKey()
	of[k] = slices.DeleteFunc(of[k], func(other *sighting) bool { return other == is })
	if len(of[k]) == 0 {
		delete(of, k)
	}
	return true
}

// recall has the sighting count that has waited for longest, if one of the same rank has gone. It
// reports whether there is one.
func (m *sightings) recall(k rankedKey) bool {
	waiting := m.waiting[k]
	if waiting == nil || len(ofRank(m.nodes[k.NeighbourKey], k.rank)) >= maxSightings {
		return false
	}
	next := waiting.Front().Value.(*sighting)
	m.waitNoMore(next)
	m.nodes[k.NeighbourKey] = append(m.nodes[k.NeighbourKey], next)
	return true
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
// that it should have. A place that it leaves is another's.
func (m *sightings) settle(k NeighbourKey) error {
	room, err := m.enter(k)
	if room {
		m.amend()
	}
	return err
}

// enter enters a neighbour, or removes it. It reports whether that has left a place to others. The
// error says why it has not the place that it should have.
func (m *sightings) enter(k NeighbourKey) (room bool, err error) {
	is, room, err := m.tryEnter(k)
	if !is {
		room = m.reg.removeNeighbour(k)
	}
	if len(m.nodes[k]) == 0 {
		delete(m.ports, k)
		delete(m.chosen, k)
	}
	return room, err
}

// tryEnter enters a neighbour if there is a place, which it reports. It also reports whether the
// neighbour has left another place to others.
func (m *sightings) tryEnter(k NeighbourKey) (is, room bool, err error) {
	for _, rank := range []Rank{Told, Listed, Announced} {
		var refused error
		var n Node
		if all := ofRank(m.nodes[k], rank); !is && len(all) > 0 {
			n = m.merge(all)
			room, refused = m.reg.setNeighbour(n, m.givesWay(rank, k))
			is = refused == nil
		}
		if refused == nil {
			m.refused[rank].forget(k)
			continue
		}
		m.refused[rank].note(k, m.reg.ownerOfNode(&n), false)
		err = cmp.Or(err, refused)
	}
	return is, room, err
}

// givesWay returns what notes that another neighbour has given way to one. Nobody gives way to one
// that has done so itself.
func (m *sightings) givesWay(rank Rank, k NeighbourKey) func(gone NeighbourKey, owner string) {
	if m.refused[rank].hadPlace(k) {
		return nil
	}
	return func(gone NeighbourKey, owner string) { m.refused[Announced].note(gone, owner, true) }
}

// ofRank returns the sightings of sources of that rank. Most nodes have one sighting.
func ofRank(all []*sighting, rank Rank) []*sighting {
	if len(all) == 1 && all[0].node.Rank == rank {
		return all
	}
	of := make([]*sighting, 0, len(all))
	for _, s := range all {
		if s.node.Rank == rank {
			of = append(of, s)
		}
	}
	return of
}

// merge makes one node of the sightings of it, which are of one rank.
func (m *sightings) merge(all []*sighting) Node {
	if all[0].node.Rank == Told {
		slices.SortStableFunc(all, m.compareTold)
	}
	n := m.choose(all)
	n.Addresses = nil
	var claims []uint16
	for _, s := range all {
		n.Addresses = append(n.Addresses, s.node.Addresses...)
		if s.node.Origin == LAN {
			n.Origin = LAN
		}
		n.Named = n.Named && s.node.Named
		if s.node.Port != n.Port && !slices.Contains(claims, s.node.Port) && len(claims) < maxClaims {
			claims = append(claims, s.node.Port)
		}
	}
	if len(claims) > 0 {
		slices.Sort(claims)
		n.Claims = &claims
	}
	if n.Rank == Told {
		n.Addresses = unique(n.Addresses)
	} else {
		slices.SortFunc(n.Addresses, m.compareAddresses)
		n.Addresses = slices.Compact(n.Addresses)
	}
	m.name(&n, all)
	return n
}

// choose returns what counts of sightings of one rank, beside addresses and full name.
func (m *sightings) choose(all []*sighting) Node {
	n, k := all[0].node.toNode(), all[0].node.NeighbourKey()
	switch n.Rank {
	case Announced:
		return m.chooseAnnounced(k, all)
	case Listed:
		return m.askedPort(k, n)
	}
	delete(m.ports, k) // which is older
	return n
}

// askedPort gives a Listed node the port that its epmd has answered.
func (m *sightings) askedPort(k NeighbourKey, n Node) Node {
	for _, s := range ofRank(m.nodes[k], Announced) {
		if s.node.Via == ViaEPMD {
			n.Port, n.Via = s.node.Port, ViaEPMD
		}
	}
	n.Port = cmp.Or(m.ports[k], n.Port)
	return n
}

// name decides on the full name of n. That is its own, if it has one, or else the first that others
// say of its port. But one that belongs to n takes the place of one that does not.
func (m *sightings) name(n *Node, all []*sighting) {
	named := n.Sure
	n.Sure = named && m.belongs(n)
	for _, s := range all {
		if n.Sure {
			return
		}
		if !s.node.Sure || s.node.Port != n.Port {
			continue
		}
		own := n.Node
		n.Node = s.node.Node
		if n.Sure = m.belongs(n); named && !n.Sure {
			n.Node = own
		}
		named = true
	}
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
	n := is.node.toNode()
	n.Port = cmp.Or(port, n.Port)
	return n
}

// belongs reports whether the host in a node's full name belongs to the node.
func (m *sightings) belongs(n *Node) bool {
	_, host, _ := strings.Cut(n.Node, "@")
	if strings.EqualFold(host, n.Host) || strings.EqualFold(host, HostLabel(n.Host)) {
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
	if now := r.neighbour(k); now != nil && now.ID == n.ID && now.Rank != Told && m.ports[k] != port && len(m.nodes[k]) > 0 {
		if m.ports[k] = port; port == 0 {
			delete(m.ports, k)
		}
		_ = m.settle(k)
	}
	m.mu.Unlock()
	r.SetReach(n, reach)
	if reach == Unreachable { // it may give way
		m.mu.Lock()
		m.amendOf(Announced, false, 1)
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

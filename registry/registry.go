// Package registry holds what this host knows of Erlang nodes: those registered here over EPMD
// and those seen on the LAN. It also holds how LAN discovery is doing.
//
// It does no I/O and starts no goroutine. All methods may be called concurrently. None blocks
// for longer than it takes to copy a list of pointers. A subscriber that falls behind is never
// waited for. It begins anew, with all that is known by then.
package registry

import (
	"container/list"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Limits on what comes from other hosts. Anybody on the network can announce anything.
const (
	MaxNeighbours        = 4096  // Announced nodes in all
	MaxNeighboursPerHost = 512   // Announced nodes at one address
	MaxListed            = 20000 // Listed nodes in all, counted apart: before and after a change
	MaxTold              = 16384 // Told nodes in all, counted apart
)

// OldNames is how many names the stock epmd remembers after their nodes have gone.
// OldNamesDebug is the same with debugging switched on.
const (
	OldNames      = 1001
	OldNamesDebug = 6
)

// Errors that callers decide by.
var (
	ErrNameTaken         = errors.New("name taken")
	ErrTooManyNeighbours = fmt.Errorf("more than %d nodes on the LAN", MaxNeighbours)
	ErrTooManyListed     = fmt.Errorf("more than %d nodes in nodes files", MaxListed)
	ErrTooManyTold       = fmt.Errorf("more than %d nodes told of by other hosts' epmds", MaxTold)
	ErrTooManyOfHost     = fmt.Errorf("more than %d nodes of one host", MaxNeighboursPerHost)
	ErrGreedy            = errors.New("its host has as many nodes as there is room for others")
)

// Registry is what is known. Make one with New.
type Registry struct {
	mu       sync.RWMutex
	id       [16]byte
	host     string
	lanAddrs []netip.Addr // of this host, on interfaces to a LAN
	lan      LANState
	lastID   uint64

	local          map[string]*Registration
	oldest, newest *Registration // the list of local, in order of registration
	localVersion   atomic.Uint64
	addresses      []netip.Addr // of the node that came last
	listens        []netip.Addr // where the node listens that was looked at last
	version        atomic.Uint64

	old      map[string]*oldName
	oldFirst *oldName // the name that went first
	oldLast  *oldName
	maxOld   int
	spare    *oldName // the one forgotten last, to be used again

	neighbours map[NeighbourKey]*entry
	named      names                     // the same
	ranked     [numRanks]int             // how many of them have each Rank
	origins    [Origins]int              // and each Origin
	shares     map[string]*share         // of those that are Announced
	owners     [numRanks]map[string]int  // how many whoever answers there has of each Rank
	ownerOf    func(netip.Addr) string   // see SetOwners
	lost       map[NeighbourKey]struct{} // of these, those that can't be reached

	noStreams     map[any]NoStream
	subscriptions []*Subscription

	sightings *sightings // has a lock of its own, which comes before mu
}

// Registration is a place that a local node holds until Unregister.
type Registration struct {
	node         *Node // replaced, never changed; guarded by Registry.mu
	older, newer *Registration
}

// oldName remembers the last creation given to a name that has gone. The list has two uses: to
// forget the name that went first, and to be shown by DUMP_REQ.
type oldName struct {
	Old
	prev, next *oldName
}

// Old is a name that was registered once, as DUMP_REQ shows it.
type Old struct {
	Name    string
	Port    uint16
	FD      int32
	Counter uint32 // what its last creation was made of
}

// New returns an empty registry. host is the name that others on the LAN have for this host,
// such as "hosta.local". The registry remembers at most maxOld names that have gone. The stock
// epmd remembers [OldNames].
func New(host string, maxOld int) *Registry {
	r := &Registry{
		host:       host,
		maxOld:     maxOld,
		local:      make(map[string]*Registration),
		old:        make(map[string]*oldName),
		neighbours: make(map[NeighbourKey]*entry),
		shares:     make(map[string]*share),
		owners:     [numRanks]map[string]int{{}, {}, {}},
		lost:       make(map[NeighbourKey]struct{}),
		noStreams:  make(map[any]NoStream),
	}
	r.sightings = &sightings{
		reg:     r,
		nodes:   make(map[NeighbourKey][]*sighting),
		waiting: make(map[rankedKey]*list.List),
		chosen:  make(map[NeighbourKey]*sighting),
		ports:   make(map[NeighbourKey]uint16), resolved: make(map[string][]netip.Addr),
	}
	_, _ = crand.Read(r.id[:]) // it never fails
	for rank := range r.sightings.refused {
		r.sightings.refused[rank] = newRefused()
	}
	return r
}

// Register enters a node of this host. The caller gives what ALIVE2_REQ said and where it came
// from: Name, Port, Type, Protocol, High, Low, Extra, Addresses, PeerPort, FD. Register fills
// in the rest. It returns ErrNameTaken if the name is registered already.
func (r *Registry) Register(n Node) (*Registration, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, taken := r.local[n.Name]; taken {
		return nil, fmt.Errorf("register %q: %w", n.Name, ErrNameTaken)
	}
	n.Sure, n.Mute, n.Told = false, false, n.Type
	n.Counter = r.nextCounter(n.Name)
	n.Creation = creation(n.Counter, n.High)
	n.Since = time.Now()
	r.lastID++
	n.ID = r.lastID
	return r.add(n), nil
}

// Restore enters a node of this host that was registered with an earlier process. It keeps ID,
// Counter, Creation, Since, Type, Told and Mute, and if the node is Sure also Node and Dist.
// All nodes are restored before the first is registered.
func (r *Registry) Restore(n Node) (*Registration, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, taken := r.local[n.Name]; taken {
		return nil, fmt.Errorf("restore %q: %w", n.Name, ErrNameTaken)
	}
	if was := r.old[n.Name]; was != nil {
		r.forget(was)
	}
	r.lastID = max(r.lastID, n.ID)
	if now := time.Now(); n.Since.After(now) {
		n.Since = now // the clock was set back
	}
	return r.add(n), nil
}

// SkipIDs gives no new node an ID up to last. Earlier processes have used them.
func (r *Registry) SkipIDs(last uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastID = max(r.lastID, last)
}

// LastID returns the last ID that a node was given.
func (r *Registry) LastID() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.lastID
}

// PeerID returns the id by which other epmds tell this one from all others. New makes a random one.
func (r *Registry) PeerID() [16]byte {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.id
}

// SetPeerID enters the id that an earlier process had, whose registrations are restored.
func (r *Registry) SetPeerID(id [16]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.id = id
}

// RestoreOld enters a name that went with an earlier process. The name that went first comes
// first.
func (r *Registry) RestoreOld(o Old) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remember(o)
}

// add enters a local node whose name is free.
func (r *Registry) add(n Node) *Registration {
	n.Origin, n.Host, n.Reach, n.Listens = Local, r.host, Reachable, nil
	if !n.Sure {
		n.Node = n.Name + "@" + r.host
	}
	r.intern(&n)
	n.Why = r.why(&n)
	reg := &Registration{node: &n}
	r.local[n.Name] = reg
	r.link(reg)
	r.changed(Event{Up, reg.node})
	return reg
}

// intern has a local node share memory: its names with each other, its addresses with the node
// that came before. Most nodes have the same.
func (r *Registry) intern(n *Node) {
	if alive, _, _ := strings.Cut(n.Node, "@"); alive == n.Name {
		n.Name = alive
	}
	if slices.Equal(n.Addresses, r.addresses) {
		n.Addresses = r.addresses
	}
	r.addresses = n.Addresses
}

// Unregister removes a node of this host. A registration that is no longer there is left alone.
func (r *Registry) Unregister(reg *Registration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.local[reg.node.Name] != reg {
		return
	}
	delete(r.local, reg.node.Name)
	r.unlink(reg)
	n := reg.node
	r.remember(Old{n.Name, n.Port, n.FD, n.Counter})
	r.changed(Event{Down, n})
}

// Node returns the node as it is known now.
func (r *Registry) Node(reg *Registration) *Node {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return reg.node
}

// Lookup returns the local node of that alive name, or nil.
func (r *Registry) Lookup(name string) *Node {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if reg := r.local[name]; reg != nil {
		return reg.node
	}
	return nil
}

// LocalVersion changes whenever Local would return something else. It is read before Local.
// What was made of Local holds for as long as the version stands.
func (r *Registry) LocalVersion() uint64 { return r.localVersion.Load() }

// Version changes whenever Nodes would return something else. It is read before Nodes.
func (r *Registry) Version() uint64 { return r.version.Load() }

// Local returns the nodes of this host, the newest first.
func (r *Registry) Local() []*Node {
	r.mu.RLock()
	defer r.mu.RUnlock()
	nodes := make([]*Node, 0, len(r.local))
	for reg := r.newest; reg != nil; reg = reg.older {
		nodes = append(nodes, reg.node)
	}
	return nodes
}

// Old returns the names that have gone and are remembered. The one that went first leads.
func (r *Registry) Old() []Old {
	r.mu.RLock()
	defer r.mu.RUnlock()
	names := make([]Old, 0, len(r.old))
	for o := r.oldFirst; o != nil; o = o.next {
		names = append(names, o.Old)
	}
	return names
}

// Counts returns how many local nodes and how many neighbours are known.
func (r *Registry) Counts() (local, neighbours int) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.local), len(r.neighbours)
}

// Count returns how many nodes of an origin are known.
func (r *Registry) Count(o Origin) int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if o == Local {
		return len(r.local)
	}
	return r.origins[o]
}

// Host returns the name of this host.
func (r *Registry) Host() string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.host
}

// SetHost enters another name of this host. All its nodes get it.
func (r *Registry) SetHost(host string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.host == host {
		return
	}
	r.host = host
	for reg := r.oldest; reg != nil; reg = reg.newer {
		n := *reg.node
		n.Host = host
		if !n.Sure {
			n.Node = n.Name + "@" + host
		}
		r.replace(reg, n)
	}
}

// Identify enters what a local node said of itself. n is the node in whichever state the caller
// saw it. Nothing happens if it has gone or was registered anew since. It is an error if the
// full name is none of a node registered as n.Name. Then another program answers on that port.
func (r *Registry) Identify(n *Node, id Identity) error {
	alive, _, found := strings.Cut(id.Node, "@")
	if !found || alive != n.Name {
		return fmt.Errorf("node registered as %q calls itself %q", n.Name, id.Node)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	reg := r.local[n.Name]
	if reg == nil || reg.node.ID != n.ID {
		return nil
	}
	m := *reg.node
	if id.Node != m.Node {
		m.Node = id.Node
	}
	m.Sure, m.Mute, m.Dist = true, false, id.Dist
	if id.Hidden {
		m.Type = Hidden
	}
	if id.Creation != 0 {
		m.Creation = id.Creation
	}
	r.replace(reg, m)
	return nil
}

// SetMute enters that a local node was asked for its full name and did not tell. It returns the
// node as it is now. It returns nil, and does nothing, if n has gone or was registered anew.
func (r *Registry) SetMute(n *Node) *Node {
	r.mu.Lock()
	defer r.mu.Unlock()
	reg := r.local[n.Name]
	if reg == nil || reg.node.ID != n.ID {
		return nil
	}
	m := *reg.node
	m.Mute = true
	reg.node = &m
	r.changed(Event{Changed, reg.node})
	return reg.node
}

// SetHolder enters which process is behind a local node. Nothing happens if n has gone or was
// registered anew.
func (r *Registry) SetHolder(n *Node, h *Holder) {
	r.mu.Lock()
	defer r.mu.Unlock()
	reg := r.local[n.Name]
	if reg == nil || reg.node.ID != n.ID {
		return
	}
	m := *reg.node
	m.Holder = h
	r.replace(reg, m)
}

// SetNeighbour enters a node of another host or changes what is known of it. The NeighbourKey
// makes the node: its full name may become known later, or change. Since remains when it was
// first seen. So does Reach, unless the node is Told: then Reach is what the node has.
//
// For a node past the limits SetNeighbour returns ErrTooManyNeighbours, ErrTooManyOfHost,
// ErrTooManyListed, ErrTooManyTold or ErrGreedy. What was known of the node stays.
func (r *Registry) SetNeighbour(n Node) error {
	_, err := r.setNeighbour(n, nil)
	return err
}

// setNeighbour is SetNeighbour. It also reports whether that made room for another node. If there
// is no place, a node that can't be reached gives way; gone is told which. nil: none does.
func (r *Registry) setNeighbour(n Node, gone func(gone NeighbourKey, owner string)) (room bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := n.NeighbourKey()
	if n.Origin == Local {
		n.Origin = LAN
	}
	was := r.neighbours[key]
	isNew := was == nil || was.Rank != n.Rank
	if isNew || n.Rank == Announced && shareOf(was.Node) != shareOf(&n) {
		if err := r.place(&n, isNew, gone); err != nil {
			return false, err
		}
	}
	switch {
	case was == nil:
		r.lastID++
		n.ID, n.Since = r.lastID, time.Now()
		if n.Rank != Told {
			n.Reach = Unchecked
		}
		r.enter(key, Event{Up, &n})
		return false, nil
	case n.Rank != Told:
		n.Reach = was.Reach
	}
	n.ID, n.Since = was.ID, was.Since
	if now, before := claimOf(&n), claimOf(was.Node); !now.equal(&before) || !n.ClaimsAs(was.Node) {
		r.change(key, was, &n)
	}
	return n.Rank != was.Rank, nil
}

// change enters what is known of a neighbour now. A Listed one takes nobody's place.
func (r *Registry) change(key NeighbourKey, was *entry, n *Node) {
	if n.Rank == Listed && was.Rank == Listed && n.Origin == was.Origin && n.Node == was.Node.Node {
		was.Node = n
		r.changed(Event{Changed, n})
		return
	}
	r.leave(was)
	r.enter(key, Event{Changed, n})
}

// share is the Announced neighbours that answer at one address.
type share struct {
	nodes int
	lost  map[NeighbourKey]struct{} // those that can't be reached
}

// shareOf returns whose share a neighbour is of. That is the address where it should answer, as
// anybody may announce nodes of any host.
func shareOf(n *Node) string {
	if len(n.Addresses) == 0 {
		return n.Host
	}
	return n.Addresses[0].String()
}

// enter enters and counts a neighbour.
func (r *Registry) enter(key NeighbourKey, e Event) {
	n := &entry{Node: e.Node, owner: r.owner(e.Node)}
	r.neighbours[key] = n
	r.named.add(n)
	r.ranked[e.Node.Rank]++
	r.origins[e.Node.Origin]++
	r.owners[e.Node.Rank][n.owner]++
	r.count(e.Node, 1)
	r.changed(e)
}

// count counts an Announced neighbour among those of its share, or no more.
func (r *Registry) count(n *Node, by int) {
	if n.Rank != Announced {
		return
	}
	of, key := shareOf(n), n.NeighbourKey()
	s := r.shares[of]
	if s == nil {
		s = &share{lost: make(map[NeighbourKey]struct{})}
		r.shares[of] = s
	}
	if s.nodes += by; s.nodes == 0 {
		delete(r.shares, of)
	}
	delete(s.lost, key)
	delete(r.lost, key)
	if by > 0 && n.Reach == Unreachable {
		s.lost[key], r.lost[key] = struct{}{}, struct{}{}
	}
}

// leave counts a neighbour no more.
func (r *Registry) leave(n *entry) {
	r.named.remove(n)
	r.ranked[n.Rank]--
	r.origins[n.Origin]--
	r.disown(n)
	r.count(n.Node, -1)
}

// SetReach enters whether a neighbour can be reached. Nothing happens if n has gone or was seen
// anew, or if it is Told: the source knows then.
func (r *Registry) SetReach(n *Node, reach Reach) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := n.NeighbourKey()
	now := r.neighbours[key]
	if now == nil || now.ID != n.ID || now.Rank == Told || now.Reach == reach {
		return
	}
	m := *now.Node
	m.Reach = reach
	r.count(now.Node, -1)
	now.Node = &m
	r.count(&m, 1)
	r.changed(Event{Changed, &m})
	r.settleOwner(key, now)
}

// RemoveNeighbour removes a node of another host. It does nothing if there is none of that key.
func (r *Registry) RemoveNeighbour(key NeighbourKey) { r.removeNeighbour(key) }

// removeNeighbour is RemoveNeighbour. It reports whether there was one.
func (r *Registry) removeNeighbour(key NeighbourKey) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.remove(key)
}

func (r *Registry) remove(key NeighbourKey) bool {
	n := r.neighbours[key]
	if n == nil {
		return false
	}
	delete(r.neighbours, key)
	r.leave(n)
	r.changed(Event{Down, n.Node})
	return true
}

// neighbour returns the neighbour of that key, or nil.
func (r *Registry) neighbour(k NeighbourKey) *Node {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if n := r.neighbours[k]; n != nil {
		return n.Node
	}
	return nil
}

// link puts reg at the new end of the list.
func (r *Registry) link(reg *Registration) {
	reg.older = r.newest
	if r.newest == nil {
		r.oldest = reg
	} else {
		r.newest.newer = reg
	}
	r.newest = reg
}

func (r *Registry) unlink(reg *Registration) {
	if reg.older == nil {
		r.oldest = reg.newer
	} else {
		reg.older.newer = reg.newer
	}
	if reg.newer == nil {
		r.newest = reg.older
	} else {
		reg.newer.older = reg.older
	}
	reg.older, reg.newer = nil, nil
}

// remember keeps a name that goes. If there are too many, it forgets the one that went first.
func (r *Registry) remember(old Old) {
	if was := r.old[old.Name]; was != nil {
		r.forget(was)
	}
	o := r.spare
	if r.spare = nil; o == nil {
		o = new(oldName)
	}
	*o = oldName{Old: old, prev: r.oldLast}
	if r.oldLast == nil {
		r.oldFirst = o
	} else {
		r.oldLast.next = o
	}
	r.oldLast = o
	r.old[o.Name] = o
	if len(r.old) > r.maxOld {
		r.forget(r.oldFirst)
	}
}

func (r *Registry) forget(o *oldName) {
	delete(r.old, o.Name)
	if o.prev == nil {
		r.oldFirst = o.next
	} else {
		o.prev.next = o.next
	}
	if o.next == nil {
		r.oldLast = o.prev
	} else {
		o.next.prev = o.prev
	}
	r.spare = o
}

// nextCounter returns the number that makes the creation of a name's next registration. It is
// one more than the last time, or any if the name is new or forgotten.
func (r *Registry) nextCounter(name string) uint32 {
	o := r.old[name]
	if o == nil {
		return max(rand.Uint32(), minCreation)
	}
	r.forget(o)
	return max(o.Counter+1, minCreation)
}

// minCreation is the least 32-bit creation. 0 has a meaning of its own. 1 to 3 are those of
// nodes that know two bits.
const minCreation = 4

// creation makes a creation of a counter, for a node of that highest distribution version. It
// has 32 bits from version 6 (OTP 23) on, and is 1 to 3 before.
func creation(counter uint32, high uint16) uint32 {
	if high >= 6 {
		return counter
	}
	return counter%3 + 1
}

// Package told keeps the nodes that epmds tell of over streams, and enters them in the registry.
//
// Nodes are those of one epmd, as it has told them line by line. A flood of changes is joined
// before the registry sees it. After a restart of the epmd, missing nodes are held for a while.
// Nodes have no goroutine and no lock. They belong to whoever reads the stream, who also looks
// after their Due. Methods of All may be called concurrently. Nothing blocks.
package told

import (
	"log/slog"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/internal/throttle"
	"github.com/goerlang/eclus/registry"
)

// When what an epmd tells is entered, and what becomes of the rest. OTP registers a node again 2 s
// after a restart.
const (
	MaxAtOnce = 50               // changes that are entered at once; more are joined by name
	Joined    = time.Second      // between the times that joined changes are entered
	grace     = 5 * time.Second  // that nodes are held after a restart
	refreshIn = time.Minute      // before an epmd is asked anew for nodes that were left out
	calm      = 10 * time.Second // after an epmd has told all, the free heap is given back

	// Between the times that a host is looked up again.
	firstFind = 10 * time.Second
	lastFind  = 10 * time.Minute
)

// Limits for all epmds together. Changes of nodes that are kept may always wait.
const (
	maxKept    = 2 * registry.MaxTold // nodes; those of a host on two links count twice
	maxWaiting = 2 * maxKept          // changes that wait to be entered
)

// All are the nodes of all epmds. Make them with NewAll.
type All struct {
	source  *registry.Source
	reg     *registry.Registry
	kept    *quota      // nodes
	waiting *quota      // changes
	calm    *time.Timer // gives back what was used to read all that epmds told at first
	say     *throttle.Throttle
	log     *slog.Logger
}

// NewAll returns the nodes of no epmd.
func NewAll(reg *registry.Registry, log *slog.Logger) *All {
	return &All{
		source: reg.NewSource(registry.Told), reg: reg, kept: newQuota(maxKept), waiting: newQuota(maxWaiting),
		calm: time.AfterFunc(calm, giveBack), say: throttle.New(), log: log,
	}
}

// Close takes back from the registry what was told.
func (a *All) Close() {
	a.calm.Stop()
	a.source.Close()
}

// giveBack gives the free heap back to the system. What a sync.Pool has survives one collection.
func giveBack() {
	runtime.GC()
	debug.FreeOSMemory()
}

// Who is at the other end of a stream.
type Who struct {
	Hello epmd.PeerHello
	Addr  netip.AddrPort // that answered
	Local netip.Addr     // our end
}

// Due is when Nodes have something to do. Zero stands for never.
type Due struct {
	Flush   time.Time // changes that were joined are to be entered, by Flush
	Held    time.Time // nodes that are missing after a restart are to go, by DropHeld
	Refresh time.Time // the epmd is to be asked anew for nodes that were left out
	Find    time.Time // its host is to be looked up again: a node lacks an address; see FindLater
}

// Nodes are those of one epmd. Make them with All.New.
type Nodes struct {
	Due Due // the caller sets to zero what it has done

	of     *All
	addrs  []netip.AddrPort // of the epmd
	origin registry.Origin
	named  bool
	who    Who    // told of the nodes
	owner  string // whose places they take: of who has told when there were none
	all    map[string]*node
	told   time.Time   // when all were last told
	id     epmd.PeerID // of the epmd that told of all

	// changes wait for the end of the snapshot, or are joined. nil: gone.
	changes    map[string]*node
	streamed   bool // there is a stream
	incomplete bool // it has not come to the end of the snapshot
	joining    bool
	finding    time.Duration // how long Due.Find was put off last
	since      time.Time     // when the first of those was entered that are counted
	count      int
}

// node is what an epmd has told of one.
type node struct {
	full, host      string
	dist            registry.Dist
	port, high, low uint16
	typ             registry.NodeType
	proto           uint8
	ips             epmd.IPs
	sure            bool
	held            bool // it was not told of again after a restart
	reach           registry.Reach
}

// nodeKey is a key of sightings.
type nodeKey struct {
	of   *Nodes
	name string
}

// New returns the nodes of an epmd that has told of none.
func (a *All) New() *Nodes { return &Nodes{of: a, all: make(map[string]*node)} }

// Len returns how many nodes are known, reachable or not.
func (ns *Nodes) Len() int { return len(ns.all) }

// Who returns who told of the nodes last.
func (ns *Nodes) Who() Who { return ns.who }

// Told returns when an epmd has last told of all its nodes.
func (ns *Nodes) Told() time.Time { return ns.told }

// Move enters where the epmd is. Nodes that listen on another IP version than that of the address
// that answered get the epmd's other addresses.
//
// named says that this host's owner has named the epmd.
func (ns *Nodes) Move(addrs []netip.AddrPort, origin registry.Origin, named bool) {
	if slices.Equal(ns.addrs, addrs) && ns.origin == origin && ns.named == named {
		return
	}
	ns.addrs, ns.origin, ns.named = addrs, origin, named
	ns.enterAll()
}

// Begin begins with a stream. All nodes come first, until Complete.
func (ns *Nodes) Begin(w Who) {
	ns.who, ns.streamed, ns.incomplete = w, true, true
	ns.drain()
	if len(ns.all) == 0 {
		ns.owner = ns.of.reg.Owner(w.Addr.Addr())
	}
}

// Rename notes that the host at the other end of the stream has a new name. Its epmd takes back all
// nodes before. Those that it has not taken back go too, as they are none of the new host.
func (ns *Nodes) Rename(w Who) {
	ns.drain()
	for name := range ns.all {
		ns.set(name, nil)
	}
	ns.who = w
}

// End notes that the stream has ended. What was joined is entered. Of nodes that were to come
// first, nothing is.
func (ns *Nodes) End(now time.Time) {
	ns.streamed, ns.incomplete = false, false
	ns.Flush(now)
	ns.drain()
	ns.Due.Flush, ns.Due.Refresh = time.Time{}, time.Time{}
}

// Line takes note of a line about a node.
func (ns *Nodes) Line(now time.Time, l epmd.Line) {
	n, ips, err := epmd.PeerNode(l)
	if err != nil {
		ns.warn("bad line", err)
		return
	}
	var is *node
	if l.Kind == epmd.NodeKnown {
		is = &node{
			full: strings.Clone(n.Node), host: ns.who.Hello.Host, dist: n.Dist, port: n.Port, high: n.High, low: n.Low,
			typ: n.Type, proto: n.Protocol, ips: ips, sure: n.Sure, reach: registry.Reachable,
		}
	}
	name := strings.Clone(n.Name)
	switch _, changed := ns.changes[name]; {
	case is == nil && !changed && ns.all[name] == nil: // it was never told of, or was left out
	case ns.incomplete || ns.joining:
		ns.wait(now, name, is)
	case ns.mayEnter(now):
		ns.set(name, is)
	default:
		ns.joining, ns.Due.Flush = true, ns.since.Add(Joined)
		ns.wait(now, name, is)
	}
}

// wait puts off a change. It leaves out a new node for which there is no place.
func (ns *Nodes) wait(now time.Time, name string, is *node) {
	if _, changed := ns.changes[name]; !changed {
		if ns.all[name] != nil {
			ns.of.waiting.force(ns.owner)
		} else if len(ns.changes) >= registry.MaxTold || !ns.of.waiting.take(ns.owner) {
			ns.leaveOut(now)
			return
		}
	}
	if ns.changes == nil {
		ns.changes = make(map[string]*node)
	}
	ns.changes[name] = is
}

// drain empties what waits.
func (ns *Nodes) drain() {
	ns.of.waiting.give(ns.owner, len(ns.changes))
	ns.changes = nil
}

// mayEnter reports whether a change may be entered at once, and counts it.
func (ns *Nodes) mayEnter(now time.Time) bool {
	if now.Sub(ns.since) >= Joined {
		ns.since, ns.count = now, 0
	}
	ns.count++
	return ns.count <= MaxAtOnce
}

// Flush enters what was joined. If nothing was, changes are entered at once again.
func (ns *Nodes) Flush(now time.Time) {
	if !ns.joining {
		return
	}
	for name, is := range ns.changes {
		ns.set(name, is)
	}
	ns.joining = len(ns.changes) > 0 && ns.streamed
	ns.drain()
	if ns.joining {
		ns.Due.Flush = now.Add(Joined)
	} else {
		ns.since, ns.count = now, 0
	}
}

// Complete enters that the epmd has told of all its nodes. What it had before and has no longer has
// gone. After a restart nodes have 5 seconds to register again.
func (ns *Nodes) Complete(now time.Time) {
	restarted := ns.who.Hello.ID != ns.id || ns.id == epmd.PeerID{}
	ns.id, ns.told = ns.who.Hello.ID, now
	for name, was := range ns.all {
		switch {
		case ns.changes[name] != nil, was.held:
		case restarted:
			was.held = true
			ns.Due.Held = now.Add(grace)
		default:
			ns.set(name, nil)
		}
	}
	for name, is := range ns.changes {
		if is != nil {
			ns.set(name, is)
		}
	}
	ns.drain()
	ns.joining, ns.incomplete, ns.Due.Flush = false, false, time.Time{}
	ns.of.calm.Reset(calm)
}

// set enters one node. nil stands for one that has gone.
func (ns *Nodes) set(name string, is *node) {
	if is == nil {
		if ns.all[name] != nil {
			delete(ns.all, name)
			ns.of.kept.give(ns.owner, 1)
			ns.of.source.Lose(nodeKey{ns, name})
		}
		return
	}
	if ns.all[name] == nil {
		if !ns.of.kept.take(ns.owner) {
			ns.leaveOut(time.Now())
			return
		}
	}
	ns.all[name] = is
	ns.enter(name, is)
}

// leaveOut leaves out a node for which there is no place. The epmd is asked for it again.
func (ns *Nodes) leaveOut(now time.Time) {
	ns.warn("node left out", registry.ErrTooManyTold)
	if ns.Due.Refresh.IsZero() && ns.streamed {
		ns.Due.Refresh = now.Add(refreshIn)
	}
}

// enter tells the registry of a node. Without an address at which it listens nobody can reach it.
func (ns *Nodes) enter(name string, is *node) {
	key := nodeKey{ns, name}
	addrs := ns.addresses(is.ips)
	if len(addrs) == 0 {
		ns.of.source.Lose(key)
		if ns.Due.Find.IsZero() {
			ns.Due.Find = time.Now().Add(ns.finding)
		}
		return
	}
	err := ns.of.source.See(key, registry.Node{
		Node: is.full, Name: name, Host: is.host, Dist: is.dist, Addresses: addrs,
		Port: is.port, EPMDPort: ns.who.Addr.Port(), High: is.high, Low: is.low, Protocol: is.proto,
		Type: is.typ, Sure: is.sure, Origin: ns.origin, Named: ns.named, Via: registry.ViaEPMD, Reach: is.reach,
	})
	if err != nil {
		ns.warn("node left out", err)
	}
}

// FindLater notes that the host is looked up. If a node still lacks an address, that is due again,
// after longer each time. The records of one IP version may come long after those of the other.
func (ns *Nodes) FindLater(now time.Time) {
	for _, is := range ns.all {
		if len(ns.addresses(is.ips)) == 0 {
			ns.finding = min(max(firstFind, 2*ns.finding), lastFind)
			ns.Due.Find = now.Add(ns.finding)
			return
		}
	}
	ns.finding = 0
}

// addresses returns where a node is that listens on IP versions. That is where its epmd has
// answered, and what the host's records have of the other version. Link-local ones come last.
func (ns *Nodes) addresses(ips epmd.IPs) []netip.Addr {
	at := ns.who.Addr.Addr()
	var list []netip.Addr
	if ips&version(at) != 0 {
		list = append(list, at)
	}
	for _, a := range ns.addrs {
		if v := version(a.Addr()); v != version(at) && ips&v != 0 && !slices.Contains(list, a.Addr()) {
			list = append(list, a.Addr())
		}
	}
	slices.SortStableFunc(list, LastIfLinkLocal)
	return list
}

// LastIfLinkLocal compares addresses such that link-local ones come last.
func LastIfLinkLocal(a, b netip.Addr) int {
	rank := map[bool]int{true: 1}
	return rank[a.IsLinkLocalUnicast()] - rank[b.IsLinkLocalUnicast()]
}

// version returns the IP version of an address.
func version(a netip.Addr) epmd.IPs {
	if a.Is4() {
		return epmd.IP4
	}
	return epmd.IP6
}

// enterAll tells the registry of all nodes again.
func (ns *Nodes) enterAll() {
	for name, is := range ns.all {
		ns.enter(name, is)
	}
}

// SetUnreachable tells the registry that no node can be reached.
func (ns *Nodes) SetUnreachable() {
	for _, is := range ns.all {
		is.reach = registry.Unreachable
	}
	ns.enterAll()
}

// DropHeld drops what was not told of again after a restart.
func (ns *Nodes) DropHeld() {
	for name, is := range ns.all {
		if is.held {
			ns.set(name, nil)
		}
	}
}

// Drop drops all nodes.
func (ns *Nodes) Drop() {
	for name := range ns.all {
		ns.set(name, nil)
	}
	ns.id = epmd.PeerID{}
}

// warn logs something about an epmd's nodes, once a minute.
func (ns *Nodes) warn(what string, err error) {
	if withheld, ok := ns.of.say.May(what + ns.who.Addr.String()); ok {
		ns.of.log.Warn("peer: "+what, "host", ns.who.Hello.Host, "address", ns.who.Addr, "err", err, "withheld", withheld)
	}
}

package peers

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
)

// Changes of a peer that are entered at once. More are joined by name, and entered once a second.
const (
	maxAtOnce = 50
	joined    = time.Second
)

// nodes are those of a peer. They belong to its goroutine.
type nodes struct {
	p    *peer
	who  Who // told of them
	all  map[string]*node
	told time.Time   // when all were last told
	id   epmd.PeerID // of the epmd that told of all

	// changes wait for the end of the snapshot, or are joined. nil: gone.
	changes map[string]*node
	joining bool
	since   time.Time // when the first of those was entered that are counted
	count   int
}

// node is what a peer has told of one.
type node struct {
	full, dist      string
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
	p    *peer
	name string
}

// meet begins anew with a stream.
func (ns *nodes) meet(w Who) {
	ns.who = w
	if !ns.p.due.snapshot.IsZero() {
		ns.changes = make(map[string]*node)
	}
}

// line takes note of a line about a node.
func (ns *nodes) line(now time.Time, l epmd.Line) {
	n, ips, err := epmd.PeerNode(l)
	if err != nil {
		ns.warn("bad line", err)
		return
	}
	var is *node
	if l.Kind == epmd.NodeKnown {
		is = &node{
			full: strings.Clone(n.Node), dist: strings.Clone(n.Dist), port: n.Port, high: n.High, low: n.Low,
			typ: n.Type, proto: n.Protocol, ips: ips, sure: n.Sure, reach: registry.Reachable,
		}
	}
	name := strings.Clone(n.Name)
	switch {
	case len(ns.changes) >= registry.MaxTold && ns.all[name] == nil:
		ns.leaveOut(now)
	case !ns.p.due.snapshot.IsZero() || ns.joining:
		ns.changes[name] = is
	case ns.mayEnter(now):
		ns.set(name, is)
	default:
		ns.joining, ns.changes = true, map[string]*node{name: is}
		ns.p.due.flush = ns.since.Add(joined)
	}
}

// mayEnter reports whether a change may be entered at once, and counts it.
func (ns *nodes) mayEnter(now time.Time) bool {
	if now.Sub(ns.since) >= joined {
		ns.since, ns.count = now, 0
	}
	ns.count++
	return ns.count <= maxAtOnce
}

// flush enters what was joined. If nothing was, changes are entered at once again.
func (ns *nodes) flush(now time.Time) {
	if !ns.joining {
		return
	}
	for name, is := range ns.changes {
		ns.set(name, is)
	}
	ns.joining = len(ns.changes) > 0 && ns.p.stream != nil
	if ns.joining {
		ns.changes = make(map[string]*node)
		ns.p.due.flush = now.Add(joined)
	} else {
		ns.changes, ns.since, ns.count = nil, now, 0
	}
}

// snapshot enters that the peer has told of all its nodes. What it had before and has no longer has
// gone. After a restart nodes have 5 seconds to register again.
func (ns *nodes) snapshot(now time.Time) {
	restarted := ns.who.Hello.ID != ns.id || ns.id == epmd.PeerID{}
	ns.id, ns.told = ns.who.Hello.ID, now
	for name, was := range ns.all {
		switch {
		case ns.changes[name] != nil, was.held:
		case restarted:
			was.held = true
			ns.p.due.held = now.Add(grace)
		default:
			ns.set(name, nil)
		}
	}
	for name, is := range ns.changes {
		if is != nil {
			ns.set(name, is)
		}
	}
	ns.changes, ns.joining, ns.p.due.flush = nil, false, time.Time{}
}

// set enters one node. nil stands for one that has gone.
func (ns *nodes) set(name string, is *node) {
	if is == nil {
		if ns.all[name] != nil {
			delete(ns.all, name)
			ns.p.ps.kept.Add(-1)
			ns.p.ps.source.Lose(nodeKey{ns.p, name})
		}
		return
	}
	if ns.all[name] == nil {
		if ns.p.ps.kept.Load() >= maxKept {
			ns.leaveOut(time.Now())
			return
		}
		ns.p.ps.kept.Add(1)
	}
	ns.all[name] = is
	ns.enter(name, is)
}

// leaveOut leaves out a node for which there is no place. The peer is asked for it again.
func (ns *nodes) leaveOut(now time.Time) {
	ns.warn("node left out", registry.ErrTooManyTold)
	if ns.p.due.refresh.IsZero() && ns.p.stream != nil {
		ns.p.due.refresh = now.Add(refreshIn)
	}
}

// enter tells the registry of a node. Without an address at which it listens nobody can reach it.
func (ns *nodes) enter(name string, is *node) {
	key := nodeKey{ns.p, name}
	addrs := ns.addrs(is.ips)
	if len(addrs) == 0 {
		ns.p.ps.source.Lose(key)
		return
	}
	err := ns.p.ps.source.See(key, registry.Node{
		Node: is.full, Name: name, Host: ns.who.Hello.Host, Dist: is.dist, Addresses: addrs,
		Port: is.port, EPMDPort: ns.who.Addr.Port(), High: is.high, Low: is.low, Protocol: is.proto,
		Type: is.typ, Sure: is.sure, Origin: ns.p.now.origin, Via: registry.ViaEPMD, Reach: is.reach,
	})
	if err != nil {
		ns.warn("node left out", err)
	}
}

// addrs returns the addresses of a node that listens on IP versions. That is where its epmd has
// answered, and what the host's records have of the other version. Link-local ones come last.
func (ns *nodes) addrs(ips epmd.IPs) []netip.Addr {
	at := ns.who.Addr.Addr()
	var list []netip.Addr
	if ips&version(at) != 0 {
		list = append(list, at)
	}
	for _, a := range ns.p.now.addrs {
		if v := version(a.Addr()); v != version(at) && ips&v != 0 && !slices.Contains(list, a.Addr()) {
			list = append(list, a.Addr())
		}
	}
	slices.SortStableFunc(list, lastIfLinkLocal)
	return list
}

// version returns the IP version of an address.
func version(a netip.Addr) epmd.IPs {
	if a.Is4() {
		return epmd.IP4
	}
	return epmd.IP6
}

// enterAll tells the registry of all nodes again.
func (ns *nodes) enterAll() {
	for name, is := range ns.all {
		ns.enter(name, is)
	}
}

// setUnreachable tells the registry that no node can be reached.
func (ns *nodes) setUnreachable() {
	for _, is := range ns.all {
		is.reach = registry.Unreachable
	}
	ns.enterAll()
}

// dropHeld drops what was not told of again after a restart.
func (ns *nodes) dropHeld() {
	for name, is := range ns.all {
		if is.held {
			ns.set(name, nil)
		}
	}
}

// drop drops all.
func (ns *nodes) drop() {
	for name := range ns.all {
		ns.set(name, nil)
	}
	ns.id = epmd.PeerID{}
}

// warn logs something about a peer's nodes, once a minute.
func (ns *nodes) warn(what string, err error) {
	if withheld, ok := ns.p.ps.say.May(what + ns.who.Addr.String()); ok {
		ns.p.ps.Log.Warn("peer: "+what, "host", ns.who.Hello.Host, "address", ns.who.Addr, "err", err, "withheld", withheld)
	}
}

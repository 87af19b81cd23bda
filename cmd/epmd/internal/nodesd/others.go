package nodesd

import (
	"context"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goerlang/eclus/registry"
)

// place is where a node is that has an alive name. A site may have 10,000 nodes of one alive name.
type place struct {
	name string
	addr netip.Addr
}

// index has a line found by its places.
func (r *Reader) index(l *line) {
	for _, at := range l.places() {
		r.byPlace[at] = append(r.byPlace[at], l)
	}
}

// unindex has a line found no more.
func (r *Reader) unindex(l *line) {
	for _, at := range l.places() {
		list := slices.DeleteFunc(r.byPlace[at], func(other *line) bool { return other == l })
		if r.byPlace[at] = list; len(list) == 0 {
			delete(r.byPlace, at)
		}
	}
}

func (l *line) places() (list []place) {
	name, _, _ := strings.Cut(l.node, "@")
	for _, a := range l.addrs {
		list = append(list, place{name, a})
	}
	return list
}

// see tells the registry of the node of a line, as the neighbour that it is.
func (r *Reader) see(l *line, n *registry.Node) {
	if k, known := r.known(n); known {
		l.alias = k
	}
	is := *n
	is.Via, is.Named = filepath.Base(l.file.path), !l.file.written
	if l.alias != (registry.NeighbourKey{}) {
		is.Host, is.EPMDPort = l.alias.Host, l.alias.EPMDPort
	}
	if err := r.source.See(l, is); err != nil {
		r.Log.Warn("node of a nodes file left out", "err", err)
	}
}

// known returns as which neighbour others know the node of a line. What an epmd tells counts most.
func (r *Reader) known(l *registry.Node) (k registry.NeighbourKey, known bool) {
	best := registry.Announced
	for _, n := range r.othersOf(l.Name) {
		if isOne(l, n) && (!known || n.Rank > best) {
			k, known, best = n.NeighbourKey(), true, n.Rank
		}
	}
	return k, known
}

// othersOf returns the neighbours of an alive name that something else than a file tells of. They
// are found once for many lines.
func (r *Reader) othersOf(name string) []*registry.Node {
	list, found := r.others[name]
	if found {
		return list
	}
	for _, n := range r.Registry.Find(name) {
		if n.Origin != registry.Local && n.Rank != registry.Listed {
			list = append(list, n)
		}
	}
	if r.others == nil {
		r.others = make(map[string][]*registry.Node)
	}
	r.others[name] = list
	return list
}

// isOne reports whether a neighbour is the node of a line. It has the same alive name and an
// address in common. What its epmd says is at the same port too, or has the same full name, or none
// that is sure. What is only announced has the same host name. Neighbours from files are none.
func isOne(l, n *registry.Node) bool {
	if n.Name != l.Name || !slices.ContainsFunc(n.Addresses, func(a netip.Addr) bool {
		return slices.Contains(l.Addresses, a.Unmap())
	}) {
		return false
	}
	if n.Via == registry.ViaEPMD {
		return n.Port == l.Port || n.Node == l.Node || !n.Sure
	}
	return strings.EqualFold(registry.HostLabel(n.Host), registry.HostLabel(l.Host))
}

// take looks whether what others have told of is the node of a line.
func (r *Reader) take(ctx context.Context, b registry.Batch) {
	r.others = nil
	r.pace.begin()
	for _, n := range b.Nodes {
		r.pace.step(ctx)
		r.changed(n)
	}
	for _, e := range b.Events {
		if r.pace.step(ctx); e.Kind != registry.Down {
			r.changed(e.Node)
		}
	}
}

func (r *Reader) changed(n *registry.Node) {
	if n.Rank == registry.Listed {
		return
	}
	for _, a := range n.Addresses {
		for _, l := range r.byPlace[place{n.Name, a.Unmap()}] {
			if e, ok, _ := parseLine(l.text); ok {
				r.see(l, &e.node)
			}
		}
	}
}

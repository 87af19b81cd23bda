package dbus

import (
	"iter"
	"maps"
	"slices"

	"github.com/godbus/dbus/v5"

	"github.com/goerlang/eclus/registry"
)

// object is a node on its way to the bus, on it, or on its way from it.
type object struct {
	path   dbus.ObjectPath // while told is not nil
	told   *registry.Node  // as the bus was told; nil: it was not, or that it has gone
	known  *registry.Node  // as the registry has it; nil: gone
	queued bool
}

// objects are the nodes as the bus was told of them, and what it is still to be told. That is one
// change for each node, whatever has happened in between: the node has come, has gone, or has other
// properties. objects are for one goroutine.
type objects struct {
	byID   map[uint64]*object          // of registry.Node
	byPath map[dbus.ObjectPath]*object // those that the bus was told of
	queue  []*object                   // those to tell of, the one that changed first leading
	counts [registry.Origins]uint32    // of those that the bus was told of, by registry.Origin
	port   uint16                      // of this epmd
	sorted []dbus.ObjectPath           // what paths returned last; nil: that has changed
}

func newObjects(port uint16) *objects {
	return &objects{port: port, byID: make(map[uint64]*object), byPath: make(map[dbus.ObjectPath]*object)}
}

// apply enters a change of the registry.
func (o *objects) apply(ev registry.Event) {
	if ev.Kind == registry.Down {
		o.set(ev.Node.ID, nil)
	} else {
		o.set(ev.Node.ID, ev.Node)
	}
}

// sync enters that the registry has these nodes and no others.
func (o *objects) sync(nodes []*registry.Node) {
	there := make(map[uint64]bool, len(nodes))
	for _, n := range nodes {
		there[n.ID] = true
	}
	for id, obj := range o.byID { // first, as others may have come to the same path
		if obj.known != nil && !there[id] {
			o.set(id, nil)
		}
	}
	for _, n := range nodes {
		o.set(n.ID, n)
	}
}

func (o *objects) set(id uint64, n *registry.Node) {
	obj := o.byID[id]
	if obj == nil {
		obj = &object{}
		o.byID[id] = obj
	}
	obj.known = n
	if !obj.queued && obj.known != obj.told {
		obj.queued = true
		o.queue = append(o.queue, obj)
	}
	if n == nil {
		delete(o.byID, id)
	}
}

// change is the news of one object: it is new, it has gone, or some of its properties have changed.
type change struct {
	path     dbus.ObjectPath
	was, now *registry.Node // nil before it was there, and after
}

// tell returns the next change, and counts it as told. It returns false if there is none.
func (o *objects) tell() (change, bool) {
	for len(o.queue) > 0 {
		obj := o.queue[0]
		o.queue[0] = nil
		o.queue = o.queue[1:]
		obj.queued = false
		if obj.told == obj.known {
			continue // it has come and gone, or the change was undone
		}
		return o.tellOf(obj), true
	}
	o.queue = nil
	return change{}, false
}

func (o *objects) tellOf(obj *object) change {
	if obj.told == nil {
		obj.path = pathOf(obj.known, func(path dbus.ObjectPath) bool { return o.byPath[path] != nil })
		o.byPath[obj.path] = obj
		o.sorted = nil
	} else {
		o.counts[obj.told.Origin]--
	}
	if obj.known == nil {
		delete(o.byPath, obj.path)
		o.sorted = nil
	} else {
		o.counts[obj.known.Origin]++
	}
	c := change{obj.path, obj.told, obj.known}
	obj.told = obj.known
	return c
}

// at returns the node at a path, or nil.
func (o *objects) at(path dbus.ObjectPath) *registry.Node {
	if obj := o.byPath[path]; obj != nil {
		return obj.told
	}
	return nil
}

// all returns the nodes that the bus was told of.
func (o *objects) all() iter.Seq2[dbus.ObjectPath, *registry.Node] {
	return func(yield func(dbus.ObjectPath, *registry.Node) bool) {
		for path, obj := range o.byPath {
			if !yield(path, obj.told) {
				return
			}
		}
	}
}

// paths returns the paths of all objects, sorted. The caller must not change them.
func (o *objects) paths() []dbus.ObjectPath {
	if o.sorted == nil {
		o.sorted = slices.Sorted(maps.Keys(o.byPath))
	}
	return o.sorted
}

// after returns the sorted paths that follow one. That path needs not be there.
func (o *objects) after(path dbus.ObjectPath) []dbus.ObjectPath {
	paths := o.paths()
	i, found := slices.BinarySearch(paths, path)
	if found {
		i++
	}
	return paths[i:]
}

// lookup returns the path of a node, or "". name is a full name, or the alive name of a node that
// is registered on this host. Several nodes may claim a full name. Those of this host come first,
// then the one known for longest.
func (o *objects) lookup(name string) dbus.ObjectPath {
	var best *object
	for _, obj := range o.byPath {
		n := obj.told
		isIt := n.Node == name || n.Name == name && n.Origin == registry.Local
		if isIt && (best == nil || o.precedes(n, best.told)) {
			best = obj
		}
	}
	if best == nil {
		return ""
	}
	return best.path
}

func (o *objects) precedes(a, b *registry.Node) bool {
	if a.Origin != b.Origin {
		return a.Origin == registry.Local
	}
	if usual := a.EPMDPort == o.port; usual != (b.EPMDPort == o.port) {
		return usual
	}
	return a.ID < b.ID
}

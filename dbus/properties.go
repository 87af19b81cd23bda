package dbus

import (
	"slices"

	"github.com/godbus/dbus/v5"

	"github.com/goerlang/eclus/registry"
)

// property is a property of an interface. The interface describes a T.
type property[T any] struct {
	name string
	of   func(T) any // of the D-Bus type that the interface's file has
}

// noUID is the UID property of a node whose user is not known: the ID that no user has.
const noUID = 1<<32 - 1

// nodeProperties are those of org.erlang.Epmd.Node.
var nodeProperties = []property[*registry.Node]{
	{"Node", func(n *registry.Node) any { return nameText(n.Node) }},
	{"Name", func(n *registry.Node) any { return nameText(n.Name) }},
	{"Host", func(n *registry.Node) any { return nameText(n.Host) }},
	{"Addresses", func(n *registry.Node) any { return addresses(n) }},
	{"Port", func(n *registry.Node) any { return n.Port }},
	{"Type", func(n *registry.Node) any { return n.Type.String() }},
	{"Origin", func(n *registry.Node) any { return n.Origin.String() }},
	{"Via", func(n *registry.Node) any { return nameText(n.Via) }},
	{"Named", func(n *registry.Node) any { return n.Named }},
	{"Creation", func(n *registry.Node) any { return n.Creation }},
	{"Since", func(n *registry.Node) any { return uint64(max(n.Since.UnixMicro(), 0)) }},
	{"Sure", func(n *registry.Node) any { return n.Sure }},
	{"Reachable", func(n *registry.Node) any { return n.Reach.String() }},
	{"Why", func(n *registry.Node) any { return text(string(n.Why)) }},
	{"Dist", func(n *registry.Node) any { return text(n.Dist.String()) }},
	{"EPMDPort", func(n *registry.Node) any { return n.EPMDPort }},
	{"High", func(n *registry.Node) any { return n.High }},
	{"Low", func(n *registry.Node) any { return n.Low }},
	{"Protocol", func(n *registry.Node) any { return n.Protocol }},
	{"PID", func(n *registry.Node) any { return uint32(max(holder(n).PID, 0)) }},
	{"UID", func(n *registry.Node) any { return holder(n).UID }},
	{"Unit", func(n *registry.Node) any { return nameText(holder(n).Unit) }},
}

// status is what the Manager's properties come from.
type status struct {
	hostName, version, allow string
	port                     uint16
	lan                      bool
	lanState                 string
	localNodes, lanNodes     uint32
	peerNodes                uint32
}

// managerProperties are those of org.erlang.Epmd.Manager.
var managerProperties = []property[status]{
	{"HostName", func(s status) any { return nameText(s.hostName) }},
	{"Port", func(s status) any { return s.port }},
	{"Version", func(s status) any { return text(s.version) }},
	{"Allow", func(s status) any { return text(s.allow) }},
	{"LAN", func(s status) any { return s.lan }},
	{"LANState", func(s status) any { return text(s.lanState) }},
	{"LocalNodes", func(s status) any { return s.localNodes }},
	{"LANNodes", func(s status) any { return s.lanNodes }},
	{"PeerNodes", func(s status) any { return s.peerNodes }},
}

// values returns all properties of v.
func values[T any](properties []property[T], v T) map[string]dbus.Variant {
	m := make(map[string]dbus.Variant, len(properties))
	for _, p := range properties {
		m[p.name] = dbus.MakeVariant(p.of(v))
	}
	return m
}

// changed returns the properties that differ between was and is.
func changed[T any](properties []property[T], was, is T) []property[T] {
	var differ []property[T]
	for _, p := range properties {
		if !equal(p.of(was), p.of(is)) {
			differ = append(differ, p)
		}
	}
	return differ
}

// equal reports whether two values of a property are the same.
func equal(a, b any) bool {
	if list, is := a.([]string); is {
		return slices.Equal(list, b.([]string))
	}
	return a == b
}

// holder returns the process behind a node, or an unknown one.
func holder(n *registry.Node) registry.Holder {
	if n.Holder == nil {
		return registry.Holder{UID: noUID}
	}
	return *n.Holder
}

func addresses(n *registry.Node) []string {
	list := make([]string, len(n.Addresses))
	for i, a := range n.Addresses {
		list[i] = addressText(a)
	}
	return list
}

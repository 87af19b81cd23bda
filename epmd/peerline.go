package epmd

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/goerlang/eclus/registry"
)

// peerFields are the fields of a node that peers are told, beside ip.
var peerFields = slices.DeleteFunc(slices.Clone(nodeFields), func(f nodeField) bool {
	keys := []string{"node", "name", "host", "port", "type", "dist", "sure", "high", "low", "proto"}
	return f.in == inJSON || !slices.Contains(keys, f.key)
})

// appendPeerNode appends the line that tells peers of a local node, on a link that has these
// addresses. It appends nothing if they can't reach the node there, or if that is not known.
func appendPeerNode(dst []byte, n *registry.Node, addrs []netip.Addr) []byte {
	ips := listensOn(n, addrs)
	if ips == 0 || n.Port == 0 || !registry.ValidNode(n.Node) || !registry.ValidHost(n.Host) {
		return dst
	}
	dst = append(dst, byte(NodeKnown))
	for i := range peerFields {
		f := &peerFields[i]
		if v := f.of(n); v != nil {
			dst = appendField(dst, f.key, lineValue(v))
		}
	}
	dst = appendField(dst, "ip", ips.String())
	return append(dst, '\n')
}

// listensOn returns the IP versions by which peers reach a local node at some of these addresses.
// Whether it listens on loopback alone, or on no LAN, is no matter: the link may be either.
func listensOn(n *registry.Node, addrs []netip.Addr) (ips IPs) {
	if n.Listens == nil || n.Why == registry.WhyName || n.Why == registry.WhyHost {
		return 0
	}
	for _, a := range addrs {
		if !n.ListensOn([]netip.Addr{a}) {
			continue
		}
		if a.Is4() {
			ips |= IP4
		} else {
			ips |= IP6
		}
	}
	return ips
}

// appendPeerGone appends the line that takes a node back.
func appendPeerGone(dst []byte, n *registry.Node) []byte {
	return Line{NodeGone, []Field{{"node", n.Node}, {"name", n.Name}, {"host", n.Host}}}.Append(dst)
}

// appendPeerEnd appends the line that ends a snapshot of that many nodes.
func appendPeerEnd(dst []byte, nodes int) []byte {
	return Line{SnapshotEnd, []Field{{"nodes", strconv.Itoa(nodes)}}}.Append(dst)
}

// Package reach finds out whether the neighbours' epmds answer, and which nodes they still
// have. A Watcher does so for as long as a daemon runs, Check once for a list.
//
// Both connect to other hosts by TCP, in goroutines of their own. They return when all of these
// have ended. Run and Check block. The other functions that ask block until an epmd has
// answered or the context ends.
package reach

import (
	"context"
	"iter"
	"net/netip"
	"slices"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
)

// maxNamesBytes is how much of another host's answer is read. The nodes that are kept of one
// host take less, with names of any sensible length.
const maxNamesBytes = 128 << 10

// maxAddresses is at how many addresses an epmd is looked for.
const maxAddresses = 8

// Asker asks the epmd at any of these addresses for its nodes. The first answer counts.
type Asker func(ctx context.Context, addrs []netip.Addr, port uint16) (*Names, error)

// Names are the alive names that an epmd has.
type Names struct {
	Ports map[string]uint16 // of each
	Cut   bool              // it has more than were read
}

// Of reports whether a node can be reached whose epmd has those names. nil: it did not answer.
// If it has more names than were read, any other counts as one of them.
func Of(name string, names *Names) registry.Reach {
	if names != nil && (names.Ports[name] != 0 || names.Cut) {
		return registry.Reachable
	}
	return registry.Unreachable
}

// Ask asks the epmd at any of addrs which nodes it has. It is the Asker that uses the network.
func Ask(ctx context.Context, addrs []netip.Addr, port uint16) (*Names, error) {
	places := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		places[i] = netip.AddrPortFrom(a, port)
	}
	answer, err := Client(places...).Names(ctx)
	if err != nil {
		return nil, err
	}
	names := &Names{make(map[string]uint16, len(answer.Nodes)), answer.Cut}
	for _, n := range answer.Nodes {
		names.Ports[n.Name] = n.Port
	}
	return names, nil
}

// Client returns a client for another host's epmd. That may say anything, so the client reads
// 128 KiB of a list of names.
func Client(addrs ...netip.AddrPort) *epmd.Client {
	c := epmd.NewClient(addrs...)
	c.MaxNames = maxNamesBytes
	return c
}

// epmdKey is what makes an epmd on the LAN.
type epmdKey struct {
	host string
	port uint16
}

func epmdKeyOf(n *registry.Node) epmdKey { return epmdKey{n.Host, n.EPMDPort} }

// OnLink reports whether another host's address is on a link of this host.
type OnLink func(netip.Addr) bool

// addressesOf returns the addresses of an epmd's nodes. Those that are likelier to work lead. Those
// of the LAN that are not on a link of this host are left out: this host may have moved on since.
func addressesOf(nodes iter.Seq[*registry.Node], onLink OnLink) []netip.Addr {
	var list []netip.Addr
	for n := range nodes {
		for _, a := range n.Addresses {
			if len(list) < maxAddresses && !slices.Contains(list, a) && (n.Origin != registry.LAN || onLink(a)) {
				list = append(list, a)
			}
		}
	}
	return list
}

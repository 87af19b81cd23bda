// Package holders finds the processes behind the registrations of this host's nodes.
//
// Set blocks until it has asked the kernel and read /proc. It ends with its context. It starts no
// goroutines.
package holders

import (
	"context"
	"log/slog"

	"github.com/goerlang/eclus/internal/owner"
	"github.com/goerlang/eclus/registry"
)

// Set finds the processes behind the nodes of this host among these. It tells the registry. It
// stops looking when ctx ends, and reports whether it has looked.
func Set(ctx context.Context, reg *registry.Registry, nodes []*registry.Node, log *slog.Logger) bool {
	var local []*registry.Node
	var conns []owner.Connection
	for _, n := range nodes {
		if c, ok := connection(reg, n); ok {
			local, conns = append(local, n), append(conns, c)
		}
	}
	if len(conns) == 0 {
		return false
	}
	owners, err := owner.Find(ctx, conns)
	if err != nil {
		log.Debug("holders of names not found", "err", err)
		return false
	}
	same := make(map[owner.Owner]*registry.Holder) // one process may have many nodes
	for i, o := range owners {
		if o == nil {
			continue
		}
		if same[*o] == nil {
			same[*o] = (*registry.Holder)(o)
		}
		reg.SetHolder(local[i], same[*o])
	}
	return true
}

// connection returns the connection by which a node has registered.
func connection(reg *registry.Registry, n *registry.Node) (owner.Connection, bool) {
	if n.Origin != registry.Local || n.PeerPort == 0 {
		return owner.Connection{}, false
	}
	c, err := owner.ConnectionOf(int(n.FD))
	// If the node has gone, another connection may have the descriptor.
	if now := reg.Lookup(n.Name); err != nil || now == nil || now.ID != n.ID {
		return owner.Connection{}, false
	}
	return c, true
}

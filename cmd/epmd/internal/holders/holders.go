// Package holders finds the processes behind the registrations of this host's nodes.
//
// A Finder asks the kernel and reads /proc. Set blocks until that is done or its context ends. It
// may be called concurrently, and starts no goroutines.
package holders

import (
	"context"
	"log/slog"

	"github.com/goerlang/eclus/internal/owner"
	"github.com/goerlang/eclus/registry"
)

// Finder finds holders, and remembers where it has found the last ones.
type Finder struct {
	reg    *registry.Registry
	owners owner.Finder
	log    *slog.Logger
}

// New returns a Finder that tells reg.
func New(reg *registry.Registry, log *slog.Logger) *Finder { return &Finder{reg: reg, log: log} }

// Set finds the processes behind the nodes of this host among these. It tells the registry. It
// stops looking when ctx ends, and reports whether it has looked.
func (f *Finder) Set(ctx context.Context, nodes []*registry.Node) bool {
	var local []*registry.Node
	var conns []owner.Connection
	for _, n := range nodes {
		if c, ok := connection(f.reg, n); ok {
			local, conns = append(local, n), append(conns, c)
		}
	}
	if len(conns) == 0 {
		return false
	}
	owners, err := f.owners.Find(ctx, conns)
	if err != nil {
		f.log.Debug("holders of names not found", "err", err)
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
		f.reg.SetHolder(local[i], same[*o])
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

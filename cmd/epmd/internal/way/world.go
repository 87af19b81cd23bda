package way

import (
	"context"
	"net/netip"
	"os"

	"github.com/goerlang/eclus/cmd/epmd/internal/getent"
	"github.com/goerlang/eclus/cmd/epmd/internal/reach"
	"github.com/goerlang/eclus/cmd/epmd/internal/tcp"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/internal/netif"
	"github.com/goerlang/eclus/node"
	"github.com/goerlang/eclus/registry"
)

// world is what is asked on the way. Tests have one of their own.
type world struct {
	addresses func(ctx context.Context, host string) ([]netip.Addr, error)
	lookup    func(ctx context.Context, epmds []netip.AddrPort, name string) (epmd.PortResp, netip.AddrPort, error)
	names     func(ctx context.Context, epmd netip.AddrPort) (epmd.Names, error)
	connect   func(ctx context.Context, addrs []netip.AddrPort) (netip.AddrPort, error)
	identify  func(ctx context.Context, addr netip.AddrPort, prober string) (node.Identity, error)
	dial      func(d *node.Dialer, ctx context.Context, name string, addrs ...netip.AddrPort) (*node.Conn, error)

	neighbours func(context.Context) ([]registry.Node, error) // as the epmd of this host knows them
	prefixes   func() ([]netip.Prefix, error)                 // of this host's interfaces
	switching  func() ([]byte, error)                         // nsswitch.conf
}

func realWorld(port uint16) world {
	finder := epmd.Finder{Port: port, Resolve: getent.Resolve}
	return world{
		addresses: finder.Addresses,
		lookup: func(ctx context.Context, epmds []netip.AddrPort, name string) (epmd.PortResp, netip.AddrPort, error) {
			return epmd.NewClient(epmds...).LookupAt(ctx, name)
		},
		names:    func(ctx context.Context, at netip.AddrPort) (epmd.Names, error) { return reach.Client(at).Names(ctx) },
		connect:  tcp.FirstOpen,
		identify: node.Identify,
		dial:     (*node.Dialer).DialAddr,

		neighbours: func(ctx context.Context) ([]registry.Node, error) { return knownNeighbours(ctx, port) },
		prefixes:   netif.Prefixes,
		switching:  func() ([]byte, error) { return os.ReadFile("/etc/nsswitch.conf") },
	}
}

// knownNeighbours returns the nodes of the LAN that the epmd of this host knows.
func knownNeighbours(ctx context.Context, port uint16) ([]registry.Node, error) {
	lines, err := epmd.NewLocalClient(port).Nodes(ctx)
	if err != nil {
		return nil, err
	}
	defer lines.Close()
	var neighbours []registry.Node
	for {
		line, err := lines.Next()
		if err != nil {
			return neighbours, nil // at the end, or as much as has come
		}
		if n, err := line.Node(); line.Kind == epmd.NodeKnown && err == nil && n.Origin != registry.Local {
			neighbours = append(neighbours, n)
		}
	}
}

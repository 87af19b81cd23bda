package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/goerlang/eclus/cmd/epmd/internal/interfaces"
	"github.com/goerlang/eclus/cmd/epmd/internal/reach"
	"github.com/goerlang/eclus/cmd/epmd/internal/tcp"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/node"
	"github.com/goerlang/eclus/registry"
)

// world is what -ping asks of the world. Tests have one of their own.
type world struct {
	addresses func(ctx context.Context, host string) ([]netip.Addr, error)
	lookup    func(ctx context.Context, epmds []netip.AddrPort, name string) (epmd.PortResp, netip.AddrPort, error)
	names     func(ctx context.Context, epmd netip.AddrPort) (epmd.Names, error)
	connect   func(ctx context.Context, addrs []netip.AddrPort) (netip.AddrPort, error)
	identify  func(ctx context.Context, addr netip.AddrPort, prober string) (node.Identity, error)
	dial      func(d *node.Dialer, ctx context.Context, name string, addrs ...netip.AddrPort) (*node.Conn, error)
	ping      func(context.Context, *node.Conn) error
	answer    func(ctx context.Context, c *node.Conn, size int) error

	neighbours func(context.Context) ([]registry.Node, error) // as the epmd of this host knows them
	prefixes   func() ([]netip.Prefix, error)                 // of this host's interfaces
	switching  func() ([]byte, error)                         // nsswitch.conf
}

func realWorld(c config) world {
	finder := epmd.Finder{Port: c.port, Resolve: resolve}
	return world{
		addresses: finder.Addresses,
		lookup: func(ctx context.Context, epmds []netip.AddrPort, name string) (epmd.PortResp, netip.AddrPort, error) {
			return epmd.NewClient(epmds...).LookupAt(ctx, name)
		},
		names:    func(ctx context.Context, at netip.AddrPort) (epmd.Names, error) { return reach.Client(at).Names(ctx) },
		connect:  tcp.FirstOpen,
		identify: node.Identify,
		dial:     (*node.Dialer).DialAddr,
		ping:     func(ctx context.Context, c *node.Conn) error { return c.Ping(ctx) },
		answer:   answerOf,

		neighbours: func(ctx context.Context) ([]registry.Node, error) { return knownNeighbours(ctx, c.port) },
		prefixes:   interfaces.Prefixes,
		switching:  func() ([]byte, error) { return os.ReadFile("/etc/nsswitch.conf") },
	}
}

// answerOf has the node send a binary of that size.
func answerOf(ctx context.Context, c *node.Conn, size int) error {
	raw, err := c.Call(ctx, "binary", "copy", []byte{0}, size)
	var raised *node.CallError
	if errors.As(err, &raised) { // an answer too
		return nil
	}
	var answer []byte
	if err == nil && (raw.Unmarshal(&answer) != nil || len(answer) != size) {
		err = fmt.Errorf("asked for %d bytes, got %d", size, len(answer))
	}
	return err
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

package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"eclus/epmd"
	"eclus/registry"
)

// nodes lists all nodes that the local epmd knows, and with -watch every change after that.
func nodes(ctx context.Context, c config, stdout, stderr io.Writer) error {
	lines, known, err := openNodes(ctx, c, stderr)
	if err != nil {
		return err
	}
	defer lines.Close()
	out := bufio.NewWriter(stdout)
	defer out.Flush()
	users := make(userNames)
	var p nodePrinter = tablePrinter{out, time.Local, users}
	if c.json {
		p = jsonPrinter{out, c.watch, users}
	}
	p.snapshot(known)
	if !c.watch {
		return nil
	}
	return watch(lines, known, p, out)
}

// openNodes asks for all nodes and every change. It returns the former, after which lines has the latter.
func openNodes(ctx context.Context, c config, stderr io.Writer) (lines *epmd.Lines, known *knownNodes, err error) {
	explainIfLate(ctx, c, stderr, func() { lines, err = epmd.NewLocalClient(c.port).Watch(ctx) })
	if err != nil && !errors.Is(err, epmd.ErrNoAnswer) {
		fmt.Fprintln(stderr, "epmd: Cannot connect to local epmd")
		explain(ctx, c, unreachable, stderr)
		return nil, nil, exitStatus(1)
	}
	if err == nil {
		if known, err = readSnapshot(lines); err == nil {
			return lines, known, nil
		}
		lines.Close()
	}
	fmt.Fprintf(stderr, "epmd: no list of nodes on port %d: %v\n", c.port, err)
	explain(ctx, c, unanswered, stderr)
	return nil, nil, exitStatus(1)
}

// nodePrinter shows nodes to a person or to a program.
type nodePrinter interface {
	snapshot(*knownNodes)
	change(registry.EventKind, registry.Node)
}

// knownNodes is what the local epmd has told of.
type knownNodes struct {
	epmdPort uint32
	lanOff   string // why there is no LAN discovery; empty: there is
	nodes    map[nodeKey]registry.Node
}

// nodeKey is what makes a node: the same name can be that of a node here and of one on the LAN.
type nodeKey struct {
	node, host string
	origin     registry.Origin
	local      string // alive name of a node of this host, whose full name may still change
}

func keyOf(n registry.Node) nodeKey {
	if n.Origin == registry.Local {
		return nodeKey{origin: n.Origin, local: n.Name}
	}
	return nodeKey{node: n.Node, host: n.Host, origin: n.Origin}
}

// sorted returns the nodes as they are listed: those of this host first, then by name.
func (k *knownNodes) sorted() []registry.Node {
	list := make([]registry.Node, 0, len(k.nodes))
	for _, n := range k.nodes {
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b registry.Node) int {
		return cmp.Or(cmp.Compare(a.Origin, b.Origin), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Host, b.Host))
	})
	return list
}

func readSnapshot(lines *epmd.Lines) (*knownNodes, error) {
	if !isPort(int64(lines.EPMDPort)) {
		return nil, fmt.Errorf("epmd on port %d", lines.EPMDPort)
	}
	known := &knownNodes{epmdPort: lines.EPMDPort, nodes: make(map[nodeKey]registry.Node)}
	for {
		line, err := lines.Next()
		if err != nil {
			return nil, fmt.Errorf("list nodes: %w", err)
		}
		switch line.Kind {
		case epmd.NodeKnown:
			n, err := line.Node()
			if err != nil {
				return nil, fmt.Errorf("list nodes: %w", err)
			}
			known.nodes[keyOf(n)] = n
		case epmd.SnapshotEnd:
			if line.Get("lan") == "off" {
				known.lanOff = cmp.Or(line.Get("reason"), "no reason given")
			}
			return known, nil
		}
	}
}

// watch prints every change until the epmd ends.
func watch(lines *epmd.Lines, known *knownNodes, p nodePrinter, out *bufio.Writer) error {
	for {
		if err := out.Flush(); err != nil {
			return err
		}
		line, err := lines.Next()
		if errors.Is(err, io.EOF) {
			return errors.New("the epmd has ended, or could not be kept up with")
		}
		if err != nil {
			return fmt.Errorf("watch nodes: %w", err)
		}
		if err := known.apply(line, p); err != nil {
			return fmt.Errorf("watch nodes: %w", err)
		}
	}
}

// apply notes and prints the change that a line tells of.
func (k *knownNodes) apply(line epmd.Line, p nodePrinter) error {
	if line.Kind != epmd.NodeKnown && line.Kind != epmd.NodeGone {
		return nil
	}
	n, err := line.Node()
	if err != nil {
		return err
	}
	if line.Kind == epmd.NodeGone && n.Origin == registry.Local {
		n.Name = aliveName(n.Node)
	}
	was, isKnown := k.nodes[keyOf(n)]
	switch {
	case line.Kind == epmd.NodeGone && isKnown:
		delete(k.nodes, keyOf(n))
		p.change(registry.Down, was)
	case line.Kind == epmd.NodeKnown && isKnown:
		k.nodes[keyOf(n)] = n
		p.change(registry.Changed, n)
	case line.Kind == epmd.NodeKnown:
		k.nodes[keyOf(n)] = n
		p.change(registry.Up, n)
	}
	return nil
}

// aliveName returns the part of a full node name that is not the host's.
func aliveName(node string) string {
	return node[:max(0, strings.LastIndexByte(node, '@'))]
}

// userNames are the names of users that have been looked up, by user ID.
type userNames map[uint32]string

// of returns the name of a user, or "" if there is none.
func (names userNames) of(uid uint32) string {
	name, known := names[uid]
	if !known {
		if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
			name = u.Username
		}
		names[uid] = name
	}
	return name
}

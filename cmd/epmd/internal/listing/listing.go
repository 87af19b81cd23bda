// Package listing lists the nodes that the epmd of this host knows, for a person or a program. It
// can go on with changes.
//
// It asks that epmd, and once the epmds of the neighbours, by TCP. List blocks until the nodes are
// listed. With Watch it blocks until the output ends.
package listing

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
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/exit"
	"github.com/goerlang/eclus/cmd/epmd/internal/explain"
	"github.com/goerlang/eclus/cmd/epmd/internal/reach"
	"github.com/goerlang/eclus/cmd/epmd/internal/screen"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/internal/netif"
	"github.com/goerlang/eclus/registry"
)

// nothingListed is the exit status if an epmd answers, but has no node that is meant.
const nothingListed exit.Status = 2

// Options say what is listed, and how.
type Options struct {
	Port           uint16 // of the epmd
	Filter         Filter
	JSON, Watch    bool
	Screen         screen.Screen // where Stdout leads
	Stdout, Stderr io.Writer
}

// List lists the nodes that the local epmd knows. With Watch it goes on with every change until its
// output ends. The error is an [exit.Status] where all has been said.
func List(ctx context.Context, o Options) error {
	explainer := explain.Explainer{
		Port: o.Port, Stderr: o.Stderr, Unwilling: "an epmd that does not know -nodes, like the one of Erlang/OTP",
	}
	known := find(ctx, o, explainer)
	var lines *epmd.Lines
	if known == nil {
		var err error
		if lines, known, err = open(ctx, o, explainer); err != nil {
			return err
		}
		defer lines.Close()
	}
	var links netif.Links
	for _, n := range reach.Check(ctx, known.listed(), reach.Ask, links.OnLink) {
		known.nodes[keyOf(n)] = n
	}
	out := bufio.NewWriter(o.Stdout)
	users := make(userNames)
	var p nodePrinter = tablePrinter{out, o.Screen, time.Local, users, known.epmdPort}
	if o.JSON {
		p = jsonPrinter{out, o.Watch, users}
	}
	p.snapshot(known)
	if err := out.Flush(); err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	if o.Watch {
		w := watcher{port: o.Port, known: known, missing: make(map[nodeKey]bool), printer: p, out: out, stderr: o.Stderr}
		return w.run(ctx, lines)
	}
	if len(known.listed()) == 0 {
		return nothingListed
	}
	return nil
}

// find asks for the nodes of one name. It returns nil if that is not what is meant, or if there are
// none: what else is known then helps a person.
func find(ctx context.Context, o Options, explainer explain.Explainer) *knownNodes {
	name := o.Filter.name()
	if name == "" || o.Watch {
		return nil
	}
	var lines *epmd.Lines
	var err error
	explainer.IfLate(ctx, func() { lines, err = epmd.NewLocalClient(o.Port).Find(ctx, name) })
	if err != nil {
		return nil
	}
	defer lines.Close()
	known := &knownNodes{epmdPort: lines.EPMDPort, nodes: make(map[nodeKey]registry.Node), filter: o.Filter, found: true}
	for {
		line, err := lines.Next()
		if err == io.EOF && len(known.listed()) > 0 {
			return known
		}
		if err != nil || known.add(line) != nil {
			return nil
		}
	}
}

// open asks for all nodes and every change. It returns the former, after which lines has the
// latter.
func open(ctx context.Context, o Options, explainer explain.Explainer) (lines *epmd.Lines, known *knownNodes, err error) {
	explainer.IfLate(ctx, func() { lines, err = epmd.NewLocalClient(o.Port).Watch(ctx) })
	if err != nil && !errors.Is(err, epmd.ErrNoAnswer) {
		fmt.Fprintln(o.Stderr, "epmd: Cannot connect to local epmd")
		explainer.Explain(ctx, explain.Unreachable)
		return nil, nil, exit.Status(1)
	}
	if err == nil {
		if known, err = readSnapshot(lines, o.Filter); err == nil {
			return lines, known, nil
		}
		lines.Close()
	}
	fmt.Fprintf(o.Stderr, "epmd: no list of nodes on port %d: %v\n", o.Port, err)
	explainer.Explain(ctx, explain.Unanswered)
	return nil, nil, exit.Status(1)
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
	silent   string // why this host is not announced, though there is LAN discovery; empty: it is
	without  []registry.NoStream
	nodes    map[nodeKey]registry.Node
	filter   Filter // which of them are shown
	found    bool   // the epmd knows others, too
}

// add adds the node of a line of kind NodeKnown.
func (k *knownNodes) add(line epmd.Line) error {
	n, err := line.Node()
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	k.nodes[keyOf(n)] = n
	return nil
}

// drop drops the node of a line of kind NodeGone.
func (k *knownNodes) drop(line epmd.Line) error {
	n, err := line.Node()
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	delete(k.nodes, keyOf(n))
	return nil
}

// nodeKey identifies a node. For this host it is the alive name, for neighbours the registry's key.
// Its full name may still change, and what was configured may be found on the LAN.
type nodeKey struct {
	registry.NeighbourKey
	local bool
}

func keyOf(n registry.Node) nodeKey {
	if n.Origin == registry.Local {
		return nodeKey{registry.NeighbourKey{Name: n.Name}, true}
	}
	return nodeKey{n.NeighbourKey(), false}
}

// listed returns the nodes that are shown: those of this host first, then by name. Of nodes with
// the same name, one whose epmd has our port comes first. Nodes here ask other hosts at that port.
func (k *knownNodes) listed() []registry.Node {
	var list []registry.Node
	for _, n := range k.nodes {
		if k.filter.match(n) {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b registry.Node) int {
		return cmp.Or(cmp.Compare(a.Origin, b.Origin), cmp.Compare(a.Node, b.Node), cmp.Compare(k.portRank(a), k.portRank(b)),
			cmp.Compare(a.Host, b.Host), cmp.Compare(a.EPMDPort, b.EPMDPort))
	})
	return list
}

// portRank returns 1 for a node whose epmd has another port than ours. Nodes here ask for it in
// vain.
func (k *knownNodes) portRank(n registry.Node) int {
	if n.EPMDPort == 0 || uint32(n.EPMDPort) == k.epmdPort {
		return 0
	}
	return 1
}

// count says how many nodes are listed. If others are left out, it says out of how many, where that
// is known.
func (k *knownNodes) count(listed int) string {
	if k.filter == (Filter{}) || k.found {
		return screen.Counted(listed, "node")
	}
	return fmt.Sprintf("%d of %s", listed, screen.Counted(len(k.nodes), "node"))
}

func readSnapshot(lines *epmd.Lines, filter Filter) (*knownNodes, error) {
	if lines.EPMDPort == 0 || lines.EPMDPort > 65535 {
		return nil, fmt.Errorf("epmd on port %d", lines.EPMDPort)
	}
	known := &knownNodes{epmdPort: lines.EPMDPort, nodes: make(map[nodeKey]registry.Node), filter: filter}
	for {
		line, err := lines.Next()
		if err != nil {
			return nil, fmt.Errorf("list nodes: %w", err)
		}
		switch line.Kind {
		case epmd.NodeKnown:
			if err := known.add(line); err != nil {
				return nil, err
			}
		case epmd.NodeGone: // the snapshot is shared, and may be older than this
			if err := known.drop(line); err != nil {
				return nil, err
			}
		case epmd.NoStream:
			n, err := line.NoStream()
			if err != nil {
				return nil, fmt.Errorf("list nodes: %w", err)
			}
			known.without = append(known.without, n)
		case epmd.SnapshotEnd:
			if line.Get("lan") == "off" {
				known.lanOff = cmp.Or(line.Get("reason"), "no reason given")
			} else if line.Get("published") == "no" {
				known.silent = cmp.Or(line.Get("reason"), "no reason given")
			}
			return known, nil
		}
	}
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

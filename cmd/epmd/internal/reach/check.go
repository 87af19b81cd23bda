package reach

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
)

// How Check asks the epmds of the LAN. Each takes a connection for each address at which it was
// asked. All together stay below the usual limit of 1,024 open files.
const (
	checkTime   = 500 * time.Millisecond // that all epmds together are given
	checkAtOnce = 128                    // epmds asked at once
)

// neighbourEPMD is an epmd of the LAN whose nodes are listed.
type neighbourEPMD struct {
	port  uint16
	nodes []registry.Node
	asked bool   // there was time for that
	names *Names // that it has; nil: it has not answered
}

// Check asks the epmds of these nodes whether they still have them, all at once, for at most
// 500 ms. It returns the neighbours among the nodes with what was answered. If an epmd has not
// answered by then, its nodes can't be reached. If there was no time to ask it, its nodes are
// not returned. What is known of them still holds.
func Check(ctx context.Context, nodes []registry.Node, ask Asker, onLink OnLink) []registry.Node {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	epmds := neighbourEPMDs(nodes)
	askAll(ctx, epmds, ask, onLink)
	var checked []registry.Node
	for _, e := range epmds {
		for _, n := range e.nodes {
			if e.asked {
				n.Reach = Of(n.Name, e.names)
				checked = append(checked, n)
			}
		}
	}
	return checked
}

// neighbourEPMDs returns whom to ask. Those that answered before lead, as they take little
// time.
func neighbourEPMDs(nodes []registry.Node) []*neighbourEPMD {
	byKey := make(map[epmdKey]*neighbourEPMD)
	var epmds []*neighbourEPMD
	for _, n := range nodes {
		if n.Origin == registry.Local || n.HasNoEPMD() {
			continue
		}
		key := epmdKeyOf(&n)
		e := byKey[key]
		if e == nil {
			e = &neighbourEPMD{port: cmp.Or(n.EPMDPort, epmd.DefaultPort)}
			byKey[key] = e
			epmds = append(epmds, e)
		}
		e.nodes = append(e.nodes, n)
	}
	slices.SortStableFunc(epmds, func(a, b *neighbourEPMD) int { return cmp.Compare(a.patience(), b.patience()) })
	return epmds
}

// patience returns how long asking may take, by what is known so far: 0 is the least.
func (e *neighbourEPMD) patience() int {
	patience := 2
	for _, n := range e.nodes {
		switch n.Reach {
		case registry.Reachable:
			return 0
		case registry.Unchecked:
			patience = 1
		}
	}
	return patience
}

// addresses returns where the epmd may be.
func (e *neighbourEPMD) addresses(onLink OnLink) []netip.Addr {
	nodes := make([]*registry.Node, len(e.nodes))
	for i := range e.nodes {
		nodes[i] = &e.nodes[i]
	}
	return addressesOf(slices.Values(nodes), onLink)
}

// askAll asks epmds until ctx ends. It returns when all have answered that have been asked.
func askAll(ctx context.Context, epmds []*neighbourEPMD, ask Asker, onLink OnLink) {
	var asking sync.WaitGroup
	defer asking.Wait()
	slots := make(chan struct{}, checkAtOnce)
	for _, e := range epmds {
		select {
		case <-ctx.Done():
		case slots <- struct{}{}:
		}
		if ctx.Err() != nil {
			return
		}
		e.asked = true
		asking.Go(func() {
			defer func() { <-slots }()
			if names, err := ask(ctx, e.addresses(onLink), e.port); err == nil {
				e.names = names
			}
		})
	}
}

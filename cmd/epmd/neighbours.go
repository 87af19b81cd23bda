package main

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"eclus/epmd"
	"eclus/registry"
)

// How -nodes asks the epmds of the LAN. Each takes a connection for each address that it has been asked at,
// so that all together stay below the usual limit of 1,024 open files.
const (
	checkTime   = 500 * time.Millisecond // that all epmds together are given
	checkAtOnce = 128                    // epmds asked at once
)

// neighbourEPMD is an epmd of the LAN whose nodes are listed.
type neighbourEPMD struct {
	port  uint16
	nodes []registry.Node
	asked bool       // there was time for that
	names *epmdNames // that it has; nil: it has not answered
}

// checkNeighbours asks the epmd of each host that has nodes to be listed whether it still has them, all at once, and
// takes down what is answered within checkTime. Who has not answered by then can't be reached. Of those for whom there was
// no place within that time, what the local epmd knows holds.
func (k *knownNodes) checkNeighbours(ctx context.Context, ask epmdAsker) {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	epmds := k.neighbourEPMDs()
	askAll(ctx, epmds, ask)
	for _, e := range epmds {
		for _, n := range e.nodes {
			if e.asked {
				n.Reach = reachOf(n.Name, e.names)
				k.nodes[keyOf(n)] = n
			}
		}
	}
}

// neighbourEPMDs returns whom to ask, those that have answered before leading: they will not take long.
func (k *knownNodes) neighbourEPMDs() []*neighbourEPMD {
	byKey := make(map[epmdKey]*neighbourEPMD)
	var epmds []*neighbourEPMD
	for _, n := range k.listed() {
		if n.Origin != registry.LAN {
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

// patience returns how much of it asking takes by what is known so far.
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
func (e *neighbourEPMD) addresses() []netip.Addr {
	nodes := make([]*registry.Node, len(e.nodes))
	for i := range e.nodes {
		nodes[i] = &e.nodes[i]
	}
	return epmdAddresses(slices.Values(nodes))
}

// askAll asks epmds until ctx ends. It returns when all have answered that have been asked.
func askAll(ctx context.Context, epmds []*neighbourEPMD, ask epmdAsker) {
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
			if names, err := ask(ctx, e.addresses(), e.port); err == nil {
				e.names = names
			}
		})
	}
}

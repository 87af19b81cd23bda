package registry

import (
	"fmt"
	"net/netip"
)

// Places of neighbours are shared by who answers at their address. That is a MAC address where it
// is known, else an address of IP. One attacker can have any number of those on a link.
//
// Whoever has less than MaxNeighboursPerHost gets another place, and beyond that who has fewer than
// are free. So the first can have half of all. A node that can be reached keeps its place. If there
// is none left for a new one, a node that can't be reached gives way, else one that has not been
// checked, of whoever has most.

// SetOwners enters what returns whose share an address is of. It must not block. Without it, that
// is the address.
func (r *Registry) SetOwners(ownerOf func(netip.Addr) string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ownerOf = ownerOf
}

// Owner returns whose share an address is of.
func (r *Registry) Owner(addr netip.Addr) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.ownerAt(addr)
}

func (r *Registry) ownerAt(addr netip.Addr) string {
	if r.ownerOf != nil {
		return r.ownerOf(addr)
	}
	return addr.String()
}

// ownerOfNode is owner for a caller without r.mu.
func (r *Registry) ownerOfNode(n *Node) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.owner(n)
}

// owner returns whose share a neighbour is of. Files of this host are nobody else's.
func (r *Registry) owner(n *Node) string {
	switch {
	case n.Rank == Listed:
		return ""
	case len(n.Addresses) == 0:
		return n.Host
	}
	return r.ownerAt(n.Addresses[0])
}

// mayTake reports whether somebody may have another place of a rank.
func (r *Registry) mayTake(rank Rank, owner string) bool {
	taken, his := r.ranked[rank], r.owners[rank][owner]
	free := [...]int{Announced: MaxNeighbours, Told: MaxTold}[rank] - taken
	return free > 0 && (his < MaxNeighboursPerHost || taken < free || his < free)
}

// place finds a place for a neighbour that is new, or new at its address. If there is none, a
// neighbour gives way, unless gone is nil.
func (r *Registry) place(n *Node, isNew bool, gone func(gone NeighbourKey, owner string)) error {
	var err error
	lost := r.lost
	own := r.shares[shareOf(n)]
	switch {
	case n.Rank == Told && isNew && r.ranked[Told] >= MaxTold:
		err, lost = ErrTooManyTold, nil
	case n.Rank == Listed && isNew && r.ranked[Listed] >= MaxListed:
		err, lost = ErrTooManyListed, nil
	case n.Rank == Listed:
		return nil
	case n.Rank == Announced && own != nil && own.nodes >= MaxNeighboursPerHost:
		err, lost = ErrTooManyOfHost, own.lost
	case n.Rank == Announced && isNew && r.ranked[Announced] >= MaxNeighbours:
		err = ErrTooManyNeighbours
		if len(lost) == 0 && gone != nil {
			lost = r.unchecked(r.owner(n))
		}
	case isNew && !r.mayTake(n.Rank, r.owner(n)):
		err, lost = ErrGreedy, nil
	default:
		return nil
	}
	for key := range lost {
		if gone != nil {
			owner := r.neighbours[key].owner
			r.remove(key)
			gone(key, owner)
			return nil
		}
	}
	return fmt.Errorf("neighbour %q of %q: %w", n.Node, n.Host, err)
}

// maxSample is how many neighbours are looked at to find one that gives way.
const maxSample = 64

// unchecked returns a node that is announced and was not checked yet. Of some, it is of whoever has
// most, and has more than the newcomer would have.
func (r *Registry) unchecked(newcomer string) map[NeighbourKey]struct{} {
	var found NeighbourKey
	looked, has := 0, r.owners[Announced][newcomer]+1
	most := has
	for key, n := range r.neighbours { // in any order
		if looked++; looked > maxSample {
			break
		}
		if his := r.owners[Announced][n.owner]; n.Rank == Announced && n.Reach == Unchecked && his > most {
			found, most = key, his
		}
	}
	if most == has {
		return nil
	}
	return map[NeighbourKey]struct{}{found: {}}
}

// settleOwner counts a neighbour as of whoever it is of by now. His MAC address may have become
// known since the node was entered. If he has too many by that, the node goes.
func (r *Registry) settleOwner(key NeighbourKey, n *entry) {
	owner := r.owner(n.Node)
	if owner == n.owner {
		return
	}
	r.disown(n)
	r.ranked[n.Rank]--
	room := r.mayTake(n.Rank, owner)
	r.ranked[n.Rank]++
	n.owner = owner
	r.owners[n.Rank][owner]++
	if !room {
		r.remove(key)
	}
}

// disown counts a neighbour no more as of whoever had it.
func (r *Registry) disown(n *entry) {
	of := r.owners[n.Rank]
	if of[n.owner]--; of[n.owner] == 0 {
		delete(of, n.owner)
	}
}

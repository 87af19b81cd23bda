package registry

// maxAmends is how many refused nodes are tried again when one goes.
const maxAmends = 16

// maxPoor is how many of those with refused nodes are looked at to find who has least.
const maxPoor = 64

// refused are the nodes of one rank for which there was no place. They are kept by who answers at
// their address. So a free place is the next host's, however many nodes of others wait.
type refused struct {
	owners map[NeighbourKey]string
	had    map[string]map[NeighbourKey]bool // by owner, none of them empty; true: it had a place
}

func newRefused() *refused {
	return &refused{make(map[NeighbourKey]string), make(map[string]map[NeighbourKey]bool)}
}

// note notes a node that has no place, and may have had one. It had one for as long as it is known.
func (r *refused) note(k NeighbourKey, owner string, had bool) {
	had = had || r.hadPlace(k)
	r.forget(k)
	if r.had[owner] == nil {
		r.had[owner] = make(map[NeighbourKey]bool)
	}
	r.owners[k], r.had[owner][k] = owner, had
}

// forget forgets a node that has a place or has gone.
func (r *refused) forget(k NeighbourKey) {
	owner, known := r.owners[k]
	if !known {
		return
	}
	delete(r.owners, k)
	if delete(r.had[owner], k); len(r.had[owner]) == 0 {
		delete(r.had, owner)
	}
}

// hadPlace reports whether a node had a place that another one has now.
func (r *refused) hadPlace(k NeighbourKey) bool { return r.had[r.owners[k]][k] }

// amend tries again some of the nodes that have no place. It returns how many have one now.
func (m *sightings) amend() (found int) {
	return m.amendOf(Told, true, maxAmends) + m.amendOf(Listed, true, maxAmends) + m.amendOf(Announced, true, maxAmends)
}

// amendOf is amend for at most so many of those that sources of that rank tell of. Whoever has
// least comes first. hadToo: also for those that had a place and gave way. Nobody gives way to
// them.
func (m *sightings) amendOf(rank Rank, hadToo bool, most int) (found int) {
	of, failed := m.refused[rank], make(map[string]int)
	for tries := 0; tries < maxAmends && found < most; tries++ {
		owner, is := m.reg.poorest(rank, of.had, failed)
		if !is {
			break
		}
		failed[owner]++
		for k, had := range of.had[owner] {
			if had && !hadToo {
				continue
			}
			if _, _, err := m.tryEnter(k); err == nil {
				failed[owner]--
				found++
			}
			break
		}
	}
	return found
}

// maxFailed is how often a place is looked for in vain for one owner, at a time. His nodes may be
// at several addresses.
const maxFailed = 4

// poorest returns who has least nodes of a rank, of some who wait for more. It leaves out who has
// failed too often.
func (r *Registry) poorest(rank Rank, waiting map[string]map[NeighbourKey]bool, failed map[string]int) (poorest string, is bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	looked, least := 0, 0
	for owner := range waiting { // in any order
		if failed[owner] >= maxFailed {
			continue
		}
		if looked++; looked > maxPoor {
			break
		}
		if has := r.owners[rank][owner]; !is || has < least {
			poorest, least, is = owner, has, true
		}
	}
	return poorest, is
}

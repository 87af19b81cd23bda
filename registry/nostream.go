package registry

import (
	"cmp"
	"net/netip"
	"slices"
)

// NoStream is an epmd of another host from which no stream can be had.
type NoStream struct {
	Host string         // empty: not known
	EPMD netip.AddrPort // its best address
	Why  string
}

// SetNoStream enters under a key why no stream can be had from an epmd. An empty Why takes that
// back. Keys are comparable and the caller's own. Subscribers are not told.
func (r *Registry) SetNoStream(key any, n NoStream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n.Why == "" {
		delete(r.noStreams, key)
		return
	}
	r.noStreams[key] = n
}

// NoStreams returns the epmds from which no stream can be had, by host and address.
func (r *Registry) NoStreams() []NoStream {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var list []NoStream
	for _, n := range r.noStreams {
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b NoStream) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), a.EPMD.Compare(b.EPMD))
	})
	return list
}

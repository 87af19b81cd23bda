package avahi

import (
	"cmp"
	"sync"

	"github.com/goerlang/eclus/registry"
)

// board is where the parts of a Discovery post how they are doing, for the registry and for each other.
// Its methods may be called concurrently.
type board struct {
	reg   *registry.Registry
	parts []*link // set before any runs

	mu   sync.Mutex
	lan  registry.LANState
	said string // the reason for being off that is in the log; empty: a part is on
}

func newBoard(reg *registry.Registry, opts Options) *board {
	b := &board{reg: reg}
	b.lan.Publishing = registry.Discovery{Wanted: opts.Publish, Off: opts.Private}
	b.lan.Browsing = registry.Discovery{Wanted: opts.Browse}
	for _, d := range []*registry.Discovery{&b.lan.Publishing, &b.lan.Browsing} {
		if d.Wanted {
			d.Off = starting
		}
	}
	if !opts.Publish && !opts.Browse {
		b.lan.Publishing.Off = cmp.Or(opts.Private, "-lan off")
	}
	reg.SetLAN(b.lan)
	return b
}

// post enters how a part is doing now, and tells the registry. Where one part has lost Avahi, both look
// whether Avahi still answers: a part that has nothing to ask does not notice.
func (b *board) post(l *link, s state) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if was := l.doing.Swap(&s); *was == s {
		return
	}
	l.place.Off, l.place.Waiting = s.Off, s.Waiting
	b.reg.SetLAN(b.lan)
	if s.Off == "" {
		b.said = ""
		return
	}
	for _, l := range b.parts {
		l.ping()
	}
}

// isNews reports whether a reason for being off is to be logged. Both parts meet most reasons.
func (b *board) isNews(reason string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.said
	b.said = reason
	return reason != was
}

package avahi

import (
	"net/netip"
	"reflect"
	"sync"
	"time"

	"github.com/goerlang/eclus/registry"
)

// Place is where a service instance is seen: by interface and by IP version. An instance is
// often seen in several.
type Place struct {
	Interface, Protocol int32 // as Avahi numbers them
	Label               string
}

// EPMD is an epmd that another host announces.
type EPMD struct {
	Host      string
	Interface string // on which it was seen
	Announces bool   // the host announces its nodes itself
	Version   string // of Eclus, in printable ASCII, where the host says so

	// Addrs are the addresses of the host that can be used on that interface, at least one.
	// The best comes first: IPv4 on-link, IPv6 on-link, others, link-local IPv6 last.
	Addrs []netip.AddrPort
}

// EPMDs is told which epmds are announced. It must not block. One goroutine at a time calls its
// methods.
type EPMDs interface {
	// Found tells of an epmd, and again when something about it changes: its addresses, say.
	Found(Place, EPMD)

	// Gone says that nothing is announced there any more.
	Gone(Place)
}

// findings is what browsing has found. It outlives sessions, so that nothing goes only because
// avahi-daemon was restarted. Its methods may be called concurrently.
type findings struct {
	nodes *registry.Source
	epmds EPMDs // nil: nobody wants to know

	mu    sync.Mutex
	seen  map[Place]*foundEPMD
	gen   int
	timer *time.Timer // to the next expire, or nil
}

// foundEPMD is an epmd, and the gen in which it was last found.
type foundEPMD struct {
	EPMD
	gen int
}

func newFindings(reg *registry.Registry, epmds EPMDs) *findings {
	return &findings{nodes: reg.NewSource(registry.Announced), epmds: epmds, seen: make(map[Place]*foundEPMD)}
}

// found notes an epmd.
func (f *findings) found(at Place, e EPMD) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.epmds == nil {
		return
	}
	was := f.seen[at]
	f.seen[at] = &foundEPMD{e, f.gen}
	if was == nil || !reflect.DeepEqual(was.EPMD, e) {
		f.epmds.Found(at, e)
	}
}

// gone notes that an epmd is announced no more.
func (f *findings) gone(at Place) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop(at)
}

func (f *findings) drop(at Place) {
	if _, found := f.seen[at]; found {
		delete(f.seen, at)
		f.epmds.Gone(at)
	}
}

// doubt drops what was found when the time is over, unless it is found again. Called again, it
// sets the time anew.
func (f *findings) doubt(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stop()
	f.nodes.Doubt()
	f.gen++
	gen := f.gen
	f.timer = time.AfterFunc(d, func() { f.expire(gen) })
}

// expire drops what was not found again since that gen began. It does nothing once another has
// begun.
func (f *findings) expire(gen int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if gen != f.gen {
		return
	}
	f.nodes.Expire()
	for at, e := range f.seen {
		if e.gen != f.gen {
			f.drop(at)
		}
	}
}

// close drops all.
func (f *findings) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stop()
	f.nodes.Close()
	for at := range f.seen {
		f.drop(at)
	}
}

func (f *findings) stop() {
	if f.timer != nil {
		f.timer.Stop()
	}
}

package avahi

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/goerlang/eclus/internal/bus"
	"github.com/goerlang/eclus/registry"
)

// part is what publisher and browser have in common. It has one session with an avahi-daemon
// after the other.
type part struct {
	board *board
	slot  *registry.Discovery // on the board
	reg   *registry.Registry
	opts  Options
	log   *slog.Logger

	// maxObjects is how many objects each connection has at most. maxClients is how many
	// connections a session has. maxInstances is how many instances are announced on a link.
	// The addresses of a host that streams are looked for during searchTime, and again after
	// searchEvery. Only tests change all these.
	maxObjects, maxClients, maxInstances int
	searchTime, searchEvery              time.Duration

	doing   atomic.Pointer[state]
	silent  atomic.Bool // no answer comes from avahi-daemon or the bus
	present atomic.Pointer[session]
}

// state is how a part is doing.
type state struct {
	Off string // why it is off; empty: it is on

	// Instances is how many service instances are published, the host's own included, or how
	// many found ones are resolved. They count anew for each interface and IP version.
	Instances int

	// Waiting is how many more there are for which Avahi's limits leave no place. Unannounced
	// is how many of this host's there are beyond maxInstances.
	Waiting, Unannounced int

	// Whose says which user has most places, if that is known and nodes are left out.
	Whose string
}

// newPart returns the part of that name. It posts to that slot of the board.
func newPart(name string, b *board, slot *registry.Discovery, opts Options, log *slog.Logger) *part {
	if opts.Bus.IsZero() {
		opts.Bus = bus.System()
	}
	p := &part{board: b, slot: slot, reg: b.reg, opts: opts, log: log.With("part", name),
		maxObjects: maxObjects, maxClients: maxClients, maxInstances: maxInstances,
		searchTime: searchTime, searchEvery: searchEvery}
	p.doing.Store(&state{Off: registry.Starting})
	b.parts = append(b.parts, p)
	return p
}

// setState posts how the part is doing.
func (p *part) setState(s state) {
	if p.silent.Load() {
		s = state{Off: errSilent.Error()}
	}
	p.board.post(p, s)
}

// off notes why there is no session. It is news when the part was on, or never was. Other
// reasons that turn up on the way back are none. A host that begins without a bus, as containers
// do, has lost nothing.
func (p *part) off(reason error) {
	was := *p.doing.Load()
	p.setState(state{Off: reason.Error()})
	switch {
	case was.Off != "" && was.Off != registry.Starting || !p.board.isNews(reason.Error()):
		p.log.Debug("LAN discovery still off", "reason", reason)
	case was.Off != "" && errors.Is(reason, fs.ErrNotExist):
		p.log.Info("LAN discovery off", "reason", reason)
	default:
		p.log.Warn("LAN discovery off", "reason", reason)
	}
}

// on notes that there is a session in which something is done.
func (p *part) on(s *session) {
	p.setState(state{})
	p.log.Info("LAN discovery on", "host", s.fqdn)
}

// heard notes whether avahi-daemon answers. What it was told while it did not, it makes up by
// itself.
func (p *part) heard(answers bool) {
	switch {
	case answers && p.silent.Load():
		p.silent.Store(false)
		p.log.Info("avahi-daemon answers again")
	case !answers && !p.silent.Load():
		p.off(errSilent)
		p.silent.Store(true)
	}
}

// ping looks whether avahi-daemon answers. Otherwise that shows only when there is something to
// ask. ping returns at once.
func (p *part) ping() {
	if s := p.present.Load(); s != nil {
		s.mail.post(func() error {
			s.main.call(serverPath, ifaceServer, "GetState", nil)
			return nil
		})
	}
}

// run has one session after the other until ctx ends. In each it calls serve, which returns why
// the session is over.
func (p *part) run(ctx context.Context, serve func(context.Context, *session) error) {
	p.repeat(ctx, func() (bool, error) { return p.session(ctx, serve) })
	p.silent.Store(false)
	p.setState(state{Off: "stopped"})
}

// repeat calls session again and again until ctx ends. A pause follows each. The pause doubles up
// to lastRetry. It begins anew after a session that has done what it is for, however long others
// have lasted.
func (p *part) repeat(ctx context.Context, session func() (reached bool, err error)) {
	for pause := firstRetry; ctx.Err() == nil; pause = min(2*pause, lastRetry) {
		reached, err := session()
		if ctx.Err() != nil {
			return
		}
		p.off(err)
		if reached {
			pause = firstRetry
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (p *part) session(ctx context.Context, serve func(context.Context, *session) error) (reached bool, err error) {
	s := &session{part: p, ctx: ctx, mail: newMailbox()}
	defer s.close()
	if err := s.open(ctx); err != nil {
		return false, err
	}
	p.reg.SetHost(s.fqdn)
	p.present.Store(s)
	err = serve(ctx, s)
	return s.reached, err
}

// board is where the parts of a Discovery post how they are doing, for the registry and each
// other. Its methods may be called concurrently.
type board struct {
	reg   *registry.Registry
	parts []*part // set before any runs

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
			d.Off = registry.Starting
		}
	}
	if !opts.Publish && !opts.Browse {
		b.lan.Publishing.Off = cmp.Or(opts.Private, "-lan off")
	}
	reg.SetLAN(b.lan)
	return b
}

// post enters how a part is doing now, and tells the registry. Where one part has lost Avahi,
// both look whether Avahi still answers. A part that has nothing to ask does not notice.
func (b *board) post(p *part, s state) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if was := p.doing.Swap(&s); *was == s {
		return
	}
	p.slot.Off, p.slot.Waiting, p.slot.Unannounced, p.slot.Whose = s.Off, s.Waiting, s.Unannounced, s.Whose
	b.reg.SetLAN(b.lan)
	if s.Off == "" {
		b.said = ""
		return
	}
	for _, p := range b.parts {
		p.ping()
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

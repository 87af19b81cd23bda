package avahi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/goerlang/eclus/internal/places"
	"github.com/goerlang/eclus/registry"

	"github.com/godbus/dbus/v5"
)

// When a node is published, counted from its registration.
const (
	settle   = 150 * time.Millisecond // not before; who has gone by then was never there
	patience = 500 * time.Millisecond // at the latest, whether or not its full name is known
)

// redial is how long after a failure another connection is tried.
const redial = 10 * time.Second

// maxInstances is how many instances are announced on a link at most, the host's own included.
// Each device of the LAN has to read them. Other hosts with Eclus learn of all nodes without.
const maxInstances = 256

// maxRenames is how many names are tried for an instance whose name is taken.
const maxRenames = 100

// publisher announces this host and the nodes that are registered here.
type publisher struct{ *part }

func newPublisher(b *board, opts Options, log *slog.Logger) *publisher {
	return &publisher{newPart("publishing", b, &b.lan.Publishing, opts, log)}
}

// Run publishes until ctx ends, then withdraws all. To do so it closes its connections to the
// bus, and avahi-daemon says goodbye for all that was announced over them. That is several
// times faster than freeing one group after the other, and needs no time of ours.
func (p *publisher) Run(ctx context.Context) { p.run(ctx, p.publish) }

// publish is one session of Run.
func (p *publisher) publish(ctx context.Context, s *session) error {
	ps := &publishSession{
		part: p.part, session: s,
		links: make(map[int32]*publishLink), groups: make(map[dbus.ObjectPath]*publishedInstance),
	}
	s.onSignal = ps.signal
	return ps.follow(ctx)
}

// publishSession publishes for the time of one session, on each link by itself. Avahi can't
// extend a service to another link. What comes and goes on one link must not make the others
// say goodbye. Links share the session's connections, as the bus allows a user only 256.
type publishSession struct {
	part    *part
	session *session
	links   map[int32]*publishLink // by index of the interface
	groups  map[dbus.ObjectPath]*publishedInstance
	changes *registry.Subscription

	begun    bool      // Avahi has taken something
	refused  error     // why Avahi takes nothing; nil: it does
	dialNext time.Time // another connection is tried, after one has failed; zero: none has
	saidFull bool
	shared   bool // somebody had to give a place back, which is in the log
}

// follow publishes what happens in the registry until the session is over.
func (p *publishSession) follow(ctx context.Context) error {
	if err := p.open(p.session.interfaces); err != nil {
		return err
	}
	defer func() { p.changes.Close() }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.session.mail.ready:
			err = p.session.mail.handle()
		case <-p.session.links.Changed():
			err = p.relink()
		case <-timer.C:
		case <-p.changes.Ready():
			p.take()
		}
		if err != nil {
			return err
		}
		p.publishDue(timer)
		p.tell()
	}
}

// open begins to publish on more interfaces.
func (p *publishSession) open(interfaces []int32) error {
	for _, i := range interfaces {
		l := newPublishLink(p, i)
		p.links[i] = l
		l.consider(l.host)
	}
	p.resync()
	return nil
}

// relink follows the interfaces and their addresses.
func (p *publishSession) relink() error {
	gone, come, err := p.session.relink()
	if err != nil {
		return err
	}
	for _, i := range gone {
		l := p.links[i]
		delete(p.links, i)
		l.close()
	}
	for i, l := range p.links {
		l.readdress(p.session.addresses[i])
	}
	if len(come) == 0 {
		return nil
	}
	return p.open(come)
}

// resync looks at the registry anew.
func (p *publishSession) resync() {
	if p.changes != nil {
		p.changes.Close()
	}
	p.changes = p.part.reg.SubscribeLocal().Lasting()
	p.take()
}

// take deals with what has happened in the registry.
func (p *publishSession) take() {
	b := p.changes.Take()
	for _, l := range p.links {
		if b.Anew {
			l.resync(b.Nodes)
		}
		l.apply(b.Events)
	}
}

// publishDue publishes whose time has come. It sets the timer to when the next one's does.
func (p *publishSession) publishDue(timer *time.Timer) {
	if !p.dialNext.IsZero() && !time.Now().Before(p.dialNext) {
		p.dialNext = time.Time{}
	}
	var next time.Time
	for _, l := range p.links {
		if due := l.publishDue(); !due.IsZero() {
			next = earlier(next, due)
		}
	}
	if !p.dialNext.IsZero() {
		next = earlier(next, p.dialNext)
	}
	timer.Stop()
	if !next.IsZero() {
		timer.Reset(time.Until(next))
	}
}

// connection returns a connection on which Avahi has a place for another group. nil: there is
// none.
func (p *publishSession) connection() *client {
	for _, c := range p.session.clients {
		if c.objects < c.limit {
			return c
		}
	}
	if len(p.session.clients) >= p.part.maxClients || !p.dialNext.IsZero() {
		return nil
	}
	c, err := p.session.dial()
	if err != nil { // other programs of this user have connections too
		p.dialNext = time.Now().Add(redial)
		p.part.log.Debug("no further connection to the bus", "err", err)
		return nil
	}
	return c
}

// sayFull says once that not all is published, because Avahi has limits.
func (p *publishSession) sayFull() {
	if !p.saidFull {
		p.saidFull = true
		p.part.log.Warn("more nodes than Avahi takes: not all are published everywhere",
			"limit of all interfaces", p.part.maxObjects*p.part.maxClients)
	}
}

// sayShared says once that a user has to give places back.
func (p *publishSession) sayShared(u user) {
	if !p.shared {
		p.shared = true
		p.part.log.Warn("users share the places of announced nodes: some were taken back",
			"from", places.UserName(uint32(u)))
	}
}

// accept notes that Avahi has taken something.
func (p *publishSession) accept() {
	if !p.begun {
		p.begun = true
		p.part.on(p.session)
	}
}

// refuse gives up publishing in this session, because Avahi takes nothing from us. Its
// configuration holds until it is restarted.
func (p *publishSession) refuse(reason error) {
	if p.refused != nil {
		return
	}
	p.refused = reason
	p.part.log.Warn("nothing is published", "reason", reason)
	for _, l := range p.links {
		l.close()
	}
	clear(p.links)
}

// tell tells the world how publishing does. It looks at the link on which most is published,
// and at that on which most waits.
func (p *publishSession) tell() {
	s, begun := p.state()
	if !begun {
		return
	}
	was := *p.part.doing.Load()
	switch {
	case s.Off != "" && was.Off == "":
		p.part.off(errors.New(s.Off))
		return
	case s.Off == "" && was.Off != "" && !p.part.silent.Load():
		p.part.on(p.session)
	}
	p.part.setState(s)
}

// state returns how publishing does. begun is false while nothing has been heard of Avahi.
func (p *publishSession) state() (s state, begun bool) {
	if p.refused != nil {
		return state{Off: p.refused.Error()}, true
	}
	reaches, used := false, false
	for _, l := range p.links {
		s.Instances = max(s.Instances, l.established)
		switch {
		case !l.hasRoom() && l.due.sum() > s.Unannounced:
			s.Unannounced, s.Whose = l.due.sum(), l.whose()
		case l.full && l.due.sum() > s.Waiting:
			s.Waiting, s.Whose = l.due.sum(), l.whose()
		}
		reach := l.reaches(l.host)
		reaches, used = reaches || reach, used || reach && !l.unused
	}
	switch {
	case !reaches:
		return state{Off: "epmd listens on no address of " + p.interfaceNames()}, true
	case !used:
		return state{Off: "avahi-daemon does not use " + p.interfaceNames() + ": no address, or excluded in avahi-daemon.conf"}, true
	}
	return s, p.begun
}

// interfaceNames returns the names of the interfaces, of many only some.
func (p *publishSession) interfaceNames() string {
	var names []string
	for _, i := range p.session.interfaces {
		names = append(names, p.session.names[i])
	}
	list := strings.Join(names[:min(len(names), maxNamed)], ", ")
	if len(names) > maxNamed {
		list += fmt.Sprintf(" and %d more", len(names)-maxNamed)
	}
	return list
}

// maxNamed is how many interfaces are named in a message.
const maxNamed = 3

// signal deals with what Avahi tells of its own accord.
func (p *publishSession) signal(sig signal) error {
	if e := p.groups[sig.path]; e != nil {
		return e.link.signal(e, sig)
	}
	return nil
}

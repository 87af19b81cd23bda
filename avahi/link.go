package avahi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"eclus/registry"

	"github.com/godbus/dbus/v5"
	goavahi "github.com/holoplot/go-avahi"
)

// link is what Publisher and Browser have in common: they live in sessions with avahi-daemon, one
// after the other for as long as Run runs.
type link struct {
	part string // "publishing" or "browsing", for messages
	reg  *registry.Registry
	opts Options
	log  *slog.Logger

	// maxObjects is how many objects each connection has at most, and maxClients how many connections
	// a session has; only tests change them.
	maxObjects, maxClients int

	state atomic.Pointer[State]
}

func newLink(part string, reg *registry.Registry, opts Options, log *slog.Logger) *link {
	opts.BusAddress = busAddress(opts.BusAddress)
	l := &link{part: part, reg: reg, opts: opts, log: log.With("part", part),
		maxObjects: maxObjects, maxClients: maxClients}
	l.state.Store(&State{Off: "starting"})
	return l
}

// setState tells the world of the state if it is another than before.
func (l *link) setState(s State) {
	if *l.state.Load() == s {
		return
	}
	l.state.Store(&s)
	if l.opts.OnState != nil {
		l.opts.OnState(s)
	}
}

// off notes why there is no session. Only going from on to off, or never having been on, is news; other reasons that
// turn up on the way back are not.
func (l *link) off(reason error) {
	was := *l.state.Load()
	l.setState(State{Off: reason.Error()})
	if was.Off == "" || was.Off == "starting" {
		l.log.Warn("LAN discovery off", "reason", reason)
	} else {
		l.log.Debug("LAN discovery still off", "reason", reason)
	}
}

// session is the time from finding an avahi-daemon at work to losing it in some way.
type session struct {
	link       *link
	ctx        context.Context // of Run; ends the connections
	mail       *mailbox
	main       *client
	clients    []*client // main first
	running    bool
	host, fqdn string  // of this host, as Avahi has it: hosta, hosta.local
	interfaces []int32 // indexes of those to use, at least one
	links      *LinkWatch
	onSignal   func(signal) error // what isn't for the session itself
}

// Sessions that end sooner than this are followed by a pause, which doubles until it is lastRetry.
const briefSession = time.Second

// run has one session after the other until ctx ends. serve is called in each of them and returns why it
// is over.
func (l *link) run(ctx context.Context, serve func(context.Context, *session) error) {
	for pause := firstRetry; ctx.Err() == nil; {
		began := time.Now()
		err := l.session(ctx, serve)
		if ctx.Err() != nil {
			break
		}
		l.off(err)
		if time.Since(began) > briefSession {
			pause = firstRetry
			continue
		}
		_ = sleepUntil(ctx, time.Now().Add(pause))
		pause = min(2*pause, lastRetry)
	}
	l.setState(State{Off: "stopped"})
}

func (l *link) session(ctx context.Context, serve func(context.Context, *session) error) error {
	s := &session{link: l, ctx: ctx, mail: newMailbox()}
	defer s.close()
	if err := s.open(ctx); err != nil {
		return err
	}
	l.reg.SetHost(s.fqdn)
	l.setState(State{})
	l.log.Info("LAN discovery on", "host", s.fqdn)
	return serve(ctx, s)
}

func (s *session) close() {
	s.links.Close()
	for _, c := range s.clients {
		c.close()
	}
}

// open waits for the bus, for avahi-daemon on it and for that to have settled its host name, then
// learns what the session has to know.
func (s *session) open(ctx context.Context) (err error) {
	if s.links, err = WatchLinks(); err != nil {
		return err
	}
	s.main, err = dialWhenThere(ctx, s.link.opts.BusAddress, s.dial, s.link.off)
	if err != nil {
		return err
	}
	if err := s.awaitOwner(ctx); err != nil {
		return err
	}
	if err := s.awaitRunning(ctx); err != nil {
		return err
	}
	if err := s.main.ask(ctx, "GetHostName", &s.host); err != nil {
		return err
	}
	if err := s.main.ask(ctx, "GetHostNameFqdn", &s.fqdn); err != nil {
		return err
	}
	return s.awaitInterfaces(ctx)
}

// dial adds another connection to the session.
func (s *session) dial() (*client, error) {
	c, err := dial(s.ctx, s.link.opts.BusAddress, s.mail, s.dispatch)
	if err != nil {
		return nil, err
	}
	if s.main != nil {
		c.owner = s.main.owner
	}
	s.clients = append(s.clients, c)
	return c, nil
}

// hangUp ends a connection of the session.
func (s *session) hangUp(c *client) {
	s.clients = slices.DeleteFunc(s.clients, func(o *client) bool { return o == c })
	c.close()
}

// awaitOwner waits until there is an avahi-daemon.
func (s *session) awaitOwner(ctx context.Context) error {
	err := s.main.conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(dbusName), dbus.WithMatchInterface(dbusName),
		dbus.WithMatchMember(ownerChanged), dbus.WithMatchArg(0, busName))
	if err != nil {
		return fmt.Errorf("watch for avahi-daemon: %w", err)
	}
	var owner string
	err = s.main.conn.BusObject().CallWithContext(ctx, dbusName+".GetNameOwner", 0, busName).Store(&owner)
	if r := (reply{err: err}); r.is(noSuchOwner) {
		s.link.off(errors.New("avahi-daemon is not running"))
		return s.until(ctx, func() bool { return s.main.owner != "" })
	}
	if err != nil {
		return fmt.Errorf("look for avahi-daemon: %w", err)
	}
	if s.main.owner == "" {
		s.main.owner = owner
	}
	return nil
}

// awaitRunning waits until avahi-daemon has established its host name.
func (s *session) awaitRunning(ctx context.Context) error {
	err := s.main.conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(s.main.owner),
		dbus.WithMatchInterface(ifaceServer), dbus.WithMatchMember("StateChanged"))
	if err != nil {
		return fmt.Errorf("watch avahi-daemon: %w", err)
	}
	var state int32
	if err := s.main.ask(ctx, "GetState", &state); err != nil {
		return err
	}
	if s.running = state == goavahi.ServerRunning; !s.running {
		s.link.off(errHostName)
	}
	return s.until(ctx, func() bool { return s.running })
}

// awaitInterfaces waits until one of the interfaces to use is there.
func (s *session) awaitInterfaces(ctx context.Context) error {
	if err := s.chooseLinks(); err != nil {
		return err
	}
	if len(s.interfaces) == 0 {
		s.link.off(noLinks(s.link.opts.Interfaces))
	}
	return s.until(ctx, func() bool { return len(s.interfaces) > 0 })
}

func (s *session) chooseLinks() (err error) {
	s.interfaces, err = chooseLinks(s.link.opts.Interfaces)
	return err
}

// until handles what comes in until done says so.
func (s *session) until(ctx context.Context, done func() bool) error {
	for !done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.mail.ready:
			if err := s.mail.handle(); err != nil {
				return err
			}
		case <-s.links.Changed():
			if err := s.chooseLinks(); err != nil {
				return err
			}
		}
	}
	return nil
}

// relink looks at the interfaces again. It returns those to use that have gone and come, and an error if none is left.
func (s *session) relink() (gone, come []int32, err error) {
	was := s.interfaces
	if err := s.chooseLinks(); err != nil {
		return nil, nil, err
	}
	if len(s.interfaces) == 0 {
		return nil, nil, noLinks(s.link.opts.Interfaces)
	}
	return without(was, s.interfaces), without(s.interfaces, was), nil
}

// without returns the elements of a that b does not have.
func without(a, b []int32) []int32 {
	return slices.DeleteFunc(slices.Clone(a), func(i int32) bool { return slices.Contains(b, i) })
}

// dispatch deals with a signal that any of the session's connections received.
func (s *session) dispatch(_ *client, sig signal) error {
	switch {
	case sig.sender == dbusName && sig.member == ownerChanged:
		return s.ownerChanged(sig)
	case sig.sender != s.main.owner:
		return nil // anybody may send us signals
	case sig.iface == ifaceServer && sig.member == "StateChanged":
		return s.stateChanged(sig)
	case s.onSignal != nil:
		return s.onSignal(sig)
	}
	return nil
}

func (s *session) ownerChanged(sig signal) error {
	var name, was, is string
	if err := dbus.Store(sig.body, &name, &was, &is); err != nil || name != busName {
		return nil
	}
	if s.main.owner == "" {
		s.main.owner = is
		return nil
	}
	if is == s.main.owner {
		return nil
	}
	return errAvahiGone
}

func (s *session) stateChanged(sig signal) error {
	var state int32
	var reason string
	if err := dbus.Store(sig.body, &state, &reason); err != nil {
		return nil
	}
	was := s.running
	s.running = state == goavahi.ServerRunning
	if was && !s.running {
		return errHostName
	}
	return nil
}

package avahi

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/goerlang/eclus/internal/netif"

	"github.com/godbus/dbus/v5"
	goavahi "github.com/holoplot/go-avahi"
)

// Pauses between sessions.
const (
	firstRetry = 20 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// session begins when an avahi-daemon is found at work, and ends when it is lost in some way.
type session struct {
	part       *part
	ctx        context.Context // of Run; ends the connections
	mail       *mailbox
	main       *client
	clients    []*client // main first
	running    bool
	host, fqdn string  // of this host, as Avahi has it: hosta, hosta.local
	reached    bool    // it has done what it is for, if only for a moment
	interfaces []int32 // indexes of those to use, at least one
	names      map[int32]string
	addresses  map[int32][]netip.Addr // without zones
	links      *netif.Watcher
	onSignal   func(signal) error // what isn't for the session itself
	onStreams  func()             // other hosts may give streams now; nil: nobody wants to know
	onFind     func(host string)  // its addresses are to be looked for; nil: nobody does

	streamsAsked atomic.Bool // whether onStreams is about to be called
}

func (s *session) close() {
	s.part.present.Store(nil)
	s.part.silent.Store(false)
	s.links.Close()
	for _, c := range s.clients {
		c.close()
	}
}

// open waits for the bus, then for avahi-daemon on it, then for its host name to be settled.
// Then it learns what the session has to know.
func (s *session) open(ctx context.Context) (err error) {
	if s.links, err = netif.Watch(); err != nil {
		return err
	}
	dialMain := func() (err error) { s.main, err = s.dial(); return err }
	if err := s.part.opts.Bus.Await(ctx, dialMain, s.part.off); err != nil {
		return err
	}
	if err := s.awaitOwner(ctx); err != nil {
		return err
	}
	if err := s.awaitRunning(ctx); err != nil {
		return err
	}
	if err := s.ask(ctx, "GetHostName", &s.host); err != nil {
		return err
	}
	if err := s.ask(ctx, "GetHostNameFqdn", &s.fqdn); err != nil {
		return err
	}
	return s.awaitInterfaces(ctx)
}

// dial adds another connection to the session.
func (s *session) dial() (*client, error) {
	defer s.busSilence().Stop()
	c, err := dial(s.ctx, s.part.opts.Bus, s.mail, s.dispatch, s.part.heard)
	if err != nil {
		return nil, err
	}
	c.limit = s.part.maxObjects
	if s.main != nil {
		c.owner = s.main.owner
	}
	s.clients = append(s.clients, c)
	return c, nil
}

// busSilence returns a timer. Unless it is stopped, it says that the bus does not answer.
func (s *session) busSilence() *time.Timer {
	return time.AfterFunc(maxSilence, func() { s.part.off(errBusSilent) })
}

// ask calls a method of avahi-daemon, waits for the reply and stores it in result.
func (s *session) ask(ctx context.Context, method string, result any) error {
	var answer *reply
	s.main.call(serverPath, ifaceServer, method, func(r reply) { answer = &r })
	if err := s.until(ctx, func() bool { return answer != nil }); err != nil {
		return err
	}
	err := answer.err
	if err == nil {
		err = dbus.Store(answer.body, result)
	}
	if err != nil {
		return fmt.Errorf("ask avahi-daemon for %s: %w", method, err)
	}
	return nil
}

// awaitOwner waits until there is an avahi-daemon.
func (s *session) awaitOwner(ctx context.Context) error {
	silence := s.busSilence()
	defer silence.Stop()
	err := s.main.conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(dbusName), dbus.WithMatchInterface(dbusName),
		dbus.WithMatchMember(ownerChanged), dbus.WithMatchArg(0, busName))
	if err != nil {
		return fmt.Errorf("watch for avahi-daemon: %w", err)
	}
	var owner string
	err = s.main.conn.BusObject().CallWithContext(ctx, dbusName+".GetNameOwner", 0, busName).Store(&owner)
	silence.Stop()
	if r := (reply{err: err}); r.is(noSuchOwner) {
		s.part.off(errors.New("avahi-daemon is not running"))
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
	silence := s.busSilence()
	defer silence.Stop()
	err := s.main.conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(s.main.owner),
		dbus.WithMatchInterface(ifaceServer), dbus.WithMatchMember("StateChanged"))
	if err != nil {
		return fmt.Errorf("watch avahi-daemon: %w", err)
	}
	silence.Stop()
	var state int32
	if err := s.ask(ctx, "GetState", &state); err != nil {
		return err
	}
	if s.running = state == goavahi.ServerRunning; !s.running {
		s.part.off(errHostName)
	}
	return s.until(ctx, func() bool { return s.running })
}

// awaitInterfaces waits until one of the interfaces to use is there.
func (s *session) awaitInterfaces(ctx context.Context) error {
	if err := s.chooseLinks(); err != nil {
		return err
	}
	if len(s.interfaces) == 0 {
		s.part.off(noLinks(s.part.opts.Interfaces))
	}
	return s.until(ctx, func() bool { return len(s.interfaces) > 0 })
}

func (s *session) chooseLinks() error {
	links, err := netif.Interfaces()
	if err != nil {
		return err
	}
	addrs, err := netif.Addresses()
	if err != nil {
		return err
	}
	s.interfaces = netif.Choose(links, s.part.opts.Interfaces)
	s.names = make(map[int32]string)
	for _, l := range links {
		s.names[l.Index] = l.Name
	}
	s.addresses = make(map[int32][]netip.Addr)
	for _, a := range addrs {
		if slices.Contains(s.interfaces, a.Index) {
			s.addresses[a.Index] = append(s.addresses[a.Index], a.Prefix.Addr())
		}
	}
	for i := range s.addresses {
		slices.SortFunc(s.addresses[i], netip.Addr.Compare)
	}
	return nil
}

// noLinks is why nothing is done while there are no interfaces.
func noLinks(names []string) error {
	if len(names) == 0 {
		return errNoLAN
	}
	return fmt.Errorf("no network interface named %q", strings.Join(names, ","))
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

// relink looks at the interfaces again. It returns those to use that have gone and come. It is
// an error if none is left.
func (s *session) relink() (gone, come []int32, err error) {
	was := s.interfaces
	if err := s.chooseLinks(); err != nil {
		return nil, nil, err
	}
	if len(s.interfaces) == 0 {
		return nil, nil, noLinks(s.part.opts.Interfaces)
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

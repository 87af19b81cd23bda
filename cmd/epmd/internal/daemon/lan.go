package daemon

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/cmd/epmd/internal/reach"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/systemd"
)

// lan is LAN discovery, as much of it as is wanted.
type lan struct {
	publisher *avahi.Publisher // nil: nothing is published
	browser   *avahi.Browser   // nil: nothing is looked for
	private   string           // why nothing is published though it was asked for; or empty
	watchers  []chan struct{}  // each holds a token when state may have changed
	said      atomic.Value     // string: why a part is off, until one is on
}

// newLAN returns what is wanted, for an epmd on that port.
func newLAN(o Options, reg *registry.Registry, port uint16, loopbackOnly bool, log *slog.Logger) *lan {
	l := &lan{}
	options := avahi.Options{
		Interfaces: o.Interfaces,
		OnState:    l.changed,
		IsNews:     func(reason string) bool { return l.said.Swap(reason) != reason },
		Port:       port,
		Version:    o.Version,
		Names:      askNames,
	}
	switch {
	case !o.Publish:
	case loopbackOnly:
		l.private = "epmd listens on loopback only"
	case o.Access.LocalOnly():
		l.private = "-allow local"
	default:
		options.Listens = ownListeners(port, log)
		l.publisher = avahi.NewPublisher(reg, options, log)
	}
	if o.Browse {
		l.browser = avahi.NewBrowser(reg, options, log)
	}
	if l.private != "" {
		log.Info("not published", "reason", l.private)
	}
	return l
}

// ownListeners returns at which addresses epmd listens, or nil if that can't be found out.
func ownListeners(port uint16, log *slog.Logger) []netip.Addr {
	found, err := systemd.FindListeners([]uint16{port})
	if err != nil {
		log.Debug("not known where epmd listens", "err", err)
	}
	return found[port]
}

// run returns when ctx has ended and what was published is withdrawn.
func (l *lan) run(ctx context.Context) {
	var parts sync.WaitGroup
	if l.publisher != nil {
		parts.Go(func() { l.publisher.Run(ctx) })
	}
	if l.browser != nil {
		parts.Go(func() { l.browser.Run(ctx) })
	}
	parts.Wait()
}

// changed is told of what has become of one part. Both look whether Avahi still answers when one of them has lost
// it: who has nothing to ask does not notice.
func (l *lan) changed(s avahi.State) {
	if s.Off != "" && l.publisher != nil && l.browser != nil {
		l.publisher.Ping()
		l.browser.Ping()
	}
	if s.Off == "" {
		l.said.Store("")
	}
	l.poke()
}

// watch returns a channel for one reader, which yields when state may have changed. It is called before run.
func (l *lan) watch() <-chan struct{} {
	c := make(chan struct{}, 1)
	l.watchers = append(l.watchers, c)
	return c
}

// poke tells those who watch.
func (l *lan) poke() {
	for _, c := range l.watchers {
		select {
		case c <- struct{}{}:
		default: // it will look in any case
		}
	}
}

// states returns those of the parts that are wanted.
func (l *lan) states() []avahi.State {
	var states []avahi.State
	if l.publisher != nil {
		states = append(states, l.publisher.State())
	}
	if l.browser != nil {
		states = append(states, l.browser.State())
	}
	if len(states) == 0 {
		states = append(states, avahi.State{Off: cmp.Or(l.private, "-lan off")})
	}
	return states
}

// off returns why there is no LAN discovery, or "" if there is any.
func (l *lan) off() string {
	states := l.states()
	for _, s := range states {
		if s.Off == "" {
			return ""
		}
	}
	return states[0].Off
}

// unpublished returns why the nodes of this host are not announced while others are looked for, or "".
func (l *lan) unpublished() string {
	switch {
	case l.off() != "":
		return ""
	case l.publisher != nil:
		return l.publisher.State().Off
	}
	return l.private
}

// state says in a few words how LAN discovery does.
func (l *lan) state() string {
	states := l.states()
	worst := states[0]
	for _, s := range states[1:] {
		if s.Off == "" && s.Waiting > worst.Waiting || s.Off != "" && worst.Off == "" {
			worst = s
		}
	}
	if l.off() != "" {
		return worst.String()
	}
	if reason := l.unpublished(); reason != "" {
		return "LAN discovery on, but this host is not announced: " + reason
	}
	if worst.Off != "" {
		return "LAN discovery on, but no other hosts are looked for: " + worst.Off
	}
	return worst.String()
}

// askNames asks the epmd of another host which nodes it has.
func askNames(ctx context.Context, addr netip.AddrPort) ([]avahi.NamedPort, error) {
	names, err := reach.Client(addr).Names(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]avahi.NamedPort, len(names.Nodes))
	for i, n := range names.Nodes {
		list[i] = avahi.NamedPort{Name: n.Name, Port: n.Port}
	}
	return list, nil
}

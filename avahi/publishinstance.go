package avahi

import (
	"container/list"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/goerlang/eclus/registry"

	"github.com/godbus/dbus/v5"
	goavahi "github.com/holoplot/go-avahi"
)

// publishedInstance is a service instance on one link. It begins when its node is registered.
type publishedInstance struct {
	link   *publishLink
	node   *registry.Node // nil: the host's own
	since  time.Time      // registered, as far as settle and patience go
	queue  *list.List     // in which it waits, or nil
	elem   *list.Element
	client *client // on which it has one of Avahi's places, or nil
	user   user    // whose it is, as far as its place in due or placed goes
	placed *list.Element
	gone   bool

	group       dbus.ObjectPath // once Avahi has made it
	announced   service         // what Avahi was told
	attempt     int             // counts the names tried; replies to earlier ones don't matter
	established bool
	saidLeftOut bool
}

// place gives the instance one of Avahi's places and publishes it. If there is none, the
// instance waits for one. place reports whether there was one.
func (p *publishLink) place(e *publishedInstance) bool {
	if p.all.refused != nil {
		e.wait(nil)
		return false
	}
	c := p.all.connection()
	if p.full = c == nil; p.full {
		p.awaitPlace(e)
		p.all.sayFull()
		return false
	}
	p.enter(e, c)
	c.call(serverPath, ifaceServer, "EntryGroupNew", func(r reply) { p.made(e, c, r) })
	return true
}

// made goes on once Avahi has made a group for the instance.
func (p *publishLink) made(e *publishedInstance, c *client, r reply) {
	path, err := r.path()
	switch {
	case e.gone: // and its place was given back then
		if err == nil {
			c.call(path, ifaceGroup, "Free", nil)
		}
	case r.is(errObjects), r.is(errClients): // others of this user's programs may count too
		p.unplace(e)
		c.limit = c.objects
		p.place(e)
	case err != nil:
		p.fail(e, err)
	default:
		e.group = path
		p.all.groups[path] = e
		e.announced = p.service(e)
		p.announce(e)
	}
}

// service returns what the instance is to announce as things are now.
func (p *publishLink) service(e *publishedInstance) service {
	opts, host := p.all.part.opts, p.all.session.host
	if e.node == nil {
		return hostService(host, opts.Port, opts.Version)
	}
	svc, leftOut := nodeService(e.node, host, opts.Port)
	if len(leftOut) > 0 && !e.saidLeftOut {
		e.saidLeftOut = true
		p.log.Warn("too long for a TXT record, left out", e.node.LogNames(), "keys", leftOut)
	}
	return svc
}

// announce tells Avahi the instance's service.
func (p *publishLink) announce(e *publishedInstance) {
	e.attempt++
	attempt := e.attempt
	added := func(r reply) {
		switch {
		case r.err == nil:
			p.all.accept()
		case e.gone || e.attempt != attempt:
		case r.is(errCollision):
			p.all.accept()
			p.rename(e)
		default:
			p.fail(e, r.err)
		}
	}
	svc := e.announced
	e.client.call(e.group, ifaceGroup, "AddService", added, p.iface, int32(goavahi.ProtoUnspec), uint32(0),
		svc.label, ServiceType, Domain, "", svc.port, svc.text)
	if e.node == nil {
		e.client.call(e.group, ifaceGroup, "AddServiceSubtype", nil, p.iface, int32(goavahi.ProtoUnspec), uint32(0),
			svc.label, ServiceType, Domain, HostSubtype)
	}
	e.client.call(e.group, ifaceGroup, "Commit", nil)
}

// rename announces the instance under another name. The one it has is taken.
func (p *publishLink) rename(e *publishedInstance) {
	p.unestablish(e)
	if e.attempt++; e.attempt > 2*maxRenames {
		p.fail(e, errors.New("all names taken"))
		return
	}
	e.client.call(e.group, ifaceGroup, "Reset", nil)
	e.client.call(serverPath, ifaceServer, "GetAlternativeServiceName", func(r reply) {
		if e.gone {
			return
		}
		var label string
		if err := errors.Join(r.err, dbus.Store(r.body, &label)); err != nil {
			p.fail(e, err)
			return
		}
		e.announced = p.service(e)
		e.announced.label = label
		p.announce(e)
	}, e.announced.label)
}

// update tells Avahi what else has become known of the node.
func (p *publishLink) update(e *publishedInstance) {
	if e.group == "" {
		return
	}
	svc := p.service(e)
	if slices.EqualFunc(svc.text, e.announced.text, slices.Equal) {
		return
	}
	e.announced.text = svc.text
	e.client.call(e.group, ifaceGroup, "UpdateServiceTxt", func(r reply) { p.updated(e, r) }, p.iface,
		int32(goavahi.ProtoUnspec), uint32(0), e.announced.label, ServiceType, Domain, svc.text)
}

// updated notes a refusal. While another name is being looked for it doesn't matter: the
// announcement to come brings the present text.
func (p *publishLink) updated(e *publishedInstance, r reply) {
	if r.err != nil && !e.gone && e.established {
		p.log.Warn("update of a TXT record refused", "instance", e.announced.label, "err", r.err)
	}
}

// drop withdraws a node that has gone.
func (p *publishLink) drop(e *publishedInstance) {
	delete(p.instances, e.node.ID)
	e.gone = true
	e.wait(nil)
	p.free(e)
}

// refusal returns what to say of an error that any other instance would meet too. nil: it is
// none.
func refusal(err error) error {
	switch r := (reply{err: err}); {
	case r.is(errForbidden):
		return errors.New("avahi-daemon forbids it (disable-publishing or disable-user-service-publishing in avahi-daemon.conf)")
	case r.is(errDenied):
		return fmt.Errorf("the system bus forbids it: %w", err)
	}
	return nil
}

// fail gives up an instance that Avahi refuses. If Avahi refuses all, it gives up all. The
// instance is tried again when the node registers anew, or in the next session.
func (p *publishLink) fail(e *publishedInstance, reason error) {
	if reason := refusal(reason); reason != nil {
		p.all.refuse(reason)
		return
	}
	what := slog.String("host", p.all.session.host)
	if e.node != nil {
		what = e.node.LogNames()
	}
	p.log.Warn("Avahi refuses to publish", what, "err", reason)
	e.gone = true
	p.free(e)
}

// free gives back what Avahi holds for the instance. Its place goes to one that waits.
func (p *publishLink) free(e *publishedInstance) {
	p.unestablish(e)
	if e.group != "" {
		delete(p.all.groups, e.group)
		e.client.call(e.group, ifaceGroup, "Free", nil)
		e.group = ""
	}
	if e.client != nil {
		p.unplace(e)
	}
}

func (p *publishLink) unestablish(e *publishedInstance) {
	if e.established {
		e.established = false
		p.established--
	}
}

// signal deals with what Avahi tells of an instance's group.
func (p *publishLink) signal(e *publishedInstance, sig signal) error {
	if sig.iface != ifaceGroup || sig.member != "StateChanged" {
		return nil
	}
	var state int32
	var reason string
	if err := dbus.Store(sig.body, &state, &reason); err != nil {
		return fmt.Errorf("read the state of an entry group: %w", err)
	}
	p.unestablish(e)
	switch state {
	case goavahi.EntryGroupEstablished:
		e.established = true
		p.established++
		p.all.session.reached = true
		if e.node == nil {
			p.look()
		}
	case goavahi.EntryGroupCollision:
		p.rename(e)
	case goavahi.EntryGroupFailure:
		p.fail(e, fmt.Errorf("entry group failed: %s", reason))
	}
	return nil
}

// noAddress has Avahi resolve a service without its address (AVAHI_LOOKUP_NO_ADDRESS).
const noAddress = 8

// While an interface seems to be unused, Avahi is asked again after pauses that double. It may
// have had too much to do, or has yet to notice the interface.
const (
	firstLookAgain = 5 * time.Second
	lastLookAgain  = 5 * time.Minute
)

// doubt takes the interface for unused, and looks again later.
func (p *publishLink) doubt() {
	if !p.unused {
		p.unused = true
		p.log.Debug("Avahi does not use this interface")
	}
	mail := p.all.session.mail
	time.AfterFunc(p.lookAgain, func() {
		mail.post(func() error {
			if p.unused && !p.host.gone {
				p.look()
			}
			return nil
		})
	})
	p.lookAgain = min(2*p.lookAgain, lastLookAgain)
}

// look finds out whether Avahi uses the interface at all. On one that it does not use, Avahi
// calls every group established and announces nothing. So look has Avahi resolve the host's own
// instance there. Avahi gives up after 5 s.
func (p *publishLink) look() {
	e := p.host
	if p.relook = p.looking; p.looking || !e.established {
		return
	}
	p.looking = true
	p.all.session.main.call(serverPath, ifaceServer, "ResolveService", func(r reply) {
		p.looking = false
		switch {
		case p.relook:
			p.look()
		case r.err == nil:
			p.unused, p.lookAgain = false, firstLookAgain
		case r.is(errTimeout):
			p.doubt()
		}
	}, p.iface, int32(goavahi.ProtoUnspec), e.announced.label, ServiceType, Domain, int32(goavahi.ProtoUnspec), uint32(noAddress))
}

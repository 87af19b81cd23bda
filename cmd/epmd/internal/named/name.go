package named

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"
)

// networks are looked up apart, so that one that fails keeps its addresses and the other does not.
var networks = [...]string{"ip4", "ip6"}

// name is a name in DNS whose addresses are followed.
type name struct {
	text string
	wake chan struct{} // holds a token when it is to be looked up at once
	end  func()        // stops that

	found [len(networks)][]netip.Addr // guarded by the Finder's mu
	fails int                         // in a row; of the name's goroutine, as the next
	said  bool                        // that it fails
}

func newName(text string) *name {
	return &name{text: text, wake: make(chan struct{}, 1), end: func() {}}
}

func (n *name) poke() {
	select {
	case n.wake <- struct{}{}:
	default: // the token is there already
	}
}

// addrs returns all addresses. The Finder's mu is held.
func (n *name) addrs() []netip.Addr { return slices.Concat(n.found[:]...) }

// keep looks a name up, at once and again, until ctx ends.
func (f *Finder) keep(ctx context.Context, n *name) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
		case <-timer.C:
		}
		f.lookUp(ctx, n)
		timer.Reset(n.pause())
	}
}

// pause returns how long until the next lookup. Names of one start don't stay in step.
func (n *name) pause() time.Duration {
	pause := lookUpEvery
	if n.fails > 0 {
		pause = min(pause, firstRetry<<min(n.fails-1, 5))
	}
	return pause*9/10 + rand.N(pause/5)
}

// lookUp looks a name up once. When it is to be looked up at once, it begins anew: the server that
// is being waited for may be out of reach now.
func (f *Finder) lookUp(ctx context.Context, n *name) {
	select {
	case f.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-f.slots }()
	for again := true; again && ctx.Err() == nil; {
		again = false
		limited, cancel := context.WithTimeout(ctx, lookUpTime)
		answers := make(chan []error, 1)
		go func() { answers <- f.ask(limited, n) }()
		var errs []error
		select {
		case errs = <-answers:
		case <-n.wake:
			again = true
			cancel()
			errs = <-answers
		}
		cancel()
		if !again && ctx.Err() == nil {
			f.judge(n, errors.Join(errs...))
		}
	}
}

// ask asks for the addresses of each network. That there are none is an answer too.
func (f *Finder) ask(ctx context.Context, n *name) []error {
	type answer struct {
		network int
		addrs   []netip.Addr
		err     error
	}
	answers := make(chan answer, len(networks))
	for i, network := range networks {
		go func() {
			addrs, err := f.Lookup(ctx, network, n.text)
			answers <- answer{i, usable(addrs), err}
		}()
	}
	var errs []error
	for range networks {
		a := <-answers
		var dns *net.DNSError
		if a.err != nil && !(errors.As(a.err, &dns) && dns.IsNotFound) {
			errs = append(errs, a.err)
			continue
		}
		f.mu.Lock()
		n.found[a.network] = a.addrs
		f.publish()
		f.mu.Unlock()
	}
	return errs
}

// judge takes note of how a lookup has gone. The log has it once that it failed.
func (f *Finder) judge(n *name, err error) {
	f.mu.Lock()
	kept := len(n.addrs())
	f.mu.Unlock()
	switch {
	case err != nil:
		n.fails++
		if !n.said {
			f.Log.Warn("name of epmds not looked up", "name", n.text, "err", err, "kept", kept)
		}
		n.said = true
	case kept == 0:
		n.fails = 0
		if !n.said {
			f.Log.Warn("name of epmds has no address", "name", n.text)
		}
		n.said = true
	default:
		n.fails, n.said = 0, false
	}
}

// usable returns the addresses that a host can be at, in order.
func usable(addrs []netip.Addr) []netip.Addr {
	var list []netip.Addr
	for _, a := range addrs {
		a = a.Unmap()
		needsZone := a.Is6() && a.IsLinkLocalUnicast()
		if a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !needsZone {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

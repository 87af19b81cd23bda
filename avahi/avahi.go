// Package avahi announces the nodes of this host on the local network and finds those of other
// hosts. It speaks DNS-SD by way of avahi-daemon, over the D-Bus system bus.
//
// Discovery has two parts. Publishing keeps one service instance of type _epmd._tcp for each
// node that is registered, and one for the host. On each interface, at most 256 are announced.
// Browsing finds the instances of others. It enters their nodes into the registry as neighbours,
// except where a host tells its nodes itself (Streams). The registry is also told how both parts
// are doing.
//
// Run blocks until its context ends. By then it has ended all that it started. It never gives
// up. While the bus or avahi-daemon is absent, it waits without waking up. When they return, it
// makes up what it missed. It never starts avahi-daemon.
//
// The registry never waits for anything here: publishing reads a subscription.
package avahi

// Four lifetimes, one word for each:
//
//	word      lives as long as                publishing          browsing
//	part      Run                             publisher           browser
//	session   one avahi-daemon on the bus     publishSession      browseSession
//	link      one network interface in use    publishLink         browseLink
//	instance  one DNS-SD service instance     publishedInstance   foundInstance
//
// On a link, the instances of one host share what is found of its addresses: a foundHost.
// A part has one session after the other. A session has one or several clients. Each is a
// connection to the bus with its own share of Avahi's objects. What browsing has found
// (findings) lives as long as its part.

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/goerlang/eclus/internal/bus"
	"github.com/goerlang/eclus/registry"
)

// ServiceType and Domain are where nodes are announced and looked for.
const (
	ServiceType = "_epmd._tcp"
	Domain      = "local"
)

// HostSubtype is the subtype under which a host's own instance is announced beside ServiceType.
// By it, hosts are found before hundreds of instances are read.
const HostSubtype = "_eclus._sub." + ServiceType

// Options are those of a Discovery.
type Options struct {
	// Publish and Browse are the parts that are wanted. Private says why nothing is published
	// though that was asked for.
	Publish, Browse bool
	Private         string

	// Bus is where avahi-daemon is. Zero stands for the system bus.
	Bus bus.Address

	// Interfaces are the names of the network interfaces to publish and browse on. If empty,
	// those count that lead to a LAN. Loopback and point-to-point interfaces don't, nor do the
	// overlays, bridges and veths of containers. Where there are no others, the ends of veths
	// count: this is a container then. All may come and go. Avahi does not use an interface
	// without an address, or one that its configuration excludes.
	Interfaces []string

	// Port is where epmd listens, and Version what it calls itself. For publishing.
	Port    uint16
	Version string

	// Listens are the addresses at which epmd listens, without zones. 0.0.0.0 and :: stand for
	// all of their family. Nothing is published where epmd does not listen. nil: it listens
	// everywhere. For publishing.
	Listens []netip.Addr

	// EPMDs, if not nil, is told which epmds are announced. For browsing.
	EPMDs EPMDs

	// Streams, if not nil, reports whose nodes are known already. For browsing.
	Streams Streams
}

// Streams knows which hosts' epmds tell their nodes over a stream. The instances of their nodes
// are not resolved.
type Streams interface {
	// Streamed reports whether there is a stream from the host. The host is a label, as in
	// NAME@HOST. Streamed must not block.
	Streamed(host string) bool
}

// Discovery is LAN discovery, as much of it as is wanted.
type Discovery struct {
	runs    []func(context.Context)
	browser *browser // nil: not wanted
}

// New returns a Discovery of the nodes in reg. It also tells reg what this host is called on
// the network.
func New(reg *registry.Registry, opts Options, log *slog.Logger) *Discovery {
	b := newBoard(reg, opts)
	d := &Discovery{}
	if opts.Publish {
		d.runs = append(d.runs, newPublisher(b, opts, log).Run)
	}
	if opts.Browse {
		d.browser = newBrowser(b, opts, log)
		d.runs = append(d.runs, d.browser.Run)
	}
	return d
}

// StreamsChanged tells browsing to ask Options.Streams anew. The nodes that a new stream told of
// must be in the registry by now: browsing forgets what was resolved of them. StreamsChanged does
// not block.
func (d *Discovery) StreamsChanged() {
	if d.browser != nil {
		d.browser.streamsChanged()
	}
}

// FindAgain looks for the addresses of a host, as EPMD.Host has it. It is for a host that streams,
// whose addresses are followed from time to time alone. FindAgain does not block.
func (d *Discovery) FindAgain(host string) {
	if d.browser != nil {
		d.browser.findAgain(host)
	}
}

// Run publishes and browses until ctx ends. It returns when what was published is withdrawn.
func (d *Discovery) Run(ctx context.Context) {
	var parts sync.WaitGroup
	for _, run := range d.runs {
		parts.Go(func() { run(ctx) })
	}
	parts.Wait()
}

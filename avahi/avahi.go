// Package avahi announces the nodes of this host on the local network and finds those of other
// hosts, both by way of avahi-daemon, with which it talks over the D-Bus system bus.
//
// A Publisher keeps one DNS-SD service instance of type _epmd._tcp for each node that is registered,
// and one for the host. A Browser finds the instances of others and enters their nodes into the registry
// as neighbours. Each has a Run that blocks until its context ends and has then ended all that it started. Run
// never gives up: while the bus or avahi-daemon is absent it waits, without waking up, and makes up what it missed
// when they return. It never starts avahi-daemon.
//
// Neither can delay the registry: the Publisher reads from a subscription, which is cut off rather than waited for.
package avahi

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/goerlang/eclus/internal/bus"
)

// ServiceType and Domain are where nodes are announced and looked for.
const (
	ServiceType = "_epmd._tcp"
	Domain      = "local"
)

// NamedPort is a node that an epmd tells of: alive name and distribution port.
type NamedPort struct {
	Name string
	Port uint16
}

// Options are those of Publisher and Browser. The zero value will do for a Browser.
type Options struct {
	// Bus is where avahi-daemon is. Zero stands for the system bus.
	Bus bus.Address

	// Interfaces are the names of the network interfaces to publish and browse on. If empty, it is those that lead to a
	// LAN, as opposed to loopback and point-to-point interfaces, the overlays and bridges of containers and their veths.
	// (Where there are no others, the ends of veths count: this is a container then.) All may come and go. Avahi does
	// not use them all: it needs an address, and its configuration may exclude some.
	Interfaces []string

	// OnState, if not nil, is called when the state has changed, by one goroutine at a time. It must
	// return soon.
	OnState func(State)

	// IsNews reports whether a reason for LAN discovery to be off is to be logged. Where a Publisher and a
	// Browser run, both meet most reasons. It is called by Run's goroutine. nil: all are logged.
	IsNews func(reason string) bool

	// Port is where epmd listens, and Version what it calls itself. Publisher only.
	Port    uint16
	Version string

	// Listens are the addresses at which epmd listens, without zones, 0.0.0.0 and :: standing for all of their family.
	// Nothing is published where it does not. If nil, that is everywhere. Publisher only.
	Listens []netip.Addr

	// Names asks the epmd at that address which nodes it has. If nil, epmds that announce themselves but not
	// their nodes are ignored. It is called by several goroutines at once and should end with ctx. Browser only.
	Names func(context.Context, netip.AddrPort) ([]NamedPort, error)
}

// State is how LAN discovery is doing.
type State struct {
	Off string // why it is off; empty: it is on

	// Instances is how many service instances are published (the host's own included), or how many
	// found ones have been resolved, counted anew for each interface and IP version.
	Instances int

	// Waiting is how many more there are to be published or resolved for which Avahi's limits leave
	// no place.
	Waiting int
}

// String says in a few words what there is to be said to a person.
func (s State) String() string {
	switch {
	case s.Off != "":
		return "LAN discovery off: " + s.Off
	case s.Waiting > 0:
		return fmt.Sprintf("LAN discovery on, %d past Avahi's limits", s.Waiting)
	}
	return "LAN discovery on"
}

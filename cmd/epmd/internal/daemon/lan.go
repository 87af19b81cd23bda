package daemon

import (
	"log/slog"
	"net/netip"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/internal/owner"
	"github.com/goerlang/eclus/registry"
)

// otherEPMDs are the epmds of other hosts.
type otherEPMDs interface {
	avahi.EPMDs
	avahi.Streams
}

// newLAN returns as much of LAN discovery as is wanted, for an epmd on that port. It tells
// epmds which are announced, and they know whose nodes need not be resolved.
func newLAN(o Options, reg *registry.Registry, port uint16, loopbackOnly bool, epmds otherEPMDs, log *slog.Logger) *avahi.Discovery {
	options := avahi.Options{
		Browse:     o.Browse,
		Interfaces: o.Interfaces,
		Port:       port,
		Version:    o.Version,
		EPMDs:      epmds,
		Streams:    epmds,
	}
	switch {
	case !o.Publish:
	case loopbackOnly:
		options.Private = "epmd listens on loopback only"
	case o.Access.LocalOnly():
		options.Private = "-allow local"
	default:
		options.Publish, options.Listens = true, ownListeners(port, log)
	}
	if options.Private != "" {
		log.Info("not published", "reason", options.Private)
	}
	return avahi.New(reg, options, log)
}

// ownListeners returns the addresses at which epmd listens. nil: they can't be found out.
func ownListeners(port uint16, log *slog.Logger) []netip.Addr {
	found, err := owner.FindListeners([]uint16{port})
	if err != nil {
		log.Debug("not known where epmd listens", "err", err)
	}
	return found[port]
}

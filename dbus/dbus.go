// Package dbus is the D-Bus service org.erlang.Epmd. It shows what the registry knows to programs
// of this host. Each node is an object with properties and signals:
//
//	/org/erlang/Epmd                     ObjectManager, org.erlang.Epmd.Manager
//	/org/erlang/Epmd/a_40hosta_2elocal   org.erlang.Epmd.Node
//
// The files org.erlang.Epmd.*.xml describe the interfaces. None of them changes anything.
//
// A [Service] has a Run that blocks until its context ends. Run never gives up: while the bus is
// absent or refuses the name, it waits and tries again. It delays neither the registry nor anybody
// who asks the registry: it reads a subscription, which is cut off rather than waited for.
//
// The order of messages is reliable. A reply says what the signals before it have said, and nothing
// else. So a program knows all objects if it asks for them and adds up the signals after the reply.
package dbus

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/goerlang/eclus/internal/bus"
	"github.com/goerlang/eclus/registry"
)

// Name is the well-known name of the service, and Root the object that all others are below.
const (
	Name = "org.erlang.Epmd"
	Root = "/org/erlang/Epmd"
)

// Options are what a Service needs to know.
type Options struct {
	Bus bus.Address

	// Of the Manager's properties: where epmd listens, what it calls itself, and whom it answers.
	Port    uint16
	Version string
	Allow   string
}

// Service is the service on one bus. Make one with New.
type Service struct {
	reg  *registry.Registry
	opts Options
	log  *slog.Logger

	// For Run's goroutine.
	on     bool // it has its name on the bus
	denied bool // the bus has forbidden it, which is in the log
}

// New returns a service that shows what reg knows.
func New(reg *registry.Registry, opts Options, log *slog.Logger) *Service {
	return &Service{reg: reg, opts: opts, log: log.With("bus", opts.Bus.String())}
}

// Pauses between sessions. They double until a session has the name, or quadruple while the bus
// forbids the name.
const (
	firstRetry  = 20 * time.Millisecond
	lastRetry   = time.Second
	deniedRetry = 10 * time.Minute // the last, where the bus's policy forbids the name
)

// errDenied is why a session ends whose bus forbids the name to this process.
var errDenied = errors.New("the policy of the bus forbids to own the name; it has to read org.erlang.Epmd.conf: systemctl reload dbus")

// Run serves until ctx ends.
func (s *Service) Run(ctx context.Context) {
	if err := s.opts.Bus.Err(); err != nil {
		s.log.Warn("no D-Bus service", "err", err)
		return
	}
	for pause := firstRetry; ctx.Err() == nil; {
		err := s.session(ctx)
		if ctx.Err() != nil {
			break
		}
		if s.on {
			pause = firstRetry
		}
		s.off(err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		if errors.Is(err, errDenied) {
			pause = min(4*pause, deniedRetry)
		} else {
			pause = min(2*pause, lastRetry)
		}
	}
	s.on = false
}

// off notes that the name is not ours. It logs the loss of the name. It also logs once that the bus
// forbids the name, because an administrator may have forgotten something. Nobody misses the
// service where there is no bus.
func (s *Service) off(reason error) {
	denied := errors.Is(reason, errDenied)
	switch {
	case s.on:
		s.log.Warn("D-Bus service off", "reason", reason)
	case denied && !s.denied:
		s.log.Info("D-Bus service off", "reason", reason)
	default:
		s.log.Debug("D-Bus service still off", "reason", reason)
	}
	s.on, s.denied = false, denied
}

// isOn notes that the name is ours.
func (s *Service) isOn() {
	if !s.on {
		s.log.Info("D-Bus service on", "busname", Name)
	}
	s.on = true
}

package avahi

import (
	"log/slog"

	"github.com/goerlang/eclus/registry"
)

// Limit changes the limits: objects for each connection, and connections for each session.
func (l *part) Limit(objects, clients int) { l.maxObjects, l.maxClients = objects, clients }

// State is how a part is doing.
type State = state

// State returns how the part is doing.
func (l *part) State() State { return *l.doing.Load() }

// String says what the registry says of a single part.
func (s state) String() string {
	return registry.LANState{Browsing: registry.Discovery{Wanted: true, Off: s.Off}}.String()
}

// Publisher and Browser are the parts of a Discovery.
type (
	Publisher = publisher
	Browser   = browser
)

// NewPublisher returns publishing alone.
func NewPublisher(reg *registry.Registry, opts Options, log *slog.Logger) *Publisher {
	opts.Publish = true
	return newPublisher(newBoard(reg, opts), opts, log)
}

// NewBrowser returns browsing alone.
func NewBrowser(reg *registry.Registry, opts Options, log *slog.Logger) *Browser {
	opts.Browse = true
	return newBrowser(newBoard(reg, opts), opts, log)
}

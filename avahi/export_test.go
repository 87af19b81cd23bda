package avahi

import (
	"log/slog"
	"time"

	"github.com/goerlang/eclus/registry"
)

// Limit changes the limits: objects for each connection, and connections for each session.
func (l *part) Limit(objects, clients int) { l.maxObjects, l.maxClients = objects, clients }

// Search changes for how long, and how often, addresses are looked for of a host that streams.
func (l *part) Search(time, every time.Duration) { l.searchTime, l.searchEvery = time, every }

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

// StreamsChanged is as that of a Discovery.
func (b *Browser) StreamsChanged() { b.streamsChanged() }

// Objects returns how many of Avahi's objects browsing has. There must be a session.
func (b *Browser) Objects() int {
	objects := make(chan int, 1)
	s := b.present.Load()
	s.mail.post(func() error {
		sum := 0
		for _, c := range s.clients {
			sum += c.objects
		}
		objects <- sum
		return nil
	})
	return <-objects
}

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

package registry

import (
	"context"
	"errors"
	"fmt"
)

// maxPending is how many changes wait for a subscriber before it is cut off.
const maxPending = 8192

// ErrBehind is what a subscriber gets that was cut off because more than 8,192 changes waited for it,
// or because it was closed. It may subscribe anew and be handed the present state.
var ErrBehind = errors.New("subscriber fell behind")

// EventKind tells what happened to a node.
type EventKind uint8

// Kinds of events.
const (
	Up      EventKind = iota // the node was registered or first seen
	Changed                  // something else is known of it
	Down                     // it has gone; Event.Node is the last that was known
)

// String returns "up", "changed" or "down".
func (k EventKind) String() string {
	if k > Down {
		return fmt.Sprintf("EventKind(%d)", uint8(k))
	}
	return [...]string{"up", "changed", "down"}[k]
}

// Event is one change to what is known.
type Event struct {
	Kind EventKind
	Node *Node
}

// Subscription is a queue of changes that waits for one reader.
type Subscription struct {
	r       *Registry
	ready   chan struct{} // holds one token while pending or behind has something to tell
	pending []Event       // guarded by r.mu
	behind  bool          // guarded by r.mu
}

// Subscribe returns all nodes known now, local ones in order of registration first, and a
// Subscription to every change after that. It must be closed when it is no longer read.
func (r *Registry) Subscribe() ([]*Node, *Subscription) {
	s := &Subscription{r: r, ready: make(chan struct{}, 1)}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subscriptions[s] = struct{}{}
	nodes := make([]*Node, 0, len(r.local)+len(r.neighbours))
	for reg := r.oldest; reg != nil; reg = reg.newer {
		nodes = append(nodes, reg.node)
	}
	for _, n := range r.neighbours {
		nodes = append(nodes, n)
	}
	return nodes, s
}

// Ready returns a channel that yields when Take has something to return. It is never closed.
func (s *Subscription) Ready() <-chan struct{} { return s.ready }

// Take returns the changes since the last Take, in order, without waiting; there may be none. Its
// error is ErrBehind, and it stays so.
func (s *Subscription) Take() ([]Event, error) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	if s.behind {
		return nil, ErrBehind
	}
	events := s.pending
	s.pending = nil
	return events, nil
}

// Next waits for changes and returns them like Take. Other errors are ctx's.
func (s *Subscription) Next(ctx context.Context) ([]Event, error) {
	for {
		if events, err := s.Take(); len(events) > 0 || err != nil {
			return events, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.ready:
		}
	}
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.r.cutOff(s)
}

// changed notes a change of the node in e. The caller holds r.mu.
func (r *Registry) changed(e Event) {
	if e.Node.Origin == Local {
		r.localVersion.Add(1)
	}
	for s := range r.subscriptions {
		if len(s.pending) == maxPending {
			r.cutOff(s)
		} else {
			s.pending = append(s.pending, e)
			s.wake()
		}
	}
}

func (r *Registry) cutOff(s *Subscription) {
	delete(r.subscriptions, s)
	s.pending, s.behind = nil, true
	s.wake()
}

func (s *Subscription) wake() {
	select {
	case s.ready <- struct{}{}:
	default: // the token is there already
	}
}

package registry

import (
	"context"
	"fmt"
)

// maxPending is how many changes wait for a subscriber. If there are more, it begins anew.
const maxPending = 32768

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

// Batch is what has happened since a subscriber last looked.
type Batch struct {
	// Anew says that Nodes is all that is known. What was told before counts no more. The first
	// batch is so, and any before which more than 32,768 changes had waited.
	Anew  bool
	Nodes []*Node // if Anew; local ones in order of registration first

	Events []Event // else: the changes, in order

	LAN *LANState // how LAN discovery is doing; nil: as told before
}

// Subscription is a queue of changes that waits for one reader.
type Subscription struct {
	r       *Registry
	ready   chan struct{} // holds one token while there is something to take
	pending []Event       // guarded by r.mu
	local   bool          // it is told of nodes of this host alone
	anew    bool          // guarded by r.mu; nothing is pending then
	lan     bool          // guarded by r.mu; the state of LAN discovery is news
}

// Subscribe returns a Subscription. Its first batch holds all nodes. It must be closed when
// nobody reads it any more.
func (r *Registry) Subscribe() *Subscription { return r.subscribe(false) }

// SubscribeLocal is Subscribe for the nodes of this host alone. Neighbours don't wake the reader.
func (r *Registry) SubscribeLocal() *Subscription { return r.subscribe(true) }

func (r *Registry) subscribe(local bool) *Subscription {
	s := &Subscription{r: r, ready: make(chan struct{}, 1), local: local, anew: true, lan: true}
	s.wake()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subscriptions[s] = struct{}{}
	return s
}

// Nodes returns all nodes, local ones in order of registration first.
func (r *Registry) Nodes() []*Node {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.nodes()
}

// nodes is Nodes for a caller that holds r.mu.
func (r *Registry) nodes() []*Node {
	nodes := r.localNodes(len(r.neighbours))
	for _, n := range r.neighbours {
		nodes = append(nodes, n.Node)
	}
	return nodes
}

// localNodes returns the nodes of this host in order of registration, with room for more. The
// caller holds r.mu.
func (r *Registry) localNodes(more int) []*Node {
	nodes := make([]*Node, 0, len(r.local)+more)
	for reg := r.oldest; reg != nil; reg = reg.newer {
		nodes = append(nodes, reg.node)
	}
	return nodes
}

// Ready returns a channel that yields when Take has something to return. It is never closed.
func (s *Subscription) Ready() <-chan struct{} { return s.ready }

// Take returns what has happened since the last Take, without waiting. That may be nothing. After
// Close it is.
func (s *Subscription) Take() Batch {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	b := Batch{Anew: s.anew, Events: s.pending}
	switch {
	case s.anew && s.local:
		b.Nodes = s.r.localNodes(0)
	case s.anew:
		b.Nodes = s.r.nodes()
	}
	if s.lan {
		lan := s.r.lan
		b.LAN = &lan
	}
	s.anew, s.lan, s.pending = false, false, nil
	select {
	case <-s.ready:
	default: // the reader has taken the token
	}
	return b
}

// Next waits until something has happened and returns it like Take. Its error is ctx's.
func (s *Subscription) Next(ctx context.Context) (Batch, error) {
	for {
		if b := s.Take(); b.Anew || b.LAN != nil || len(b.Events) > 0 {
			return b, nil
		}
		select {
		case <-ctx.Done():
			return Batch{}, ctx.Err()
		case <-s.ready:
		}
	}
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	delete(s.r.subscriptions, s)
	s.anew, s.lan, s.pending = false, false, nil
}

// changed notes a change of the node in e. The caller holds r.mu.
func (r *Registry) changed(e Event) {
	r.version.Add(1)
	if e.Node.Origin == Local {
		r.localVersion.Add(1)
	}
	for s := range r.subscriptions {
		if !s.local || e.Node.Origin == Local {
			s.add(e)
		}
	}
}

// add has a change wait for the reader.
func (s *Subscription) add(e Event) {
	switch {
	case s.anew: // the snapshot will have it
	case len(s.pending) == maxPending:
		s.anew, s.pending = true, nil
	default:
		s.pending = append(s.pending, e)
	}
	s.wake()
}

func (s *Subscription) wake() {
	select {
	case s.ready <- struct{}{}:
	default: // the token is there already
	}
}

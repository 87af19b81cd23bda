package registry

import (
	"context"
	"fmt"
	"slices"
)

// maxPending is how many changes wait for a subscriber. If there are more, it begins anew.
const maxPending = 32768

// maxUsual is for how many changes a subscription makes room at once.
const maxUsual = 4096

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

// scope says of which nodes a subscriber is told.
type scope uint8

const (
	everywhere scope = iota
	here             // of this host
	elsewhere        // of others
)

// has reports whether nodes of an origin are in the scope.
func (s scope) has(o Origin) bool { return s == everywhere || (s == here) == (o == Local) }

// Subscription is a queue of changes that waits for one reader.
type Subscription struct {
	r       *Registry
	ready   chan struct{} // holds one token while there is something to take
	pending []Event       // guarded by r.mu
	of      scope         // the nodes that it is told of
	usual   int           // guarded by r.mu; how many changes were taken last
	anew    bool          // guarded by r.mu; nothing is pending then
	lan     bool          // guarded by r.mu; the state of LAN discovery is news
	lasting bool          // guarded by r.mu; see Lasting
}

// Subscribe returns a Subscription. Its first batch holds all nodes. It must be closed when
// nobody reads it any more.
func (r *Registry) Subscribe() *Subscription { return r.subscribe(everywhere) }

// SubscribeLocal is Subscribe for the nodes of this host alone. Neighbours don't wake the reader.
func (r *Registry) SubscribeLocal() *Subscription { return r.subscribe(here) }

// SubscribeNeighbours is Subscribe for the nodes of other hosts alone. A registration does not wake
// the reader.
func (r *Registry) SubscribeNeighbours() *Subscription { return r.subscribe(elsewhere) }

// Lasting has s leave out nodes that go before Take has told of them. Whoever wants to know what
// there is, and not what has happened, has less to read. It returns s.
func (s *Subscription) Lasting() *Subscription {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.lasting = true
	return s
}

func (r *Registry) subscribe(of scope) *Subscription {
	s := &Subscription{r: r, ready: make(chan struct{}, 1), of: of, anew: true, lan: true}
	s.wake()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subscriptions = append(r.subscriptions, s)
	return s
}

// Nodes returns all nodes, local ones in order of registration first.
func (r *Registry) Nodes() []*Node {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.nodes()
}

// nodes is Nodes for a caller that holds r.mu.
func (r *Registry) nodes() []*Node { return r.appendNeighbours(r.localNodes(len(r.neighbours))) }

// nodesOf is nodes for those in a scope.
func (r *Registry) nodesOf(of scope) []*Node {
	switch of {
	case here:
		return r.localNodes(0)
	case elsewhere:
		return r.appendNeighbours(nil)
	}
	return r.nodes()
}

// appendNeighbours appends the nodes of other hosts. The caller holds r.mu.
func (r *Registry) appendNeighbours(nodes []*Node) []*Node {
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
	if s.anew {
		b.Nodes = s.r.nodesOf(s.of)
	}
	if s.lan {
		lan := s.r.lan
		b.LAN = &lan
	}
	s.anew, s.lan, s.pending, s.usual = false, false, nil, min(len(s.pending), maxUsual)
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
	s.r.subscriptions = slices.DeleteFunc(s.r.subscriptions, func(other *Subscription) bool { return other == s })
	s.anew, s.lan, s.pending = false, false, nil
}

// changed notes a change of the node in e. The caller holds r.mu.
func (r *Registry) changed(e Event) {
	r.version.Add(1)
	if e.Node.Origin == Local {
		r.localVersion.Add(1)
	}
	for _, s := range r.subscriptions {
		if s.of.has(e.Node.Origin) {
			s.add(e)
		}
	}
}

// add has a change wait for the reader.
func (s *Subscription) add(e Event) {
	switch {
	case s.anew: // the snapshot will have it
	case s.lasting && e.Kind == Down && s.leaveOut(e.Node.ID):
		return
	case len(s.pending) == maxPending:
		s.anew, s.pending = true, nil
	default:
		if s.pending == nil {
			s.pending = make([]Event, 0, max(1, s.usual)) // growing allocates many times
		}
		s.pending = append(s.pending, e)
	}
	s.wake()
}

// maxLookBack is how many changes leaveOut looks through. Few nodes come and go at the same time.
const maxLookBack = 64

// leaveOut takes a node out of what is pending. It reports whether the node has come since Take, as
// far as it has looked.
func (s *Subscription) leaveOut(id uint64) bool {
	for i := len(s.pending) - 1; i >= max(0, len(s.pending)-maxLookBack); i-- {
		if ev := s.pending[i]; ev.Kind == Up && ev.Node.ID == id {
			of := func(ev Event) bool { return ev.Node.ID == id }
			s.pending = append(s.pending[:i], slices.DeleteFunc(s.pending[i:], of)...)
			return true
		}
	}
	return false
}

func (s *Subscription) wake() {
	select {
	case s.ready <- struct{}{}:
	default: // the token is there already
	}
}

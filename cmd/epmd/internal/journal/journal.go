// Package journal writes to the log which nodes come and go. On the way it finds the process
// behind each node that registers, and tells the registry.
//
// A Journal reads the registry, and by package holders /proc and the kernel's sockets. Run
// blocks until its context ends and starts no goroutines. What it calls must not block.
package journal

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/holders"
	"github.com/goerlang/eclus/internal/message"
	"github.com/goerlang/eclus/registry"
)

// An entry about a node waits for at most both times at their longest. It also waits for the
// entries before it. That is half a second in all.
const (
	eventSettle    = 100 * time.Millisecond // nobody looks for a node gone in half of that
	maxEventSettle = 200 * time.Millisecond // the same where looking takes long
	maxHolderTime  = 150 * time.Millisecond // that looking may take
)

// Journal finds out which process is behind each node that registers, and tells the registry.
// It writes to the log who comes and goes. Entries at level Info have these texts and keys:
//
//	node up, node down              [node] name port peer [pid] [uid] [unit]
//	neighbour up, neighbour down    [node] name host port [peer]
//	node named, neighbour named     the same, with node, once that is known or has changed
//
// Those in brackets may be missing: pid, uid and unit if they were not found out. node is the
// full name that the node itself has told, and name the alive name. The peer of a node is its
// end of the connection by which it registered. The peer of a neighbour is its address.
//
// Another host has 2,048 entries at once, and one a second from then on. What the log lacks, it has
// as "changes of neighbours not logged: too many", with keys withheld, hosts and host.
type Journal struct {
	reg     *registry.Registry
	holders *holders.Finder
	log     *slog.Logger
	known   []*registry.Node // at the beginning
	changes *registry.Subscription
	young   []registry.Event  // have happened, and wait until the first of them is old enough
	named   map[uint64]string // full names in the log or known at first, by ID
	last    uint64            // no node with an ID up to that one is news
	limits  limits
	took    time.Duration // to find the last holders
	maxTook time.Duration // maxHolderTime, or longer in tests
	behind  time.Time     // when the log was last told that the Journal is behind

	arrived func(n *registry.Node, partly bool) // nil: nobody is told
}

// Options are what a Journal needs.
type Options struct {
	Registry *registry.Registry
	Holders  *holders.Finder

	// Arrived is told of each node of this host that has come. The node has its holder if that was
	// found. partly says that there was no time to look at everything. Arrived must not block.
	// It may be nil.
	Arrived func(n *registry.Node, partly bool)

	Log *slog.Logger
}

// New returns a Journal of every change from now on. Nodes that are there already were
// restored. The log has nothing of them until they change. Whoever calls New calls Run.
func New(o Options) *Journal {
	j := &Journal{
		reg: o.Registry, holders: o.Holders, log: o.Log, arrived: o.Arrived,
		named: make(map[uint64]string), maxTook: maxHolderTime,
	}
	j.changes = j.reg.Subscribe()
	if !j.writes() {
		j.changes.Lasting()
	}
	j.known = j.changes.Take().Nodes
	for _, n := range j.known {
		j.remember(n)
	}
	return j
}

// remember enters that the log needs no entry of a node's coming, and which full name it has.
func (j *Journal) remember(n *registry.Node) {
	j.last = max(j.last, n.ID)
	if name := fullName(n); name != "" {
		j.named[n.ID] = name
	} else {
		delete(j.named, n.ID)
	}
}

// Run returns nil when ctx has ended. What had happened before is in the log then. It is called
// once.
func (j *Journal) Run(ctx context.Context) error {
	defer j.changes.Close()
	j.findHolders(ctx, j.known)
	j.known = nil
	for {
		batch, err := j.next(ctx)
		if err != nil {
			return nil
		}
		j.note(ctx, batch, j.young...)
	}
}

// note finds the holders of nodes that have come, unless they are among those that have gone since.
// It writes what has happened.
func (j *Journal) note(ctx context.Context, batch []registry.Event, since ...registry.Event) {
	j.findHolders(ctx, arrived(batch, since))
	j.write(batch)
}

// fullName returns the full name that a node has told, or "".
func fullName(n *registry.Node) string {
	if !n.Sure {
		return ""
	}
	return n.Node
}

// next waits for nodes to come, to go or to tell their names. It returns that with all else
// that happens a little later. So there is one wake-up, and one look at the processes, for all
// that come together. Nodes that have only just come are left for the next time, with all that
// happened after: they may go at once. It also returns what had happened when ctx ended.
func (j *Journal) next(ctx context.Context) ([]registry.Event, error) {
	settle := min(max(eventSettle, 4*j.took), maxEventSettle)
	pause := settle / 2
	if len(j.young) == 0 {
		b, err := j.nextBatch(ctx)
		if b.Anew {
			return j.catchUp(b.Nodes), nil
		}
		if err != nil || !slices.ContainsFunc(b.Events, j.isNews) {
			return nil, err
		}
		j.young, pause = b.Events, settle
	}
	select {
	case <-ctx.Done():
	case <-time.After(pause):
	}
	j.tellDue()
	batch, more := j.young, j.changes.Take()
	j.young = nil
	if more.Anew {
		j.note(ctx, batch)
		return j.catchUp(more.Nodes), nil
	}
	older := more.Events
	if ctx.Err() == nil { // those left for this time are old enough now
		older, j.young = split(more.Events, time.Now().Add(-settle/2))
	}
	return append(batch, older...), nil
}

// split returns what had happened before a node of this host came that came since, and the rest.
func split(batch []registry.Event, since time.Time) (before, rest []registry.Event) {
	young := func(ev registry.Event) bool {
		return ev.Kind == registry.Up && ev.Node.Origin == registry.Local && ev.Node.Since.After(since)
	}
	if i := slices.IndexFunc(batch, young); i >= 0 {
		return batch[:i], batch[i:]
	}
	return batch, nil
}

// nextBatch waits for changes. Meanwhile it tells the log what that lacks.
func (j *Journal) nextBatch(ctx context.Context) (registry.Batch, error) {
	for {
		wait, lacks := j.tellDue()
		if !lacks {
			return j.changes.Next(ctx)
		}
		calm, cancel := context.WithTimeout(ctx, wait)
		b, err := j.changes.Next(calm)
		cancel()
		if err == nil {
			return b, nil
		}
		if ctx.Err() != nil {
			j.tellMissing()
			return b, err
		}
	}
}

// tellDue tells the log what that lacks if that is due. Else it returns when it will be. lacks
// reports whether the log lacks anything.
func (j *Journal) tellDue() (wait time.Duration, lacks bool) {
	wait, lacks = j.limits.summary()
	if lacks && wait <= 0 {
		j.tellMissing()
		wait, lacks = j.limits.summary()
	}
	return wait, lacks
}

// tellMissing says how many entries about neighbours were left out, if any were.
func (j *Journal) tellMissing() {
	if missing, hosts, host := j.limits.take(); missing > 0 {
		j.log.Warn("changes of neighbours not logged: too many", "withheld", missing, "hosts", hosts, "host", host)
	}
}

// isNews reports whether the log lacks something: a node has come or gone, or has a full name.
func (j *Journal) isNews(ev registry.Event) bool {
	name := fullName(ev.Node)
	return ev.Kind != registry.Changed || name != "" && name != j.named[ev.Node.ID]
}

// catchUp begins anew where more has happened than was kept. It returns which of the nodes have
// come since, and which have told their names.
func (j *Journal) catchUp(nodes []*registry.Node) []registry.Event {
	if now := time.Now(); now.Sub(j.behind) >= hostSummary {
		j.log.Warn("changes of nodes not logged: too many at once")
		j.behind = now
	}
	var batch []registry.Event
	named := make(map[uint64]string)
	for _, n := range nodes {
		ev := registry.Event{Kind: registry.Changed, Node: n}
		if name, found := j.named[n.ID]; found {
			named[n.ID] = name
		}
		if n.ID > j.last {
			ev.Kind = registry.Up
		}
		if j.isNews(ev) {
			batch = append(batch, ev)
		}
	}
	j.named = named
	slices.SortFunc(batch, func(a, b registry.Event) int { return cmp.Compare(a.Node.ID, b.Node.ID) })
	return batch
}

// arrived returns the nodes that have come and not gone again by then, or since.
func arrived(batch, since []registry.Event) []*registry.Node {
	there := make(map[uint64]bool)
	for _, events := range [][]registry.Event{batch, since} {
		for _, ev := range events {
			switch ev.Kind {
			case registry.Up:
				there[ev.Node.ID] = true
			case registry.Down:
				delete(there, ev.Node.ID)
			}
		}
	}
	var nodes []*registry.Node
	for _, ev := range batch {
		if ev.Kind == registry.Up && there[ev.Node.ID] {
			nodes = append(nodes, ev.Node)
		}
	}
	return nodes
}

// findHolders finds the processes behind the nodes of this host. It tells the registry.
func (j *Journal) findHolders(ctx context.Context, nodes []*registry.Node) {
	begin := time.Now()
	looking, cancel := context.WithTimeout(ctx, j.maxTook)
	defer cancel()
	if j.holders.Set(looking, nodes) {
		j.took = time.Since(begin)
	}
	for _, n := range nodes {
		if n.Origin == registry.Local && j.arrived != nil {
			j.arrived(n, looking.Err() != nil)
		}
	}
}

// write writes what has happened to the log. What was last known of a node counts.
func (j *Journal) write(batch []registry.Event) {
	changed := make(map[uint64]*registry.Node)
	for _, ev := range batch {
		if ev.Kind == registry.Changed {
			changed[ev.Node.ID] = ev.Node
		}
	}
	for _, ev := range batch {
		if n := changed[ev.Node.ID]; n != nil && ev.Kind != registry.Down {
			ev.Node = n
		}
		if j.isNews(ev) {
			j.writeOne(ev)
		}
	}
}

// writes reports whether anybody reads who comes and goes.
func (j *Journal) writes() bool { return j.log.Enabled(context.Background(), slog.LevelInfo) }

// writeOne writes one event. It remembers what the log says of the node.
func (j *Journal) writeOne(ev registry.Event) {
	n := ev.Node
	if ev.Kind == registry.Down {
		delete(j.named, n.ID)
	} else {
		if now := j.reg.Lookup(n.Name); now != nil && now.ID == n.ID {
			n = now // with its holder
		}
		j.remember(n)
	}
	if n.Origin != registry.Local && !j.limits.may(n.Host) {
		return
	}
	if !j.writes() {
		return // making an entry costs more than a lookup
	}
	if n.Origin != registry.Local {
		e := neighbourEntries[ev.Kind]
		j.log.With(e.id.Attr()).Info(e.text, neighbourAttrs(n)...)
	} else {
		e := nodeEntries[ev.Kind]
		j.log.With(e.id.Attr()).Info(e.text, nodeAttrs(n)...)
	}
}

// entry is what the log says of a kind of event.
type entry struct {
	id   message.ID
	text string
}

var (
	nodeEntries = map[registry.EventKind]entry{
		registry.Up:      {message.NodeUp, "node up"},
		registry.Changed: {message.NodeNamed, "node named"},
		registry.Down:    {message.NodeDown, "node down"},
	}
	neighbourEntries = map[registry.EventKind]entry{
		registry.Up:      {message.NeighbourUp, "neighbour up"},
		registry.Changed: {message.NeighbourNamed, "neighbour named"},
		registry.Down:    {message.NeighbourDown, "neighbour down"},
	}
)

func nodeAttrs(n *registry.Node) []any {
	args := []any{n.LogNames(), "port", n.Port, "peer", n.Peer()}
	if h := n.Holder; h != nil {
		if h.PID != 0 {
			args = append(args, "pid", h.PID)
		}
		args = append(args, "uid", h.UID)
		if h.Unit != "" {
			args = append(args, "unit", h.Unit)
		}
	}
	return args
}

func neighbourAttrs(n *registry.Node) []any {
	args := []any{n.LogNames(), "host", n.Host, "port", n.Port}
	if len(n.Addresses) > 0 {
		args = append(args, "peer", n.Addresses[0])
	}
	return args
}

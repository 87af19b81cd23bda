package epmd

import (
	"bytes"
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
	"weak"

	"github.com/goerlang/eclus/internal/netif"
	"github.com/goerlang/eclus/registry"
)

// A feed is what all peers on one link are told, or all programs of this host. It follows the
// registry, renders each change once, and keeps a log of them that its streams read at their own
// pace:
//
//	registry ── feed ── chunk ── chunk ── chunk ── (the next)
//	                      │        └ a stream
//	                      └ another stream, and a snapshot
//
// A chunk never changes and points to the next one. So the log lives for as long as somebody has
// yet to read it, and no longer. A stream that is too far behind is cut off.

const (
	maxBehind      = 32768    // events
	maxBehindBytes = 16 << 20 // of their lines
	chunkBytes     = 16 << 10 // about: what a stream writes at once

	// A snapshot is made anew when more than that has happened since.
	minRedraw   = 1024    // events; or as many as there are nodes
	redrawBytes = 4 << 20 // of their lines

	// What peers are told and changes more often is rendered once in joinInterval, as it is then.
	maxAtOnce    = 1000 // events in a joinInterval
	joinInterval = 100 * time.Millisecond

	// What peers have to read what is left when the server ends. Streams that wait for the
	// processor and not for their peers have it so many times.
	farewellTimeout = 500 * time.Millisecond
	farewellRounds  = 4
)

// Why streams end.
var (
	errOver  = errors.New("the server ends")
	errMoved = errors.New("the local address has moved to another interface")
)

// feeds has the feed of each link on which peers watch.
type feeds struct {
	reg    *registry.Registry
	linkOf func(local netip.Addr) (link string, addrs []netip.Addr)
	links  netif.Links // for the default of linkOf
	hello  func() PeerHello
	turns  chan struct{} // has room for those that write now

	mu       sync.Mutex // guards what follows, and all of each feed
	byLink   map[string]*feed
	whole    weak.Pointer[snapshot] // of all nodes
	version  uint64                 // of the registry, which whole shows
	over     bool
	farewell *time.Timer
	rounds   int // of the farewell that are left
	running  sync.WaitGroup
}

// newFeeds leaves a processor to lookups if there are several.
func newFeeds(cfg Config) *feeds {
	fs := &feeds{
		reg: cfg.Registry, linkOf: cfg.LinkOf, hello: cfg.Hello,
		turns:  make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1)),
		byLink: make(map[string]*feed),
		rounds: farewellRounds,
	}
	if fs.linkOf == nil {
		fs.linkOf = kernelLinkOf(&fs.links)
	}
	if fs.hello == nil {
		fs.hello = func() PeerHello { return PeerHello{} }
	}
	return fs
}

// appendHello appends the line that says which epmd this is.
func (fs *feeds) appendHello(dst []byte, host string) []byte {
	h := fs.hello()
	h.Host = host
	return Line{PeerName, h.fields()}.Append(dst)
}

// link returns the link of a local address. An address that no interface has is one by itself.
func (fs *feeds) link(local netip.Addr) (link string, addrs []netip.Addr) {
	if link, addrs = fs.linkOf(local); link == "" {
		return local.String(), []netip.Addr{local.WithZone("")}
	}
	return link, addrs
}

// programs is the link of the feed of this host's programs. No interface has that name.
const programs = ""

// turn does something in turn with the other streams. Few do so at a time.
func (fs *feeds) turn(job func()) {
	fs.turns <- struct{}{}
	defer func() { <-fs.turns }()
	job()
}

// join makes p a stream of its feed, unless it just wants to know what there is.
func (fs *feeds) join(p *subscriber) (start, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	link, addrs := programs, []netip.Addr(nil)
	if p.peer {
		link, addrs = fs.link(p.local)
	}
	if fs.over {
		return start{}, errOver
	}
	if p.found != nil {
		return start{snapshot: programsSnapshot(p.found)}, nil
	}
	if !p.peer && !p.follow {
		return start{snapshot: fs.all()}, nil
	}
	f := fs.byLink[link]
	if f == nil {
		f = newFeed(fs, link, addrs)
		fs.byLink[link] = f
		f.resubscribe()
		fs.running.Go(f.follow)
	} else if !p.peer {
		f.take() // so that it is told of all that has happened before it asked
	} else if !slices.Equal(addrs, f.addrs) {
		f.look() // no interface has the addresses of earlier streams any more
	}
	p.feed = f
	f.streams[p] = struct{}{}
	return f.start(p), nil
}

// all returns a snapshot of all nodes as they are now.
func (fs *feeds) all() *snapshot {
	version := fs.reg.Version()
	s := fs.whole.Value()
	if s != nil && fs.version == version {
		return s
	}
	s = programsSnapshot(fs.reg.Nodes())
	fs.whole, fs.version = weak.Make(s), version
	return s
}

// leave ends what join began. The last stream ends the feed.
func (fs *feeds) leave(p *subscriber) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := p.feed
	if f == nil {
		return
	}
	delete(f.streams, p)
	if len(f.streams) == 0 && !f.over {
		delete(fs.byLink, f.link)
		f.end()
	}
}

// find returns the lines that p is told of the nodes of a full or alive name.
func (fs *feeds) find(p *subscriber, name string) (lines []byte) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	lines = append(lines, p.feed.told[registry.NeighbourKey{Name: name}].line...)
	alive, _, full := strings.Cut(name, "@")
	if t, told := p.feed.told[registry.NeighbourKey{Name: alive}]; told && full && t.node.Node == name {
		lines = append(lines, t.line...)
	}
	return lines
}

// linksChanged has all feeds look at the addresses of their links.
func (fs *feeds) linksChanged() {
	fs.links.Forget()
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, f := range fs.byLink {
		f.look()
	}
}

// close ends all feeds, and lets no stream begin any more. If peers are to forget the nodes, they
// are told so. They have farewellTimeout to read that. Else the streams end at once. Those of
// programs do in any case.
func (fs *feeds) close(forget bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.over = true
	ended := slices.Collect(maps.Values(fs.byLink))
	clear(fs.byLink)
	for _, f := range ended {
		if forget && f.link != programs {
			f.forget()
		}
		f.end()
	}
	if !forget {
		cutAll(ended)
		return
	}
	fs.farewell = time.AfterFunc(farewellTimeout, func() { fs.part(ended) })
}

// part ends a round of the farewell. It cuts off the streams whose peers don't read. The last round
// ends them all.
func (fs *feeds) part(ended []*feed) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.rounds--
	left := 0
	for _, f := range ended {
		for p := range f.streams {
			if fs.rounds > 0 && !p.blocked.Load() {
				left++
				continue
			}
			p.cutOff(errOver)
		}
	}
	if left > 0 {
		fs.farewell.Reset(farewellTimeout)
	}
}

func cutAll(list []*feed) {
	for _, f := range list {
		for p := range f.streams {
			p.cutOff(errOver)
		}
	}
}

// wait returns when all feeds have ended. Their streams have ended before.
func (fs *feeds) wait() {
	fs.running.Wait()
	if fs.farewell != nil {
		fs.farewell.Stop()
	}
}

// feed is what the peers on a link are told, or the programs of this host.
type feed struct {
	feeds *feeds
	link  string        // or programs
	looks chan struct{} // holds a token when the addresses may be others
	ended chan struct{}
	over  bool // ended is closed

	changes *registry.Subscription
	addrs   []netip.Addr // of the link
	host    string
	lan     registry.LANState
	told    map[registry.NeighbourKey]toldNode
	streams map[*subscriber]struct{}

	scratch  []byte // the line rendered last
	out      []byte // lines that are in no chunk yet
	now      mark   // so far
	last     *chunk
	snapshot *snapshot // nil: none, or one that is too old
	checked  mark      // no stream is further behind
	drawn    int       // how many snapshots were rendered
}

// mark is a place in the log.
type mark struct{ events, bytes uint64 }

// since reports whether more has been told since an earlier mark.
func (m mark) since(earlier mark, events, bytes uint64) bool {
	return m.events-earlier.events > events || m.bytes-earlier.bytes > bytes
}

// chunk is some lines, one for each event.
type chunk struct {
	lines []byte
	end   mark
	ready chan struct{} // closed when next is set
	next  *chunk        // nil once ready: the feed has ended
}

// start is where a stream begins: it sends the snapshot, then the chunks from there up to the last.
type start struct {
	host     string
	snapshot *snapshot
	last     *chunk
	nodes    int // that are known then
	lan      registry.LANState
}

func newFeed(fs *feeds, link string, addrs []netip.Addr) *feed {
	return &feed{
		feeds: fs, link: link, addrs: addrs,
		looks:   make(chan struct{}, 1),
		ended:   make(chan struct{}),
		host:    fs.reg.Host(),
		told:    make(map[registry.NeighbourKey]toldNode),
		streams: make(map[*subscriber]struct{}),
		last:    &chunk{ready: make(chan struct{})},
	}
}

// follow renders changes until the feed ends.
func (f *feed) follow() {
	var began time.Time
	var atBegin uint64
	ready, events := f.update(false)
	for ready != nil {
		look := false
		select {
		case <-f.ended:
		case <-f.looks:
			look = true
		case <-ready:
		}
		switch now := time.Now(); {
		case now.Sub(began) >= joinInterval:
			began, atBegin = now, events
		case events-atBegin >= maxAtOnce && f.link != programs:
			f.rest(began.Add(joinInterval).Sub(now))
		}
		ready, events = f.update(look)
	}
}

// look has the feed look at the addresses of its link.
func (f *feed) look() {
	select {
	case f.looks <- struct{}{}:
	default: // it is about to
	}
}

// rest waits while more happens, which is joined then.
func (f *feed) rest(d time.Duration) {
	select {
	case <-f.ended:
	case <-time.After(d):
	}
}

// update renders what has happened. If the addresses are to be looked at, so are all streams. It
// returns the channel that yields at the next change, or nil if the feed has ended. It also returns
// how many events there were.
func (f *feed) update(look bool) (<-chan struct{}, uint64) {
	f.feeds.mu.Lock()
	defer f.feeds.mu.Unlock()
	if f.over {
		return nil, 0
	}
	if f.link != programs && f.readLink(look) {
		f.changes.Close()
		f.resubscribe()
	} else {
		f.take() // events are taken after the link was looked at
	}
	return f.changes.Ready(), f.now.events
}

// take renders what has happened.
func (f *feed) take() {
	b := f.changes.Take()
	if b.LAN != nil {
		f.lan = *b.LAN
	}
	if b.Anew {
		f.sync(b.Nodes)
	}
	if f.link != programs {
		b.Events = joined(b.Events)
	}
	for _, e := range b.Events {
		f.apply(e)
	}
	f.flush()
	f.dropOld()
	f.cutSlow()
}

// joined returns the changes to tell. If there are very many, that is the last of each node.
func joined(events []registry.Event) []registry.Event {
	if len(events) <= maxAtOnce {
		return events
	}
	last := make(map[string]int)
	for i, e := range events {
		last[e.Node.Name] = i
	}
	var list []registry.Event
	for i, e := range events {
		if last[e.Node.Name] == i {
			list = append(list, e)
		}
	}
	return list
}

// resubscribe looks at all nodes.
func (f *feed) resubscribe() {
	if f.link == programs {
		f.changes = f.feeds.reg.Subscribe()
	} else {
		f.changes = f.feeds.reg.SubscribeLocal()
	}
	f.take()
}

// readLink reads the addresses of the link. It reports whether they are others than before. While
// no interface has the address of any stream, they stay as they were. If all is set, readLink cuts
// off the streams whose address another interface has now.
func (f *feed) readLink(all bool) (changed bool) {
	seen := make(map[netip.Addr]bool)
	var now []netip.Addr
	for p := range f.streams {
		if seen[p.local] {
			continue
		}
		seen[p.local] = true
		link, addrs := f.feeds.linkOf(p.local)
		switch {
		case link == f.link:
			now = addrs
		case link != "" && all:
			f.cutMoved(p.local)
		}
		if now != nil && !all {
			break
		}
	}
	if now == nil || slices.Equal(now, f.addrs) {
		return false
	}
	f.addrs = now
	return true
}

// cutMoved cuts off the streams that have a local address.
func (f *feed) cutMoved(local netip.Addr) {
	for p := range f.streams {
		if p.local == local {
			p.cutOff(errMoved)
		}
	}
}

// keyOf returns what a node is known by.
func keyOf(n *registry.Node) registry.NeighbourKey {
	if n.Origin == registry.Local {
		return registry.NeighbourKey{Name: n.Name} // whatever its host is called
	}
	return n.NeighbourKey()
}

// sync tells of the difference between all nodes and what streams know.
func (f *feed) sync(nodes []*registry.Node) {
	here := make(map[registry.NeighbourKey]bool, len(nodes))
	for _, n := range nodes {
		here[keyOf(n)] = true
	}
	for key := range f.told {
		if !here[key] {
			f.gone(key)
		}
	}
	for _, n := range nodes {
		f.known(n)
	}
}

// apply tells of a change.
func (f *feed) apply(e registry.Event) {
	if e.Kind != registry.Down {
		f.known(e.Node)
	} else if _, told := f.told[keyOf(e.Node)]; told {
		f.gone(keyOf(e.Node))
	}
}

// known tells of a node, unless streams know it so.
func (f *feed) known(n *registry.Node) {
	key := keyOf(n)
	switch was, told := f.told[key]; {
	case f.link != programs:
		f.knownToPeers(key, n)
	case !told || was.node != n:
		f.told[key] = toldNode{node: n}
		f.scratch = appendNode(f.scratch[:0], NodeKnown, n)
		f.add(f.scratch)
	}
}

// knownToPeers tells peers of a node, unless they know it so. It takes back one that they can't
// reach.
func (f *feed) knownToPeers(key registry.NeighbourKey, n *registry.Node) {
	if n.Host != f.host {
		f.rename(n.Host)
	}
	line := appendPeerNode(f.scratch[:0], n, f.addrs)
	f.scratch = line
	was, told := f.told[key]
	switch {
	case len(line) > 0 && string(line) != was.line:
		f.told[key] = toldNode{n, string(line)}
		f.add(line)
	case len(line) > 0:
		f.told[key] = toldNode{n, was.line}
	case told:
		f.gone(key)
	}
}

// gone tells that a node has gone.
func (f *feed) gone(key registry.NeighbourKey) {
	n := f.told[key].node
	delete(f.told, key)
	if f.link == programs {
		f.scratch = appendNode(f.scratch[:0], NodeGone, n)
	} else {
		f.scratch = appendPeerGone(f.scratch[:0], n)
	}
	f.add(f.scratch)
}

// forget tells that all nodes have gone.
func (f *feed) forget() {
	for key := range f.told {
		f.gone(key)
	}
	f.flush()
}

// rename tells that this host has another name. Its nodes are others for those who know them.
func (f *feed) rename(host string) {
	f.forget()
	f.host = host
	f.add(f.feeds.appendHello(nil, host))
	f.flush()
	f.snapshot = nil // it has the old name
}

// add adds a line to the log.
func (f *feed) add(line []byte) {
	f.out = append(f.out, line...)
	f.now.events++
	f.now.bytes += uint64(len(line))
	if len(f.out) >= chunkBytes {
		f.flush()
	}
}

// flush gives the lines to the streams.
func (f *feed) flush() {
	if len(f.out) == 0 {
		return
	}
	c := &chunk{lines: bytes.Clone(f.out), end: f.now, ready: make(chan struct{})}
	f.out = f.out[:0]
	f.last.next = c
	close(f.last.ready)
	f.last = c
}

// end has the streams end once they have read all.
func (f *feed) end() {
	f.over = true
	f.changes.Close()
	close(f.last.ready)
	close(f.ended)
}

// start returns where a stream begins.
func (f *feed) start(p *subscriber) start {
	if f.snapshot == nil {
		f.snapshot = f.draw()
	}
	p.at.Store(f.snapshot.at)
	return start{f.host, f.snapshot, f.last, len(f.told), f.lan}
}

// dropOld drops a snapshot that is of little use, and with it the log since then.
func (f *feed) dropOld() {
	if s := f.snapshot; s != nil && f.now.since(s.at.end, max(minRedraw, uint64(len(f.told))), redrawBytes) {
		f.snapshot = nil
	}
}

// draw makes a snapshot of all nodes, in order of registration.
func (f *feed) draw() *snapshot {
	f.drawn++
	nodes := make([]toldNode, 0, len(f.told))
	for _, t := range f.told {
		nodes = append(nodes, t)
	}
	slices.SortFunc(nodes, func(a, b toldNode) int {
		return cmp.Or(cmp.Compare(a.node.Origin, b.node.Origin), cmp.Compare(a.node.ID, b.node.ID))
	})
	return newSnapshot(nodes, f.last)
}

// cutSlow cuts off the streams that are too far behind.
func (f *feed) cutSlow() {
	if !f.now.since(f.checked, maxBehind, maxBehindBytes) {
		return
	}
	f.checked = f.now
	for p := range f.streams {
		at := p.at.Load().end
		if f.now.since(at, maxBehind, maxBehindBytes) {
			p.cutOff(errBehind)
			continue
		}
		f.checked = mark{min(f.checked.events, at.events), min(f.checked.bytes, at.bytes)}
	}
}

package nodesd

import (
	"bytes"
	"context"
	"net/netip"
	"slices"

	"github.com/goerlang/eclus/cmd/epmd/internal/named"
	"github.com/goerlang/eclus/registry"
)

// file is a nodes file as it was read last.
type file struct {
	path    string
	written bool             // by a program
	lines   map[string]*line // those about nodes that count, by text
	count   int              // lines that count, those about epmds too
	bad     []badLine        // the first maxBad
	dropped int              // lines beyond the limit
}

// line is a line about a node. The registry knows the node by it. It stays the same when the file
// gives the node another address, or other keys.
type line struct {
	text   string
	node   string       // full name
	addrs  []netip.Addr // of the node
	seen   int          // the round in which the file last had it
	counts int          // the round in which it last was among those that count
	file   *file
	alias  registry.NeighbourKey // as which another source knows the node; zero: none does
}

// maxBad is how many bad lines of a file are told.
const maxBad = 100

// badLine is a line that does not count.
type badLine struct {
	number int // from 1
	text   string
	err    error
}

// keep has all lines count in another round.
func (f *file) keep(round int) {
	for _, l := range f.lines {
		l.seen, l.counts = round, round
	}
}

// readLines reads a file's content, of which that many lines count at most. It tells the registry
// of lines that are new. It returns whose epmds are named.
func (r *Reader) readLines(ctx context.Context, f *file, text []byte, most int) (whos []named.Who) {
	gone := r.missing(ctx, f, text)
	f.bad, f.count, f.dropped = nil, 0, 0
	number := 0
	for raw := range bytes.Lines(text) {
		r.pace.step(ctx)
		number++
		raw = bytes.TrimSuffix(raw, []byte("\n"))
		known := f.lines[string(raw)]
		if known != nil && known.counts == r.rounds {
			continue // the same twice is one
		}
		e, ok := entry{}, true
		if known == nil {
			e, ok = f.parse(number, string(raw))
		}
		switch {
		case !ok:
			continue
		case f.count >= most:
			f.dropped++
			continue
		case known != nil:
			known.counts = r.rounds
		case e.node.Name == "":
			whos = append(whos, e.who)
		default:
			r.enter(f, string(raw), &e.node, gone)
		}
		f.count++
	}
	return whos
}

// parse parses a line. It remembers a bad one. ok is false for that, and for a line that says
// nothing.
func (f *file) parse(number int, text string) (e entry, ok bool) {
	e, ok, err := parseLine(text)
	if err != nil && len(f.bad) < maxBad {
		f.bad = append(f.bad, badLine{number, text, err})
	}
	return e, ok
}

// missing returns the lines that a file no longer has, by the full names of their nodes.
func (r *Reader) missing(ctx context.Context, f *file, text []byte) map[string]*line {
	for raw := range bytes.Lines(text) {
		r.pace.step(ctx)
		if l := f.lines[string(bytes.TrimSuffix(raw, []byte("\n")))]; l != nil {
			l.seen = r.rounds
		}
	}
	gone := make(map[string]*line)
	for _, l := range f.lines {
		if r.pace.step(ctx); l.seen != r.rounds {
			gone[l.node] = l
		}
	}
	return gone
}

// enter tells the registry of a node whose line is new. If a line of the same node is missing, the
// new one takes its place.
func (r *Reader) enter(f *file, text string, n *registry.Node, gone map[string]*line) {
	l := gone[n.Node]
	if delete(gone, n.Node); l != nil {
		delete(f.lines, l.text)
	} else {
		l = &line{file: f}
	}
	if l.text, l.node = text, n.Node; !slices.Equal(l.addrs, n.Addresses) {
		r.unindex(l)
		l.addrs = n.Addresses
		r.index(l)
	}
	l.seen, l.counts = r.rounds, r.rounds
	f.lines[text] = l
	r.see(l, n)
}

// dropLines drops the lines of a file that no longer count.
func (r *Reader) dropLines(ctx context.Context, f *file) {
	for text, l := range f.lines {
		if r.pace.step(ctx); l.counts != r.rounds {
			delete(f.lines, text)
			r.unindex(l)
			r.source.Lose(l)
		}
	}
}

// Package nodesd reads nodes files: what a person or a program writes of nodes and epmds elsewhere.
//
// A [Reader] reads all files NAME.nodes of its folders at its start and whenever they change. It
// tells the registry of the nodes in them, and another part of the epmds. A node that another
// source knows too is one neighbour, and its own epmd's word counts.
//
// Run blocks until its context ends. It has one goroutine more, which reads from inotify(7). Files
// are read between other things, so nothing else waits for them.
package nodesd

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/named"
	"github.com/goerlang/eclus/registry"
)

const (
	settle    = 100 * time.Millisecond // without a change, before files are read
	settleMax = time.Second            // after the first change, however many follow
	readEvery = 30 * time.Second       // where changes can't be watched
)

// Folder is one in which nodes files are.
type Folder struct {
	Path string

	// Written says that programs may write there, so that its word counts for less than that of
	// this host's owner.
	Written bool
}

// Options are what a Reader needs.
type Options struct {
	Registry *registry.Registry
	Folders  []Folder
	// Whos is told whose epmds are named in a file, whenever that has changed. It must not block.
	Whos func(path string, written bool, whos []named.Who)
	Log  *slog.Logger
}

// Reader reads nodes files. Make it with New.
type Reader struct {
	Options
	source  *registry.Source
	pace    pace
	files   map[string]*file // by path
	rounds  int              // in which files were read
	byPlace map[place][]*line
	others  map[string][]*registry.Node // see Reader.known; nil: to be found anew
	failed  map[string]string
	full    map[string]bool // what it was said there is too much of
}

// New returns a Reader that reads nothing before Run.
func New(o Options) *Reader {
	return &Reader{
		Options: o, source: o.Registry.NewSource(registry.Listed), pace: newPace(),
		files: make(map[string]*file), byPlace: make(map[place][]*line),
		failed: make(map[string]string), full: make(map[string]bool),
	}
}

// Run reads files until ctx ends, then takes back what they say of nodes. It returns nil, and is
// called once.
func (r *Reader) Run(ctx context.Context) error {
	defer r.source.Close()
	w, err := newWatch()
	if err != nil {
		r.Log.Warn("changes of nodes files are noticed late", "err", err)
	}
	defer w.close()
	changes := r.Registry.SubscribeNeighbours()
	defer changes.Close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var since time.Time // of the first change; zero: there is none
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.changed():
			if since.IsZero() {
				since = time.Now()
			}
			timer.Reset(min(settle, time.Until(since.Add(settleMax))))
		case <-timer.C:
			since = time.Time{}
			r.readAll(ctx, w)
			if w == nil {
				timer.Reset(readEvery)
			}
		case <-changes.Ready():
			r.take(ctx, changes.Take())
		}
	}
}

// readAll reads all files, and tells the registry what has changed. A node that moved to another
// file is entered from there first, then taken back here.
func (r *Reader) readAll(ctx context.Context, w *watch) {
	var folders []string
	for _, f := range r.Folders {
		w.follow(f.Path)
		folders = append(folders, f.Path)
	}
	paths, err := list(folders)
	r.report(strings.Join(folders, ", "), err)
	r.tooMany(len(paths) > maxFiles, "too many nodes files: some are not read", maxFiles)
	paths = paths[:min(len(paths), maxFiles)]
	r.rounds++
	r.others = nil
	r.pace.begin()
	left, dropped := maxLines, 0
	for _, path := range paths {
		if f := r.readFile(ctx, path, left); f != nil {
			left -= f.count
			dropped += f.dropped
		}
	}
	r.tooMany(dropped > 0, "too many lines in nodes files: some don't count", maxLines)
	for path, f := range r.files {
		if !slices.Contains(paths, path) {
			delete(r.files, path)
			delete(r.failed, path)
			r.Whos(path, f.written, nil)
			f.count = 0
		}
		r.dropLines(ctx, f)
	}
}

// readFile reads a file, of which that many lines count at most. One that can't be read, although
// it is there, stays as it was. readFile returns nil if nothing is known of it.
func (r *Reader) readFile(ctx context.Context, path string, most int) *file {
	f := r.files[path]
	text, err := read(path)
	r.report(path, err)
	if err != nil {
		if f != nil {
			f.keep(r.rounds)
		}
		return f
	}
	if f == nil {
		f = &file{path: path, written: r.isWritten(path), lines: make(map[string]*line)}
		r.files[path] = f
	}
	was := f.bad
	whos := r.readLines(ctx, f, text, most)
	for _, b := range f.bad {
		if !slices.ContainsFunc(was, func(w badLine) bool { return w.text == b.text }) {
			r.Log.Warn("bad line in a nodes file", "file", path, "line", b.number, "err", b.err)
		}
	}
	r.Whos(path, f.written, whos)
	return f
}

// report logs an error once, until it is another.
func (r *Reader) report(what string, err error) {
	if err == nil {
		delete(r.failed, what)
		return
	}
	if r.failed[what] != err.Error() {
		r.failed[what] = err.Error()
		r.Log.Warn("nodes file not read", "file", what, "err", err)
	}
}

// tooMany logs that a limit is reached, once until it no longer is.
func (r *Reader) tooMany(is bool, what string, limit int) {
	if is && !r.full[what] {
		r.Log.Warn(what, "limit", limit)
	}
	r.full[what] = is
}

func (r *Reader) isWritten(path string) bool {
	return slices.ContainsFunc(r.Folders, func(f Folder) bool { return f.Written && f.Path == filepath.Dir(path) })
}

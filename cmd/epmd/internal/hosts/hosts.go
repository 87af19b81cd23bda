// Package hosts keeps files that name the hosts that have nodes and can be reached. One is for
// net_adm:world/0 (.hosts.erlang, see net_adm(3erl)), the other for lookups of names (hosts(5)).
//
// A Keeper reads and writes the file and its folder, and watches both by inotify(7). Run blocks
// until its context ends. It does the work in its own goroutine. One more reads what inotify
// tells.
package hosts

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/openat"
	"github.com/goerlang/eclus/registry"
)

// When the hosts file is written.
const (
	hostsUnsure = 500 * time.Millisecond // after a node was first seen that has not told its name
	hostsSettle = 300 * time.Millisecond // after the first of several changes
	hostsAgain  = time.Second            // after somebody else has changed it
	hostsRetry  = 10 * time.Second       // after an attempt that failed
	hostsGrace  = 5 * time.Second        // after the start, if a killed epmd has left hosts
)

// Keeper keeps a hosts file. It names the hosts that have nodes and whose epmd answered last
// time. world/0 waits for up to a minute for each host that is not there, and so does who connects
// to an address. The file names no host when epmd has ended: nobody would take out those that go
// later.
type Keeper struct {
	options Options
	file    hostsFile
	watch   *fileWatch // of the file; nil: none

	nodes      map[uint64]*registry.Node // can be reached, by their ID
	young      map[uint64]*registry.Node // can be reached, and may prove to be others' nodes
	complained string                    // the last error, which is not logged twice
	foreign    map[string]bool           // domains of hosts that were left out
	full       bool                      // lines were left out last time
}

// Options are what a Keeper needs.
type Options struct {
	Registry *registry.Registry
	Format   *Format
	Path     string        // of the file; it need not be there yet
	Port     uint16        // of this epmd: nodes ask the epmds of all hosts at the same one
	HostName func() string // returns the first label of this host's name
	Log      *slog.Logger
}

// New returns a Keeper. If others' changes of the file can't be noticed, New says so in the
// log. The file is then looked at only when hosts come or go.
func New(o Options) *Keeper {
	watch, err := newFileWatch()
	if err != nil {
		o.Log.Warn("changes of the hosts file by others are noticed late", "err", err)
	}
	return newKeeper(o, watch)
}

// newKeeper returns a Keeper. watch tells it when somebody else changes the file; nil: nobody
// does.
func newKeeper(o Options, watch *fileWatch) *Keeper {
	return &Keeper{
		options: o,
		file:    hostsFile{path: o.Path, format: o.Format},
		watch:   watch,
		nodes:   make(map[uint64]*registry.Node),
		young:   make(map[uint64]*registry.Node),
		foreign: make(map[string]bool),
	}
}

// Run returns nil when ctx has ended. The file names no host then. Run closes the watch and is
// called once.
func (k *Keeper) Run(ctx context.Context) error {
	defer k.watch.close()
	defer k.file.close()
	defer k.write(nil)
	changes := k.options.Registry.Subscribe()
	defer changes.Close()
	k.take(changes.Take())
	timer := time.NewTimer(k.firstPause())
	defer timer.Stop()
	waiting := true // for the timer, to write
	writeAfter := func(pause time.Duration) {
		if !waiting {
			timer.Reset(pause)
			waiting = true
		}
	}
	ripe := time.NewTimer(hostsUnsure)
	defer ripe.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			waiting = false
			if !k.write(k.lines()) {
				timer.Reset(hostsRetry)
			}
		case <-ripe.C:
			if k.mature() {
				writeAfter(0)
			}
			if len(k.young) > 0 {
				ripe.Reset(hostsUnsure)
			}
		case <-changes.Ready():
			wasYoung := len(k.young) > 0
			if k.take(changes.Take()) {
				writeAfter(hostsSettle)
			}
			if len(k.young) > 0 && !wasYoung {
				ripe.Reset(hostsUnsure)
			}
		case <-k.watch.changed():
			writeAfter(hostsAgain)
		}
	}
}

// firstPause returns how long after the start the file is first written. The hosts that it
// names by then are likely to be found anew.
func (k *Keeper) firstPause() time.Duration {
	if left, err := k.file.listed(); err == nil && len(left) > 0 {
		return hostsGrace
	}
	return 0
}

// take notes what has happened in the registry. It reports whether that counts.
func (k *Keeper) take(b registry.Batch) bool {
	counts := b.Anew
	if b.Anew {
		clear(k.nodes)
		clear(k.young)
	}
	for _, n := range b.Nodes {
		k.changed(registry.Event{Kind: registry.Up, Node: n})
	}
	for _, e := range b.Events {
		counts = k.changed(e) || counts
	}
	return counts
}

// changed notes what has become of a node. It reports whether that counts.
func (k *Keeper) changed(e registry.Event) bool {
	n, was := e.Node, k.nodes[e.Node.ID]
	wanted := n.Origin != registry.Local && !(k.file.format.asks && n.HasNoEPMD())
	there := n.Reach == registry.Reachable && n.EPMDPort == k.options.Port || n.HasNoEPMD()
	counts := e.Kind != registry.Down && wanted && there
	if counts && n.Origin == registry.LAN && !isHostOfLAN(n.Host) {
		k.sayForeign(n.Host)
	}
	delete(k.young, n.ID)
	switch {
	case !counts:
		delete(k.nodes, n.ID)
	case was == nil && !n.Sure && time.Since(n.Since) < hostsUnsure:
		k.young[n.ID] = n
	default:
		k.nodes[n.ID] = n
	}
	return k.nodes[n.ID] != was
}

// mature has nodes count that are old enough though they have not told their names. It reports
// whether there are any.
func (k *Keeper) mature() (any bool) {
	for id, n := range k.young {
		if time.Since(n.Since) >= hostsUnsure {
			delete(k.young, id)
			k.nodes[id] = n
			any = true
		}
	}
	return any
}

// maxForeign is of how many domains the log says that their hosts are left out.
const maxForeign = 16

// sayForeign says, once of each domain, that its hosts are left out.
func (k *Keeper) sayForeign(host string) {
	_, domain, _ := strings.Cut(host, ".")
	if k.foreign[domain] || len(k.foreign) == maxForeign {
		return
	}
	k.foreign[domain] = true
	k.options.Log.Warn("host left out of the hosts file: its name is none of the local network, which are those in .local (domain-name= of Avahi)",
		"host", host)
}

// lines returns what is to stand in the file. It logs it when that gets too much for it.
func (k *Keeper) lines() []string {
	here, host := k.options.HostName(), k.options.Registry.Host()
	own := func(name string) bool {
		return strings.EqualFold(name, here) || strings.EqualFold(name, host) || strings.EqualFold(name, registry.HostLabel(host))
	}
	lines := k.file.format.lines(slices.Collect(maps.Values(k.nodes)), own)
	size := 0
	for i, line := range lines {
		if size += len(line) + len("\n"); size > maxLines {
			if !k.full {
				k.options.Log.Warn("hosts left out of the hosts file: it has no place for more", "path", k.file.path, "lines", len(lines)-i)
			}
			k.full = true
			return lines[:i]
		}
	}
	k.full = false
	return lines
}

// write reports whether the file could be written, or was right already.
func (k *Keeper) write(lines []string) bool {
	err := k.file.write(lines)
	places, open := k.file.watched()
	k.watch.follow(places, open)
	openat.CloseAll(places)
	if err == nil {
		k.complained = ""
		return true
	}
	if text := err.Error(); text != k.complained {
		k.options.Log.Warn("hosts file not kept", "err", err)
		k.complained = text
	}
	return false
}

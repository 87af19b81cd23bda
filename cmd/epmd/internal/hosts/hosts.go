// Package hosts keeps a hosts file for net_adm:world/0 (.hosts.erlang, see net_adm(3erl)). The
// file names the hosts of the LAN that have nodes and can be reached.
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

// Keeper keeps a hosts file for net_adm:world/0. It names the hosts of the LAN that have nodes
// and whose epmd answered last time. world/0 waits for up to a minute for each host that is not
// there. The file names no host when epmd has ended: nobody would take out those that go later.
type Keeper struct {
	reg   *registry.Registry
	file  hostsFile
	watch *fileWatch // of the file; nil: none
	port  uint16     // of this epmd: nodes ask the epmds of all hosts at the same one
	log   *slog.Logger

	nodes      map[uint64]string         // hosts of nodes that can be reached, by the nodes' ID
	young      map[uint64]*registry.Node // can be reached, and may prove to be others' nodes
	complained string                    // the last error, which is not logged twice
	foreign    map[string]bool           // domains of hosts that were left out
}

// Options are what a Keeper needs.
type Options struct {
	Registry *registry.Registry
	Path     string // of the file; it need not be there yet
	Port     uint16 // of this epmd: nodes ask the epmds of all hosts at the same one
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
		reg:     o.Registry,
		file:    hostsFile{path: o.Path},
		watch:   watch,
		port:    o.Port,
		log:     o.Log,
		nodes:   make(map[uint64]string),
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
	changes := k.reg.Subscribe()
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
			if !k.write(k.names()) {
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
	counts := e.Kind != registry.Down && n.Origin == registry.LAN && n.Reach == registry.Reachable && n.EPMDPort == k.port
	if counts && !isHostOfLAN(n.Host) {
		k.sayForeign(n.Host)
		counts = false
	}
	delete(k.young, n.ID)
	switch {
	case !counts:
		delete(k.nodes, n.ID)
	case was == "" && !n.Sure && time.Since(n.Since) < hostsUnsure:
		k.young[n.ID] = n
	default:
		k.nodes[n.ID] = n.Host
	}
	return k.nodes[n.ID] != was
}

// mature has nodes count that are old enough though they have not told their names. It reports
// whether there are any.
func (k *Keeper) mature() (any bool) {
	for id, n := range k.young {
		if time.Since(n.Since) >= hostsUnsure {
			delete(k.young, id)
			k.nodes[id] = n.Host
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
	k.log.Warn("host left out of the hosts file: its name is none of the local network, which are those in .local (domain-name= of Avahi)",
		"host", host)
}

// names returns the hosts that the file is to name.
func (k *Keeper) names() []string {
	return slices.Compact(slices.Sorted(maps.Values(k.nodes)))
}

// write tells whether the file could be written, or was right already.
func (k *Keeper) write(names []string) bool {
	err := k.file.write(names)
	k.watch.follow(k.file.watched())
	if err == nil {
		k.complained = ""
		return true
	}
	if text := err.Error(); text != k.complained {
		k.log.Warn("hosts file not kept", "err", err)
		k.complained = text
	}
	return false
}

// isHostOfLAN reports whether a host can have that name on a LAN, and nodes be told so. It has
// one or more labels of letters, digits and hyphens before "local" (RFC 1123 section 2.1, RFC
// 6762 section 3). Another name would be looked up elsewhere than where it was announced.
func isHostOfLAN(s string) bool {
	const maxLen, maxLabel = 253, 63
	name, local := strings.CutSuffix(s, ".local")
	if !local || len(s) > maxLen {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel || strings.Trim(label, "-") != label || strings.ContainsFunc(label, isNoLDH) {
			return false
		}
	}
	return true
}

func isNoLDH(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-')
}

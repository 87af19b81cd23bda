package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"eclus/registry"
)

// When the hosts file is written.
const (
	hostsSettle = 300 * time.Millisecond // after the first of several changes
	hostsAgain  = time.Second            // after somebody else has changed it
	hostsRetry  = 10 * time.Second       // after an attempt that failed
	hostsGrace  = 5 * time.Second        // after the start, if an epmd that was killed has left hosts in it
)

// hosts keeps a hosts file for net_adm:world/0. It names the hosts of the LAN that have nodes and whose epmd has
// answered when it was last asked: world/0 waits for up to a minute for each host that is not there. It names none
// when epmd has ended, as nobody would take out those that go later.
type hosts struct {
	reg   *registry.Registry
	file  hostsFile
	watch *fileWatch // of the file; nil: none
	port  uint16     // of this epmd: nodes ask the epmds of all hosts at the same one
	log   *slog.Logger

	nodes      map[uint64]string // the hosts of the nodes that can be reached, by the nodes' ID
	complained string            // the last error, which is not logged twice
	foreign    map[string]bool   // domains of hosts that were left out
}

// newHosts returns what keeps the file at path. It is told by watch when somebody else changes the file; without one it
// looks at the file only when hosts come or go.
func newHosts(reg *registry.Registry, path string, port uint16, watch *fileWatch, log *slog.Logger) *hosts {
	return &hosts{reg: reg, file: hostsFile{path: path}, watch: watch, port: port, log: log, foreign: make(map[string]bool)}
}

// run returns when ctx has ended and the file names no host any more. It closes the watch and is called once.
func (h *hosts) run(ctx context.Context) {
	defer h.watch.close()
	defer h.file.close()
	defer h.write(nil)
	changes := h.begin()
	defer func() { changes.Close() }()
	timer := time.NewTimer(h.firstPause())
	defer timer.Stop()
	waiting := true // for the timer, to write
	writeAfter := func(pause time.Duration) {
		if !waiting {
			timer.Reset(pause)
			waiting = true
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			waiting = false
			if !h.write(h.names()) {
				timer.Reset(hostsRetry)
			}
		case <-changes.Ready():
			events, err := changes.Take()
			if errors.Is(err, registry.ErrBehind) {
				changes = h.begin()
			}
			changed := err != nil
			for _, e := range events {
				changed = h.changed(e) || changed
			}
			if changed {
				writeAfter(hostsSettle)
			}
		case <-h.watch.changed():
			writeAfter(hostsAgain)
		}
	}
}

// firstPause returns how long after the start the file is first written. The hosts that it names then are likely to be
// found anew.
func (h *hosts) firstPause() time.Duration {
	if left, err := h.file.listed(); err == nil && len(left) > 0 {
		return hostsGrace
	}
	return 0
}

// begin forgets all and looks at the registry anew.
func (h *hosts) begin() *registry.Subscription {
	nodes, changes := h.reg.Subscribe()
	h.nodes = make(map[uint64]string)
	for _, n := range nodes {
		h.changed(registry.Event{Kind: registry.Up, Node: n})
	}
	return changes
}

// changed takes note of what has become of a node, and tells whether that counts.
func (h *hosts) changed(e registry.Event) bool {
	n, was := e.Node, h.nodes[e.Node.ID]
	counts := e.Kind != registry.Down && n.Origin == registry.LAN && n.Reach == registry.Reachable && n.EPMDPort == h.port
	if counts && !isHostOfLAN(n.Host) {
		h.sayForeign(n.Host)
		counts = false
	}
	if counts {
		h.nodes[n.ID] = n.Host
	} else {
		delete(h.nodes, n.ID)
	}
	return h.nodes[n.ID] != was
}

// maxForeign is of how many domains it is said that hosts in them are left out.
const maxForeign = 16

// sayForeign says, once of each domain, that its hosts are left out.
func (h *hosts) sayForeign(host string) {
	_, domain, _ := strings.Cut(host, ".")
	if h.foreign[domain] || len(h.foreign) == maxForeign {
		return
	}
	h.foreign[domain] = true
	h.log.Warn("host left out of the hosts file: its name is none of the local network, which are those in .local (domain-name= of Avahi)",
		"host", host)
}

// names returns the hosts that the file is to name.
func (h *hosts) names() []string {
	return slices.Compact(slices.Sorted(maps.Values(h.nodes)))
}

// write tells whether the file could be written, or was right already.
func (h *hosts) write(names []string) bool {
	err := h.file.write(names)
	h.watch.follow(h.file.watched())
	if err == nil {
		h.complained = ""
		return true
	}
	if text := err.Error(); text != h.complained {
		h.log.Warn("hosts file not kept", "err", err)
		h.complained = text
	}
	return false
}

// isHostOfLAN tells whether a host can have that name on a LAN and be told so to nodes: it has one or more labels of
// letters, digits and hyphens before "local" (RFC 1123 section 2.1, RFC 6762 section 3). Another would be looked up
// elsewhere than where it was announced.
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

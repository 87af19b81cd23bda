//go:build containers

package test

import (
	"net/netip"
	"regexp"
	"slices"
	"testing"

	"github.com/goerlang/eclus/test/wait"
)

// ipv6Host makes a host that runs containers, and a network for them that has IPv6 alone.
func ipv6Host(t *testing.T) *host {
	t.Helper()
	h := containerHost(t)
	h.makeImage(t)
	h.podman(t, "network", "create", "--subnet", "fd00:10::/64", "web")
	return h
}

// TestContainerIPv6 has containers and their host know each other over IPv6 alone.
func TestContainerIPv6(t *testing.T) {
	h := ipv6Host(t)
	h.start(t)
	seen := h.watch(t)
	a, b := h.epmdIn(t, "w1", web...), h.epmdIn(t, "w2", web...)
	a.register(t, "node", 4000)
	b.register(t, "node", 4000)
	h.register(t, "h", 4000)
	allUntil(t, []*watcher{seen, b.watcher}, known("node@w1.local"))
	allUntil(t, []*watcher{seen, a.watcher}, known("node@w2.local"))
	allUntil(t, []*watcher{a.watcher, b.watcher}, known("h@hosta.local"))
	for _, w := range []*watcher{seen, b.watcher} {
		if n := w.node(t, "node@w1.local"); slices.ContainsFunc(n.Addresses, netip.Addr.Is4) {
			t.Errorf("%s has node@w1.local at %v", w.host, n.Addresses)
		}
	}
}

// TestContainerNetworks has a host with two networks, and a container that is on both.
func TestContainerNetworks(t *testing.T) {
	h := containerHost(t)
	h.makeImage(t)
	h.podman(t, "network", "create", "web")
	h.podman(t, "network", "create", "db")
	h.start(t)
	seen := h.watch(t)
	a := h.epmdIn(t, "w1", "--network", "web:alias=web", "--env", "ECLUS_PEER=gateway,dns:web")
	c := h.epmdIn(t, "d1", "--network", "db:alias=db", "--env", "ECLUS_PEER=gateway,dns:db")
	both := h.epmdIn(t, "both", "--network", "web:alias=web", "--network", "db:alias=db", "--env", "ECLUS_PEER=gateway,dns:web,dns:db")
	for _, r := range []*replica{a, c, both} {
		r.register(t, "node", 4000)
	}
	h.register(t, "h", 4000)
	seen.until(t, known("node@w1.local"), known("node@d1.local"), known("node@both.local"))
	both.until(t, known("node@w1.local"), known("node@d1.local"), known("h@hosta.local"))
	a.until(t, known("node@both.local"), known("h@hosta.local"))
	c.until(t, known("node@both.local"), known("h@hosta.local"))
	for _, pair := range []struct{ of, other *replica }{{a, c}, {c, a}} {
		if other := unlisted("node@" + pair.other.name + ".local"); !pair.of.holds(other) {
			t.Errorf("%s knows %s, which is on another network", pair.of.name, pair.other.name)
		}
	}
}

// holds reports whether a condition holds now.
func (w *watcher) holds(c condition) bool {
	_, _, missing, _ := w.look([]condition{c})
	return missing == ""
}

// TestContainerAllowLocal has a host, and then a container, answer nobody else. The other side
// says so. What one side gives, the other has.
func TestContainerAllowLocal(t *testing.T) {
	h := containerHost(t)
	h.makeImage(t)
	h.podman(t, "network", "create", "web")
	h.start(t, "-allow", "local")
	h.register(t, "h", 4000)
	a := h.epmdIn(t, "w1", web...)
	a.register(t, "node", 4000)
	h.awaitNoStream(t, a)
	if !a.holds(unlisted("h@hosta.local")) || len(h.nodes(t)) != 1 {
		t.Errorf("w1 has got %s; the host knows %v", a.history(), h.nodes(t))
	}
	h.stop(t)

	h.start(t)
	h.register(t, "again", 4001)
	a.until(t, known("again@hosta.local"))
	h.watch(t).until(t, known("node@w1.local"))
	b := h.epmdIn(t, "w2", append(slices.Clone(web), "--env", "ECLUS_ALLOW=local")...)
	b.register(t, "node", 4000)
	b.until(t, known("again@hosta.local"), known("node@w1.local"))
	h.awaitNoStream(t, a)
	if nodes := h.nodes(t); nodes["node@w2.local"].Node != "" {
		t.Errorf("the host knows %v", nodes)
	}
}

// awaitNoStream waits until the epmd of a container says that another gives no stream.
func (h *host) awaitNoStream(t *testing.T, r *replica) {
	t.Helper()
	wait.True(t, r.name+" says who gives no stream", func() bool {
		// An exit status of 2 says that there is no node.
		said, _ := h.Output(wait.Soon(t), "podman", "exec", r.name, "/usr/bin/epmd", "-nodes")
		return noStream.MatchString(said)
	})
}

// noStream matches what -nodes says of an epmd that refuses.
var noStream = regexp.MustCompile(`no stream from`)

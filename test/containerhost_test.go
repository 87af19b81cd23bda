//go:build containers

package test

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// TestContainerHostNetwork runs epmd in a container on its host's network, with the host's bus, as
// in the documentation. It announces nodes of the host by Avahi, and lists those of the LAN. As a
// user whom the host does not know, it says what is missing, and keeps the nodes.
func TestContainerHostNetwork(t *testing.T) {
	n := lan.ForTest(t, "podman", "runc", "make", "iptables")
	hosts := addHosts(t, n, lan.HostOptions{}, "hosta", "hostb")
	a, b := hosts[0], hosts[1]
	a.prepareContainers(t)
	a.makeImage(t)
	b.start(t)
	seen := b.watch(t)
	b.register(t, "b", 4000)
	var shared string
	for _, line := range documented(t, "podman") {
		if regexp.MustCompile(`--network host`).MatchString(line) {
			shared = line
		}
	}
	id, err := a.Output(wait.Soon(t), "sh", "-c", a.inCgroup(shared))
	wait.Must(t, err)
	wait.Until(t, "epmd answers", func() error { return a.inside(func() error { _, err := a.client().Names(wait.Soon(t)); return err }) })
	a.register(t, "a", 4000)
	seen.until(t, present("a@hosta.local"))
	a.watch(t).until(t, present("b@hostb.local"))
	b.browseUntil(t, 2, "a@hosta")
	a.podman(t, "rm", "--force", "--time", "0", id[:12])

	a.launch(t, "stranger", "--network", "host", "--no-healthcheck", "--volume", "/run/dbus/system_bus_socket:/run/dbus/system_bus_socket", image)
	wait.Until(t, "epmd answers", func() error { return a.inside(func() error { _, err := a.client().Names(wait.Soon(t)); return err }) })
	a.register(t, "stays", 4001)
	a.awaitTable(t, `LAN discovery off: system bus`)
	t.Logf("as user 65532: %s", a.ask(t, "-nodes"))
}

// TestContainerUnannounced has a host list the node of a container, at the container's address. It
// announces its own nodes to the LAN and not that one.
func TestContainerUnannounced(t *testing.T) {
	n := lan.ForTest(t, "podman", "runc", "make", "iptables", "avahi-browse")
	hosts := addHosts(t, n, lan.HostOptions{}, "hosta", "hostb")
	a, b := hosts[0], hosts[1]
	a.prepareContainers(t)
	a.makeImage(t)
	a.podman(t, "network", "create", "web")
	a.start(t)
	b.start(t)
	seen := a.watch(t)
	r := a.epmdIn(t, "w1", web...)
	r.register(t, "node", 4000)
	seen.until(t, known("node@w1.local"))
	bridge := netip.MustParsePrefix("10.89.0.0/24")
	if at := seen.node(t, "node@w1.local").Addresses; len(at) == 0 || !bridge.Contains(at[0]) {
		t.Errorf("the container's node is at %v; want an address of %v", at, bridge)
	}
	a.register(t, "own", 4001)
	b.watch(t).until(t, present("own@hosta.local"))
	for _, i := range b.browseUntil(t, 2, "own@hosta") {
		if strings.HasPrefix(i.label, "node@") {
			t.Errorf("the LAN has %+v", i)
		}
	}
	if nodes := b.nodes(t); len(nodes) != 1 {
		t.Errorf("another host lists %v", nodes)
	}
}

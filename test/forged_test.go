package test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// TestLANForged has a host of the LAN announce, again and again and from two addresses, what is not
// its own: another host's node at a port of its own, nodes that this host does not have, and hosts
// that nobody is. The genuine node stays as it is, and a new one is listed within 2 s.
func TestLANForged(t *testing.T) {
	t.Parallel()
	n := lan.ForTest(t, tools...)
	hosts := addHosts(t, n, lan.HostOptions{}, "hosta", "hostb")
	a, b := hosts[0], hosts[1]
	a.start(t)
	b.start(t)
	seen := a.watch(t)
	b.register(t, "a", 4711)
	genuine := func(n registry.Node) bool {
		return n.Host == "hostb.local" && n.Port == 4711 && n.Reach == registry.Reachable && n.Via == registry.ViaEPMD && n.Addresses[0] == b.Address()
	}
	seen.until(t, present("a@hostb.local", genuine))
	evil := addHosts(t, n, lan.HostOptions{NoBus: true}, "evil")[0]
	const second = "198.51.100.77"
	wait.Must(t, evil.AddAddress(wait.Soon(t), "eth0", netip.MustParsePrefix(second+"/24")))
	forge := func() {
		for _, from := range []netip.Addr{evil.Address(), netip.MustParseAddr(second)} {
			wait.Must(t, evil.inside(func() error { return forge(from) }))
		}
	}
	forge()
	seen.until(t, present("own0@evil0.local"))
	for round := range 3 {
		forge()
		name := fmt.Sprint("new", round)
		began := time.Now()
		b.register(t, name, uint16(4712+round))
		at := seen.until(t, present(name+"@hostb.local", onPort(uint16(4712+round))))
		took := at.Sub(began)
		t.Logf("a new node is listed after %v", took)
		if took > raced(2*time.Second) {
			t.Errorf("a new node is listed after %v", took)
		}
	}
	seen.until(t, present("a@hostb.local", genuine))
	for line := range strings.Lines(seen.history()) {
		switch {
		case strings.Contains(line, "host=hostb.local ") && strings.Contains(line, "name=a ") && !strings.Contains(line, "port=4711 "):
			t.Errorf("A was told %q of the genuine node", line)
		case strings.Contains(line, "host=evil") && strings.Contains(line, "node=a@hostb.local ") && strings.HasPrefix(line, "+") && !strings.Contains(line, "sure=no "):
			t.Errorf("A was told %q", line)
		}
	}
}

// forge announces very much from an address. It does not take the name of the other host. Whoever
// does that on the same link is the host for everybody, as SECURITY.md says.
func forge(from netip.Addr) error {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, mdnsPort)))
	if err != nil {
		return err
	}
	defer conn.Close()
	group := &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: mdnsPort}
	for i := range 100 {
		for _, packet := range [][]byte{
			serviceRecords(fmt.Sprint("innocent", i), "hostb", 6666, "node=a@hostb.local"),
			serviceRecords(fmt.Sprintf("no%d@hostb", i), "hostb", 6666, fmt.Sprintf("node=no%d@hostb.local", i)),
			announcement(fmt.Sprintf("own%d", i), fmt.Sprintf("evil%d", i), 6666, fmt.Sprintf("node=own%d@evil%d.local", i, i), from),
			announcement(fmt.Sprintf("a%d", i), fmt.Sprintf("evil%d", i), 6666, "node=a@hostb.local", from),
		} {
			if _, err := conn.WriteToUDP(packet, group); err != nil {
				return err
			}
		}
	}
	return nil
}

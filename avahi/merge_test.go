package avahi

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/registry"
)

// lanNode returns a node a@hosta at that port and address.
func lanNode(name string, port uint16, addr string) registry.Node {
	return registry.Node{Node: name + "@hosta.local", Name: name, Host: "hosta.local", Port: port,
		Addresses: []netip.Addr{netip.MustParseAddr(addr)}, Origin: registry.LAN}
}

func in(iface, proto int32, label string) sightingKey {
	return sightingKey{place: place{iface, proto, label}}
}

// show writes changes as lines to compare.
func show(changes []change) string {
	var lines []string
	for _, c := range changes {
		if c.gone {
			lines = append(lines, "- "+c.node.Node)
		} else {
			lines = append(lines, fmt.Sprintf("+ %s %d %v %v", c.node.Node, c.node.Port, c.node.Addresses, c.node.Sure))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestMerger(t *testing.T) {
	m := newMerger()
	v4, v6, ll := in(2, 0, "a@hosta"), in(2, 1, "a@hosta"), in(3, 1, "a@hosta")
	sure := lanNode("a", 2, "192.0.2.1")
	sure.Sure = true
	other := sure
	other.Node = "a@full"
	second := lanNode("a", 7, "192.0.2.1") // of another epmd of the host
	second.EPMDPort = 5555
	steps := []struct {
		name string
		do   func() []change
		want string
	}{
		{"seen over link-local IPv6", func() []change { return m.see(ll, lanNode("a", 1, "fe80::1%eth1")) }, "+ a@hosta.local 1 [fe80::1%eth1] false"},
		{"and IPv6", func() []change { return m.see(v6, lanNode("a", 1, "2001:db8::1")) }, "+ a@hosta.local 1 [2001:db8::1 fe80::1%eth1] false"},
		{"and IPv4", func() []change { return m.see(v4, lanNode("a", 1, "192.0.2.1")) }, "+ a@hosta.local 1 [192.0.2.1 2001:db8::1 fe80::1%eth1] false"},
		{"once more", func() []change { return m.see(v4, lanNode("a", 1, "192.0.2.1")) }, ""},
		{"port changes", func() []change { return m.see(v4, sure) }, "+ a@hosta.local 2 [192.0.2.1 2001:db8::1 fe80::1%eth1] true"},
		{"a guess doesn't outweigh", func() []change { return m.see(in(2, 0, "a"), lanNode("a", 9, "192.0.2.1")) }, "+ a@hosta.local 2 [192.0.2.1 2001:db8::1 fe80::1%eth1] true"},
		{"nor does its end matter", func() []change { return m.lose(in(2, 0, "a")) }, "+ a@hosta.local 2 [192.0.2.1 2001:db8::1 fe80::1%eth1] true"},
		{"it isn't lost twice", func() []change { return m.lose(in(2, 0, "a")) }, ""},
		{"it tells another full name", func() []change { return m.see(v4, other) }, "+ a@full 2 [192.0.2.1 2001:db8::1 fe80::1%eth1] true"},
		{"another epmd of the host has one too", func() []change { return m.see(in(2, 0, "a #2"), second) }, "+ a@hosta.local 7 [192.0.2.1] false"},
		{"which goes", func() []change { return m.lose(in(2, 0, "a #2")) }, "- a@hosta.local"},
		{"lost in one place", func() []change { return m.lose(ll) }, "+ a@full 2 [192.0.2.1 2001:db8::1] true"},
		{"lost where it was sure", func() []change { return m.lose(v4) }, "+ a@hosta.local 1 [2001:db8::1] false"},
		{"lost in all", func() []change { return m.lose(v6) }, "- a@hosta.local"},
		{"old, not seen again, and expired", func() []change {
			m.see(v6, lanNode("a", 1, "2001:db8::1"))
			m.see(v4, lanNode("b", 1, "192.0.2.1"))
			m.renew()
			m.see(v6, lanNode("a", 1, "2001:db8::1"))
			return m.expire()
		}, "- b@hosta.local"},
		{"nothing expires twice", func() []change { return m.expire() }, ""},
	}
	for _, s := range steps {
		if got := show(s.do()); got != s.want {
			t.Errorf("%s: got\n%s\nwant\n%s", s.name, got, s.want)
		}
	}
	m.lose(v6)
	if len(m.nodes)+len(m.sightings) > 0 {
		t.Errorf("left are %v and %v", m.nodes, m.sightings)
	}
}

// TestMergerLinks has a neighbour at addresses on the links of this host and elsewhere, one of them this host's own.
func TestMergerLinks(t *testing.T) {
	m := newMerger()
	for i, addr := range []string{"203.0.113.1", "2001:db8:1::1", "172.17.0.1", "2001:db8::1", "192.0.2.1", "fe80::1%eth0"} {
		m.see(in(int32(i), 0, "a"), lanNode("a", 1, addr))
	}
	at := func(prefixes ...string) string {
		var list []netip.Prefix
		for _, p := range prefixes {
			list = append(list, netip.MustParsePrefix(p))
		}
		return show(m.relink(list))
	}
	for _, tt := range []struct {
		name, got, want string
	}{
		{"IPv4 and IPv6", at("192.0.2.9/24", "172.17.0.1/16", "2001:db8::9/64", "fe80::9/64"),
			"[192.0.2.1 2001:db8::1 fe80::1%eth0 172.17.0.1 203.0.113.1 2001:db8:1::1]"},
		{"the other link", at("203.0.113.9/24", "fe80::9/64"),
			"[203.0.113.1 fe80::1%eth0 172.17.0.1 192.0.2.1 2001:db8::1 2001:db8:1::1]"},
		{"none", at(), "[172.17.0.1 192.0.2.1 203.0.113.1 2001:db8::1 2001:db8:1::1 fe80::1%eth0]"},
	} {
		if want := "+ a@hosta.local 1 " + tt.want + " false"; tt.got != want {
			t.Errorf("%s: got %s, want %s", tt.name, tt.got, want)
		}
	}
	if changes := m.relink(nil); len(changes) > 0 {
		t.Errorf("as before: %s", show(changes))
	}
}

func TestMergerBound(t *testing.T) {
	m := newMerger()
	for i := range 1000 {
		m.see(in(int32(i), 0, "a"), lanNode("a", uint16(i+1), "192.0.2.1"))
	}
	if n := len(m.sightings); n != maxSightings {
		t.Errorf("%d sightings of one node are kept", n)
	}
}

func testNeighbours(host string) *neighbours {
	return newNeighbours(registry.New(host, 0), slog.New(slog.DiscardHandler))
}

func (k *neighbours) count() int {
	_, n := k.reg.Counts()
	return n
}

func TestNeighboursExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := testNeighbours("hostb.local")
		k.see(in(2, 0, "a"), lanNode("a", 1, "192.0.2.1"))
		k.see(in(2, 0, "b"), lanNode("b", 1, "192.0.2.1"))
		k.doubt(5 * time.Second)
		time.Sleep(4 * time.Second)
		k.doubt(3 * time.Second) // Avahi is back
		k.see(in(2, 0, "a"), lanNode("a", 1, "192.0.2.1"))
		time.Sleep(2 * time.Second)
		if k.count() != 2 {
			t.Errorf("%d neighbours while in doubt", k.count())
		}
		time.Sleep(2 * time.Second)
		if k.count() != 1 {
			t.Errorf("%d neighbours after the doubt", k.count())
		}
		time.Sleep(time.Hour)
		if k.count() != 1 {
			t.Errorf("%d neighbours long after", k.count())
		}
		k.close()
		if k.count() != 0 {
			t.Errorf("%d neighbours at the end", k.count())
		}
	})
}

// TestNeighboursRefused has more nodes of one host than the registry keeps; they get their turn as others go.
func TestNeighboursRefused(t *testing.T) {
	k := testNeighbours("hostb.local")
	const more = 100
	key := func(i int) sightingKey { return in(2, 0, fmt.Sprint(i)) }
	for i := range registry.MaxNeighboursPerHost + more {
		k.see(key(i), lanNode(fmt.Sprint("n", i), 1, "192.0.2.1"))
	}
	if k.count() != registry.MaxNeighboursPerHost || len(k.refused) != more {
		t.Errorf("%d neighbours, %d refused", k.count(), len(k.refused))
	}
	for i := range more {
		k.lose(key(i))
	}
	if k.count() != registry.MaxNeighboursPerHost || len(k.refused) != 0 {
		t.Errorf("%d neighbours, %d refused", k.count(), len(k.refused))
	}
}

func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle()
		for i := range 3 {
			if _, ok := th.may("a"); ok != (i == 0) {
				t.Errorf("may %d: %v", i, ok)
			}
		}
		if _, ok := th.may("b"); !ok {
			t.Error("b is held back for a")
		}
		time.Sleep(time.Minute)
		if withheld, ok := th.may("a"); withheld != 2 || !ok {
			t.Errorf("after a minute: %d, %v", withheld, ok)
		}
		for i := range 5000 {
			th.may(fmt.Sprint(i))
		}
		if len(th.things) > maxThrottled {
			t.Errorf("%d things are remembered", len(th.things))
		}
	})
}

package netif

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/wait"
)

const mac2 = "02:00:00:00:00:02"

// TestMACs has the kernel know some neighbours. Those without an answer, and those that have two
// MAC addresses, have none.
func TestMACs(t *testing.T) {
	inNetNS(t, func() error {
		for _, command := range []string{
			"link add eth0 type veth peer name port0", "link add eth1 type veth peer name port1", "link set eth0 up", "link set port0 up", "link set eth1 up",
			"addr add 198.51.100.1/24 dev eth0", "-6 addr add 2001:db8::1/64 dev eth0 nodad",
			"neigh add 198.51.100.2 lladdr 02:00:00:00:00:02 dev eth0 nud reachable",
			"neigh add 198.51.100.3 lladdr 02:00:00:00:00:02 dev eth0 nud stale",
			"neigh add 198.51.100.4 dev eth0 nud failed",
			"neigh add 2001:db8::2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent",
			"neigh add fe80::2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent",
			"neigh add fe80::3 lladdr 02:00:00:00:00:02 dev eth0 nud permanent", "neigh add fe80::3 lladdr 02:00:00:00:00:03 dev eth1 nud permanent",
		} {
			if err := ip(t.Context(), command); err != nil {
				return err
			}
		}
		m := NewMACs()
		if got := m.Now(netip.MustParseAddr("198.51.100.2"), false); got != "198.51.100.2" {
			t.Errorf("got %q for who is on no link", got)
		}
		for addr, want := range map[string]string{
			"198.51.100.2": mac2, "198.51.100.3": mac2, "::ffff:198.51.100.2": mac2,
			"2001:db8::2": mac2, "fe80::2%eth0": mac2,
			"198.51.100.4": "198.51.100.4", "198.51.100.5": "198.51.100.5", "fe80::3%eth0": "fe80::3", "127.0.0.1": "127.0.0.1",
		} {
			if got := m.Now(netip.MustParseAddr(addr), true); got != want {
				t.Errorf("%s: got %q, want %q", addr, got, want)
			}
		}
		return nil
	})
}

// TestMACsRun has Of learn of a neighbour without waiting for the kernel.
func TestMACsRun(t *testing.T) {
	inNetNS(t, func() error {
		m, addr := NewMACs(), netip.MustParseAddr("198.51.100.2")
		for _, command := range []string{
			"link add eth0 type veth peer name port0", "link set eth0 up", "neigh add 198.51.100.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent",
		} {
			if err := ip(t.Context(), command); err != nil {
				return err
			}
		}
		if got := m.Of(addr); got != addr.String() {
			t.Errorf("got %q before anything was read", got)
		}
		m.refresh(time.Now()) // in this network namespace
		if got := m.Of(addr); got != mac2 {
			t.Errorf("got %q", got)
		}
		return nil
	})
	m := NewMACs()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()
	m.Of(netip.MustParseAddr("198.51.100.2"))
	wait.True(t, "the table is read", func() bool { return !m.last.Load().read.IsZero() })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestMACsGather has many talk to somebody at once. The kernel is asked a few times for all.
func TestMACsGather(t *testing.T) {
	m := NewMACs()
	var mu sync.Mutex
	read := make(map[*macTable]bool)
	began := time.Now()
	var g sync.WaitGroup
	for i := range 500 {
		g.Go(func() {
			m.Now(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), true)
			mu.Lock()
			defer mu.Unlock()
			read[m.last.Load()] = true
		})
	}
	g.Wait()
	if most := 1 + int(time.Since(began)/macsGather); len(read) > most {
		t.Errorf("the kernel was asked %d times for 500; want %d at most", len(read), most)
	}
}

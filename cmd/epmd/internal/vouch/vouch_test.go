package vouch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/registry"
)

// names are those that a test's resolver has.
type names struct {
	mu    sync.Mutex
	addrs map[string]netip.Addr
	asked map[string]int
	now   int
	most  int
}

func (d *names) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	d.mu.Lock()
	d.asked[host]++
	d.now++
	d.most = max(d.most, d.now)
	addr := d.addrs[host]
	d.mu.Unlock()
	time.Sleep(time.Millisecond)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now--
	if !addr.IsValid() {
		return nil, errors.New("no such host")
	}
	return []netip.Addr{addr}, nil
}

// begin runs a Resolver in a bubble of synctest.
func begin(t *testing.T) (*registry.Registry, *names) {
	reg := registry.New("hosta.local", registry.OldNames)
	d := &names{addrs: make(map[string]netip.Addr), asked: make(map[string]int)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	r := New(Options{Registry: reg, Lookup: d.lookup, Log: slog.New(slog.DiscardHandler)})
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return reg, d
}

func node(full, host, addr string) registry.Node {
	return registry.Node{Node: full, Name: "b", Host: host, Port: 4711, Sure: true, Origin: registry.LAN,
		Addresses: []netip.Addr{netip.MustParseAddr(addr)}}
}

// TestResolve has nodes that are called by a host in DNS. Whose address it is, that node is sure.
func TestResolve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg, d := begin(t)
		source := reg.NewSource(registry.Announced)
		d.addrs["db.example.com"] = netip.MustParseAddr("192.0.2.2")
		want := func(when string, b, evil bool) {
			t.Helper()
			synctest.Wait()
			for _, n := range reg.Nodes() {
				if n.Sure != map[string]bool{"hostb.local": b, "evil.local": evil}[n.Host] {
					t.Errorf("%s: %s of %s is sure: %v", when, n.Node, n.Host, n.Sure)
				}
			}
		}
		_ = source.See("genuine", node("b@DB.example.com", "hostb.local", "192.0.2.2"))
		_ = source.See("forged", node("b@db.example.com", "evil.local", "192.0.2.66"))
		want("not asked yet", false, false)
		time.Sleep(time.Second)
		want("resolved", true, false)
		d.mu.Lock()
		d.addrs["db.example.com"] = netip.MustParseAddr("192.0.2.66")
		d.mu.Unlock()
		time.Sleep(askAgain)
		want("moved", false, true)
		source.Close()
		time.Sleep(time.Second)
		before := d.asked["db.example.com"]
		time.Sleep(time.Hour)
		if d.asked["db.example.com"] != before {
			t.Error("asked for nobody")
		}
		_ = source.See("forged", node("b@db.example.com", "evil.local", "192.0.2.66"))
		want("forgotten meanwhile", false, false)
	})
}

// TestBounded has a host announce nodes of very many hosts. Few are asked at a time and a minute.
// Another host does not wait for them.
func TestBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg, d := begin(t)
		source := reg.NewSource(registry.Announced)
		for i := range 500 {
			n := node(fmt.Sprintf("b@x%d.example", i), "evil.local", "192.0.2.66")
			n.Name = fmt.Sprint("b", i)
			n.Node = n.Name + n.Node[1:]
			_ = source.See(i, n)
		}
		d.mu.Lock()
		d.addrs["db.example.com"] = netip.MustParseAddr("192.0.2.2")
		d.mu.Unlock()
		time.Sleep(time.Second)
		_ = source.See("genuine", node("b@db.example.com", "hostb.local", "192.0.2.2"))
		_ = source.See("known by its name", node("b@hostc", "hostc.local", "192.0.2.3"))
		_ = source.See("mDNS", node("b@hostd.local", "hoste.local", "192.0.2.4"))
		time.Sleep(50 * time.Second)
		synctest.Wait()
		forged := 0
		for host, n := range d.asked {
			if host != "db.example.com" {
				forged += n
			}
		}
		if d.asked["db.example.com"] != 1 || forged > aMinute || d.most > atOnce {
			t.Errorf("db.example.com was asked %d times, others %d, %d at once", d.asked["db.example.com"], forged, d.most)
		}
		if d.asked["hostc"]+d.asked["hostd.local"] > 0 {
			t.Error("asked for what needs no resolver")
		}
	})
}

package reach

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/registry"
)

// network is what the local epmd tells of hosts with two nodes each. The node there answers for
// as long as it is up. The node gone never does.
func network(hosts int) []registry.Node {
	nodes := []registry.Node{{Node: "a@here", Name: "a", Reach: registry.Reachable}}
	for i := range hosts {
		for _, name := range []string{"there", "gone"} {
			host := fmt.Sprintf("host%d.local", i)
			origin := []registry.Origin{registry.LAN, registry.Peer}[i%2]
			nodes = append(nodes, registry.Node{Node: name + "@" + host, Name: name, Host: host, Origin: origin, Sure: true,
				Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}})
		}
	}
	return nodes
}

// reaches counts the nodes of an alive name by their reach.
func reaches(nodes []registry.Node, name string) map[registry.Reach]int {
	counts := make(map[registry.Reach]int)
	for _, n := range nodes {
		if n.Name == name {
			counts[n.Reach]++
		}
	}
	return counts
}

// TestCheckNeighbours asks hosts. Every third is dead, and every third refuses.
func TestCheckNeighbours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := network(90)
		var asked atomic.Int32
		begin := time.Now()
		checked := Check(t.Context(), nodes, func(ctx context.Context, addrs []netip.Addr, port uint16) (*Names, error) {
			asked.Add(1)
			if port != 4369 || len(addrs) != 1 {
				t.Errorf("asked at port %d of %v", port, addrs)
			}
			switch addrs[0].As4()[3] % 3 {
			case 0:
				<-ctx.Done()
				return nil, ctx.Err()
			case 1:
				return nil, errors.New("connection refused")
			}
			time.Sleep(checkTime / 2)
			return &Names{Ports: map[string]uint16{"there": 4711}}, nil
		}, everywhere)
		if took := time.Since(begin); took != checkTime {
			t.Errorf("took %v, want %v", took, checkTime)
		}
		if asked.Load() != 90 {
			t.Errorf("%d questions to 90 hosts", asked.Load())
		}
		want := map[string]string{"there": "map[yes:30 no:60]", "gone": "map[no:90]", "a": "map[]"}
		for name, want := range want {
			if got := fmt.Sprint(reaches(checked, name)); got != want {
				t.Errorf("nodes %q are reachable: %s, want %s", name, got, want)
			}
		}
	})
}

// TestCheckMany has a few hosts that answer, among more dead ones than are asked at once. The
// local epmd has the former for reachable, so they are asked first. It is believed of those
// that were not asked at all.
func TestCheckMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hosts = 3 * checkAtOnce
		nodes := network(hosts)
		for i := range nodes {
			n := &nodes[i]
			if n.Reach = registry.Unreachable; strings.HasPrefix(n.Host, "host38") {
				n.Reach = registry.Reachable
			}
		}
		var now, most atomic.Int32
		checked := Check(t.Context(), nodes, func(ctx context.Context, addrs []netip.Addr, _ uint16) (*Names, error) {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			if ip := addrs[0].As4(); ip[2] == 1 && ip[3] >= 380-256 || ip == [4]byte{10, 0, 0, 38} {
				return &Names{Ports: map[string]uint16{"there": 4711}}, nil
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}, everywhere)
		if most.Load() > checkAtOnce {
			t.Errorf("%d epmds asked at once, want at most %d", most.Load(), checkAtOnce)
		}
		got := reaches(checked, "there")
		if got[registry.Reachable] != 5 || got[registry.Unreachable] != checkAtOnce {
			t.Errorf("reachable: %v, want 5, and %d that were asked and are not", got, checkAtOnce)
		}
	})
}

// TestCheckNobody asks nobody about nodes of this host.
func TestCheckNobody(t *testing.T) {
	checked := Check(t.Context(), network(0), func(context.Context, []netip.Addr, uint16) (*Names, error) {
		t.Error("an epmd was asked")
		return nil, nil
	}, everywhere)
	if len(checked) != 0 {
		t.Errorf("got %v, want nothing", checked)
	}
}

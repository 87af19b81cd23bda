package reach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
)

// lanEPMDs are the epmds of the test's own LAN, by their addresses.
type lanEPMDs struct {
	reg   *registry.Registry
	links chan struct{}

	mu    sync.Mutex
	names map[netip.AddrPort][]string // no entry: does not answer
	asked map[netip.AddrPort]int      // since the last look
	now   int                         // asked at the moment
	most  int
	total int           // asked so far
	takes time.Duration // to answer
}

// check runs a Watcher on a new LAN, in a bubble of synctest.
func check(t *testing.T) *lanEPMDs {
	l := &lanEPMDs{
		reg: registry.New("hosta.local", registry.OldNames), links: make(chan struct{}, 1),
		names: make(map[netip.AddrPort][]string), asked: make(map[netip.AddrPort]int),
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w := NewWatcher(Options{Registry: l.reg, Ask: l.ask, OnLink: everywhere, Links: l.links, Log: slog.New(slog.DiscardHandler)})
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return l
}

// everywhere is an OnLink of a test's LAN, which has all addresses.
func everywhere(netip.Addr) bool { return true }

func (l *lanEPMDs) ask(ctx context.Context, addrs []netip.Addr, port uint16) (*Names, error) {
	addr := netip.AddrPortFrom(addrs[0], port)
	l.mu.Lock()
	names, answers := l.names[addr]
	l.asked[addr]++
	l.now++
	l.most = max(l.most, l.now)
	takes := l.takes
	l.total++
	if takes > 0 { // no two answer at the same time: see go.dev/issue/78156
		takes += time.Duration(l.total)
	}
	l.mu.Unlock()
	if takes > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(takes):
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now--
	if !answers {
		return nil, errors.New("no answer")
	}
	return hasNames(names...), nil
}

func hasNames(names ...string) *Names {
	ports := make(map[string]uint16)
	for _, name := range names {
		ports[name] = 4711
	}
	return &Names{Ports: ports}
}

// answer has an epmd answer with these names from now on.
func (l *lanEPMDs) answer(addr string, names ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names[netip.MustParseAddrPort(addr)] = names
}

func (l *lanEPMDs) silence(addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.names, netip.MustParseAddrPort(addr))
}

// questions returns how often an epmd was asked since the last call.
func (l *lanEPMDs) questions(addr string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.asked[netip.MustParseAddrPort(addr)]
	l.asked[netip.MustParseAddrPort(addr)] = 0
	return n
}

// see enters a neighbour NAME@HOST.local.
func (l *lanEPMDs) see(t *testing.T, name, host, addr string, port uint16) {
	t.Helper()
	err := l.reg.SetNeighbour(registry.Node{
		Node: name + "@" + host + ".local", Name: name, Host: host + ".local", Port: 4711, Sure: true,
		Addresses: []netip.Addr{netip.MustParseAddr(addr)}, EPMDPort: port,
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (l *lanEPMDs) remove(name, host string, port uint16) {
	l.reg.RemoveNeighbour(registry.NeighbourKey{Name: name, Host: host + ".local", EPMDPort: port})
}

// want compares what the registry has now.
func (l *lanEPMDs) want(t *testing.T, when string, want map[string]registry.Reach) {
	t.Helper()
	synctest.Wait()
	nodes := l.reg.Nodes()
	got := make(map[string]registry.Reach)
	for _, n := range nodes {
		got[n.Node] = n.Reach
	}
	if !maps.Equal(got, want) {
		t.Errorf("%s: reachable %v; want %v", when, got, want)
	}
}

// TestReachTold leaves a host alone while its epmd tells of its nodes over a stream.
func TestReachTold(t *testing.T) {
	const host = "198.51.100.12:4369"
	synctest.Test(t, func(t *testing.T) {
		l := check(t)
		l.answer(host)
		l.see(t, "b", "hostb", "198.51.100.12", 4369)
		time.Sleep(reachSettle)
		l.want(t, "announced", map[string]registry.Reach{"b@hostb.local": registry.Unreachable})
		stream := l.reg.NewSource(registry.Told)
		n := *l.reg.Nodes()[0]
		n.Reach = registry.Reachable
		if err := stream.See("b", n); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		l.questions(host)
		time.Sleep(10 * reachEvery)
		l.want(t, "told", map[string]registry.Reach{"b@hostb.local": registry.Reachable})
		if asked := l.questions(host); asked != 0 {
			t.Errorf("asked %d times", asked)
		}
		mdns := l.reg.NewSource(registry.Announced)
		if err := mdns.See("b", n); err != nil {
			t.Fatal(err)
		}
		stream.Close()
		time.Sleep(reachEvery)
		l.want(t, "announced alone again", map[string]registry.Reach{"b@hostb.local": registry.Unreachable})
	})
}

func TestReach(t *testing.T) {
	const host, moved = "198.51.100.12:4369", "198.51.100.12:4370"
	synctest.Test(t, func(t *testing.T) {
		l := check(t)
		l.answer(host, "b", "unannounced")
		l.see(t, "b", "hostb", "198.51.100.12", 4369)
		l.see(t, "ghost", "hostb", "198.51.100.12", 4369)
		l.want(t, "at first", map[string]registry.Reach{"b@hostb.local": registry.Unchecked, "ghost@hostb.local": registry.Unchecked})
		time.Sleep(reachSettle)
		l.want(t, "when asked", map[string]registry.Reach{"b@hostb.local": registry.Reachable, "ghost@hostb.local": registry.Unreachable})
		if n := l.questions(host); n != 1 {
			t.Errorf("asked %d times for two nodes that came together; want once", n)
		}

		time.Sleep(reachEvery + reachJitter)
		synctest.Wait()
		if n := l.questions(host); n != 1 {
			t.Errorf("asked %d times in the next minute; want once", n)
		}

		l.answer(host, "b", "ghost")
		l.see(t, "c", "hostb", "198.51.100.12", 4369)
		time.Sleep(reachPause)
		l.want(t, "when another came", map[string]registry.Reach{
			"b@hostb.local": registry.Reachable, "ghost@hostb.local": registry.Reachable, "c@hostb.local": registry.Unreachable})
		l.questions(host)

		l.remove("ghost", "hostb", 4369)
		l.remove("c", "hostb", 4369)
		l.answer(moved, "b")
		l.remove("b", "hostb", 4369)
		l.see(t, "b", "hostb", "198.51.100.12", 4370)
		time.Sleep(reachPause)
		l.want(t, "when the epmd had moved", map[string]registry.Reach{"b@hostb.local": registry.Reachable})
		l.remove("b", "hostb", 4370)
		time.Sleep(10 * reachEvery)
		synctest.Wait()
		if here, there := l.questions(host), l.questions(moved); here != 0 || there != 1 {
			t.Errorf("the old port was asked %d times, the new one %d; want 0, and once before the node went", here, there)
		}
	})
}

// TestReachSilence cuts a host off and connects it again.
func TestReachSilence(t *testing.T) {
	const host = "198.51.100.12:4369"
	synctest.Test(t, func(t *testing.T) {
		l := check(t)
		l.answer(host, "b")
		l.see(t, "b", "hostb", "198.51.100.12", 4369)
		time.Sleep(reachPause)
		l.want(t, "at first", map[string]registry.Reach{"b@hostb.local": registry.Reachable})
		l.silence(host)
		time.Sleep(reachEvery + reachJitter)
		l.want(t, "cut off", map[string]registry.Reach{"b@hostb.local": registry.Unreachable})
		l.questions(host)
		time.Sleep(10 * reachEvery)
		synctest.Wait()
		if n := l.questions(host); n < 10 || n > 14 {
			t.Errorf("asked %d times in ten minutes of silence; want a few times soon, then each minute", n)
		}
		l.answer(host, "b")
		l.links <- struct{}{}
		time.Sleep(reachPause) // it may have been asked a moment ago
		l.want(t, "a link came", map[string]registry.Reach{"b@hostb.local": registry.Reachable})
		l.questions(host)
		for range 10 {
			l.links <- struct{}{}
			synctest.Wait()
		}
		time.Sleep(2 * reachPause)
		synctest.Wait()
		if n := l.questions(host); n != 1 {
			t.Errorf("asked %d times for ten changes of links at once; want once", n)
		}
	})
}

// TestReachAnew replaces the only node of a host while its epmd is being asked.
// What the epmd answers to the first question says nothing of the other.
func TestReachAnew(t *testing.T) {
	const host = "198.51.100.12:4369"
	synctest.Test(t, func(t *testing.T) {
		l := check(t)
		l.takes = 2 * time.Second
		l.answer(host, "a")
		l.see(t, "a", "hostb", "198.51.100.12", 4369)
		time.Sleep(reachSettle + time.Second)
		l.answer(host, "b")
		l.remove("a", "hostb", 4369)
		l.see(t, "b", "hostb", "198.51.100.12", 4369)
		time.Sleep(l.takes - time.Second/2)
		l.want(t, "after the first answer", map[string]registry.Reach{"b@hostb.local": registry.Unchecked})
		time.Sleep(time.Second)
		l.want(t, "after the second", map[string]registry.Reach{"b@hostb.local": registry.Reachable})
	})
}

// TestReachFull has more epmds than are checked. One that has waited is, once there is a place.
func TestReachFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := check(t)
		unchecked := func() (list []string) {
			time.Sleep(reachPause)
			synctest.Wait()
			for _, n := range l.reg.Nodes() {
				if n.Reach == registry.Unchecked {
					list = append(list, n.Host)
				}
			}
			return list
		}
		for i := range maxReachable + 2 {
			addr := fmt.Sprintf("198.51.%d.%d", 100+i/250, 1+i%250)
			l.answer(addr+":4369", "n")
			l.see(t, "n", fmt.Sprint("host", i), addr, 4369)
		}
		if got := unchecked(); len(got) != 2 {
			t.Errorf("not checked: %v", got)
		}
		l.remove("n", "host0", 4369)
		if got := unchecked(); len(got) != 1 {
			t.Errorf("not checked after one has gone: %v", got)
		}
	})
}

// TestReachMany holds how many epmds are asked at once. All are, however slow.
func TestReachMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := check(t)
		l.takes = reachTime / 2
		const hosts = 10 * reachAtOnce
		for i := range hosts {
			addr := fmt.Sprintf("198.51.%d.%d", 100+i/250, 1+i%250)
			l.answer(addr+":4369", "n")
			l.see(t, "n", fmt.Sprint("host", i), addr, 4369)
		}
		time.Sleep(10*l.takes + reachSettle + time.Millisecond)
		synctest.Wait()
		nodes := l.reg.Nodes()
		reached := slices.DeleteFunc(nodes, func(n *registry.Node) bool { return n.Reach != registry.Reachable })
		if len(reached) != hosts || l.most != reachAtOnce {
			t.Errorf("%d of %d hosts reached, at most %d asked at once; want all, %d", len(reached), hosts, l.most, reachAtOnce)
		}
	})
}

// TestAsk asks a real epmd at three addresses. One accepts and says nothing, one refuses, and
// one is its own.
func TestAsk(t *testing.T) {
	listen := func(addr string) *net.TCPListener {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		return ln.(*net.TCPListener)
	}
	ln := listen("127.0.0.1:0")
	port := ln.Addr().(*net.TCPAddr).AddrPort().Port()
	// Nobody answers there.
	listen(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), port).String())
	reg := registry.New("hosta.local", registry.OldNames)
	register := func(name string) {
		if _, err := reg.Register(registry.Node{Name: name, Port: 4711, High: 6, Low: 5}); err != nil {
			t.Fatal(err)
		}
	}
	register("a")
	register("b\nc") // a line that is none, before that of a
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		server := epmd.NewServer(epmd.Config{Registry: reg, Port: port, Log: slog.New(slog.DiscardHandler)})
		served <- server.Serve(ctx, ln)
	}()
	defer func() { cancel(); <-served }()
	addrs := func(list ...string) (addrs []netip.Addr) {
		for _, s := range list {
			addrs = append(addrs, netip.MustParseAddr(s))
		}
		return addrs
	}
	names, err := Ask(t.Context(), addrs("127.0.0.2", "127.0.0.3", "127.0.0.1"), port)
	if err != nil || !reflect.DeepEqual(names, hasNames("a")) {
		t.Errorf("got %v, %v; want the node a", names, err)
	}
	if names, err := Ask(t.Context(), addrs("127.0.0.3", "127.0.0.4"), port); err == nil {
		t.Errorf("nobody listens: got %v; want an error", names)
	}
	if names, err := Ask(t.Context(), nil, port); err == nil {
		t.Errorf("no address: got %v; want an error", names)
	}
	limited, cancelLimited := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancelLimited()
	if names, err := Ask(limited, addrs("127.0.0.2"), port); err == nil {
		t.Errorf("an epmd that says nothing: got %v; want an error", names)
	}
	for i := range 3000 { // of which 128 KiB do not tell all, the first not among them
		register(fmt.Sprintf("node-with-a-name-of-31-chars-%04d", i))
	}
	names, err = Ask(t.Context(), addrs("127.0.0.1"), port)
	if err != nil || !names.Cut || names.Ports["a"] != 0 || len(names.Ports) < 2000 || Of("a", names) != registry.Reachable {
		t.Errorf("3,000 nodes: got %d, cut %v, %v", len(names.Ports), names.Cut, err)
	}
}

// TestReachOffLink has nodes announced at addresses on no link of this host. Nobody is asked there,
// unless the epmd is configured.
func TestReachOffLink(t *testing.T) {
	onLink := func(a netip.Addr) bool { return a.String() == "198.51.100.12" }
	node := func(origin registry.Origin, addrs ...string) *registry.Node {
		n := &registry.Node{Origin: origin}
		for _, a := range addrs {
			n.Addresses = append(n.Addresses, netip.MustParseAddr(a))
		}
		return n
	}
	nodes := []*registry.Node{
		node(registry.LAN, "8.8.8.8", "198.51.100.12", "169.254.169.254"), node(registry.LAN, "10.66.0.1"), node(registry.Peer, "203.0.113.9"),
	}
	got := addressesOf(slices.Values(nodes), onLink)
	if want := nodes[0].Addresses[1:2]; !slices.Equal(got, append(want, nodes[2].Addresses...)) {
		t.Errorf("asks %v", got)
	}
}

// TestReachPorts has somebody announce nodes of a host at many ports where nobody is. The host is
// asked at them so many times a minute, and its own epmd as ever.
func TestReachPorts(t *testing.T) {
	const host, other = "198.51.100.12:4369", "198.51.100.12:5555"
	synctest.Test(t, func(t *testing.T) {
		l := check(t)
		l.answer(host, "b")
		l.answer(other, "b")
		l.see(t, "b", "hostb", "198.51.100.12", 5555)
		time.Sleep(2 * reachPause)
		for port := range uint16(300) {
			l.see(t, "b", "hostb", "198.51.100.12", 6000+port)
		}
		l.see(t, "b", "hostb", "198.51.100.12", 4369)
		time.Sleep(2 * reachPause)
		synctest.Wait()
		for _, at := range []string{host, other} {
			if l.questions(at) == 0 {
				t.Errorf("the epmd at %s was not asked", at)
			}
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		forged := 0
		for port := range 300 {
			forged += l.questions(fmt.Sprintf("198.51.100.12:%d", 6000+port))
		}
		if most := 11 * reachMost; forged > most {
			t.Errorf("%d questions at ports where nobody is, in 10 minutes; want at most %d", forged, most)
		}
		for _, at := range []string{host, other} {
			if n := l.questions(at); n < 8 {
				t.Errorf("the epmd at %s was asked %d times in 10 minutes", at, n)
			}
		}
	})
}

//go:build soak

package test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/machine"
	"github.com/goerlang/eclus/test/wait"
)

// TestSoakPeers200 has an epmd follow 200 others by their addresses, each with 50 nodes. The others
// are servers of this process, at addresses of another host.
func TestSoakPeers200(t *testing.T) {
	const peers, each = 200, 50
	hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{}, "hosta", "hostb")
	a, b := hosts[0], hosts[1]
	addrs := make([]string, peers)
	for i := range addrs {
		addr := netip.AddrFrom4([4]byte{198, 51, 100, byte(30 + i)})
		addrs[i] = addr.String()
		_, err := a.Output(wait.Soon(t), "ip", "address", "add", addrs[i]+"/24", "dev", "eth0")
		wait.Must(t, err)
		a.servePeer(t, addr, each)
	}
	started := time.Now()
	b.run(t, shippedBinary(t), "-lan", "off", "-peer", strings.Join(addrs, ","))
	answered := time.Now()
	var complete time.Time
	t.Run("complete", func(t *testing.T) { // whoever watches ends with it: its lines are memory too
		complete = untilAll(t, []*counter{b.count(t)}, peers*each, time.Minute)
	})
	t.Logf("%d nodes of %d peers known %v after the start, %v after the first answer", peers*each, peers,
		complete.Sub(started).Round(time.Millisecond), complete.Sub(answered).Round(time.Millisecond))
	if took := complete.Sub(started); took > 3*time.Second {
		t.Errorf("complete after %v; want 3 s at most", took)
	}

	const measured = 30 * time.Second
	time.Sleep(15 * time.Second) // what follows the burst is not rest
	before := cpuOf(t, b.epmd.Pid())
	time.Sleep(measured)
	idle := 100 * (cpuOf(t, b.epmd.Pid()) - before).Seconds() / measured.Seconds()
	memory := anonymousKB(t, b.epmd.Pid())
	t.Logf("at rest: RssAnon %d KB, %.2f %% CPU in %v", memory, idle, measured)
	if memory > 25<<10 || idle > 0.5 {
		t.Error("want 25 MB and 0.5 % at most")
	}
}

// TestSoakPeersFlood has a peer's node register and end 20,000 times a second. The journal of who
// follows it stays short, and no lookup there waits.
func TestSoakPeersFlood(t *testing.T) {
	n := lan.ForTest(t, tools...)
	a := addHosts(t, n, lan.HostOptions{}, "hosta")[0]
	b := superviseOn(t, n, "hostb", machine.Options{Avahi: true})
	a.listen(t, 5000)
	reg := a.servePeer(t, a.Address(), 1)
	b.register(t, "here", 1)
	b.configure(t, "Environment=ECLUS_PEER="+a.Address().String())
	b.systemctl(t, "restart", unit)
	b.awaitKnown(t, "n0", true)
	const changes, measured = 20_000, 20 * time.Second
	here := b.poll(t, "here0", 20000)
	began, times := time.Now(), 0
	for ; time.Since(began) < measured; times++ {
		time.Sleep(time.Until(began.Add(time.Duration(times) * time.Second / changes)))
		r, err := reg.Register(registry.Node{Name: "busy", Port: 5000, Type: registry.Normal, High: 6, Low: 5})
		wait.Must(t, err)
		reg.SetListens(reg.Node(r), []netip.Addr{netip.IPv4Unspecified()})
		reg.Unregister(r)
	}
	lines := strings.Count(b.journal(t), "busy")
	t.Logf("a node registers and ends %.0f times a second; %d lines about it in the journal in %v", float64(times)/measured.Seconds(), lines, measured)
	if lines == 0 || float64(lines) > 100+2*measured.Seconds() {
		t.Error("want some, at most 100 at once and then 2 a second")
	}
	here().check(t, 0, 50*time.Millisecond)
}

// servePeer serves as the epmd of one more host, with as many nodes, until the test ends.
func (h *host) servePeer(t *testing.T, addr netip.Addr, nodes int) *registry.Registry {
	t.Helper()
	name := "h" + strings.ReplaceAll(addr.String(), ".", "-") + ".local"
	reg := registry.New(name, registry.OldNames)
	for i := range nodes {
		r, err := reg.Register(registry.Node{Name: fmt.Sprint("n", i), Port: 5000, Type: registry.Normal, High: 6, Low: 5})
		wait.Must(t, err)
		reg.SetListens(reg.Node(r), []netip.Addr{netip.IPv4Unspecified()})
	}
	var ln net.Listener
	wait.Must(t, h.inside(func() (err error) {
		ln, err = new(net.ListenConfig).Listen(wait.Soon(t), "tcp", netip.AddrPortFrom(addr, epmd.DefaultPort).String())
		return err
	}))
	access, err := epmd.ParseAccess("any") // the links of this process are not the host's
	wait.Must(t, err)
	server := epmd.NewServer(epmd.Config{
		Registry: reg, Port: epmd.DefaultPort, Files: 1024, Access: access,
		Hello: func() epmd.PeerHello {
			return epmd.PeerHello{Version: "1.2", ID: reg.PeerID(), Host: name, Port: epmd.DefaultPort}
		},
		LinkOf: func(local netip.Addr) (string, []netip.Addr) { return "eth0", []netip.Addr{local} },
	})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, ln.(*net.TCPListener)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	return reg
}

// anonymousKB returns how much memory of its own a process has.
func anonymousKB(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	wait.Must(t, err)
	m := regexp.MustCompile(`RssAnon:\s+(\d+)`).FindSubmatch(status)
	if m == nil {
		t.Fatal("no RssAnon")
	}
	kb, err := strconv.Atoi(string(m[1]))
	wait.Must(t, err)
	return kb
}

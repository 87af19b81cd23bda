//go:build soak

package test

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// manyHosts are the hosts of the tests below. Each has a bus, Avahi and our epmd.
var manyHosts = []string{"hosta", "hostb", "hostc", "hostd", "hoste", "hostf", "hostg", "hosth"}

// counter counts the nodes of other hosts that an epmd knows.
type counter struct {
	host string

	mu      sync.Mutex
	known   map[string]bool
	at      time.Time // when the last of them came or went
	changed chan struct{}
	downs   int // nodes of others that went, or could not be reached any more
}

// count begins to count on a host. It ends with the test.
func (h *host) count(t *testing.T) *counter {
	t.Helper()
	var lines *epmd.Lines
	wait.Must(t, h.inside(func() (err error) {
		lines, err = h.client().Watch(t.Context())
		return err
	}))
	c := &counter{host: h.Name(), known: make(map[string]bool), changed: make(chan struct{}, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for l, err := lines.Next(); err == nil; l, err = lines.Next() {
			c.note(l)
		}
	}()
	t.Cleanup(func() {
		lines.Close()
		<-done
	})
	return c
}

func (c *counter) note(l epmd.Line) {
	if l.Kind == epmd.SnapshotEnd || l.Get("origin") == registry.Local.String() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key, before := l.Get("name")+"@"+l.Get("host"), len(c.known)
	switch {
	case l.Kind == epmd.NodeGone:
		delete(c.known, key)
		c.downs++
	case l.Get("reachable") == "no":
		c.downs++
	default:
		c.known[key] = true
	}
	if len(c.known) != before {
		c.at = time.Now()
	}
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// until waits until the epmd knows that many nodes of others. It returns since when that is so.
func (c *counter) until(ctx context.Context, many int) (time.Time, error) {
	for {
		c.mu.Lock()
		got, at := len(c.known), c.at
		c.mu.Unlock()
		if got == many {
			return at, nil
		}
		select {
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("%s knows %d nodes of others; want %d", c.host, got, many)
		case <-c.changed:
		}
	}
}

// untilAll waits until all know that many nodes of others. It returns since when that is so.
func untilAll(t *testing.T, counters []*counter, many int, most time.Duration) (last time.Time) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	for _, c := range counters {
		at, err := c.until(ctx, many)
		if err != nil {
			t.Errorf("after %v: %v", most, err)
		}
		if at.After(last) {
			last = at
		}
	}
	return last
}

// registerMany registers nodes on all hosts at once. They have one port on each host. They stay
// until they are closed, or the test ends.
func registerMany(t *testing.T, hosts []*host, many int) (all []*epmd.Registration) {
	t.Helper()
	var mu sync.Mutex
	var g sync.WaitGroup
	for _, h := range hosts {
		h.listen(t, 5000)
		g.Go(func() {
			var mine []*epmd.Registration
			err := h.inside(func() error {
				for i := range many {
					r, err := h.client().Register(wait.Soon(t), aliveReq(fmt.Sprint("n", i), 5000))
					if err != nil {
						return err
					}
					mine = append(mine, r)
				}
				return nil
			})
			if err != nil {
				t.Errorf("register on %s: %v", h.Name(), err)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine...)
		})
	}
	g.Wait()
	t.Cleanup(func() {
		for _, r := range all {
			r.Close() // may be closed already
		}
	})
	return all
}

// countPackets begins to count what comes to a host.
func (h *host) countPackets(t *testing.T) {
	t.Helper()
	_, err := h.Output(wait.Soon(t), "nft", "table inet traffic { chain in { type filter hook input priority 0; "+
		"iif lo accept; udp dport 5353 counter comment \"mdns\"; tcp dport 4369 counter comment \"asked\"; tcp sport 4369 counter comment \"answers\"; }; }")
	wait.Must(t, err)
}

// packets returns how many have come so far: of multicast DNS, and of streams.
func packets(t *testing.T, hosts []*host) (mdns, streams int) {
	t.Helper()
	counted := regexp.MustCompile(`counter packets (\d+) bytes \d+ comment "(\w+)"`)
	for _, h := range hosts {
		out, err := h.Output(wait.Soon(t), "nft", "list", "table", "inet", "traffic")
		wait.Must(t, err)
		for _, m := range counted.FindAllStringSubmatch(out, -1) {
			n, err := strconv.Atoi(m[1])
			wait.Must(t, err)
			if m[2] == "mdns" {
				mdns += n
			} else {
				streams += n
			}
		}
	}
	return mdns, streams
}

// TestSoakPeersMany has many nodes start on eight hosts at once, and end at once.
func TestSoakPeersMany(t *testing.T) {
	for _, tt := range []struct {
		nodes int
		most  time.Duration
	}{{10, 500 * time.Millisecond}, {50, 2 * time.Second}, {200, 8 * time.Second}} {
		t.Run(fmt.Sprint(tt.nodes, " nodes a host"), func(t *testing.T) {
			n := lan.ForTest(t, tools...)
			hosts := addHosts(t, n, lan.HostOptions{}, manyHosts...)
			var counters []*counter
			for _, h := range hosts {
				h.start(t)
				counters = append(counters, h.count(t))
			}
			warm := hosts[0].register(t, "warm", 4000)
			untilFirst(t, counters[1:])
			wait.Must(t, warm.Close())
			untilAll(t, counters, 0, time.Minute)

			others := (len(hosts) - 1) * tt.nodes
			began := time.Now()
			all := registerMany(t, hosts, tt.nodes)
			registered := time.Now()
			t.Logf("%d nodes registered within %v", len(all), registered.Sub(began).Round(time.Millisecond))
			took := untilAll(t, counters, others, time.Minute).Sub(registered)
			t.Logf("everybody sees everybody %v after the last registration", took.Round(time.Millisecond))
			if took > tt.most {
				t.Errorf("that took more than %v", tt.most)
			}
			began = time.Now()
			for _, r := range all {
				wait.Must(t, r.Close())
			}
			took = untilAll(t, counters, 0, time.Minute).Sub(began)
			t.Logf("all ended at once: gone everywhere after %v", took.Round(time.Millisecond))
			if took > 2*time.Second {
				t.Error("that took more than 2 s")
			}
		})
	}
}

// untilFirst waits until all know one node.
func untilFirst(t *testing.T, counters []*counter) {
	t.Helper()
	untilAll(t, counters, 1, time.Minute)
}

// TestSoakPeersTogether starts epmds on eight hosts together with their nodes. Another host sees
// when the last of them is announced. Everybody sees everybody soon after that, and after the last
// registration.
func TestSoakPeersTogether(t *testing.T) {
	for _, tt := range []struct {
		nodes int
		most  time.Duration
	}{{10, 2 * time.Second}, {50, 2 * time.Second}, {200, 8 * time.Second}} {
		t.Run(fmt.Sprint(tt.nodes, " nodes a host"), func(t *testing.T) {
			n := lan.ForTest(t, tools...)
			hosts := addHosts(t, n, lan.HostOptions{}, manyHosts...)
			another := addHosts(t, n, lan.HostOptions{}, "another")[0]
			browse, err := another.Start(t.Context(), "avahi-browse", "-p", "_eclus._sub._epmd._tcp")
			wait.Must(t, err)
			counters := make([]*counter, len(hosts))
			registered, announced := make([]time.Duration, len(hosts)), make([]time.Duration, len(hosts))
			began := time.Now()
			var g sync.WaitGroup
			for i, h := range hosts {
				g.Go(func() {
					h.start(t)
					counters[i] = h.count(t)
					registerMany(t, []*host{h}, tt.nodes)
					registered[i] = time.Since(began)
				})
				g.Go(func() {
					_, err := browse.WaitOutput(wait.Soon(t), `(?m)^\+;eth0;IPv\d;`+h.Name()+`;`)
					wait.Must(t, err)
					announced[i] = time.Since(began)
				})
			}
			g.Wait()
			complete := untilAll(t, counters, (len(hosts)-1)*tt.nodes, time.Minute).Sub(began)
			lastNode, lastHost := slices.Max(registered), slices.Max(announced)
			t.Logf("all nodes registered after %v, all hosts announced after %v, everybody sees everybody after %v",
				lastNode.Round(time.Millisecond), lastHost.Round(time.Millisecond), complete.Round(time.Millisecond))
			if took := complete - max(lastNode, lastHost); took > tt.most {
				t.Errorf("that is %v after the last of these; want %v", took, tt.most)
			}
		})
	}
}

// load is what goes on among some hosts when nothing happens.
type load struct {
	packets int           // to port 5353, on all hosts
	cpu     time.Duration // of all avahi-daemons
}

// TestSoakPeersRest measures what goes on when nothing happens, a minute after the last change. It
// compares that with Avahi's own tools, which announce and browse for as many services.
func TestSoakPeersRest(t *testing.T) {
	for _, nodes := range []int{10, 50} {
		t.Run(fmt.Sprint(nodes, " nodes a host"), func(t *testing.T) {
			var ours, theirs load
			t.Run("epmd", func(t *testing.T) { ours = restOfEPMDs(t, nodes) })
			t.Run("Avahi's own tools", func(t *testing.T) { theirs = restOfAvahi(t, nodes) })
			packets := float64(ours.packets) / float64(theirs.packets)
			cpu := ours.cpu.Seconds() / theirs.cpu.Seconds()
			t.Logf("of Avahi's own tools: %.2f times the packets, %.2f times the CPU of avahi-daemon", packets, cpu)
			if packets > 1.2 || cpu > 1.2 {
				t.Error("want 1.2 times at most")
			}
		})
	}
}

// restOfEPMDs has nodes on eight hosts with epmds.
func restOfEPMDs(t *testing.T, nodes int) load {
	hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{}, manyHosts...)
	counters := make([]*counter, len(hosts))
	began := time.Now()
	var g sync.WaitGroup
	for i, h := range hosts {
		g.Go(func() {
			h.countPackets(t)
			h.run(t, shippedBinary(t))
			counters[i] = h.count(t)
		})
	}
	g.Wait()
	registerMany(t, hosts, nodes)
	untilAll(t, counters, (len(hosts)-1)*nodes, time.Minute)
	own := cpuOf(t, hosts[0].epmd.Pid())
	l, streams := rest(t, hosts, began)
	t.Logf("CPU of an epmd in all: %v", cpuOf(t, hosts[0].epmd.Pid())-own)
	if t.Logf("%.2f packets a second on each stream", streams); streams > 1 {
		t.Error("want one at most")
	}
	return l
}

// restOfAvahi has as many services on eight hosts, without epmds.
func restOfAvahi(t *testing.T, nodes int) load {
	hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{}, manyHosts...)
	began := time.Now()
	var g sync.WaitGroup
	for _, h := range hosts {
		h.countPackets(t)
		_, err := h.Start(t.Context(), "avahi-browse", "-p", "_epmd._tcp")
		wait.Must(t, err)
		g.Go(func() {
			var all []*lan.Process
			for i := range nodes {
				name := fmt.Sprint("n", i)
				all = append(all, publish(t, h, name+"@"+h.Name(), "_epmd._tcp", "5000", "txtvers=1", "name="+name,
					"type=normal", "proto=0", "high=6", "low=5", "epmd=4369"))
			}
			for _, p := range all {
				_, err := p.WaitOutput(wait.Soon(t), "Established")
				wait.Must(t, err)
			}
		})
	}
	g.Wait()
	l, _ := rest(t, hosts, began)
	return l
}

// rest measures what goes on for 30 seconds, more than a minute from now. Avahi asks the LAN for
// what is browsed after 1, 3, 7 s and so on. The time that is measured has the seventh of these
// questions, 127 s after all began. rest also returns how many packets each stream has a second.
func rest(t *testing.T, hosts []*host, began time.Time) (l load, streams float64) {
	t.Helper()
	const calm, begins, measured = time.Minute, 105 * time.Second, 30 * time.Second
	if took := time.Since(began); took > begins-calm {
		t.Fatalf("the last change is %v after the beginning: the machine is too busy", took)
	}
	cpu := func() (all time.Duration) {
		for _, h := range hosts {
			p, err := h.Avahi.Process()
			wait.Must(t, err)
			all += cpuOf(t, p.Pid())
		}
		return all
	}
	time.Sleep(time.Until(began.Add(begins))) // is what is measured
	cpuBefore := cpu()
	mdnsBefore, streamsBefore := packets(t, hosts)
	time.Sleep(measured)
	mdnsAfter, streamsAfter := packets(t, hosts)
	l = load{mdnsAfter - mdnsBefore, cpu() - cpuBefore}
	t.Logf("at rest, %v: %d packets to port 5353 on all hosts, CPU of an avahi-daemon %v",
		measured, l.packets, l.cpu/time.Duration(len(hosts)))
	return l, float64(streamsAfter-streamsBefore) / measured.Seconds() / float64(len(hosts)*(len(hosts)-1))
}

// TestSoakPeersLatency has a node register on A 50 times, and measures when B knows it. Avahi's own
// tools do the same.
func TestSoakPeersLatency(t *testing.T) {
	const times = 50
	a, b := pair(t)
	seen := b.watch(t)
	a.register(t, "first", 4000)
	seen.until(t, present("first@hosta.local"))
	var came, gone, announced []time.Duration
	for i := range times {
		name := fmt.Sprint("n", i)
		a.listen(t, 5000)
		begin := time.Now()
		r := a.registerOnly(t, name, 5000)
		came = append(came, seen.until(t, present(name+"@hosta.local")).Sub(begin))
		begin = time.Now()
		wait.Must(t, r.Close())
		gone = append(gone, seen.until(t, absent(name+"@hosta.local")).Sub(begin))
		time.Sleep(100 * time.Millisecond) // more than 50 changes a second are joined
	}
	browse, err := b.Start(t.Context(), "avahi-browse", "-rp", "_bench._tcp")
	wait.Must(t, err)
	for i := range 10 {
		label := fmt.Sprint("s", i)
		begin := time.Now()
		p, err := a.Start(t.Context(), "avahi-publish", "-s", label, "_bench._tcp", "5000")
		wait.Must(t, err)
		_, err = browse.WaitOutput(wait.Soon(t), `(?m)^=;[^;]*;[^;]*;`+label+`;`)
		wait.Must(t, err)
		announced = append(announced, time.Since(begin))
		wait.Must(t, p.Kill(wait.Soon(t)))
	}
	p95 := func(d []time.Duration) time.Duration {
		slices.Sort(d)
		return d[len(d)*95/100]
	}
	up, down, theirs := p95(came), p95(gone), p95(announced)
	t.Logf("registered on A, listed on B, p95 of %d: %v; killed on A, gone on B: %v; avahi-publish to avahi-browse: %v (%.0f times)",
		times, up, down, theirs, theirs.Seconds()/up.Seconds())
	if up > 20*time.Millisecond || down > 20*time.Millisecond || theirs < 40*up {
		t.Error("want 20 ms, 20 ms and 40 times")
	}
}

// TestSoakPeersLoss loses multicast for ten minutes, in part or all of it. No node that lives goes,
// and new ones are seen.
func TestSoakPeersLoss(t *testing.T) {
	for percent, lasts := range map[int]time.Duration{60: 10 * time.Minute, 100: 10 * time.Minute} {
		t.Run(fmt.Sprint(percent, " %"), func(t *testing.T) {
			t.Parallel()
			loseMulticast(t, percent, lasts)
		})
	}
}

func loseMulticast(t *testing.T, percent int, lasts time.Duration) {
	n := lan.ForTest(t, tools...)
	hosts := addHosts(t, n, lan.HostOptions{}, "hosta", "hostb", "hostc")
	var counters []*counter
	for _, h := range hosts {
		h.start(t)
		counters = append(counters, h.count(t))
	}
	registerMany(t, hosts, 20)
	untilAll(t, counters, 40, time.Minute)
	lost := "udp dport 5353" // all of it
	if percent < 100 {
		lost += fmt.Sprintf(" numgen random mod 100 < %d", percent)
	}
	for _, h := range hosts {
		h.drop(t, "input", lost)
	}
	end := time.Now().Add(lasts)
	many := 40
	for i := 0; time.Now().Before(end); i++ {
		hosts[0].register(t, fmt.Sprint("late", i), 6000)
		many++
		untilAll(t, counters[1:], many, 5*time.Second)
		time.Sleep(15 * time.Second)
	}
	for _, c := range counters {
		c.mu.Lock()
		if c.downs > 0 {
			t.Errorf("%s: %d times a node went or could not be reached", c.host, c.downs)
		}
		c.mu.Unlock()
	}
	t.Logf("%d %% of multicast lost for %v: %d new nodes seen", percent, lasts, many-40)
}

// cpuOf returns how long a process has run.
func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	out, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	wait.Must(t, err)
	_, rest, _ := strings.Cut(string(out), ") ")
	var ticks int
	for _, f := range strings.Fields(rest)[11:13] {
		n, err := strconv.Atoi(f)
		wait.Must(t, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

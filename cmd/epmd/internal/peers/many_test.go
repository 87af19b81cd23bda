package peers

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/wait"
)

// TestManyPeers watches 200 real epmds of 50 nodes each. The epmds are in this process, so their
// memory counts too.
func TestManyPeers(t *testing.T) {
	hosts, each := 200, 50
	if testing.Short() {
		hosts = 20
	}
	all := make([]*host, hosts)
	for i := range all {
		h := newHost(t, fmt.Sprintf("h%d", i), fmt.Sprintf("127.1.%d.%d", i/100, i%100+1), byte(i))
		h.id[0], h.id[1] = byte(i>>8), 1
		for n := range each {
			h.register(fmt.Sprintf("n%d", n))
		}
		h.start()
		all[i] = h
	}
	debug.SetGCPercent(50)
	t.Cleanup(func() { debug.SetGCPercent(100) })
	before := rssAnon(t)
	ps := newPeers(t, nil)
	addrs := make([]netip.AddrPort, hosts)
	for i, h := range all {
		addrs[i] = h.addr
	}
	began := time.Now()
	for _, h := range all {
		h.announce(ps)
	}
	run(t, ps)
	wait.Until(t, "all nodes", func() error {
		if _, n := ps.Registry.Counts(); n != hosts*each {
			return fmt.Errorf("%d of %d nodes", n, hosts*each)
		}
		return nil
	})
	took := time.Since(began)
	after := rssAnon(t)
	idle := cpu(t)
	watched := 3 * time.Second
	<-time.After(watched) // idle time is what is measured
	t.Logf("%d nodes of %d peers after %v; RssAnon %d KB more; %.2f %% CPU at rest, with both ends",
		hosts*each, hosts, took, after-before, 100*(cpu(t)-idle).Seconds()/watched.Seconds())
}

// rssAnon returns the anonymous memory of this process in KB.
func rssAnon(t *testing.T) int {
	runtime.GC()
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	wait.Must(t, err)
	m := regexp.MustCompile(`RssAnon:\s+(\d+)`).FindSubmatch(status)
	if m == nil {
		t.Fatal("no RssAnon")
	}
	kb, err := strconv.Atoi(string(m[1]))
	wait.Must(t, err)
	return kb
}

// cpu returns the processor time that this process has used.
func cpu(t *testing.T) time.Duration {
	var u syscall.Rusage
	wait.Must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

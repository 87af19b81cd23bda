//go:build soak

package test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/machine"
	"github.com/goerlang/eclus/test/wait"
)

// TestSoakBurst has 1,200 nodes register at once, 5 times. It kills epmd the moment the last has
// its answer.
func TestSoakBurst(t *testing.T) {
	for _, queue := range []int{10, 512} {
		t.Run(fmt.Sprint("max_dgram_qlen ", queue), func(t *testing.T) {
			s := superviseOn(t, nil, "hosta", machine.Options{Queue: queue})
			for range 5 {
				if took := s.burstAndKill(t, 1200); took > 1500*time.Millisecond {
					t.Errorf("the slowest answer took %v; want 1.5 s at most", took)
				}
			}
		})
	}
}

// TestSoakStore fills the store at a pace that PID 1 can follow, and kills epmd. LISTEN_FDNAMES had
// no room for so many nodes when each had a name of its own. It logs what each descriptor cost PID
// 1. Where this machine limits the number of files, epmd keeps fewer.
func TestSoakStore(t *testing.T) {
	const nodes, step = 13500, 250
	bound := regexp.MustCompile("; up to ([0-9]+) are kept$")
	s := supervise(t, "FileDescriptorStoreMax=16384")
	_, _ = s.lookup(wait.Soon(t), "nobody")
	s.await(t, "StatusText", bound.String())
	kept, err := strconv.Atoi(bound.FindStringSubmatch(s.show(t, "StatusText"))[1])
	wait.Must(t, err)
	s.fill(t, nodes, min(nodes, kept), step)
}

// TestSoakShares is TestSystemdShares with a store as large as it is shipped. On a busy machine PID
// 1 may be at so many connections for longer than the watchdog waits.
func TestSoakShares(t *testing.T) {
	s := superviseOn(t, nil, "hosta", machine.Options{}, "WatchdogSec=10min")
	s.shareAndKill(t, 8300, 4096, 8191)
}

// TestSoakIDs fills the store as it is shipped with nodes whose IDs have ten digits.
func TestSoakIDs(t *testing.T) {
	s := supervise(t)
	_, _ = s.lookup(wait.Soon(t), "nobody")
	s.skipIDs(t, 1e9)
	s.crash(t)
	s.fill(t, 8191, 8191, 250)
}

// skipIDs appends to the state of epmd that so many IDs were given to nodes. epmd has to be killed
// then.
func (s *supervised) skipIDs(t *testing.T, last int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.outside(t, s.mainPID(t))))
	wait.Must(t, err)
	for _, file := range files {
		if to, _ := os.Readlink(file); strings.HasPrefix(to, "/memfd:epmd state") {
			f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
			wait.Must(t, err)
			defer f.Close()
			_, err = fmt.Fprintf(f, `{"id":%d,"name":"","gone":true}`+"\n", last)
			wait.Must(t, err)
			return
		}
	}
	t.Fatal("epmd has no state")
}

// fill registers nodes of several users and kills epmd. Those that were kept are still registered.
func (s *supervised) fill(t *testing.T, count, kept, step int) {
	t.Helper()
	var all []*raw
	cpu := s.cpu(t)
	for len(all) < count {
		n := min(step, count-len(all))
		if free := kept - len(all); free > 0 {
			n = min(n, (free+1)/2) // a user's share
		}
		b, err := s.registerAtOnce(wait.Soon(t), 10000+len(all), fmt.Sprint("n", len(all), "-"), n)
		wait.Must(t, err)
		for _, err := range b.errs {
			t.Fatal(err)
		}
		defer b.leave()
		all = append(all, b.nodes...)
		wait.Must(t, lan.Wait(wait.Soon(t), fmt.Sprint(len(all), " nodes in the store"), func(ctx context.Context) (bool, error) {
			got, err := s.Show(ctx, unit, "NFileDescriptorStore")
			return got == strconv.Itoa(min(len(all), kept)+1), err
		}))
		if len(all)%1000 == 0 || len(all) == count {
			now := s.cpu(t)
			t.Logf("%d nodes: PID 1 took %v for the last ones", len(all), now-cpu)
			cpu = now
		}
	}
	begin := time.Now()
	pid := s.mainPID(t)
	s.endBy(t, func() { wait.Must(t, syscall.Kill(s.outside(t, pid), syscall.SIGKILL)) })
	t.Logf("%d nodes, of which %d are kept: another epmd after %v", len(all), kept, time.Since(begin).Round(time.Millisecond))
	known := s.known(t)
	all = slices.DeleteFunc(all, func(n *raw) bool { _, is := known[n.name]; return !is })
	s.checkOnly(t, all...)
	if len(all) != kept {
		t.Errorf("%d nodes of %d that were kept are there", len(all), kept)
	}
}

// cpu returns how long PID 1 has run.
func (s *supervised) cpu(t *testing.T) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.Leader()))
	wait.Must(t, err)
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	var ticks int64
	for _, f := range fields[11:13] { // utime and stime, of 10 ms each
		n, err := strconv.ParseInt(f, 10, 64)
		wait.Must(t, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

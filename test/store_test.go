package test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/test/machine"
	"github.com/goerlang/eclus/test/wait"
)

// outside returns the number by which a process of the host is known here.
func (s *supervised) outside(t *testing.T, pid int) int {
	t.Helper()
	space := func(process string) string {
		link, _ := os.Readlink("/proc/" + process + "/ns/pid") // of one that has ended: none
		return link
	}
	host := space(fmt.Sprint(s.Leader()))
	found, err := filepath.Glob("/proc/[0-9]*")
	wait.Must(t, err)
	for _, dir := range found {
		status, _ := os.ReadFile(dir + "/status")
		number := filepath.Base(dir)
		if space(number) == host && regexp.MustCompile(fmt.Sprintf(`(?m)^NSpid:.*\t%d$`, pid)).Match(status) {
			n, err := strconv.Atoi(number)
			wait.Must(t, err)
			return n
		}
	}
	t.Fatalf("process %d of the host is not there", pid)
	return 0
}

// burst is many nodes that register at once.
type burst struct {
	nodes   []*raw // that were told "registered"
	slowest time.Duration
	errs    []error
}

// registerAtOnce has many nodes of a user register at once, each over a connection that is there
// already. It returns when the last has its answer.
func (s *supervised) registerAtOnce(ctx context.Context, uid int, prefix string, count int) (b burst, err error) {
	conns := make([]*net.TCPConn, count)
	err = s.inside(func() error {
		if err := unix.Setfsuid(uid); err != nil { // of this thread, which others will have
			return err
		}
		defer unix.Setfsuid(os.Geteuid())
		for i := range conns {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", epmd.DefaultPort))
			if err != nil {
				return err
			}
			conns[i] = c.(*net.TCPConn)
		}
		return nil
	})
	if err != nil {
		return b, err
	}
	defer context.AfterFunc(ctx, func() {
		for _, c := range conns {
			c.Close()
		}
	})()
	begin := time.Now()
	var all sync.WaitGroup
	var mu sync.Mutex
	for i, c := range conns {
		n := &raw{name: fmt.Sprint(prefix, i), port: uint16(20000 + i), conn: c, ended: make(chan struct{})}
		all.Go(func() {
			err := n.ask()
			took := time.Since(begin)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				c.Close()
				b.errs = append(b.errs, fmt.Errorf("register %s: %w", n.name, err))
				return
			}
			b.nodes = append(b.nodes, n)
			b.slowest = max(b.slowest, took)
		})
	}
	all.Wait()
	for _, n := range b.nodes {
		go n.wait()
	}
	return b, nil
}

// leave ends all nodes.
func (b burst) leave() {
	for _, n := range b.nodes {
		n.leave()
	}
}

// TestSystemdBurst has many nodes register at once. systemd's socket holds as few messages as the
// kernel lets it by itself. The test kills epmd the moment the last node has its answer. All that
// were told "registered" are.
func TestSystemdBurst(t *testing.T) {
	s := superviseOn(t, nil, "hosta", machine.Options{Queue: 10})
	s.burstAndKill(t, 1200)
}

// burstAndKill checks that nothing is lost of a burst that is followed by a kill.
func (s *supervised) burstAndKill(t *testing.T, count int) time.Duration {
	t.Helper()
	_, _ = s.lookup(wait.Soon(t), "nobody") // starts epmd
	pid := s.mainPID(t)
	b, err := s.registerAtOnce(wait.Soon(t), 0, "burst", count)
	wait.Must(t, err)
	s.endBy(t, func() { wait.Must(t, syscall.Kill(s.outside(t, pid), syscall.SIGKILL)) })
	defer b.leave()
	for _, err := range b.errs {
		t.Error(err)
	}
	s.checkOnly(t, b.nodes...)
	t.Logf("%d nodes at once: the slowest answer took %v", count, b.slowest.Round(time.Millisecond))
	return b.slowest
}

// TestSystemdBusy has so many nodes register at once that PID 1 reads nothing else for longer than
// the watchdog has patience, and its socket is full.
func TestSystemdBusy(t *testing.T) {
	t.Parallel()
	s := superviseOn(t, nil, "hosta", machine.Options{Queue: 4}, "WatchdogSec=3s")
	_, _ = s.lookup(wait.Soon(t), "nobody") // starts epmd
	before := s.show(t, "InvocationID")
	b, err := s.registerAtOnce(wait.Soon(t), 0, "n", 2000)
	wait.Must(t, err)
	defer b.leave()
	for _, err := range b.errs {
		t.Error(err)
	}
	s.await(t, "NFileDescriptorStore", "^2001$")
	fed := s.show(t, "WatchdogTimestampMonotonic")
	wait.True(t, "watchdog fed again", func() bool { return s.show(t, "WatchdogTimestampMonotonic") != fed })
	if now := s.show(t, "InvocationID"); now != before {
		t.Error("systemd has started another epmd")
	}
	s.checkOnly(t, b.nodes...)
}

// TestSystemdShares has a user register more nodes than the store has room for. A node that another
// user registers after that outlives epmd.
func TestSystemdShares(t *testing.T) {
	s := supervise(t, "FileDescriptorStoreMax=1024")
	s.shareAndKill(t, 1100, 512, 1023)
}

// shareAndKill has a user register nodes, of which so many are kept. The node of another user is
// kept as well, over a kill.
func (s *supervised) shareAndKill(t *testing.T, count, kept, places int) {
	t.Helper()
	_, _ = s.lookup(wait.Soon(t), "nobody") // starts epmd
	const greedy, other = 65001, 65002
	b, err := s.registerAtOnce(wait.Soon(t), greedy, "greedy", count)
	wait.Must(t, err)
	defer b.leave()
	rabbit, err := s.registerAtOnce(wait.Soon(t), other, "rabbit", 1)
	wait.Must(t, err)
	defer rabbit.leave()
	if len(b.errs) > 0 || len(rabbit.nodes) != 1 {
		t.Fatalf("errors %v, %v; want all registered", b.errs, rabbit.errs)
	}
	said := fmt.Sprintf("%d of them are not kept: user %d has %d of %d places", count-kept, greedy, kept, places)
	s.await(t, "StatusText", said)
	s.awaitJournal(t, "are not kept: user 65001 has")
	t.Logf("%d nodes at once: the slowest answer took %v; another user's then took %v", count,
		b.slowest.Round(time.Millisecond), rabbit.slowest.Round(time.Millisecond))
	s.crash(t)
	known := s.known(t)
	n, r := known["rabbit0"], rabbit.nodes[0]
	if n.Port != r.port || n.Creation != r.creation || len(known) != kept+1 {
		t.Errorf("%d nodes are kept, and rabbit0 with port %d, creation %d; want %d, and %d, %d", len(known),
			n.Port, n.Creation, kept+1, r.port, r.creation)
	}
	select {
	case <-r.ended:
		t.Error("the connection of rabbit0 has ended")
	default:
	}
}

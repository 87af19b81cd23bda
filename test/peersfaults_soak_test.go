//go:build soak

package test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/machine"
	"github.com/goerlang/eclus/test/wait"
)

// TestSoakPeersAway cuts a host off in three ways, for up to a minute. The other host knows soon
// that it has gone, and that it is back.
func TestSoakPeersAway(t *testing.T) {
	for _, tt := range []struct {
		name string
		cut  func(*testing.T, *host) (end func())
	}{
		{"link down", func(t *testing.T, h *host) func() {
			wait.Must(t, h.LinkDown(wait.Soon(t), "eth0"))
			return func() { wait.Must(t, h.LinkUp(wait.Soon(t), "eth0")) }
		}},
		{"cable pulled", func(t *testing.T, h *host) func() {
			wait.Must(t, h.Unplug(wait.Soon(t), "eth0"))
			return func() { wait.Must(t, h.Plug(wait.Soon(t), "eth0")) }
		}},
		{"power cut", func(t *testing.T, h *host) func() { // nothing comes back, not even a reset
			in, out := h.drop(t, "input", ""), h.drop(t, "output", "")
			return func() { in(); out() }
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, b := pair(t)
			seen := b.watch(t)
			a.register(t, "a", 4000)
			seen.until(t, present("a@hosta.local", reachable))
			for _, away := range []time.Duration{0, time.Second, 5 * time.Second, 15 * time.Second, 40 * time.Second} {
				time.Sleep(2 * time.Second) // all is as it was
				began := time.Now()
				back := tt.cut(t, a)
				lost := seen.until(t, present("a@hosta.local", unreachable)).Sub(began)
				time.Sleep(away)
				began = time.Now()
				back()
				found := seen.until(t, present("a@hosta.local", reachable)).Sub(began)
				t.Logf("unreachable after %v; %v later back: seen after %v", lost.Round(time.Millisecond), away, found.Round(time.Millisecond))
				if lost > 6*time.Second || found > 2*time.Second {
					t.Error("want 6 s and 2 s at most")
				}
			}
		})
	}
}

// TestSoakPeersChurn has one node register and end as fast as the machine can. The journal of a
// neighbour stays short, and no lookup there waits.
func TestSoakPeersChurn(t *testing.T) {
	n := lan.ForTest(t, tools...)
	a := addHosts(t, n, lan.HostOptions{}, "hosta")[0]
	b := superviseOn(t, n, "hostb", machine.Options{Avahi: true})
	a.run(t, shippedBinary(t))
	a.register(t, "first", 4000)
	b.register(t, "here", 1)
	b.awaitKnown(t, "first", true)
	const first, measured = 3 * time.Second, 20 * time.Second
	quiet := b.poll(t, "here0", 20000)
	time.Sleep(measured)
	t.Log("before:")
	quiet().check(t, 0, tolerable)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	times := make(chan int, 1)
	began := time.Now()
	go func() { times <- a.churn(ctx, t, "busy", 4000) }()
	here := b.poll(t, "here0", 20000)
	there := make(chan poller, 1)
	go func() {
		var p poller
		wait.Must(t, a.inside(func() error {
			p.run(ctx, a.client(), "first", 4000)
			return nil
		}))
		there <- p
	}()
	time.Sleep(first) // changes are entered at once up to 50, and then once a second
	early := strings.Count(b.journal(t), "busy")
	time.Sleep(measured)
	lines := strings.Count(b.journal(t), "busy") - early
	cancel()
	t.Logf("a node registers and ends %.0f times a second", float64(<-times)/time.Since(began).Seconds())
	t.Logf("the neighbour's journal has %d lines about it in the first %v, then %d in %v", early, first, lines, measured)
	if early == 0 || float64(lines) > 2*measured.Seconds() {
		t.Errorf("want some, and then 2 a second at most:\n%s", b.journal(t))
	}
	here().check(t, 0, 50*time.Millisecond)
	(<-there).check(t, 0, 50*time.Millisecond)
	a.register(t, "last", 4000)
	b.awaitKnown(t, "last", true)
	b.awaitKnown(t, "busy", false)
}

// awaitKnown waits until epmd knows a node of that alive name, or none.
func (s *supervised) awaitKnown(t *testing.T, name string, is bool) {
	t.Helper()
	wait.True(t, fmt.Sprintf("%s is known: %t", name, is), func() bool {
		_, known := s.known(t)[name]
		return known == is
	})
}

// journal returns all that epmd has written to the journal.
func (s *supervised) journal(t *testing.T) string {
	t.Helper()
	out, err := s.Journal(wait.Soon(t), "-u", unit, "-o", "cat")
	wait.Must(t, err)
	return out
}

// churn has a node register and end, over and over. It returns how often. It asks the kernel
// itself, as it is to be as fast as can be.
func (h *host) churn(ctx context.Context, t *testing.T, name string, port uint16) (times int) {
	frame, err := epmd.AppendFrame(nil, aliveReq(name, port))
	wait.Must(t, err)
	wait.Must(t, h.inside(func() error {
		for ctx.Err() == nil {
			registered, err := registerOnce(frame)
			if err != nil {
				return err
			}
			if registered {
				times++
			}
		}
		return nil
	}))
	return times
}

// registerOnce registers a node and ends it. It reports whether epmd has granted that: the node
// before may still be there.
func registerOnce(frame []byte) (granted bool, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	reset := unix.Linger{Onoff: 1} // or ports run out
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &reset); err != nil {
		return false, err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: epmd.DefaultPort, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return false, err
	}
	if _, err := unix.Write(fd, frame); err != nil {
		return false, err
	}
	answer := make([]byte, 6) // of ALIVE2_X_RESP, which comes as a whole
	n, err := unix.Read(fd, answer)
	return n > 1 && answer[1] == 0, err
}

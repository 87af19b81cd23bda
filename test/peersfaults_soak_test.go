//go:build soak

package test

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
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

// TestSoakRoutedAway cuts the power of a host beyond a router, whose epmd is named by its address.
func TestSoakRoutedAway(t *testing.T) {
	r := newRouted(t)
	quiet := lan.HostOptions{NoBus: true}
	a, b := r.host("hosta", r.near, quiet), r.host("hostb", r.far, quiet)
	a.start(t, "-allow", beyond, "-lan", "off")
	b.start(t, "-allow", beyond, "-lan", "off", "-peer", a.Address().String())
	seen := b.watch(t)
	a.register(t, "a", 4000)
	for i := range 10 {
		seen.until(t, elsewhere("a@hosta.local", true))
		if i%2 == 0 {
			time.Sleep(2 * time.Second) // all is as it was
		} else { // the time counts from the last packet
			name := fmt.Sprint("last", i)
			a.register(t, name, 4000)
			seen.until(t, elsewhere(name+"@hosta.local", true))
		}
		began := time.Now()
		in, out := a.drop(t, "input", ""), a.drop(t, "output", "")
		lost := seen.until(t, listed("a@hosta.local", unreachable)).Sub(began)
		in()
		out()
		if t.Logf("unreachable after %v", lost.Round(time.Millisecond)); lost > 6*time.Second {
			t.Error("want 6 s at most")
		}
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
	began := time.Now()
	stopChurn := a.churn(t, "busy", 4000)
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
	t.Logf("a node registers and ends %.0f times a second", float64(stopChurn())/time.Since(began).Seconds())
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

// churn has a node register and end, over and over, in a process of its own: what this process
// measures does not wait for it. stop returns how often.
func (h *host) churn(t *testing.T, name string, port uint16) (stop func() (times int)) {
	t.Helper()
	frame, err := epmd.AppendFrame(nil, aliveReq(name, port))
	wait.Must(t, err)
	cmd := h.Command(t.Context(), os.Args[0], "-test.short", "-test.run=^TestChurnProcess$")
	cmd.Env = append(cmd.Env, churnFrame+"="+hex.EncodeToString(frame))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	lives, err := cmd.StdinPipe()
	wait.Must(t, err)
	wait.Must(t, cmd.Start())
	return func() (times int) {
		t.Helper()
		lives.Close()
		wait.Must(t, cmd.Wait())
		_, err := fmt.Sscan(out.String(), &times)
		wait.Must(t, err)
		return times
	}
}

// churnFrame is the variable with the frame of the request, in hex.
const churnFrame = "ECLUS_TEST_CHURN"

// TestChurnProcess is the process of churn. It ends when its stdin does.
func TestChurnProcess(t *testing.T) {
	frame, err := hex.DecodeString(os.Getenv(churnFrame))
	wait.Must(t, err)
	if len(frame) == 0 {
		return // this is no process of churn
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	times := 0
	for ctx.Err() == nil {
		registered, err := registerOnce(frame)
		wait.Must(t, err)
		if registered {
			times++
		}
	}
	fmt.Println(times)
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

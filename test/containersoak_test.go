//go:build containers

package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

const (
	soakedContainers = 100
	// forgotten is when a host has forgotten an epmd that has gone without a word.
	forgotten = 11 * time.Minute
)

// TestContainerSoak has 100 containers come and go in a row. Every other one is killed. Once the
// host has forgotten those, its epmd has no more descriptors, goroutines and nodes than one that
// has seen one of them.
func TestContainerSoak(t *testing.T) {
	h := containerHost(t)
	h.makeImage(t)
	h.podman(t, "network", "create", "web")
	h.start(t)
	// A bridge goes with its last container.
	h.epmdIn(t, "stays", web...).register(t, "node", 4000)
	h.comeAndGo(t, "first", true)
	fresh := h.descriptors(t)
	for i := range soakedContainers {
		h.comeAndGo(t, fmt.Sprint("w", i), i%2 == 0)
	}
	t.Logf("after %d containers: %d nodes are listed, %d descriptors; %d before", soakedContainers, len(h.nodes(t)), h.descriptors(t), fresh)
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), forgotten)
	defer cancel()
	wait.Must(t, lan.Wait(ctx, "nodes and descriptors that are as before", func(context.Context) (bool, error) {
		return len(h.nodes(t)) == 1 && h.descriptors(t) <= fresh, nil
	}))
	t.Logf("all forgotten: %v", since(begin))
	soaked := h.goroutines(t)
	h.start(t)
	wait.True(t, "the host knows the container that stays", func() bool { return len(h.nodes(t)) == 1 })
	h.comeAndGo(t, "last", true)
	one := h.goroutines(t)
	t.Logf("%d goroutines; an epmd that has seen one container has %d", soaked, one)
	if soaked > one {
		t.Errorf("%d goroutines; want %d at most", soaked, one)
	}
}

// comeAndGo runs a container until the host knows its node. It ends in order, or is killed.
func (h *host) comeAndGo(t *testing.T, name string, inOrder bool) {
	t.Helper()
	r := h.epmdIn(t, name, web...)
	r.register(t, "node", 4000)
	there := func() bool { return h.nodes(t)["node@"+name+".local"].Node != "" }
	wait.True(t, "the host knows "+name, there)
	if inOrder {
		h.podman(t, "stop", name)
		wait.True(t, "the host forgets "+name, func() bool { return !there() })
	}
	h.podman(t, "rm", "--force", "--time", "0", name)
}

// descriptors returns how many the host's epmd has open.
func (h *host) descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.epmd.Pid()))
	wait.Must(t, err)
	return len(open)
}

// goroutines ends the host's epmd with a dump of its goroutines, and returns how many there are.
func (h *host) goroutines(t *testing.T) int {
	t.Helper()
	wait.Must(t, syscall.Kill(h.epmd.Pid(), syscall.SIGQUIT))
	<-h.epmd.Done()
	dump := h.epmd.Output()
	h.epmd = nil
	return len(regexp.MustCompile(`(?m)^goroutine \d+ `).FindAllString(dump, -1))
}

// TestContainerStart measures how long epmd takes from exec to its first answer, in a container and
// without one. It tries up to three times, as the machine may be busy.
func TestContainerStart(t *testing.T) {
	const most = 1.5
	h := containerHost(t)
	h.makeImage(t)
	const binary = "/run/bare-epmd"
	h.podman(t, "create", "--name", "source", "--no-healthcheck", image)
	h.podman(t, "cp", "source:/usr/bin/epmd", binary)
	ratio := most + 1
	for try := 0; try < 3 && ratio > most; try++ {
		ratio = h.compareStarts(t, binary)
	}
	if ratio > most {
		t.Errorf("exec to first answer takes %.2f times as long in a container; want %.1f", ratio, most)
	}
}

// compareStarts returns how much longer a start takes in a container, by medians.
func (h *host) compareStarts(t *testing.T, binary string) float64 {
	t.Helper()
	const rounds = 21
	var bare, inside []time.Duration
	for i := range rounds {
		bare = append(bare, h.firstAnswerBare(t, binary))
		inside = append(inside, h.firstAnswerIn(t, fmt.Sprint("e", i)))
	}
	slices.Sort(bare)
	slices.Sort(inside)
	a, b := inside[rounds/2], bare[rounds/2]
	ratio := a.Seconds() / b.Seconds()
	t.Logf("exec to first answer: %v in a container, %v bare: %.2f", a, b, ratio)
	return ratio
}

// firstAnswerIn measures a container whose process is there, and waits to be told to run epmd.
func (h *host) firstAnswerIn(t *testing.T, name string) time.Duration {
	t.Helper()
	h.podman(t, append([]string{"create"}, h.runs("--name", name, "--no-healthcheck", image)[1:]...)...)
	h.podman(t, "init", name)
	pid := h.pidOf(t, name)
	started := make(chan error, 1)
	go func() {
		_, err := h.Output(wait.Soon(t), "podman", "start", name)
		started <- err
	}()
	took := firstAnswer(t, fmt.Sprintf("/proc/%d/ns/net", pid), pid, "/usr/bin/epmd")
	wait.Must(t, <-started)
	h.podman(t, "rm", "--force", "--time", "0", name)
	return took
}

// firstAnswerBare measures a shell on the host that turns into epmd.
func (h *host) firstAnswerBare(t *testing.T, binary string) time.Duration {
	t.Helper()
	cmd := h.Command(wait.Soon(t), "sh", "-c", "read go; exec "+binary)
	stdin, err := cmd.StdinPipe()
	wait.Must(t, err)
	p, err := h.StartCmd(cmd)
	wait.Must(t, err)
	go stdin.Write([]byte("go\n"))
	took := firstAnswer(t, h.NetNS(), p.Pid(), binary)
	wait.Must(t, p.Stop(wait.Soon(t)))
	return took
}

// firstAnswer returns how long it takes from the moment at which a process has become epmd until
// that answers. It looks all the time.
func firstAnswer(t *testing.T, netns string, pid int, binary string) (took time.Duration) {
	t.Helper()
	wait.Must(t, lan.Inside(netns, func() error {
		ctx := wait.Soon(t)
		for {
			if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); strings.HasSuffix(exe, binary) {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("until the process runs epmd: %w", ctx.Err())
			}
		}
		begin := time.Now()
		for {
			if _, err := clientInside().Lookup(ctx, "nobody"); errors.Is(err, epmd.ErrNotRegistered) {
				took = time.Since(begin)
				return nil
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}))
	return took
}

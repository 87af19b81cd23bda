//go:build containers

package test

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

// How long news may take, from the command that makes it. A start or an end of a container takes
// the engine about a second of that.
const (
	hostSees    = time.Second      // a node that registers in a container, on its host
	othersSee   = 31 * time.Second // the same in other containers, once DNS has it
	orderlyEnd  = 2 * time.Second
	sudden      = 8 * time.Second
	dnsPeriod   = 30 * time.Second
	hostKills   = 20
	fewReplicas = 2
	allReplicas = 20
)

// epmdIn starts a container with nothing but epmd.
func (h *host) epmdIn(t *testing.T, name string, flags ...string) *replica {
	t.Helper()
	h.launch(t, name, append(append([]string{"--no-healthcheck"}, flags...), image)...)
	return h.replica(t, name)
}

// containersAlone makes a host with our epmd, and containers with nothing but epmd. Each has a node
// "node" that is not more than a registration.
func containersAlone(t *testing.T, flags []string, names ...string) (h *host, replicas []*replica) {
	t.Helper()
	h = containerHost(t)
	h.makeImage(t)
	h.podman(t, "network", "create", "web")
	h.start(t)
	for _, name := range names {
		r := h.epmdIn(t, name, flags...)
		r.register(t, "node", 4000)
		replicas = append(replicas, r)
	}
	return h, replicas
}

// within fails the test if that took longer. It logs what it took.
func within(t *testing.T, what string, begin time.Time, most time.Duration) {
	t.Helper()
	took := since(begin)
	t.Logf("%s: %v", what, took)
	if took > most {
		t.Errorf("%s: %v; want %v at most", what, took, most)
	}
}

// allUntil waits for a condition on all.
func allUntil(t *testing.T, all []*watcher, c ...condition) {
	t.Helper()
	for _, w := range all {
		w.until(t, c...)
	}
}

// TestContainerEnds has nodes of containers come, containers end in order, and be killed.
func TestContainerEnds(t *testing.T) {
	h, rs := containersAlone(t, web, "w1", "w2", "w3", "w4")
	seen := h.watch(t)
	all := []*watcher{seen, rs[0].watcher, rs[1].watcher}
	allUntil(t, all[:1], known("node@w1.local"), known("node@w2.local"), known("node@w3.local"), known("node@w4.local"))
	allUntil(t, all, known("node@w3.local"), known("node@w4.local"))

	begin := time.Now()
	rs[2].register(t, "new", 4001)
	seen.until(t, known("new@w3.local"))
	within(t, "registered, seen on the host", begin, hostSees)
	allUntil(t, all, known("new@w3.local"))
	within(t, "registered, seen in other containers", begin, othersSee)

	begin = time.Now()
	h.podman(t, "kill", "--signal", "TERM", "w3")
	allUntil(t, all, unlisted("node@w3.local"), unlisted("new@w3.local"))
	within(t, "ended in order, gone everywhere", begin, orderlyEnd)

	begin = time.Now()
	h.podman(t, "kill", "w4")
	allUntil(t, all, unknown("node@w4.local"))
	within(t, "killed, gone or unreachable everywhere", begin, sudden)

	begin = time.Now()
	h.epmdIn(t, "w5", web...).register(t, "node", 4000)
	seen.until(t, known("node@w5.local"))
	within(t, "started, seen on the host", begin, othersSee)
	allUntil(t, all, known("node@w5.local"))
	within(t, "started, seen in other containers", begin, othersSee)
}

// unlisted holds if no such node is listed, be it reachable or not.
func unlisted(node string) condition {
	return condition{node + " is listed no more", func(known map[string]registry.Node) bool {
		return !some(known, registry.Peer, node, nil) && !some(known, registry.LAN, node, nil)
	}}
}

// TestContainerHostKilled kills the host's epmd again and again. No container reports that anything
// goes down.
func TestContainerHostKilled(t *testing.T) {
	h, rs, nodes := containerWeb(t, "w1", "w2", "w3")
	for _, r := range rs {
		for name := range nodes {
			if name != "n@"+r.name {
				r.until(t, known(name))
			}
		}
	}
	for range hostKills {
		h.kill(t)
		h.start(t)
		seen := h.watch(t)
		seen.until(t, known("n@w1"), known("n@w2"), known("n@w3"), local("h@hosta"))
	}
	for _, r := range rs {
		r.until(t, known("h@hosta"))
		if down := downs(r.history()); len(down) > 0 {
			t.Errorf("%s reported %q", r.name, down)
		}
	}
}

// downs returns the lines of a history that take something away.
func downs(history string) (lines []string) {
	for line := range strings.Lines(history) {
		if strings.HasPrefix(line, "-") || strings.Contains(line, "reachable=no") {
			lines = append(lines, line)
		}
	}
	return lines
}

// TestContainerScale has a service of two replicas get 20, and two again.
func TestContainerScale(t *testing.T) {
	var names []string
	for i := range allReplicas {
		names = append(names, fmt.Sprint("w", i))
	}
	h, rs := containersAlone(t, web, names[:fewReplicas]...)
	seen := h.watch(t)
	var more sync.WaitGroup
	added := make([]*replica, allReplicas-fewReplicas)
	begin := time.Now()
	for i := range added {
		more.Go(func() {
			added[i] = h.epmdIn(t, names[fewReplicas+i], web...)
			added[i].register(t, "node", 4000)
		})
	}
	more.Wait()
	t.Logf("started %d more: %v", len(added), since(begin))
	begin = time.Now()
	checkViews(t, seen, append(rs, added...), names)
	within(t, "20 replicas, all views right", begin, dnsPeriod+sudden)

	begin = time.Now()
	h.podman(t, append([]string{"stop"}, names[fewReplicas:]...)...)
	t.Logf("stopped %d: %v", len(added), since(begin))
	begin = time.Now()
	checkViews(t, seen, rs, names[:fewReplicas])
	within(t, "2 replicas, all views right", begin, dnsPeriod+sudden)
}

// checkViews waits until the host, and each replica of that service, know the nodes of all
// others, and no more.
func checkViews(t *testing.T, seen *watcher, rs []*replica, names []string) {
	t.Helper()
	exactly := func(but string) condition {
		return condition{fmt.Sprintf("all %d nodes are known, but that of %q", len(names), but), func(known map[string]registry.Node) bool {
			there := make(map[string]bool)
			for _, n := range known {
				if n.Origin != registry.Local {
					there[n.Node] = n.Reach == registry.Reachable
				}
			}
			want := 0
			for _, name := range names {
				if name == but {
					continue
				}
				want++
				if !there["node@"+name+".local"] {
					return false
				}
			}
			return len(there) == want
		}}
	}
	seen.until(t, exactly(""))
	for _, r := range rs {
		r.until(t, exactly(r.name))
	}
}

// TestContainerPaused has a container stand still, and then be cut off from its network, for a
// while each.
func TestContainerPaused(t *testing.T) {
	h, rs := containersAlone(t, web, "w1", "w2")
	seen := h.watch(t)
	all := []*watcher{seen, rs[0].watcher}
	allUntil(t, all, known("node@w2.local"))

	h.podman(t, "pause", "w2")
	begin := time.Now()
	rs[0].register(t, "meanwhile", 4001)
	seen.until(t, known("meanwhile@w1.local"))
	within(t, "beside a paused container: registered, seen on the host", begin, hostSees)
	h.podman(t, "unpause", "w2")
	rs[1].until(t, known("meanwhile@w1.local"))
	allUntil(t, all, known("node@w2.local"))

	port := h.vethOf(t, rs[1])
	begin = time.Now()
	wait.Must(t, h.LinkDown(t.Context(), port))
	allUntil(t, all, unknown("node@w2.local"))
	within(t, "cut off, unreachable everywhere", begin, sudden)
	begin = time.Now()
	wait.Must(t, h.LinkUp(t.Context(), port))
	allUntil(t, all, known("node@w2.local"))
	rs[1].until(t, known("meanwhile@w1.local"))
	within(t, "mended, known everywhere", begin, othersSee)
}

// vethOf returns the interface of the host that leads to a container.
func (h *host) vethOf(t *testing.T, r *replica) string {
	t.Helper()
	inside, err := h.Output(wait.Soon(t), "nsenter", "--net="+r.netns, "ip", "-o", "link", "show", "eth0")
	wait.Must(t, err)
	index := regexp.MustCompile(`@if(\d+):`).FindStringSubmatch(inside)[1]
	out, err := h.Output(wait.Soon(t), "ip", "-o", "link")
	wait.Must(t, err)
	for line := range strings.Lines(out) {
		if number, rest, _ := strings.Cut(line, ": "); number == index {
			name, _, _ := strings.Cut(rest, "@")
			return name
		}
	}
	t.Fatalf("no interface %s in\n%s", index, out)
	return ""
}

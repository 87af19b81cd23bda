//go:build containers

package test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// erlang is the image that has Erlang, which is that of the machine.
const erlang = "localhost/erlang"

// makeErlang makes the image erlang. The machine's /usr is mounted into its containers.
func (h *host) makeErlang(t *testing.T) {
	t.Helper()
	root := h.Path("/run/erlang/root")
	for _, dir := range []string{"etc", "opt/eclus", "proc", "root", "run", "sys", "dev", "tmp", "usr", "var/tmp"} {
		wait.Must(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		wait.Must(t, os.Symlink("usr/"+dir, filepath.Join(root, dir)))
	}
	files := map[string]string{
		"etc/passwd":          "root:x:0:0:root:/root:/bin/sh\n",
		"etc/nsswitch.conf":   "hosts: files dns\n",
		"root/.erlang.cookie": lan.Cookie,
	}
	for path, content := range files {
		wait.Must(t, os.WriteFile(filepath.Join(root, path), []byte(content), 0o400))
	}
	wait.Must(t, os.CopyFS(filepath.Join(root, "opt/eclus"), os.DirFS(application(t))))
	wait.Must(t, h.WriteFile("/run/erlang/Containerfile", "FROM scratch\nCOPY root /\nENV HOME=/root\n", 0o644))
	h.podman(t, "build", "--quiet", "--tag", erlang, "/run/erlang")
}

// replica is a container with a network of its own and epmd in it.
type replica struct {
	h     *host
	name  string
	netns string
	*watcher
}

// replica returns the container of that name, once its epmd answers.
func (h *host) replica(t *testing.T, name string) *replica {
	t.Helper()
	return h.replicaOf(t, name, fmt.Sprint(h.pidOf(t, name)))
}

// replicaOf is replica for a container of any engine, whose PID 1 is known outside by that number.
func (h *host) replicaOf(t *testing.T, name, pid string) *replica {
	t.Helper()
	r := &replica{h: h, name: name, netns: fmt.Sprintf("/proc/%s/ns/net", pid)}
	wait.Until(t, "epmd answers in "+name, func() error {
		return lan.Inside(r.netns, func() error {
			_, err := clientInside().Names(wait.Soon(t))
			return err
		})
	})
	r.watcher = watchIn(t, name, r.netns)
	return r
}

// register registers a node that is nothing but a connection to epmd and an open port.
func (r *replica) register(t *testing.T, name string, port uint16) *epmd.Registration {
	t.Helper()
	var node *epmd.Registration
	wait.Must(t, lan.Inside(r.netns, func() error {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		node, err = clientInside().Register(wait.Soon(t), aliveReq(name, port))
		return err
	}))
	t.Cleanup(func() { node.Close() })
	return node
}

// erlIn starts erl as PID 1 of a container, with our epmd in the place of its own.
func (h *host) erlIn(t *testing.T, name string, flags []string, args ...string) *lan.Erl {
	t.Helper()
	command := append([]string{"podman"}, h.runs("--interactive", "--name", name, "--hostname", name,
		"--volume", "/usr:/usr:ro", "--volume", eclusBinary(t)+":"+ownEPMD(t)+":ro",
		"--volume", lan.EvaluatorPath+":"+lan.EvaluatorPath+":ro")...)
	command = slices.Concat(command, flags, []string{erlang, "erl"})
	e, err := h.StartErlBy(wait.Soon(t), command, args...)
	wait.Must(t, err)
	return e
}

// byPeers makes a node reach others by what epmd knows, as in the documentation.
var byPeers = []string{"-pa", "/opt/eclus", "-epmd_module", "eclus_epmd", "-connect_all", "false"}

// web are what joins a container with its host and with the replicas of a service.
var web = []string{"--network", "web", "--network-alias", "web", "--env", "ECLUS_PEER=gateway,dns:web"}

// containerWeb makes a host with our epmd and a node h, and containers with a node n each.
func containerWeb(t *testing.T, names ...string) (h *host, replicas []*replica, nodes map[string]*lan.Erl) {
	t.Helper()
	h = containerHost(t)
	h.makeErlang(t)
	h.podman(t, "network", "create", "web")
	h.start(t)
	var mu sync.Mutex
	nodes = make(map[string]*lan.Erl)
	add := func(name string, e *lan.Erl) {
		mu.Lock()
		defer mu.Unlock()
		nodes[name] = e
	}
	var all sync.WaitGroup
	for _, name := range names {
		all.Go(func() { add("n@"+name, h.erlIn(t, name, web, append(byPeers, "-sname", "n")...)) })
	}
	all.Go(func() {
		args := append([]string{"-start_epmd", "false", "-sname", "h", "-pa", application(t)}, byPeers[2:]...)
		add("h@hosta", h.erl(t, args...))
	})
	all.Wait()
	for _, name := range names {
		replicas = append(replicas, h.replica(t, name))
	}
	return h, replicas, nodes
}

// known holds if a node is known that is of another host and can be reached.
func known(node string) condition {
	return condition{node + " is known", func(known map[string]registry.Node) bool {
		return some(known, registry.Peer, node, []func(registry.Node) bool{reachable}) ||
			some(known, registry.LAN, node, []func(registry.Node) bool{reachable})
	}}
}

// unknown holds if no such node can be reached.
func unknown(node string) condition {
	is := known(node)
	return condition{node + " goes", func(known map[string]registry.Node) bool { return !is.holds(known) }}
}

// TestContainerNodes has three containers and their host see all nodes. Nodes ping each other in
// all directions. Nothing but epmd tells them where: the engine gives containers the host's
// /etc/hosts, where the host's name is that of loopback.
func TestContainerNodes(t *testing.T) {
	names := []string{"w1", "w2", "w3"}
	h, replicas, nodes := containerWeb(t, names...)
	seen := h.watch(t)
	for name := range nodes {
		for _, r := range replicas {
			if name != "n@"+r.name {
				r.until(t, known(name))
			}
		}
		if name != "h@hosta" {
			seen.until(t, known(name))
		}
	}
	for from, node := range nodes {
		for to := range nodes {
			if from != to {
				checkPong(t, from, node, to)
				awaitApart(t, node, to)
				awaitApart(t, nodes[to], from)
			}
		}
	}
}

// checkPong has a node ping another, and disconnects them. Where epmd took more than 0.1 s on a
// busy machine, the node tries again.
func checkPong(t *testing.T, from string, node *lan.Erl, to string) {
	t.Helper()
	alive, host, _ := strings.Cut(to, "@")
	ping := fmt.Sprintf(`B = erlang:monotonic_time(millisecond), {net_adm:ping('%s'), eclus_epmd:is_missed_since("%s", "%s", B)}.`,
		to, alive, host)
	got := value(t, node, ping)
	wait.True(t, from+" has tried in time", func() bool {
		if got == "{pang,true}" {
			got = value(t, node, ping)
		}
		return got != "{pang,true}"
	})
	if !strings.HasPrefix(got, "{pong,") {
		t.Errorf("from %s: %s evaluates to %s", from, ping, got)
		return
	}
	eval(t, node, fmt.Sprintf("rpc:call('%s', erlang, node, []) =:= '%[1]s'.", to), "true")
	eval(t, node, fmt.Sprintf("erlang:disconnect_node('%s').", to), "true")
}

// awaitApart waits until a node's net_kernel has forgotten its connection to another. A new one
// before that may come to nothing.
func awaitApart(t *testing.T, node *lan.Erl, from string) {
	t.Helper()
	awaitValue(t, node, fmt.Sprintf("ets:lookup(sys_dist, '%s').", from), "[]")
}

// aliveAs holds if a node of that alive name is known and can be reached, on whatever host.
func aliveAs(alive string) condition {
	return condition{alive + " is known", func(known map[string]registry.Node) bool {
		for _, n := range known {
			if n.Name == alive && n.Origin != registry.Local && n.Reach == registry.Reachable {
				return true
			}
		}
		return false
	}}
}

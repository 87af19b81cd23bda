package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// writeNodes makes a nodes file of the host, which takes the place of an earlier one.
func (h *host) writeNodes(t *testing.T, path, text string) {
	t.Helper()
	at := h.Path(path)
	wait.Must(t, os.MkdirAll(filepath.Dir(at), 0o755))
	wait.Must(t, os.WriteFile(at+".new", []byte(text), 0o644))
	wait.Must(t, os.Rename(at+".new", at))
}

// TestNodesFiles has a host know nodes of another beyond a router by nodes files alone. One is an
// Erlang node without epmd, and is reached by its name. Others have an epmd of ours, or of OTP.
func TestNodesFiles(t *testing.T) {
	t.Parallel()
	need.Program(t, stockEpmd)
	dir := application(t)
	r := newRouted(t)
	quiet := lan.HostOptions{NoBus: true}
	a, b := r.host("hosta", r.near, quiet), r.host("hostb", r.far, quiet)
	nameless(t, a, b)
	a.start(t, "-allow", beyond, "-lan", "off", "-etc_hosts", "/run/epmd-hosts")
	seen := a.watch(t)
	address := b.Address().String()
	port := []string{"-kernel", "inet_dist_listen_min", "9100", "inet_dist_listen_max", "9100"}
	far := b.erl(t, append([]string{"-name", "b@hostb.local", "-start_epmd", "false", "-epmd_module", "alone", "-pa", alone(t)}, port...)...)
	a.writeNodes(t, "/etc/epmd/nodes.d/b.nodes", "b@hostb.local "+address+":9100\n")
	seen.until(t, listed("b@hostb.local", via("b.nodes")))
	a.awaitTable(t, `b@hostb.local +`+address+` +9100 +normal +peer +- .* b\.nodes`)
	wait.Until(t, "the host is in the table", func() error {
		if text, err := os.ReadFile(a.Path("/run/epmd-hosts")); err != nil || !strings.Contains(string(text), address+" hostb.local") {
			return fmt.Errorf("there is %q, %v", text, err)
		}
		return nil
	})
	near := a.erl(t, "-name", "a@hosta.local", "-pa", dir, "-epmd_module", "eclus_epmd")
	awaitValue(t, near, reach("b@hostb.local"), "{true,pong}")
	checkSilent(t, near, far)
	if out := a.pingArgs(t, "b@hostb.local"); !strings.Contains(out, "nodes file b.nodes") || !strings.Contains(out, "pong") {
		t.Errorf("epmd -ping shows\n%s", out)
	}

	b.start(t, "-allow", beyond, "-lan", "off")
	b.register(t, "c", 4000)
	a.writeNodes(t, "/run/epmd/nodes.d/peers.nodes", "@"+address+"\nc@hostb.local "+address+":4999\n")
	seen.until(t, listed("c@hostb.local", via("epmd"), onPort(4000), reachable), listed("b@hostb.local", via("b.nodes")))
	wait.Must(t, os.Remove(a.Path("/run/epmd/nodes.d/peers.nodes")))
	b.stop(t)
	seen.until(t, elsewhere("c@hostb.local", false))
	wait.Must(t, os.RemoveAll(a.Path("/etc/epmd")))
	seen.until(t, condition{"b@hostb.local goes", func(known map[string]registry.Node) bool {
		return !some(known, registry.Peer, "b@hostb.local", nil)
	}})
}

// TestNodesFilesTrust has a program name an epmd, and a node without one, below /run. To prove the
// cookie there needs -prove. What this host's owner names in /etc does not. D-Bus and the files for
// name lookup have both.
func TestNodesFilesTrust(t *testing.T) {
	t.Parallel()
	hosts := busHosts(t, "hosta", "hostb")
	a, b := hosts[0], hosts[1]
	nameless(t, a)
	a.start(t, "-lan", "off", "-hosts_file", "/run/world", "-etc_hosts", "/run/table")
	b.start(t, "-lan", "off")
	address := b.Address().String()
	b.erl(t, "-name", "b@hostb.local")
	b.erl(t, "-name", "c@hostc.local", "-start_epmd", "false", "-epmd_module", "alone", "-pa", alone(t),
		"-kernel", "inet_dist_listen_min", "9100", "inet_dist_listen_max", "9100")
	text := "@" + address + "\nc@hostc.local " + address + ":9100\n"
	seen := a.watch(t)
	a.writeNodes(t, "/run/epmd/nodes.d/program.nodes", text)
	named := func(is bool) func(registry.Node) bool { return func(n registry.Node) bool { return n.Named == is } }
	seen.until(t, listed("b@hostb.local", via("epmd"), reachable, sure, named(false)), listed("c@hostc.local", via("program.nodes"), named(false)))
	for _, node := range []string{"b@hostb.local", "c@hostc.local"} {
		a.ping(t, node).checkFails(t, "trust", "only what a program has written below /run says", "log in elsewhere(?s:.*)-prove")
		a.refused(t, "trust: only what a program has written", eclusBinary(t), "-peek", node)
		if out := a.pingArgs(t, node, "-prove"); !strings.Contains(out, "pong from "+node) {
			t.Errorf("with -prove: %s", out)
		}
	}
	a.awaitProperties(t, "b_40hostb_2elocal", `s "peer"`, `s "epmd"`, "b false")
	a.awaitProperties(t, "c_40hostc_2elocal", `s "peer"`, `s "program.nodes"`, "b false")
	for path, lines := range map[string][]string{
		"/run/world": {"'hostb.local'."}, "/run/table": {address + " hostb.local", address + " hostc.local"},
	} {
		wait.Until(t, path+" has both hosts", func() error {
			text, err := os.ReadFile(a.Path(path))
			for _, l := range lines {
				if err != nil || !strings.Contains(string(text), l) {
					return fmt.Errorf("there is %q, %v", text, err)
				}
			}
			return nil
		})
	}

	a.writeNodes(t, "/etc/epmd/nodes.d/owner.nodes", text)
	wait.Must(t, os.Remove(a.Path("/run/epmd/nodes.d/program.nodes")))
	seen.until(t, listed("b@hostb.local", via("epmd"), reachable, named(true)), listed("c@hostc.local", via("owner.nodes"), named(true)))
	a.awaitProperties(t, "c_40hostc_2elocal", `s "peer"`, `s "owner.nodes"`, "b true")
	for _, node := range []string{"b@hostb.local", "c@hostc.local"} {
		if out := a.pingArgs(t, node); !strings.Contains(out, "pong from "+node) || strings.Contains(out, "-prove") {
			t.Errorf("of what the owner has named: %s", out)
		}
	}
}

// awaitProperties waits until a node has those values of Origin, Via and Named on the bus.
func (h *host) awaitProperties(t *testing.T, node, origin, via, named string) {
	t.Helper()
	want := origin + "\n" + via + "\n" + named + "\n"
	wait.Until(t, "properties of "+node, func() error {
		got, err := h.Output(wait.Soon(t), "busctl", "get-property", "org.erlang.Epmd", "/org/erlang/Epmd/"+node,
			"org.erlang.Epmd.Node", "Origin", "Via", "Named")
		if err != nil || got != want {
			return fmt.Errorf("got %s, %v; want %s", got, err, want)
		}
		return nil
	})
}

// listed holds if a node is elsewhere for which all else is true too.
func listed(node string, is ...func(registry.Node) bool) condition {
	return condition{node + " is listed", func(known map[string]registry.Node) bool {
		return some(known, registry.Peer, node, is)
	}}
}

// alone returns a folder with a module for nodes that do without epmd.
func alone(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for p := dir; p != "/tmp" && p != "/"; p = filepath.Dir(p) {
		wait.Must(t, os.Chmod(p, 0o755))
	}
	wait.Must(t, os.WriteFile(dir+"/alone.erl", []byte(`-module(alone).
-compile(export_all).
-compile(nowarn_export_all).
start_link() -> ignore.
register_node(_, _) -> {ok, 1}.
register_node(_, _, _) -> {ok, 1}.
port_please(_, _) -> noport.
port_please(_, _, _) -> noport.
address_please(_, Host, Family) -> inet:getaddr(Host, Family).
names(_) -> {error, address}.
listen_port_please(_, _) -> {ok, 9100}.
`), 0o644))
	outputOf(t, "erlc", "-o", dir, dir+"/alone.erl")
	return dir
}

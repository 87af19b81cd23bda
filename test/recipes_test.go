package test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// recipes are those of docs/clusters.md for nodes that connect by themselves.
var recipes = []struct {
	name    string
	source  func(*testing.T) string // Erlang or Elixir, as the document shows it
	compile string                  // a command, without the folder it compiles into and the source
	start   string                  // Erlang; JOIN stands for a list of patterns
}{
	{"erlang_recipe.erl", func(t *testing.T) string {
		return "-module(erlang_recipe).\n-export([start/1]).\nstart(Join) ->\n" +
			"#{start := {M, F, A}} = " + childSpec(t, "#{id => ", "Join") + ",\napply(M, F, A).\n"
	}, "erlc -o", "erlang_recipe:start(JOIN)"},
	{"elixir_recipe.ex", func(t *testing.T) string {
		return "defmodule ElixirRecipe do\ndef start(join), do: Supervisor.start_link([" +
			childSpec(t, "%{id: ", "join") + "], strategy: :one_for_one)\nend\n"
	}, "elixirc -o", "'Elixir.ElixirRecipe':start(JOIN)"},
	{"epmd_cluster_strategy.ex", func(t *testing.T) string { return snippet(t, "epmd_cluster_strategy.ex") },
		"elixirc recipes/libcluster/cluster.ex -o",
		"'Elixir.Cluster.Supervisor':start_link([[{lan, [{strategy, 'Elixir.EpmdCluster.Strategy'}, {config, [{join, JOIN}]}]}], []])"},
}

// joined are the nodes that the recipes join in the tests. Neither x@hosta.local nor
// any-b@hostb.local is among them.
const joined = `[<<"a@hosta.local">>, <<"b*@hostb.local">>, <<"*@hostc.local">>]`

// childSpec returns a child of a supervisor that docs/clusters.md shows, with another list.
func childSpec(t *testing.T, begin, list string) string {
	t.Helper()
	text, err := os.ReadFile("../docs/clusters.md")
	wait.Must(t, err)
	_, rest, _ := strings.Cut(string(text), "\n    "+begin)
	line, _, _ := strings.Cut(rest, "\n")
	before, after, listed := strings.Cut(line, `["web*@hosta.local"]`)
	if !listed {
		t.Fatalf("docs/clusters.md shows no child of a supervisor with %q", begin)
	}
	return begin + before + list + after
}

// snippet returns a module that docs/clusters.md shows. It is short.
func snippet(t *testing.T, file string) string {
	t.Helper()
	document, err := os.ReadFile("../docs/clusters.md")
	wait.Must(t, err)
	text, err := os.ReadFile(filepath.Join("recipes", file))
	wait.Must(t, err)
	if !strings.Contains(string(document), "\n```elixir\n"+string(text)+"```\n") {
		t.Errorf("docs/clusters.md does not show %s as it is", file)
	}
	if n := strings.Count(string(text), "\n"); n > 20 {
		t.Errorf("%s has %d lines, want at most 20", file, n)
	}
	return string(text)
}

// compiled compiles a recipe and returns arguments of erl that start it.
func compiled(t *testing.T, name, source, compile, start string) []string {
	t.Helper()
	lan.Need(t, "erlc", "elixirc")
	dir, application := t.TempDir(), application(t)
	wait.Must(t, os.Chmod(dir, 0o755))
	path := filepath.Join(dir, name)
	wait.Must(t, os.WriteFile(path, []byte(source), 0o644))
	command := strings.Fields(compile + " " + dir + " " + path)
	cmd := exec.CommandContext(wait.Soon(t), command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "ERL_LIBS="+filepath.Dir(application), "ERL_FLAGS=-pa "+application)
	out, err := cmd.CombinedOutput()
	warnings := regexp.MustCompile(`(?m)^Compiling .* \(it's taking more than \d+s\)\n`).ReplaceAll(out, nil)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%q: %v: %s", command, err, out)
	}
	elixir, err := exec.CommandContext(wait.Soon(t), "elixir", "-e", "IO.write(:code.lib_dir(:elixir))").Output()
	wait.Must(t, err)
	return []string{"-pa", application, "-pa", dir, "-pa", string(elixir) + "/ebin", "-eval",
		"application:ensure_all_started(elixir), spawn(fun() -> {ok, _} = " + start + ", timer:sleep(infinity) end)."}
}

// TestLANRecipes has nodes on three hosts connect by each of the recipes. A plain node joins after
// one of their epmds was restarted. A node that no list names stays alone, with an empty list too.
// Debian has no libcluster. The stand-in in recipes/libcluster does what libcluster documents.
func TestLANRecipes(t *testing.T) {
	for _, r := range recipes {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			args := func(list string) []string {
				return compiled(t, r.name, r.source(t), r.compile, strings.Replace(r.start, "JOIN", list, 1))
			}
			testRecipe(t, args(joined), args("[]"))
		})
	}
}

// TestLANRecipeResolver has nodes connect by the resolver for dns_cluster. They are called by the
// addresses of their hosts. A node with another alive name stays alone. So does one of a host that
// nobody asks for. Debian has no dns_cluster. The stand-in is in recipes/dns_cluster.
func TestLANRecipeResolver(t *testing.T) {
	t.Parallel()
	args := resolverArgs(t)
	hosts := running(t, "hosta", "hostb", "hostc")
	nameless(t, hosts...)
	named := func(h *host, name string) string { return name + "@" + h.Address().String() }
	alone := []*lan.Erl{hosts[1].erl(t, "-name", named(hosts[1], "db")), hosts[2].erl(t, "-name", named(hosts[2], "web"))}
	near := hosts[0].erl(t, append([]string{"-name", named(hosts[0], "web")}, args...)...)
	far := hosts[1].erl(t, append([]string{"-name", named(hosts[1], "web")}, args...)...)
	awaitConnected(t, near, named(hosts[1], "web"))
	awaitConnected(t, far, named(hosts[0], "web"))
	for _, e := range alone {
		eval(t, e, "nodes(connected).", "[]")
	}
	checkSilent(t, append(alone, near, far)...)
}

func testRecipe(t *testing.T, args, plain []string) {
	n := lan.ForTest(t, tools...)
	hosts := addHosts(t, n, lan.HostOptions{}, "hosta", "hostb", "hostc")
	a, b, c := hosts[0], hosts[1], hosts[2]
	for _, h := range hosts {
		h.start(t)
	}
	named := func(name string) []string { return append([]string{"-name", name}, args...) }
	alone := []*lan.Erl{
		a.erl(t, append([]string{"-name", "x@hosta.local"}, plain...)...), b.erl(t, "-name", "any-b@hostb.local"),
	}
	nodes := []*lan.Erl{a.erl(t, named("a@hosta.local")...), b.erl(t, named("b@hostb.local")...), c.erl(t, named("c@hostc.local")...)}
	began := time.Now()
	for i, want := range []string{"b@hostb.local c@hostc.local", "a@hosta.local c@hostc.local", "a@hosta.local b@hostb.local"} {
		awaitConnected(t, nodes[i], want)
	}
	took := time.Since(began)
	t.Logf("all connected %v after the last node had started", took.Round(time.Millisecond))
	if took > raced(3*time.Second) {
		t.Errorf("all connected only after %v", took)
	}

	a.stop(t)
	a.start(t)
	// Else d can't reach it, and OTP would disconnect the others from it.
	a.awaitTable(t, `(?m)^a@hosta\.local .* local `)
	late := c.erl(t, "-name", "d@hostc.local")
	awaitConnected(t, late, "a@hosta.local b@hostb.local c@hostc.local")
	for _, e := range alone {
		eval(t, e, "nodes(connected).", "[]")
	}
	checkSilent(t, append(append(nodes, late), alone...)...)
}

// resolverArgs are those of erl that have a node connect by the resolver for dns_cluster.
func resolverArgs(t *testing.T) []string {
	t.Helper()
	const start = `'Elixir.DNSCluster':start_link([{'query', [<<"hosta.local">>, <<"hostb.local">>]}, {resolver, 'Elixir.EpmdCluster.Resolver'}])`
	return compiled(t, "epmd_cluster_resolver.ex", snippet(t, "epmd_cluster_resolver.ex"),
		"elixirc recipes/dns_cluster/dns_cluster.ex -o", start)
}

// awaitConnected waits until the nodes that a node is connected to are those.
func awaitConnected(t *testing.T, e *lan.Erl, want string) {
	t.Helper()
	const connected = `lists:flatten(lists:join(" ", [atom_to_list(N) || N <- lists:sort(nodes())])).`
	var got string
	err := lan.Wait(wait.Soon(t), "nodes "+want, func(ctx context.Context) (bool, error) {
		var err error
		got, err = e.Eval(ctx, connected)
		return strings.Trim(got, `"`) == want, err
	})
	if err != nil {
		t.Fatalf("%v; it is connected to %s", err, got)
	}
}

package test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// recipes are those of docs/clusters.md for nodes that connect by themselves.
var recipes = []struct {
	file    string
	compile string // a command, without the folder it compiles into
	start   string // Erlang; JOIN stands for a list of patterns
	plain   string // Erlang, without a list
}{
	{"epmd_cluster.erl", "erlc -o", "epmd_cluster:start_link(JOIN)", "epmd_cluster:start_link()"},
	{"epmd_cluster.ex", "elixirc -o", "'Elixir.Supervisor':start_link([{'Elixir.EpmdCluster', JOIN}], [{strategy, one_for_one}])",
		"'Elixir.Supervisor':start_link(['Elixir.EpmdCluster'], [{strategy, one_for_one}])"},
	{"epmd_cluster_strategy.ex", "elixirc recipes/libcluster/cluster.ex -o",
		"'Elixir.Cluster.Supervisor':start_link([[{lan, [{strategy, 'Elixir.EpmdCluster.Strategy'}, {config, [{join, JOIN}]}]}], []])",
		"'Elixir.Cluster.Supervisor':start_link([[{lan, [{strategy, 'Elixir.EpmdCluster.Strategy'}]}], []])"},
}

// joined are the nodes that the recipes join in the tests. Neither x@hosta.local nor
// any-b@hostb.local is among them.
const joined = `[<<"a@hosta.local">>, <<"b*@hostb.local">>, <<"*@hostc.local">>]`

// TestRecipesShown holds that docs/clusters.md shows the very recipes that are tested, and that
// they are short.
func TestRecipesShown(t *testing.T) {
	shown, err := os.ReadFile("../docs/clusters.md")
	wait.Must(t, err)
	for _, r := range recipes {
		text, err := os.ReadFile(filepath.Join("recipes", r.file))
		wait.Must(t, err)
		if !strings.Contains(string(shown), "\n```"+language(r.file)+"\n"+string(text)+"```\n") {
			t.Errorf("docs/clusters.md does not show %s as it is", r.file)
		}
		if n := strings.Count(string(text), "\n"); n > 30 {
			t.Errorf("%s has %d lines, want at most 30", r.file, n)
		}
	}
}

func language(file string) string {
	if filepath.Ext(file) == ".erl" {
		return "erlang"
	}
	return "elixir"
}

// TestLANRecipes has nodes on three hosts connect by each of the recipes. A plain node joins after
// one of their epmds was restarted. A node that the list does not name stays alone, also if it has
// the recipe without a list.
func TestLANRecipes(t *testing.T) {
	lan.Need(t, "erlc", "elixirc")
	elixir, err := exec.Command("elixir", "-e", "IO.write(:code.lib_dir(:elixir))").Output()
	wait.Must(t, err)
	for _, r := range recipes {
		t.Run(r.file, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			wait.Must(t, os.Chmod(dir, 0o755))
			compile := strings.Fields(r.compile + " " + dir + " recipes/" + r.file)
			if out, err := exec.CommandContext(wait.Soon(t), compile[0], compile[1:]...).CombinedOutput(); err != nil || len(out) > 0 {
				t.Fatalf("%q: %v: %s", compile, err, out)
			}
			args := func(start string) []string {
				return []string{"-pa", dir, "-pa", string(elixir) + "/ebin", "-eval",
					"application:ensure_all_started(elixir), spawn(fun() -> {ok, _} = " + start + ", timer:sleep(infinity) end)."}
			}
			testRecipe(t, args(strings.Replace(r.start, "JOIN", joined, 1)), args(r.plain))
		})
	}
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
	if took > 3*time.Second {
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

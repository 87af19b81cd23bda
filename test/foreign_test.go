package test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// foreigners is how many nodes of each kind there are.
const foreigners = 20

// TestForeignNodes has nodes of OTP's libraries for C and Java. Each accepts one connection, with
// both epmds. Each gets a message and sends it back.
func TestForeignNodes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cnode := filepath.Join(dir, "cnode")
	build(t, "gcc", "-Wall", "-D_REENTRANT", "-o", cnode, "foreign/cnode.c", "-lei", "-lpthread")
	const jar = "/usr/share/java/OtpErlang.jar"
	// Debian 13's ecj looks for its compiler in the jar of Debian 12.
	const compiler = "/usr/share/java/eclipse-jdt-core-compiler-batch.jar:/usr/share/java/eclipse-jdt-core.jar"
	build(t, "java", "-cp", compiler, "org.eclipse.jdt.internal.compiler.batch.Main", "-proc:none", "-source", "11", "-target", "11", "-cp", jar, "-d", dir, "foreign/JNode.java")
	for _, tt := range []struct{ name, epmd string }{{"eclus", eclusBinary(t)}, {"stock", stockEpmd}} {
		t.Run(tt.name, func(t *testing.T) {
			h := loopback(t)
			h.run(t, tt.epmd, "-relaxed_command_check") // or ei_unpublish fails
			if tt.name == "stock" {
				defer h.kill(t) // it ends in no better order
			}
			cookie := cookieOf(t, h.erl(t, "-name", "first@127.0.0.1"))
			var nodes []string
			var programs []*lan.Process
			start := func(name string, args ...string) {
				p, err := h.Start(t.Context(), name, args...)
				wait.Must(t, err)
				programs = append(programs, p)
			}
			java := []string{"-cp", jar + ":" + dir, "JNode", cookie}
			for i := range foreigners {
				c, j := fmt.Sprintf("c%d@127.0.0.1", i), fmt.Sprintf("j%d@127.0.0.1", i)
				start(cnode, c, "127.0.0.1", cookie)
				java = append(java, j)
				nodes = append(nodes, c, j)
			}
			start("java", java...)
			for _, p := range programs[:foreigners] {
				_, err := p.WaitOutput(wait.Soon(t), "(?m)^published$")
				wait.Must(t, err)
			}
			_, err := programs[foreigners].WaitOutput(wait.Soon(t), fmt.Sprintf(`(?s)(published\n.*){%d}`, foreigners))
			wait.Must(t, err)
			if tt.name == "eclus" {
				h.checkTypes(t, foreigners)
			}
			// What comes after them is asked after them.
			e := h.erl(t, "-name", "last@127.0.0.1")
			if tt.name == "eclus" {
				h.watch(t).until(t, local("last@127.0.0.1", sure))
			}
			for _, n := range nodes {
				eval(t, e, fmt.Sprintf("{any, '%s'} ! {self(), {hello, [1, 2.5]}}, receive M -> M after 20000 -> silence end.", n), "{hello,[1,2.5]}")
			}
			for _, p := range programs[:foreigners] {
				if err := p.Wait(wait.Soon(t)); err != nil || !strings.HasSuffix(p.Output(), "answered\nunpublished\n") {
					t.Errorf("a C node wrote %q, %v", p.Output(), err)
				}
			}
			_, err = programs[foreigners].WaitOutput(wait.Soon(t), fmt.Sprintf(`(?s)( unpublished\n.*){%d}`, foreigners))
			wait.Must(t, err)
			if out := programs[foreigners].Output(); strings.Contains(out, "failed") {
				t.Errorf("a Java node wrote\n%s", out)
			}
			if tt.name == "eclus" {
				start(cnode, "pinged@127.0.0.1", "127.0.0.1", cookie)
				pinged := programs[len(programs)-1]
				_, err := pinged.WaitOutput(wait.Soon(t), "(?m)^published$")
				wait.Must(t, err)
				h.ping(t, "pinged@127.0.0.1").checkFails(t, "ping", "connected, but no pong", "Name and cookie are right")
				if _, err := pinged.WaitOutput(wait.Soon(t), `(?m)^accepted eclus@127\.0\.0\.1$`); err != nil {
					t.Error(err)
				}
			}
			if names := h.ask(t, "-names"); regexp.MustCompile(`name [cj]\d`).MatchString(names) {
				t.Errorf("still registered:\n%s", names)
			}
			checkSilent(t, e)
		})
	}
}

// cookie returns the cookie of a node.
func cookieOf(t *testing.T, e *lan.Erl) string {
	t.Helper()
	return strings.Trim(value(t, e, "atom_to_list(erlang:get_cookie())."), `"`)
}

// build runs a compiler. Where it is missing, the test is skipped, unless all must be there.
func build(t *testing.T, compiler string, args ...string) {
	t.Helper()
	need.Program(t, compiler)
	if out, err := exec.Command(compiler, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", compiler, err, out)
	}
}

// checkTypes checks how C and Java nodes are listed, so many of each.
func (h *host) checkTypes(t *testing.T, count int) {
	t.Helper()
	types := make(map[string]int)
	for _, n := range h.nodes(t) {
		if n.Sure {
			continue
		}
		types[n.Name[:1]+" "+n.Type]++
	}
	if want := fmt.Sprint(map[string]int{"c hidden": count, "j normal": count}); fmt.Sprint(types) != want {
		t.Errorf("listed as %v; want %s", types, want)
	}
}

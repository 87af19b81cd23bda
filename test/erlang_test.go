package test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// applicationFiles are what the Erlang application is made of.
var applicationFiles = []string{"eclus.app", "eclus_app.beam", "eclus_cluster.beam", "eclus_epmd.beam", "eclus_lines.beam"}

// compileApplication compiles the Erlang application once for all tests.
var compileApplication = sync.OnceValues(func() (dir string, err error) {
	dir = filepath.Join(buildDir, "ebin")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	sources, err := filepath.Glob("../erlang/eclus/*/*.erl") // and the tests
	if err != nil {
		return "", err
	}
	if out, err := exec.Command("erlc", append([]string{"-Werror", "-o", dir}, sources...)...).CombinedOutput(); err != nil {
		return string(out), err
	}
	text, err := os.ReadFile("../erlang/eclus/src/eclus.app.src")
	if err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "eclus.app"), text, 0o644)
})

// application returns the folder in which the compiled application is.
func application(t *testing.T) string {
	t.Helper()
	lan.Need(t, "erlc")
	dir, err := compileApplication()
	if err != nil {
		t.Fatalf("compile the application: %v\n%s", err, dir)
	}
	wait.Must(t, os.Chmod(buildDir, 0o755)) // hosts have users of their own
	return dir
}

// newestEntry returns the version that CHANGELOG.md decides.
func newestEntry(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../CHANGELOG.md")
	wait.Must(t, err)
	found := regexp.MustCompile(`(?m)^## (\d[\d.]*)`).FindSubmatch(text)
	if found == nil {
		t.Fatal("CHANGELOG.md has no entry")
	}
	return string(found[1])
}

// TestApplicationVersion holds that the application has the version of epmd.
func TestApplicationVersion(t *testing.T) {
	text, err := os.ReadFile("../erlang/eclus/src/eclus.app.src")
	wait.Must(t, err)
	if want := `{vsn, "` + newestEntry(t) + `"}`; !strings.Contains(string(text), want) {
		t.Errorf("eclus.app.src has not %s", want)
	}
}

// nameless has a host resolve nothing but itself.
func nameless(t *testing.T, hosts ...*host) {
	t.Helper()
	for _, h := range hosts {
		wait.Must(t, h.WriteFile("/etc/nsswitch.conf", "hosts: files\n", 0o644))
	}
}

// TestApplication runs the application's own tests, on a host that resolves nothing.
func TestApplication(t *testing.T) {
	t.Parallel()
	h := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{NoBus: true}, "hosta")[0]
	nameless(t, h)
	out, err := h.Output(wait.Soon(t), "erl", "-noshell", "-pa", application(t), "-epmd_port", "14369", "-eval",
		`ok = application:load(eclus), application:set_env(eclus, domains, ["lab.example"]),
		case eunit:test([eclus_lines_tests, eclus_epmd_tests, eclus_cluster_tests], [verbose]) of ok -> halt(0); _ -> halt(1) end.`)
	if err != nil || !strings.Contains(out, "tests passed") {
		t.Errorf("%v:\n%s", err, out)
	}
}

// TestApplicationAlone has a node be told to use another module, too. It does not start, and says
// why. From release 27.2 on, OTP itself refuses a flag together with the parameter.
func TestApplicationAlone(t *testing.T) {
	h := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{NoBus: true}, "hosta")[0]
	for _, other := range []string{"-epmd_module other", "-kernel epmd_module other"} {
		args := []string{"-noshell", "-sname", "a", "-start_epmd", "false", "-pa", application(t), "-epmd_module", "eclus_epmd"}
		cmd := h.Command(wait.Soon(t), "erl", append(args, strings.Fields(other)...)...)
		cmd.Env = append(cmd.Env, "ERL_CRASH_DUMP_SECONDS=0")
		out, err := cmd.CombinedOutput()
		if err == nil || !regexp.MustCompile(`more_than_one_epmd_module,\s*\[eclus_epmd,other\]|invalid_configuration`).Match(out) {
			t.Errorf("%s: %v:\n%s", other, err, out)
		}
	}
}

// namesTests are nodes that OTP alone does not find where nothing resolves.
var namesTests = []struct {
	name    string
	flags   string // of both nodes
	a, b    string // full names
	options string // of a
}{
	{"long", "-name", "a@hosta.local", "b@hostb.local", ""},
	{"short", "-sname", "a@hosta", "b@hostb", ""},
	{"short and invented", "-sname", "a@nowhere", "b@elsewhere", ""},
	{"long and invented", "-name", "a@nowhere.local", "b@elsewhere.local", ""},
	{"of a domain that is listed", "-name", "a@hosta.lab.example", "b@hostb.lab.example", `-eclus domains ["lab.example"]`},
	{"dynamic", "-sname", "undefined", "b@hostb", ""},
	{"dynamic, long", "-name", "undefined@hosta.local", "b@hostb.local", ""},
	{"IPv6", "-proto_dist inet6_tcp -name", "a@hosta.local", "b@hostb.local", ""},
}

// reach connects to a node and pings it. A node without a name of its own gets one when it
// connects. No ping does that.
func reach(node string) string {
	return fmt.Sprintf("{net_kernel:connect_node('%s'), net_adm:ping('%[1]s')}.", node)
}

// TestLANNames has nodes reach each other by their names where no host resolves the other's.
func TestLANNames(t *testing.T) {
	dir := application(t)
	for _, tt := range namesTests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, b := pair(t)
			nameless(t, a, b)
			for i, h := range []*host{a, b} {
				_, err := h.Output(wait.Soon(t), "ip", "address", "add", fmt.Sprintf("2001:db8::%d/64", 11+i), "dev", "eth0", "nodad")
				wait.Must(t, err)
			}
			flags := strings.Fields(tt.flags)
			module := append([]string{"-pa", dir, "-epmd_module", "eclus_epmd"}, strings.Fields(tt.options)...)
			far := b.erl(t, append(append(flags, tt.b), module...)...)
			near := a.erl(t, append(append(flags, tt.a), module...)...)
			stock := a.erl(t, append(flags, strings.Replace(tt.a, "a@", "c@", 1))...)
			reached := func(n registry.Node) bool { return tt.name != "IPv6" || slices.ContainsFunc(n.Addresses, isGlobal6) }
			a.watch(t).until(t, present(tt.b, reached))
			eval(t, stock, reach(tt.b), "{false,pang}")
			if out := a.pingArgs(t, tt.b); !strings.Contains(out, "epmd knows it. Nodes reach it with -epmd_module eclus_epmd") {
				t.Errorf("epmd -ping doesn't say how nodes get there:\n%s", out)
			}
			// On a busy machine, epmd may take more than 0.1 s.
			awaitValue(t, near, reach(tt.b), "{true,pong}")
			eval(t, near, "net_adm:ping('"+strings.Replace(tt.b, "b@", "z@", 1)+"').", "pang")
			_, host, _ := strings.Cut(tt.b, "@")
			if !strings.Contains(host, "lab.example") || tt.options != "" {
				awaitValue(t, near, `{ok, [{N, _} | _]} = net_adm:names("`+host+`"), N.`, `"b"`)
			}
			checkSilent(t, near, far)
		})
	}
}

// inetrc has a node look up names where the resolver knows none, in the table that epmd keeps.
const inetrc = `{hosts_file, "/run/epmd-hosts"}. {lookup, [native, file]}.`

// TestLANEtcHosts has nodes reach each other where no host resolves the other's name. They have
// nothing but the table of hosts that epmd keeps. Then the far host's epmd ends.
func TestLANEtcHosts(t *testing.T) {
	for _, tt := range namesTests {
		if tt.name == "long and invented" || strings.Contains(tt.name, "domain") {
			continue // nothing but the module knows these
		}
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{}, "hosta", "hostb")
			a, b := hosts[0], hosts[1]
			nameless(t, a, b)
			for i, h := range hosts {
				_, err := h.Output(wait.Soon(t), "ip", "address", "add", fmt.Sprintf("2001:db8::%d/64", 11+i), "dev", "eth0", "nodad")
				wait.Must(t, err)
				wait.Must(t, h.WriteFile("/run/inetrc", inetrc, 0o644))
				h.start(t, "-etc_hosts", "/run/epmd-hosts")
			}
			args := append(strings.Fields(tt.flags), tt.b, "-env", "ERL_INETRC", "/run/inetrc")
			family := "inet"
			if tt.name == "IPv6" {
				family = "inet6"
			}
			far := b.erl(t, args...)
			args[len(args)-4] = tt.a
			near := a.erl(t, args...)
			_, host, _ := strings.Cut(tt.b, "@")
			resolved := fmt.Sprintf(`element(1, inet:getaddr("%s", %s)).`, host, family)
			awaitValue(t, near, resolved, "ok")
			eval(t, near, reach(tt.b), "{true,pong}")
			checkSilent(t, near, far)
			b.stop(t)
			awaitValue(t, near, resolved, "error")
		})
	}
}

// isGlobal6 reports whether an address is one of IPv6 that needs no zone.
func isGlobal6(a netip.Addr) bool { return a.Is6() && !a.IsLinkLocalUnicast() }

// awaitValue waits until expressions have a value.
func awaitValue(t *testing.T, e *lan.Erl, expressions, want string) {
	t.Helper()
	wait.True(t, expressions+" is "+want, func() bool {
		got, err := e.Eval(wait.Soon(t), expressions)
		return err == nil && got == want
	})
}

// evaluates returns a round, which succeeds if the expressions have that value.
func evaluates(t *testing.T, e *lan.Erl, expressions, want string) func() error {
	return func() error {
		if got := value(t, e, expressions); got != want {
			return fmt.Errorf("%s evaluates to %s, want %s", expressions, got, want)
		}
		return nil
	}
}

// TestLANNamesTLS has nodes reach each other over TLS where no host resolves the other's name. Each
// verifies the other's certificate, and that it is for the host in the name.
func TestLANNamesTLS(t *testing.T) {
	t.Parallel()
	dir := application(t)
	a, b := pair(t)
	nameless(t, a, b)
	options := verifiedTLS(t, "hosta.local", "hostb.local")
	module := []string{"-pa", dir, "-epmd_module", "eclus_epmd", "-proto_dist", "inet_tls", "-ssl_dist_optfile"}
	near := a.erl(t, append(module, options[0], "-name", "a@hosta.local")...)
	far := b.erl(t, append(module, options[1], "-name", "b@hostb.local")...)
	// This one has the certificate of hosta.local.
	b.erl(t, append(module, options[0], "-name", "c@hostb.local")...)
	stock := a.erl(t, append(module[4:], options[0], "-name", "d@hosta.local")...)
	a.watch(t).until(t, present("b@hostb.local"), present("c@hostb.local"))
	awaitValue(t, near, "net_adm:ping('b@hostb.local').", "pong")
	eval(t, far, "nodes().", "['a@hosta.local']")
	eval(t, near, "net_adm:ping('c@hostb.local').", "pang")
	eval(t, stock, "net_adm:ping('b@hostb.local').", "pang")
}

// verifiedTLS returns a file of options for a node on each of these hosts. With them nodes demand
// each other's certificates, which are for one host each and of one authority.
func verifiedTLS(t *testing.T, hosts ...string) (paths []string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		wait.Must(t, os.WriteFile(path, text, 0o600))
		return path
	}
	authority, key := certificate(t, &x509.Certificate{Subject: pkix.Name{CommonName: "authority"}, IsCA: true}, nil, nil)
	ca := write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Raw}))
	for _, host := range hosts {
		cert, own := certificate(t, &x509.Certificate{Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}}, authority, key)
		path := write(host+".pem", pemOf(t, cert.Raw, own))
		side := fmt.Sprintf("[{certfile,%q},{cacertfile,%q},{verify,verify_peer}", path, ca)
		paths = append(paths, write(host+".options", fmt.Appendf(nil, "[{server,%s,{fail_if_no_peer_cert,true}]},{client,%[1]s]}].\n", side)))
	}
	return paths
}

// TestLANNamesWorld has net_adm:world/0 connect the nodes of hosts that resolve nothing.
func TestLANNamesWorld(t *testing.T) {
	dir := application(t)
	a, b := pair(t)
	nameless(t, a, b)
	args := []string{"-pa", dir, "-epmd_module", "eclus_epmd", "-name"}
	for _, name := range []string{"b", "c"} {
		b.erl(t, append(args, name+"@hostb.local")...)
	}
	near := a.erl(t, append(args, "a@hosta.local")...)
	seen := a.watch(t)
	seen.until(t, present("b@hostb.local", sure))
	seen.until(t, present("c@hostb.local", sure))
	wait.Must(t, a.WriteFile("/run/.hosts.erlang", "'hosta.local'.\n'hostb.local'.\n", 0o644))
	awaitValue(t, near, `ok = file:set_cwd("/run"), lists:sort(net_adm:world()).`, "['a@hosta.local','b@hostb.local','c@hostb.local']")
}

// TestLANNamesWedged has the epmd of a node's host stop to answer, end, and be the stock one. The
// node then does as OTP does.
func TestLANNamesWedged(t *testing.T) {
	dir := application(t)
	a, b := pair(t)
	wait.Must(t, b.WriteFile("/etc/hosts", "127.0.0.1 localhost\n198.51.100.11 hosta.local\n", 0o644))
	a.erl(t, "-name", "a@hosta.local")
	near := b.erl(t, "-name", "b@hostb.local", "-pa", dir, "-epmd_module", "eclus_epmd")
	b.watch(t).until(t, present("a@hosta.local"))
	const ask = `{T, Found} = timer:tc(eclus_epmd, address_please, ["a", "hosta.local", inet]), `
	awaitValue(t, near, ask+"{ok, {198,51,100,11}, _, 6} = Found, yes.", "yes")
	wait.Freeze(t, b.epmd.Pid())
	// It is not asked again for a second.
	wait.Rounds(t, evaluates(t, near, "persistent_term:erase(eclus_epmd), "+ask+strings.ReplaceAll(ask, "T,", "Again,")+
		"{Found, T >= 80000 andalso T < 1000000, Again < 80000}.", "{{ok,{198,51,100,11}},true,true}"))
	eval(t, near, `eclus_epmd:is_missed_since("a", "hosta.local", erlang:monotonic_time(millisecond) - 60000).`, "true")
	eval(t, near, "net_adm:ping('a@hosta.local').", "pong")
	wait.Must(t, b.epmd.Signal(syscall.SIGCONT))
	b.stop(t)
	wait.Rounds(t, evaluates(t, near, ask+"{Found, T < 1000000}.", "{{ok,{198,51,100,11}},true}"))
	_, err := b.Start(t.Context(), stockEpmd)
	wait.Must(t, err)
	awaitValue(t, near, "{ok, [{N, _}]} = erl_epmd:names(), N.", `"b"`) // OTP registers again
	eval(t, near, "net_kernel:disconnect('a@hosta.local'), net_adm:ping('a@hosta.local').", "pong")
}

// TestLANJoin has nodes on three hosts join by the application. What is not listed stays alone.
func TestLANJoin(t *testing.T) {
	dir := application(t)
	hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{}, "hosta", "hostb", "hostc")
	nameless(t, hosts...)
	args := []string{"-pa", dir, "-epmd_module", "eclus_epmd", "-eclus", "join", `["web*@hosta.local","web*@host?.local"]`,
		"-eval", "ok = application:start(eclus).", "-name"}
	for _, h := range hosts {
		h.start(t)
	}
	other := hosts[0].erl(t, append(args[:4:4], "-name", "db@hosta.local")...)
	hidden := hosts[1].erl(t, append([]string{"-hidden"}, append(args[:4:4], "-name", "webh@hostb.local")...)...)
	foreign := hosts[2].erl(t, append([]string{"-setcookie", "another"}, append(args[:4:4], "-name", "webx@hostc.local")...)...)
	var nodes []*lan.Erl
	for i, h := range hosts {
		nodes = append(nodes, h.erl(t, append(args, "web"+string('a'+rune(i))+"@"+h.Name()+".local")...))
	}
	began := time.Now()
	for i, want := range []string{"webb@hostb.local webc@hostc.local", "weba@hosta.local webc@hostc.local", "weba@hosta.local webb@hostb.local"} {
		awaitConnected(t, nodes[i], want)
	}
	t.Logf("all connected %v after the last node had started", since(began))
	hosts[0].stop(t)
	hosts[0].start(t)
	hosts[0].awaitTable(t, `(?m)^weba@hosta\.local .* local `)
	late := hosts[2].erl(t, append(args, "webd@hostc.local")...)
	awaitConnected(t, late, "weba@hosta.local webb@hostb.local webc@hostc.local")
	for _, e := range []*lan.Erl{other, hidden, foreign} {
		eval(t, e, "nodes(connected).", "[]")
	}
	if tries := strings.Count(foreign.Output(), "attempt from node"); tries > 4 {
		t.Errorf("the node of another cookie was asked %d times:\n%s", tries, foreign.Output())
	}
}

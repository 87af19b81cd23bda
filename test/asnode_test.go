package test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// TestLANAsNode has real nodes call the epmd of another host as a node.
func TestLANAsNode(t *testing.T) {
	t.Parallel()
	n := lan.ForTest(t, tools...)
	hosts := addHosts(t, n, lan.HostOptions{}, "hosta", "hostb")
	a, b := hosts[0], hosts[1]
	a.start(t, "-node")
	b.start(t)
	seen := b.watch(t)
	node := b.erl(t, "-name", "b@hostb.local")
	seen.until(t, present("epmd@hosta.local", sure))
	a.watch(t).until(t, present("b@hostb.local", sure, func(n registry.Node) bool { return n.Reach == registry.Reachable }))

	eval(t, node, "net_adm:ping('epmd@hosta.local').", "pong")
	eval(t, node, "{nodes(), nodes(hidden)}.", "{[],['epmd@hosta.local']}")
	eval(t, node, "lists:sort([{Node, Origin, Type} || #{node := Node, origin := Origin, type := Type} <- gen_server:call({epmd, 'epmd@hosta.local'}, nodes)]).",
		`[{<<"b@hostb.local">>,lan,normal},{<<"epmd@hosta.local">>,local,hidden}]`)
	eval(t, node, "[M] = [M || #{name := <<\"b\">>} = M <- gen_server:call({epmd, 'epmd@hosta.local'}, nodes)], #{host := H, sure := S, reachable := R, port := P, since := T, addresses := [A | _]} = M, {H, S, R, is_integer(P + T), A}.",
		`{<<"hostb.local">>,true,yes,true,<<"198.51.100.12">>}`)
	eval(t, node, "gen_server:call({epmd, 'epmd@hosta.local'}, {stop, now}).", "{error,badarg}")
	eval(t, node, "gen_server:cast({epmd, 'epmd@hosta.local'}, halt), net_adm:ping('epmd@hosta.local').", "pong")
	eval(t, node, "rpc:call('epmd@hosta.local', os, cmd, [\"id\"]).", "{badrpc,notsup}")
	eval(t, node, "element(1, element(2, catch gen_server:call({nobody, 'epmd@hosta.local'}, nodes))).", "noproc")
	checkSilent(t, node)

	stranger := b.erl(t, "-name", "s@hostb.local", "-setcookie", "other")
	eval(t, stranger, "net_adm:ping('epmd@hosta.local').", "pang")
	if names := a.ask(t, "-names"); !strings.Contains(names, "name epmd at port ") {
		t.Errorf("names:\n%s", names)
	}
	if p := b.ping(t, "epmd@hosta.local"); !p.Pong || p.Type != "hidden" {
		t.Errorf("no pong: %+v", p)
	}
}

// TestSystemdAsNode has the service be a node, by the drop-in that is shipped as an example. It
// says what it misses and starts once that is there.
func TestSystemdAsNode(t *testing.T) {
	s := supervise(t)
	dropIn, err := os.ReadFile("../systemd/examples/epmd.service.d/node.conf")
	wait.Must(t, err)
	wait.Must(t, s.WriteFile("/etc/systemd/system/epmd.service.d/node.conf", dropIn, 0o644))
	s.systemctl(t, "daemon-reload")
	if err := s.Command(wait.Soon(t), "systemctl", "start", unit).Run(); err == nil {
		t.Error("the service starts without the cookie")
	}
	s.awaitJournal(t, "epmd: -node: cookie file: stat /etc/epmd.cookie: no such file or directory")
	s.output(t, "sh", "-c", "echo secret >/tmp/cookie && install -o epmd -m 400 /tmp/cookie /etc/epmd.cookie; echo 127.0.1.1 hosta.local >>/etc/hosts")
	s.awaitJournal(t, "epmd is a node")
	if out, err := s.Command(wait.Soon(t), "env", "ERLANG_COOKIE=secret", "epmd", "-ping", "epmd@hosta.local").CombinedOutput(); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
	s.systemctl(t, "restart", unit)
	wait.Must(t, lan.Wait(wait.Soon(t), "a pong after the restart", func(ctx context.Context) (bool, error) {
		_, err := s.Output(ctx, "env", "ERLANG_COOKIE=secret", "epmd", "-ping", "epmd@hosta.local")
		return err == nil, nil
	}))
}

// TestKillAsNode kills an epmd that is a node: the node is no reason not to, but others are.
func TestKillAsNode(t *testing.T) {
	need.Program(t, stockEpmd)
	cookie := filepath.Join(t.TempDir(), "cookie")
	if err := os.WriteFile(cookie, []byte("secret"), 0o400); err != nil {
		t.Fatal(err)
	}
	d := startEpmd(t, eclusBinary(t), "-d", "-node", "-cookie_file", cookie)
	awaitNames(t, d.port, "epmd")
	wait.Until(t, "epmd is a node", func() error {
		if log := d.output.String(); !strings.Contains(log, "epmd is a node") {
			return errors.New(log)
		}
		return nil
	})
	a := d.register(t, "a", 41000)
	if got, want := command(t, stockEpmd, d.port, "-kill"), (result{"Killing not allowed - living nodes in database.\n", "", 1}); got != want {
		t.Errorf("with another node: %v; want %v", got, want)
	}
	a.Close()
	awaitNames(t, d.port, "epmd")
	if got, want := command(t, stockEpmd, d.port, "-kill"), (result{"Killed\n", "", 0}); got != want {
		t.Errorf("with none: %v; want %v", got, want)
	}
	select {
	case <-d.ended:
	case <-time.After(wait.Patience):
		t.Error("still runs")
	}
}

// TestAsNodeNames has nodes with all kinds of names call the epmd of their host. Each uses the name
// that it knows that epmd by.
func TestAsNodeNames(t *testing.T) {
	t.Parallel()
	h := loopback(t)
	wait.Must(t, h.WriteFile("/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 hosta.example.com hosta hosta.local\n", 0o644))
	h.start(t, "-lan", "off", "-node")
	h.watch(t).until(t, local("epmd@hosta.local", sure))
	for _, tt := range []struct{ flag, name, epmd string }{
		{"-sname", "s", "epmd@hosta"},
		{"-sname", "o@localhost", "epmd@localhost"},
		{"-name", "l@hosta.example.com", "epmd@hosta.example.com"},
		{"-name", "m@hosta.local", "epmd@hosta.local"},
		{"-name", "i@127.0.0.1", "epmd@127.0.0.1"},
		{"-sname", "undefined", "epmd@hosta"}, // and is given one
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := h.erl(t, tt.flag, tt.name)
			// While the node has no name yet, all else fails.
			eval(t, e, "net_kernel:connect_node('"+tt.epmd+"').", "true")
			eval(t, e, "net_adm:ping('"+tt.epmd+"').", "pong")
			eval(t, e, "is_list(gen_server:call({epmd, '"+tt.epmd+"'}, nodes)).", "true")
			if tt.name == "undefined" {
				if got := value(t, e, "node()."); !regexp.MustCompile(`^'[0-9A-Z]{20,}@hosta'$`).MatchString(got) {
					t.Errorf("named %s", got)
				}
			}
			if p := h.ping(t, tt.epmd); !p.Pong || p.Type != "hidden" {
				t.Errorf("ping %s: %+v", tt.epmd, p)
			}
			checkSilent(t, e)
		})
	}
	h.stop(t)
	h.start(t, "-lan", "off", "-node", "mine@hosta.example.com")
	h.watch(t).until(t, local("mine@hosta.example.com", sure))
	e := h.erl(t, "-name", "n@hosta.example.com") // the others register again
	eval(t, e, "length(gen_server:call({epmd, 'mine@hosta.example.com'}, nodes)) > 0.", "true")
}

// TestCookieAsOTP has a node read cookie files, and -ping the same ones.
func TestCookieAsOTP(t *testing.T) {
	t.Parallel()
	h := loopback(t)
	wait.Must(t, h.WriteFile("/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 hosta\n", 0o644))
	h.start(t, "-lan", "off")
	e := h.erl(t)
	path := lan.Home + "/.erlang.cookie"
	for _, tt := range []struct{ text, want string }{
		{"SECRET", "SECRET"},
		{"SECRET\n", "SECRET"},
		{"two words\n", "two words"},
		{" SECRET\n", " SECRET"},
		{"SECRET \n", "SECRET "},
		{"SECRET\r\n \r\n", "SECRET"},
		{"SECRET\nmore\n", ""},
		{"SEC\tRET\n", ""},
		{"SECRET\t\n", ""},
		{"S\xc3\xa9CRET\n", ""},
		{"\n", ""},
	} {
		t.Run(strconv.Quote(tt.text), func(t *testing.T) {
			os.Remove(h.Path(path))
			wait.Must(t, h.WriteFile(path, tt.text, 0o400))
			got := value(t, e, "R = (catch net_kernel:start([x, shortnames])), case R of {ok, _} -> atom_to_list(erlang:get_cookie()); _ -> [] end.")
			want := strconv.Quote(tt.want)
			if tt.want == "" {
				want = "[]"
			}
			if got != want {
				t.Fatalf("OTP reads %s, want %s", got, want)
			}
			if tt.want == "" {
				return
			}
			if p := h.ping(t, "x@hosta"); !p.Pong {
				t.Errorf("%+v", p)
			}
			eval(t, e, "net_kernel:stop().", "ok")
		})
	}
}

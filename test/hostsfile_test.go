package test

import (
	"context"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// hostsPath is where nodes of a host look for a hosts file.
const hostsPath = lan.Home + "/.hosts.erlang"

// awaitHosts waits until what file:consult/1 makes of the hosts file is that, and returns when it
// was.
func (h *host) awaitHosts(t *testing.T, want string) time.Time {
	t.Helper()
	var text []byte
	err := lan.Wait(wait.Soon(t), "hosts "+want+" in the file on "+h.Name(), func(context.Context) (bool, error) {
		var err error
		text, err = os.ReadFile(h.Path(hostsPath))
		return err == nil && strings.Join(hostLine.FindAllString(string(text), -1), " ") == want, nil
	})
	if err != nil {
		t.Fatalf("%v; there is\n%s", err, text)
	}
	return time.Now()
}

// hostLine matches a line that names a host, without its end.
var hostLine = regexp.MustCompile(`(?m)^'.*'\.$`)

// TestLANHostsFile has nodes on three hosts find each other by net_adm:world/0. They have nothing
// but the hosts files that epmd keeps. Then a host vanishes.
func TestLANHostsFile(t *testing.T) {
	t.Parallel()
	n := lan.ForTest(t, tools...)
	hosts := addHosts(t, n, lan.HostOptions{}, "hosta", "hostb", "hostc")
	a, b, c := hosts[0], hosts[1], hosts[2]
	wait.Must(t, os.WriteFile(a.Path(hostsPath), []byte("% of a person\n"), 0o600))
	for _, h := range hosts {
		h.start(t, "-hosts_file", hostsPath)
	}
	nodes := []*lan.Erl{a.erl(t, "-name", "a@hosta.local"), b.erl(t, "-name", "b@hostb.local"), c.erl(t, "-name", "c@hostc.local")}
	began := time.Now()
	a.awaitHosts(t, "'hostb.local'. 'hostc.local'.")
	b.awaitHosts(t, "'hosta.local'. 'hostc.local'.")
	at := c.awaitHosts(t, "'hosta.local'. 'hostb.local'.")
	t.Logf("all hosts files complete %v after the last node had started", at.Sub(began).Round(time.Millisecond))
	eval(t, nodes[0], "lists:sort(net_adm:world()).", "['b@hostb.local','c@hostc.local']")
	eval(t, nodes[1], "lists:sort(net_adm:world()).", "['a@hosta.local','c@hostc.local']")
	eval(t, nodes[2], "lists:sort(nodes()).", "['a@hosta.local','b@hostb.local']")
	if text, err := os.ReadFile(a.Path(hostsPath)); err != nil || !strings.HasPrefix(string(text), "% of a person\n%% epmd") {
		t.Errorf("on A there is %q, %v", text, err)
	}

	t.Run("foreign", func(t *testing.T) {
		for _, name := range []string{"x'.\n'evil.local", "y@evil.example", "z"} {
			publish(t, b, name, "_epmd._tcp", "4711", "name=evil@hosta'.local", "epmd=4369")
		}
		a.awaitTable(t, `evil@hosta'\.local`)
		a.awaitHosts(t, "'hostb.local'. 'hostc.local'.")
		eval(t, nodes[0], "{ok, L} = file:consult(\""+hostsPath+"\"), L.", "['hostb.local','hostc.local']")
	})
	t.Run("dead host", func(t *testing.T) {
		wait.Freeze(t, c.epmd.Pid())
		// A stopped process can't be ended.
		t.Cleanup(func() { c.epmd.Signal(syscall.SIGCONT) })
		a.stop(t)
		a.awaitHosts(t, "")
		a.start(t, "-hosts_file", hostsPath)
		a.awaitTable(t, `(?m)^c@hostc\.local .* lan +no `)
		a.awaitHosts(t, "'hostb.local'.")
		wait.Must(t, c.epmd.Signal(syscall.SIGCONT))
		a.awaitHosts(t, "'hostb.local'. 'hostc.local'.")
	})
	t.Run("end", func(t *testing.T) {
		b.stop(t)
		b.awaitHosts(t, "")
	})
}

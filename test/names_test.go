package test

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// TestLANNamesSpoofed has a host announce nodes of three other hosts. The resolver knows one of
// these, does not know the second, and the third is on this LAN. Nodes with the module find there
// what others find.
func TestLANNamesSpoofed(t *testing.T) {
	t.Parallel()
	hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{}, "hosta", "hostb", "hostc")
	a, b, c := hosts[0], hosts[1], hosts[2]
	nameless(t, hosts...)
	wait.Must(t, a.WriteFile("/etc/hosts", "127.0.0.1 localhost\n198.51.100.12 db.example.com hostb.local\n", 0o644))
	a.start(t, "-etc_hosts", "/run/epmd-hosts")
	b.start(t)
	c.start(t)
	module := []string{"-pa", application(t), "-epmd_module", "eclus_epmd", "-name"}
	near := a.erl(t, append(module, "a@hosta.local")...)
	stock := a.erl(t, "-name", "s@hosta.local")
	names := []string{"x@db.example.com", "y@elsewhere.example.com", "z@hostb.local"}
	seen := a.watch(t)
	for _, name := range names {
		if name != names[1] {
			b.erl(t, "-name", name)
		}
		c.erl(t, "-name", name)
		seen.until(t, present(name, onHost("hostc.local")))
	}
	seen.until(t, present("z@hostb.local", sure, onHost("hostb.local")))
	for _, name := range names[:2] {
		alive, host, _ := strings.Cut(name, "@")
		same := func(f, args string) string {
			return fmt.Sprintf("eclus_epmd:%s(%s) =:= erl_epmd:%[1]s(%[2]s).", f, args)
		}
		eval(t, near, same("address_please", fmt.Sprintf("%q, %q, inet", alive, host)), "true")
		eval(t, near, same("names", fmt.Sprintf("%q", host)), "true")
		for _, e := range []*lan.Erl{near, stock} {
			want := `{pong,{ok,"hostb"}}`
			if name == names[1] {
				want = "{pang,{badrpc,nodedown}}"
			}
			eval(t, e, fmt.Sprintf("{net_adm:ping('%s'), rpc:call('%[1]s', inet, gethostname, [])}.", name), want)
		}
	}
	eval(t, near, "rpc:call('z@hostb.local', inet, gethostname, []).", `{ok,"hostb"}`)
	var table string
	wait.True(t, "the table of hosts has hostb.local", func() (is bool) {
		table, _ = a.Output(wait.Soon(t), "cat", "/run/epmd-hosts")
		return strings.Contains(table, "hostb.local")
	})
	if strings.Contains(table, "example") {
		t.Errorf("the table of hosts is\n%s", table)
	}
}

// TestLANNamesRemsh has a remote shell reach a node where nothing resolves. The shell has no name
// of its own.
func TestLANNamesRemsh(t *testing.T) {
	t.Parallel()
	lan.Need(t, "script")
	a, b := pair(t)
	nameless(t, a, b)
	dir := application(t)
	b.erl(t, "-name", "b@hostb.local")
	b.erl(t, "-sname", "c@elsewhere")
	seen := a.watch(t)
	for _, tt := range []struct{ own, node string }{
		{"-name undefined@hosta.local", "b@hostb.local"},
		{"-sname undefined", "c@elsewhere"},
	} {
		seen.until(t, present(tt.node, func(n registry.Node) bool { return n.High > 0 }))
		shell := fmt.Sprintf("erl -pa %s -epmd_module eclus_epmd %s -remsh %s", dir, tt.own, tt.node)
		cmd := a.Command(t.Context(), "script", "-qfec", shell, "/dev/null")
		cmd.Env = append(cmd.Env, "TERM=xterm") // without it, erl leaves out -remsh
		stdin, err := cmd.StdinPipe()
		wait.Must(t, err)
		p, err := a.StartCmd(cmd)
		wait.Must(t, err)
		_, err = io.WriteString(stdin, "io:format(\"~nremote ~s~n\", [node()]).\n")
		wait.Must(t, err)
		_, err = p.WaitOutput(wait.Soon(t), `(?m)^remote `+tt.node)
		wait.Must(t, err)
		wait.Must(t, stdin.Close())
	}
}

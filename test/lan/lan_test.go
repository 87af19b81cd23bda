package lan_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
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

// pair returns two usual hosts on a network of the test's own.
func pair(t *testing.T) (a, b *lan.Host) {
	t.Helper()
	n := lan.ForTest(t, "avahi-publish", "avahi-browse", "avahi-set-host-name", "erl")
	begin := time.Now()
	hosts, err := n.AddHosts(wait.Soon(t), lan.HostOptions{}, "hosta", "hostb")
	if err != nil {
		t.Fatal(err)
	}
	if a, b := hosts[0].Address().String(), hosts[1].Address().String(); a != "198.51.100.11" || b != "198.51.100.12" {
		t.Errorf("addresses %s and %s, want 198.51.100.11 and .12", a, b)
	}
	t.Logf("two hosts up in %v", time.Since(begin).Round(time.Millisecond))
	return hosts[0], hosts[1]
}

func start(t *testing.T, h *lan.Host, name string, args ...string) *lan.Process {
	t.Helper()
	p, err := h.Start(t.Context(), name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func expect(t *testing.T, p *lan.Process, pattern string) {
	t.Helper()
	if _, err := p.WaitOutput(wait.Soon(t), pattern); err != nil {
		t.Fatal(err)
	}
}

// TestPublish has hosts find each other's services while all is well. Then a link is down, a cable
// pulled, and the publishing Avahi restarts.
func TestPublish(t *testing.T) {
	a, b := pair(t)
	browse := start(t, b, "avahi-browse", "-rp", "_epmd._tcp")
	begin := time.Now()
	publish := start(t, a, "avahi-publish", "-s", "x", "_epmd._tcp", "4711")
	expect(t, browse, `(?m)^=;eth0;IPv4;x;_epmd\._tcp;local;hosta\.local;198\.51\.100\.\d+;4711;`)
	t.Logf("published on A, resolved on B after %v", time.Since(begin).Round(time.Millisecond))
	expect(t, browse, `(?m)^=;eth0;IPv6;x;`)

	// B's Avahi drops what it saw on an interface that has lost its carrier.
	wait.Must(t, b.LinkDown(wait.Soon(t), "eth0"))
	expect(t, browse, `(?m)^-;eth0;IPv4;x;`)
	wait.Must(t, b.LinkUp(wait.Soon(t), "eth0"))
	expect(t, browse, `(?ms)^-;eth0;IPv4;x;.*^=;eth0;IPv4;x;`)

	// What is published while B hears nothing is asked for when B's Avahi begins anew.
	wait.Must(t, b.Unplug(wait.Soon(t), "eth0"))
	late := start(t, a, "avahi-publish", "-s", "late", "_epmd._tcp", "4712")
	expect(t, late, `Established`)
	if strings.Contains(browse.Output(), ";late;") {
		t.Error("a service was seen without a cable")
	}
	wait.Must(t, b.Plug(wait.Soon(t), "eth0"))
	wait.Must(t, b.Avahi.Restart(wait.Soon(t)))
	again := start(t, b, "avahi-browse", "-rp", "_epmd._tcp")
	expect(t, again, `(?m)^=;eth0;IPv4;late;`)

	wait.Must(t, a.Avahi.Restart(wait.Soon(t)))
	wait.Must(t, publish.Stop(wait.Soon(t)))
	start(t, a, "avahi-publish", "-s", "y", "_epmd._tcp", "4713")
	after := start(t, b, "avahi-browse", "-rp", "_epmd._tcp")
	expect(t, after, `(?m)^=;eth0;IPv4;y;`)
}

// TestNodes connects two real nodes through mDNS names and the stock epmd.
func TestNodes(t *testing.T) {
	a, b := pair(t)
	nodeA, err := a.StartErl(wait.Soon(t), "-name", "a@hosta.local")
	wait.Must(t, err)
	nodeB, err := b.StartErl(wait.Soon(t), "-name", "b@hostb.local")
	wait.Must(t, err)
	tests := []struct{ expressions, want string }{
		{"net_adm:ping('b@hostb.local').", "pong"},
		{"X = nodes(),\n{X, node()}.", "{['b@hostb.local'],'a@hosta.local'}"},
		{`"ä\n".`, `"ä\n"`},
		{"os:getenv(\"HOME\").", `"/run/home"`},
	}
	for _, tt := range tests {
		if got, err := nodeA.Eval(wait.Soon(t), tt.expressions); got != tt.want || err != nil {
			t.Errorf("%s evaluates to %s, %v; want %s", tt.expressions, got, err, tt.want)
		}
	}
	for _, bad := range []string{"exit(oops).", "foo(", "throw(oops)."} {
		if got, err := nodeA.Eval(wait.Soon(t), bad); err == nil {
			t.Errorf("%s evaluates to %s, want an error", bad, got)
		}
	}
	wait.Must(t, nodeB.Kill(wait.Soon(t)))
	err = lan.Wait(wait.Soon(t), "node down", func(ctx context.Context) (bool, error) {
		nodes, err := nodeA.Eval(ctx, "nodes().")
		return nodes == "[]", err
	})
	wait.Must(t, err)
	wait.Must(t, nodeA.Stop(wait.Soon(t)))
	if err := nodeA.Wait(wait.Soon(t)); err != nil {
		t.Errorf("a node that was stopped ended with %v", err)
	}
}

// TestHostName gives two hosts one name in Avahi, and then takes it away.
func TestHostName(t *testing.T) {
	a, b := pair(t)
	wait.Must(t, b.SetHostName(wait.Soon(t), "hosta"))
	avahi, err := b.Avahi.Process()
	wait.Must(t, err)
	expect(t, avahi, `Host name is hosta-2\.local`)
	wait.Must(t, b.SetHostName(wait.Soon(t), "other"))
	out, err := a.Output(wait.Soon(t), "avahi-resolve", "-4n", "other.local")
	if want := b.Address().String(); err != nil || !strings.Contains(out, want) {
		t.Errorf("avahi-resolve other.local: %q, %v; want %s", out, err, want)
	}
}

// TestHost looks at what a host is made of.
func TestHost(t *testing.T) {
	n := lan.ForTest(t)
	other, err := lan.New(wait.Soon(t), lan.OtherSubnet)
	wait.Must(t, err)
	t.Cleanup(func() { wait.Must(t, other.Close()) })
	h, err := n.AddHost(wait.Soon(t), "hosta", lan.HostOptions{
		Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.77/24"), netip.MustParsePrefix("2001:db8::7/64")},
		NoBus:     true,
	})
	wait.Must(t, err)
	if eth1, err := other.Attach(wait.Soon(t), h); eth1 != "eth1" || err != nil {
		t.Errorf("second interface is %q, %v; want eth1", eth1, err)
	}
	wait.Must(t, h.WriteFile("/run/greeting", "hello", 0o644))
	wait.Must(t, h.LinkDown(wait.Soon(t), "eth0"))
	wait.Must(t, h.LinkUp(wait.Soon(t), "eth0"))
	tests := []struct{ command, want string }{
		{"hostname", `^hosta\n$`},
		{"echo $HOME; pwd", `^/run/home\n/run/home\n$`},
		{"cat /run/greeting", `^hello$`},
		{"cat /run/home/.erlang.cookie", "^" + lan.Cookie + "$"},
		{`grep -F .local /etc/hosts`, `^$`},
		{"ip -br address show dev lo", `127\.0\.0\.1/8`},
		{"ip -br address show dev eth0", `198\.51\.100\.77/24.* 2001:db8::7/64`},
		{"ip -br address show dev eth1", `203\.0\.113\.11/24 fe80::`},
		{"cd /proc/sys/net/ipv6/conf && cat eth0/accept_dad eth1/accept_dad", `^0\n0\n$`},
		{"ls /run/dbus /run/avahi-daemon", `^/run/dbus:\n$`},
	}
	for _, tt := range tests {
		got, _ := h.Output(wait.Soon(t), "sh", "-c", tt.command) // grep and ls are to fail
		if !regexp.MustCompile(tt.want).MatchString(got) {
			t.Errorf("%s prints %q, want %q", tt.command, got, tt.want)
		}
	}
	wait.True(t, "no address is tentative any more", func() bool {
		out, err := h.Output(wait.Soon(t), "ip", "address", "show", "tentative")
		return err == nil && out == ""
	})
	wait.Must(t, h.Bus.Start(wait.Soon(t)))
	wait.Must(t, h.Avahi.Start(wait.Soon(t)))
	if err := h.Avahi.Start(wait.Soon(t)); err == nil {
		t.Error("Avahi was started twice")
	}
	wait.Must(t, h.Bus.Restart(wait.Soon(t)))
	wait.Must(t, h.Avahi.Restart(wait.Soon(t)))
	wait.Must(t, other.Close())
	wait.Must(t, h.RemoveInterface(wait.Soon(t), "eth0"))
}

// TestClose takes a network down and finds nothing left, not even a daemon that has left its
// parent.
func TestClose(t *testing.T) {
	before := machine(t)
	n := lan.ForTest(t)
	h, err := n.AddHost(wait.Soon(t), "hosta", lan.HostOptions{})
	wait.Must(t, err)
	if _, err := h.Output(wait.Soon(t), "epmd", "-daemon"); err != nil {
		t.Fatal(err)
	}
	namespaces := childNamespaces(t, os.Getpid())
	// Two anchors, dbus-daemon, avahi-daemon and epmd.
	if pids := inside(t, namespaces); len(namespaces) != 2 || len(pids) != 5 {
		t.Errorf("processes %v in namespaces %v, want 5 in 2", pids, namespaces)
	}
	wait.Must(t, n.Close())
	if pids := inside(t, namespaces); len(pids) != 0 {
		t.Errorf("processes %v left", pids)
	}
	if after := machine(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if _, err := h.Output(wait.Soon(t), "true"); !errors.Is(err, lan.ErrClosed) {
		t.Errorf("command on a closed network: %v, want %v", err, lan.ErrClosed)
	}
	if _, err := n.AddHost(wait.Soon(t), "late", lan.HostOptions{}); !errors.Is(err, lan.ErrClosed) {
		t.Errorf("host on a closed network: %v, want %v", err, lan.ErrClosed)
	}
}

// TestKilled kills a program that has a network, and finds nothing left either.
func TestKilled(t *testing.T) {
	lan.Need(t)
	before := machine(t)
	cmd := exec.CommandContext(wait.Soon(t), os.Args[0])
	cmd.Env = append(os.Environ(), victim+"=1")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	wait.Must(t, err)
	wait.Must(t, cmd.Start())
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatalf("victim says %q, %v", line, err)
	}
	namespaces := childNamespaces(t, cmd.Process.Pid)
	if pids := inside(t, namespaces); len(namespaces) != 2 || len(pids) != 5 {
		t.Errorf("processes %v in namespaces %v, want 5 in 2", pids, namespaces)
	}
	wait.Must(t, cmd.Process.Kill())
	if err := cmd.Wait(); err == nil {
		t.Error("victim ended before it was killed")
	}
	wait.Must(t, lan.Wait(wait.Soon(t), "empty namespaces", func(context.Context) (bool, error) {
		return len(inside(t, namespaces)) == 0, nil
	}))
	if after := machine(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// victim is the environment variable that makes this program TestKilled's victim.
const victim = "LAN_TEST_VICTIM"

func TestMain(m *testing.M) {
	if os.Getenv(victim) == "" {
		os.Exit(m.Run())
	}
	if err := waitForDeath(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// waitForDeath brings up a host, says so, and waits to be killed.
func waitForDeath() error {
	ctx, cancel := context.WithTimeout(context.Background(), wait.Patience)
	defer cancel()
	n, err := lan.New(ctx, lan.DefaultSubnet)
	if err != nil {
		return err
	}
	h, err := n.AddHost(ctx, "hosta", lan.HostOptions{})
	if err != nil {
		return err
	}
	if _, err := h.Output(ctx, "epmd", "-daemon"); err != nil {
		return err
	}
	fmt.Println("up")
	<-ctx.Done()
	return n.Close()
}

// machine describes what a network must leave alone: mounts, interfaces and named namespaces.
func machine(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	wait.Must(t, err)
	links, err := net.Interfaces()
	wait.Must(t, err)
	names, err := filepath.Glob("/run/netns/*")
	wait.Must(t, err)
	return fmt.Sprintf("%s%v\n%v", mounts, links, names)
}

// childNamespaces returns the network namespaces of a process's children other than its own.
func childNamespaces(t *testing.T, pid int) map[string]bool {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	wait.Must(t, err)
	own, err := os.Readlink("/proc/self/ns/net")
	wait.Must(t, err)
	namespaces := make(map[string]bool)
	for _, list := range lists {
		children, _ := os.ReadFile(list) // the thread may have ended
		for _, child := range strings.Fields(string(children)) {
			if id, err := os.Readlink("/proc/" + child + "/ns/net"); err == nil && id != own {
				namespaces[id] = true
			}
		}
	}
	return namespaces
}

// inside returns the processes in the network namespaces.
func inside(t *testing.T, namespaces map[string]bool) (pids []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/ns/net")
	wait.Must(t, err)
	for _, file := range files {
		if id, err := os.Readlink(file); err == nil && namespaces[id] {
			pids = append(pids, strings.Split(file, "/")[2])
		}
	}
	return pids
}

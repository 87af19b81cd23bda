//go:build soak

package test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// timesAsked connects to nodes that refuse, one after the other. It returns how long net_kernel was
// in address_please/3: the first time, the median and the 99th percentile, in microseconds. NODES
// stands for a list of names.
const timesAsked = `
	Nodes = NODES,
	Net = whereis(net_kernel),
	1 = erlang:trace(Net, true, [call, monotonic_timestamp]),
	1 = erlang:trace_pattern({eclus_epmd, address_please, 3}, [{'_', [], [{return_trace}]}], [global]),
	Took = [begin
		_ = net_kernel:connect_node(Node),
		receive {trace_ts, Net, call, _, Begin} -> ok end,
		receive {trace_ts, Net, return_from, _, _, End} -> ok end,
		erlang:convert_time_unit(End - Begin, native, microsecond)
	end || Node <- Nodes],
	erlang:trace(Net, false, [all]),
	Sorted = lists:sort(Took),
	At = fun(Percent) -> lists:nth(max(1, length(Sorted) * Percent div 100), Sorted) end,
	{hd(Took), At(50), At(99)}.`

// asked is what timesAsked returns.
type asked struct{ first, median, p99 time.Duration }

func timeAsked(t *testing.T, e *lan.Erl, nodes string) (a asked) {
	t.Helper()
	var us [3]int
	_, err := fmt.Sscanf(value(t, e, strings.Replace(timesAsked, "NODES", nodes, 1)), "{%d,%d,%d}", &us[0], &us[1], &us[2])
	wait.Must(t, err)
	at := func(i int) time.Duration { return time.Duration(us[i]) * time.Microsecond }
	return asked{at(0), at(1), at(2)}
}

// TestSoakNames measures how long net_kernel waits for an address where 4,000 nodes are known. Then
// the epmd is wedged, ends, and is the one of Erlang/OTP.
func TestSoakNames(t *testing.T) {
	dir := application(t)
	hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{}, "hosta", "hostb")
	a, b := hosts[0], hosts[1]
	wait.Must(t, a.WriteFile("/etc/hosts", "127.0.0.1 localhost\n198.51.100.12 hostb.local\n", 0o644))
	nameless(t, hosts...)
	for _, h := range hosts {
		h.run(t, shippedBinary(t))
	}
	registerMany(t, []*host{b}, 4000)
	untilAll(t, []*counter{a.count(t)}, 4000, time.Minute)
	near := a.erl(t, "-name", "a@hosta.local", "-pa", dir, "-epmd_module", "eclus_epmd")
	const many = `[list_to_atom("n" ++ integer_to_list(I * 7919 rem 4000) ++ "@hostb.local") || I <- lists:seq(0, 1999)]`
	check := func(what string, got, most asked) {
		if t.Logf("%s: first %v, median %v, p99 %v", what, got.first, got.median, got.p99); got.first > most.first ||
			got.median > most.median || got.p99 > most.p99 {
			t.Errorf("want %v, %v and %v at most", most.first, most.median, most.p99)
		}
	}
	check("4,000 nodes known", timeAsked(t, near, many), asked{20 * time.Millisecond, time.Millisecond, 3 * time.Millisecond})

	const one = `['n1@hostb.local', 'n2@hostb.local', 'n3@hostb.local']`
	stock := asked{100 * time.Millisecond, 100 * time.Millisecond, 100 * time.Millisecond}
	wait.Freeze(t, a.epmd.Pid())
	check("wedged", timeAsked(t, near, one), stock)
	wait.Must(t, a.epmd.Signal(syscall.SIGCONT))
	a.stop(t)
	check("ended", timeAsked(t, near, one), stock)
	_, err := a.Start(t.Context(), stockEpmd)
	wait.Must(t, err)
	awaitValue(t, near, "{ok, [{N, _}]} = erl_epmd:names(), N.", `"a"`)
	check("of Erlang/OTP", timeAsked(t, near, one), stock)
}

// TestSoakJoin has nodes on three hosts join by the application. It measures how long that takes
// the last of them.
func TestSoakJoin(t *testing.T) {
	dir := application(t)
	for range 5 {
		hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{}, "hosta", "hostb", "hostc")
		nameless(t, hosts...)
		for _, h := range hosts {
			h.run(t, shippedBinary(t))
		}
		nodes := joining(t, dir, hosts)
		began := time.Now()
		awaitConnected(t, nodes[2], "web@hosta.local web@hostb.local")
		if t.Logf("connected %v after the last node had started", since(began)); time.Since(began) > 2*time.Second {
			t.Error("want 2 s at most")
		}
	}
}

// joining starts a node on each host that joins the others by the application.
func joining(t *testing.T, dir string, hosts []*host, more ...string) (nodes []*lan.Erl) {
	t.Helper()
	for _, h := range hosts {
		args := append([]string{"-name", "web@" + h.Name() + ".local", "-pa", dir, "-epmd_module", "eclus_epmd",
			"-eclus", "join", `["web@host?.local"]`, "-eval", "ok = application:start(eclus)."}, more...)
		nodes = append(nodes, h.erl(t, args...))
	}
	return nodes
}

// TestSoakForeignCookie has nodes join one of another cookie for two minutes and a half. It is not
// asked twice in a minute.
func TestSoakForeignCookie(t *testing.T) {
	t.Parallel()
	dir := application(t)
	hosts := running(t, "hosta", "hostb")
	nameless(t, hosts...)
	foreign := hosts[1].erl(t, "-setcookie", "another", "-name", "web@hostb.local")
	hosts[0].watch(t).until(t, present("web@hostb.local", sure))
	joining(t, dir, hosts[:1])
	observe(t, 150*time.Second)
	asked := strings.Count(foreign.Output(), "attempt from node")
	if t.Logf("asked %d times", asked); asked < 2 || asked > 3 {
		t.Errorf("want two or three times")
	}
}

// TestSoakBadLink drops what two of six hosts send each other. From OTP 25 on, global then takes
// nodes apart that reach each other. With the parameter of docs/clusters.md, only those two lose
// each other. They find each other again.
func TestSoakBadLink(t *testing.T) {
	t.Run("as OTP is", func(t *testing.T) {
		t.Parallel()
		lost, _ := badLink(t)
		if t.Logf("lost: %q", lost); strings.Join(lost[2:], "") == "" {
			t.Error("only two have lost each other, in spite of what docs/clusters.md says")
		}
	})
	t.Run("as documented", func(t *testing.T) {
		t.Parallel()
		text, err := os.ReadFile("../docs/clusters.md")
		wait.Must(t, err)
		parameter := regexp.MustCompile("`(-kernel prevent_overlapping_partitions \\w+)`").FindSubmatch(text)
		if parameter == nil {
			t.Fatal("docs/clusters.md names no parameter")
		}
		lost, heal := badLink(t, strings.Fields(string(parameter[1]))...)
		if want := []string{"web@hostb.local", "web@hosta.local", "", "", "", ""}; !slices.Equal(lost, want) {
			t.Errorf("lost: %q; want %q", lost, want)
		}
		heal()
	})
}

// sixHosts are the hosts of TestSoakBadLink. The link between the first two becomes bad.
var sixHosts = []string{"hosta", "hostb", "hostc", "hostd", "hoste", "hostf"}

// badLink makes a link bad for two minutes and a half. It returns which nodes each of six has lost.
// heal makes the link good again, and waits until all are connected once more.
func badLink(t *testing.T, args ...string) (lost []string, heal func()) {
	hosts := running(t, sixHosts...)
	nameless(t, hosts...)
	nodes := joining(t, application(t), hosts, args...)
	awaitAll(t, hosts, nodes)
	for _, e := range nodes {
		value(t, e, `register(downs, spawn(fun() ->
			ok = net_kernel:monitor_nodes(true),
			Note = fun Note(Lost) -> receive
				{nodedown, Node} -> Note(lists:usort([Node | Lost]));
				{lost, Who} -> Who ! {lost, Lost}, Note(Lost);
				_ -> Note(Lost)
			end end,
			Note([])
		end)).`)
	}
	for i, h := range hosts[:2] {
		mac, err := hosts[1-i].Output(wait.Soon(t), "sh", "-c", "ip -o link show eth0 | sed 's/.*ether \\([^ ]*\\).*/\\1/'")
		wait.Must(t, err)
		_, err = h.Output(wait.Soon(t), "nft", "table inet bad { chain in { type filter hook input priority 0; "+
			"ether saddr "+strings.TrimSpace(mac)+" drop; }; }")
		wait.Must(t, err)
	}
	observe(t, 150*time.Second)
	for _, e := range nodes {
		lost = append(lost, strings.Trim(value(t, e,
			`downs ! {lost, self()}, receive {lost, Lost} -> lists:flatten(lists:join(" ", [atom_to_list(N) || N <- Lost])) end.`), `"[]`))
	}
	return lost, func() {
		for _, h := range hosts[:2] {
			_, err := h.Output(wait.Soon(t), "nft", "flush ruleset")
			wait.Must(t, err)
		}
		healed := time.Now()
		awaitAll(t, hosts, nodes)
		t.Logf("all connected %v after the link was good again", since(healed))
	}
}

// awaitAll waits until each node is connected to all others.
func awaitAll(t *testing.T, hosts []*host, nodes []*lan.Erl) {
	t.Helper()
	for i, e := range nodes {
		var others []string
		for k, h := range hosts {
			if k != i {
				others = append(others, "web@"+h.Name()+".local")
			}
		}
		awaitConnected(t, e, strings.Join(others, " "))
	}
}

// observe lets time pass in which something should not happen.
func observe(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

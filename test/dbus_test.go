package test

import (
	"context"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/machine"
	"github.com/goerlang/eclus/test/wait"
)

// Clients of a bus that tests run, as a user does.
var busTools = append([]string{"busctl", "gdbus", "dbus-send", "setpriv"}, tools...)

// busHosts returns hosts whose buses have our policy, as where epmd is installed.
func busHosts(t *testing.T, names ...string) []*host {
	t.Helper()
	policy, err := os.ReadFile("../dbus/org.erlang.Epmd.conf")
	wait.Must(t, err)
	hosts := addHosts(t, lan.ForTest(t, busTools...), lan.HostOptions{NoBus: true}, names...)
	for _, h := range hosts {
		wait.Must(t, h.WriteFile("/etc/dbus-1/system.d/org.erlang.Epmd.conf", string(policy), 0o644))
		wait.Must(t, h.Bus.Start(wait.Soon(t)))
		wait.Must(t, h.Avahi.Start(wait.Soon(t)))
	}
	return hosts
}

// output runs a command on the host.
func (h *host) output(t *testing.T, args ...string) string {
	t.Helper()
	out, err := h.Output(wait.Soon(t), args[0], args[1:]...)
	wait.Must(t, err)
	return out
}

// refused runs a command on the host that is to fail with a message that matches.
func (h *host) refused(t *testing.T, pattern string, args ...string) {
	t.Helper()
	out, err := h.Output(wait.Soon(t), args[0], args[1:]...)
	if err == nil || !regexp.MustCompile(pattern).MatchString(err.Error()) {
		t.Errorf("%q: %s, %v; want an error that matches %q", args, out, err, pattern)
	}
}

// anybody is a command run by somebody without any rights.
func anybody(args ...string) []string {
	return append([]string{"setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"}, args...)
}

// objectsOn is what busctl tree has of a bus on which these nodes are known.
func objectsOn(nodes ...string) string {
	lines := []string{"/", "/org", "/org/erlang", "/org/erlang/Epmd"}
	for _, n := range nodes {
		lines = append(lines, "/org/erlang/Epmd/"+n)
	}
	return strings.Join(lines, "\n") + "\n"
}

// TestLANBus shows the nodes of two hosts on the system buses of both. Anybody sees them with
// busctl and gdbus.
func TestLANBus(t *testing.T) {
	t.Parallel()
	hosts := busHosts(t, "hosta", "hostb")
	a, b := hosts[0], hosts[1]
	a.start(t)
	b.start(t)
	watch, err := a.Start(t.Context(), "gdbus", "monitor", "--system", "--dest", "org.erlang.Epmd")
	wait.Must(t, err)
	_, err = watch.WaitOutput(wait.Soon(t), `The name org\.erlang\.Epmd is owned by`)
	wait.Must(t, err)
	own := a.erl(t, "-name", "a@hosta.local")
	other := b.erl(t, "-name", "b-1@hostb.local", "-hidden")
	for _, signal := range []string{
		`(?m)^/org/erlang/Epmd: org\.freedesktop\.DBus\.ObjectManager\.InterfacesAdded \(objectpath '/org/erlang/Epmd/a_40hosta_2elocal', \{'org\.erlang\.Epmd\.Node': \{.*'Port': <uint16 \d+>`,
		told("a_40hosta_2elocal", "'Sure': <true>"),
		`(?m)^/org/erlang/Epmd: .*InterfacesAdded \(objectpath '/org/erlang/Epmd/b_2d1_40hostb_2elocal', .*'Origin': <'lan'>`,
		told("b_2d1_40hostb_2elocal", "'Reachable': <'yes'>"),
		told("b_2d1_40hostb_2elocal", "'Sure': <true>"),
		`(?m)^/org/erlang/Epmd: .*PropertiesChanged \('org\.erlang\.Epmd\.Manager', \{.*'LANNodes': <uint32 1>`,
	} {
		if _, err := watch.WaitOutput(wait.Soon(t), signal); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("busctl", func(t *testing.T) { testBusctl(t, a) })
	t.Run("gdbus", func(t *testing.T) { testGdbus(t, a) })
	t.Run("rights", func(t *testing.T) { testRights(t, a) })
	wait.Must(t, own.Kill(wait.Soon(t)))
	wait.Must(t, other.Stop(wait.Soon(t)))
	for _, node := range []string{"a", "b_2d1"} {
		_, err := watch.WaitOutput(wait.Soon(t), `InterfacesRemoved \(objectpath '/org/erlang/Epmd/`+node+`_40.*\['org\.erlang\.Epmd\.Node'\]`)
		wait.Must(t, err)
	}
	if tree := a.output(t, "busctl", "tree", "--list", "org.erlang.Epmd"); tree != objectsOn() {
		t.Errorf("left are\n%s", tree)
	}
}

// told returns a pattern for the signal that tells a property of a node: when it comes, or later.
func told(node, property string) string {
	return `(?m)^/org/erlang/Epmd(: .*InterfacesAdded \(objectpath '/org/erlang/Epmd/` + node + `', .*` +
		`|/` + node + `: org\.freedesktop\.DBus\.Properties\.PropertiesChanged \('org\.erlang\.Epmd\.Node', \{.*)` + property
}

// testBusctl asks for a node of host B and for the epmd of A, as anybody may.
func testBusctl(t *testing.T, a *host) {
	const node = "/org/erlang/Epmd/b_2d1_40hostb_2elocal"
	busctl := func(args ...string) string { return a.output(t, anybody(append([]string{"busctl"}, args...)...)...) }
	if tree, want := busctl("tree", "--list", "org.erlang.Epmd"), objectsOn("a_40hosta_2elocal", "b_2d1_40hostb_2elocal"); tree != want {
		t.Errorf("objects\n%swant\n%s", tree, want)
	}
	if got := busctl("call", "org.erlang.Epmd", "/org/erlang/Epmd", "org.erlang.Epmd.Manager", "Lookup", "s", "b-1@hostb.local"); got != "o \""+node+"\"\n" {
		t.Errorf("lookup: %s", got)
	}
	for property, want := range map[string]string{
		"Node": `s "b-1@hostb.local"`, "Name": `s "b-1"`, "Host": `s "hostb.local"`, "Type": `s "hidden"`, "Origin": `s "lan"`,
		"Addresses": `as 1 "198\.51\.100\.12"`, "Via": `s "epmd"`, "Port": `q \d+`, "Creation": `u \d+`, "Since": `t \d{16}`,
		"Reachable": `s "yes"`, "Sure": `b true`, "EPMDPort": `q 4369`, "Dist": `s "tcp"`,
	} {
		got := busctl("get-property", "org.erlang.Epmd", node, "org.erlang.Epmd.Node", property)
		if !regexp.MustCompile("^" + want + "\n$").MatchString(got) {
			t.Errorf("%s is %s want %s", property, got, want)
		}
	}
	shown := busctl("introspect", "org.erlang.Epmd", "/org/erlang/Epmd")
	for _, want := range []string{
		`(?m)^\.Lookup +method +s +o `, `(?m)^\.InterfacesAdded +signal +oa\{sa\{sv\}\} `, `(?m)^\.Allow +property +s +"lan" +const`,
		`(?m)^\.HostName +property +s +"hosta\.local" +emits-change`, `(?m)^\.LAN +property +b +true `, `(?m)^\.LANNodes +property +u +1 `,
	} {
		if !regexp.MustCompile(want).MatchString(shown) {
			t.Errorf("busctl introspect shows\n%s\nwant %q", shown, want)
		}
	}
}

func testGdbus(t *testing.T, a *host) {
	at := []string{"--system", "--dest", "org.erlang.Epmd", "--object-path", "/org/erlang/Epmd"}
	gdbus := func(command string, args ...string) string {
		return a.output(t, append(append([]string{"gdbus", command}, at...), args...)...)
	}
	tree := gdbus("introspect", "--recurse")
	for _, want := range []string{"node /org/erlang/Epmd {", "node /org/erlang/Epmd/b_2d1_40hostb_2elocal {", "readonly s Node = 'b-1@hostb.local'"} {
		if !strings.Contains(tree, want) {
			t.Errorf("gdbus introspect shows\n%s\nwant %q", tree, want)
		}
	}
	all := gdbus("call", "--method", "org.freedesktop.DBus.ObjectManager.GetManagedObjects")
	if n := strings.Count(all, "'org.erlang.Epmd.Node':"); n != 2 {
		t.Errorf("%d objects, want 2: %s", n, all)
	}
}

// testRights has anybody try to have the name, and root to change something.
func testRights(t *testing.T, a *host) {
	a.refused(t, "not allowed to own", anybody("dbus-send", "--system", "--print-reply", "--dest=org.freedesktop.DBus", "/",
		"org.freedesktop.DBus.RequestName", "string:org.erlang.Epmd", "uint32:0")...)
	a.refused(t, "read-only|Access denied|not writable", "busctl", "set-property", "org.erlang.Epmd", "/org/erlang/Epmd",
		"org.erlang.Epmd.Manager", "Allow", "s", "any")
	a.refused(t, "org.erlang.Epmd.Error.NoSuchNode|no node", "gdbus", "call", "--system", "--dest", "org.erlang.Epmd", "--object-path",
		"/org/erlang/Epmd", "--method", "org.erlang.Epmd.Manager.Lookup", "nobody")
}

// TestLANBusRestarts kills the system bus time and again while epmd is asked for a node without
// pause.
func TestLANBusRestarts(t *testing.T) {
	t.Parallel()
	a := busHosts(t, "hosta")[0]
	a.start(t)
	a.register(t, "a", 4711)
	ctx, stop := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	asked := 0
	asking.Go(func() {
		for ; ctx.Err() == nil; asked++ {
			if _, err := a.lookup(ctx, "a"); err != nil && ctx.Err() == nil {
				t.Errorf("lookup %d: %v", asked, err)
			}
		}
	})
	defer asking.Wait()
	defer stop()
	a.awaitBusName(t)
	var slowest time.Duration
	for range 10 {
		wait.Must(t, a.Bus.Kill(wait.Soon(t)))
		wait.Must(t, a.Bus.Start(wait.Soon(t)))
		began := time.Now()
		a.awaitBusName(t)
		slowest = max(slowest, time.Since(began))
		if tree := a.output(t, "busctl", "tree", "--list", "org.erlang.Epmd"); tree != objectsOn("a_40hosta_2elocal") {
			t.Fatalf("on the new bus there are\n%s", tree)
		}
	}
	stop()
	asking.Wait()
	t.Logf("the service was back within %v of each of 10 starts of the bus; %d lookups meanwhile", slowest.Round(time.Millisecond), asked)
	if slowest > raced(2*time.Second) || asked < 100 {
		t.Errorf("the service was back after %v, and %d lookups were answered", slowest, asked)
	}
}

// awaitBusName waits until the service has its name on the host's system bus.
func (h *host) awaitBusName(t *testing.T) {
	t.Helper()
	conn, err := godbus.Connect(h.DBusAddress(), godbus.WithSignalHandler(godbus.NewSequentialSignalHandler()))
	wait.Must(t, err)
	defer conn.Close()
	wait.Must(t, conn.AddMatchSignal(godbus.WithMatchMember("NameOwnerChanged"), godbus.WithMatchArg(0, "org.erlang.Epmd")))
	changes := make(chan *godbus.Signal, 16)
	conn.Signal(changes)
	var has bool
	wait.Must(t, conn.BusObject().CallWithContext(wait.Soon(t), "org.freedesktop.DBus.NameHasOwner", 0, "org.erlang.Epmd").Store(&has))
	for deadline := wait.Soon(t); !has; {
		select {
		case s := <-changes:
			has = s != nil && s.Name == "org.freedesktop.DBus.NameOwnerChanged" && len(s.Body) == 3 && s.Body[2] != ""
		case <-deadline.Done():
			t.Fatal("nobody takes the name on the bus")
		}
	}
}

// TestBusActivation has a client of the bus start the installed service. The service runs as the
// user that may own the name.
func TestBusActivation(t *testing.T) {
	deb := packaged(t, "1.0.0")
	s := debian(t, machine.Options{})
	s.install(t, deb)
	s.systemctl(t, "stop", "epmd.socket", unit)
	tree := s.output(t, "setpriv", "--reuid=nobody", "--clear-groups", "busctl", "tree", "--list", "org.erlang.Epmd")
	if tree != objectsOn() {
		t.Errorf("objects\n%s", tree)
	}
	s.await(t, "ActiveState", "^active$")
	status, uid := s.output(t, "busctl", "status", "org.erlang.Epmd"), strings.TrimSpace(s.output(t, "id", "-u", "epmd"))
	if !strings.Contains(status, "\nUnit=epmd.service\n") || !strings.Contains(status, "\nUID="+uid+"\n") {
		t.Errorf("the name's owner is\n%s\nwant the service, as user %s", status, uid)
	}
	nodes := s.register(t, "a", 1)
	s.systemctl(t, "restart", "dbus")
	wait.Must(t, lan.Wait(wait.Soon(t), "the node on the new bus", func(ctx context.Context) (bool, error) {
		tree, _ := s.Output(ctx, "busctl", "tree", "--list", "org.erlang.Epmd")
		return strings.Contains(tree, "/org/erlang/Epmd/a0_40"), nil
	}))
	s.checkOnly(t, nodes...)
}

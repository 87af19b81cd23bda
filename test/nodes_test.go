package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// names of the nodes that a listing shows, in order.
func (r result) names(t *testing.T) []string {
	t.Helper()
	var names []string
	for line := range strings.Lines(r.stdout) {
		names = append(names, parseNode(t, line).Name)
	}
	return names
}

// nodeObject has every key that is documented of a node without -watch.
type nodeObject struct {
	V                      int
	Node, Name, Host       string
	Address                string
	Addresses              []string
	Port                   uint16
	Type, Origin, Dist     string
	Creation               uint32
	Since                  time.Time
	Sure, Reachable        *bool
	High, Low, Proto, EPMD *uint16
	PID, UID               *uint32
	User, Unit             string
	LAN                    *bool
	Why, Via               string
}

// parseNode parses a line of -json, in which no other key may be.
func parseNode(t *testing.T, line string) nodeObject {
	t.Helper()
	var n nodeObject
	strict := json.NewDecoder(strings.NewReader(line))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&n); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	if n.V != 1 || n.Sure == nil {
		t.Errorf("%q: version %d, sure %v; want 1 and something", line, n.V, n.Sure)
	}
	return n
}

// TestNodesFilters lists some of four nodes and looks at the exit status.
func TestNodesFilters(t *testing.T) {
	d := startEpmd(t, eclusBinary(t))
	if got := command(t, eclusBinary(t), d.port, "-nodes"); got.status != 2 || !strings.Contains(got.stdout, ": 0 nodes, ") || got.stderr != "" {
		t.Errorf("with no node: %v; want status 2 and a heading", got)
	}
	for i, name := range []string{"rabbit1", "rabbit2", "a/b", "-x"} {
		d.register(t, name, uint16(41000+i))
	}
	for _, tt := range []struct {
		args string
		want string
	}{
		{"", "-x a/b rabbit1 rabbit2"},
		{"-local", "-x a/b rabbit1 rabbit2"},
		{"-lan_only", ""},
		{"rabbit*", "rabbit1 rabbit2"},
		{"rabbit[2-9] -local", "rabbit2"},
		{"rabbit* -lan_only", ""},
		{"*@*", "-x a/b rabbit1 rabbit2"},
		{"rabbit1@*", "rabbit1"},
		{"rabbit", ""},
		{`\-x`, "-x"},
		{"a*", "a/b"},
	} {
		args := append([]string{"-nodes"}, strings.Fields(tt.args)...)
		got := command(t, eclusBinary(t), d.port, append(args, "-json")...)
		status := 0
		if tt.want == "" {
			status = 2
		}
		if names := got.names(t); strings.Join(names, " ") != tt.want || got.status != status || got.stderr != "" {
			t.Errorf("%s: %v; want %s and status %d", tt.args, got, tt.want, status)
		}
		table := command(t, eclusBinary(t), d.port, args...)
		for _, name := range []string{"rabbit1@", "rabbit2@", "a/b@", "-x@"} {
			want := slices.Contains(strings.Fields(tt.want), strings.TrimSuffix(name, "@"))
			if strings.Contains(table.stdout, "\n"+name) != want || table.status != status {
				t.Errorf("%s: %v; want %s in it: %v, and status %d", tt.args, table, name, want, status)
			}
		}
	}
	if got := command(t, eclusBinary(t), freePort(t), "-nodes", "x"); got.status != 1 || got.stdout != "" {
		t.Errorf("with no epmd: %v; want status 1", got)
	}
	if got := command(t, eclusBinary(t), d.port, "-nodes", "a["); got.status != 1 || !strings.HasPrefix(got.stderr, `epmd: -nodes "a["`) {
		t.Errorf("a bad pattern: %v; want status 1 and its name", got)
	}
}

// TestNodesJSON looks at all that is known of a node of this host.
func TestNodesJSON(t *testing.T) {
	d := startEpmd(t, eclusBinary(t))
	d.register(t, "a", 41000)
	n := parseNode(t, command(t, eclusBinary(t), d.port, "-nodes", "-json").stdout)
	if n.Name != "a" || !strings.HasPrefix(n.Node, "a@") || n.Host == "" || n.Address != "127.0.0.1" || n.Port != 41000 ||
		n.Type != "normal" || n.Origin != "local" || n.Creation == 0 || time.Since(n.Since) > time.Hour || *n.Sure {
		t.Errorf("got %+v", n)
	}
	if n.Reachable == nil || !*n.Reachable || *n.High != 6 || *n.Low != 5 || *n.Proto != 0 || n.EPMD != nil {
		t.Errorf("got reachable, high, low, proto, epmd of %+v", n)
	}
}

// TestNodesNoStream lists the nodes of an epmd whose peer can't be asked for its own.
func TestNodesNoStream(t *testing.T) {
	d := startEpmd(t, eclusBinary(t), "-lan", "off", "-peer", "127.0.0.1:1")
	wait.Until(t, "why there is no stream", func() error {
		got := command(t, eclusBinary(t), d.port, "-nodes")
		if !regexp.MustCompile(`(?m)^no stream from 127\.0\.0\.1:1: .*connection refused$`).MatchString(got.stdout) {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
}

// TestWatchFiltered prints changes of the nodes that are meant, and ends with epmd.
func TestWatchFiltered(t *testing.T) {
	d := startEpmd(t, eclusBinary(t))
	d.register(t, "other1", 41000)
	var out wait.Output
	watch := exec.Command(eclusBinary(t), "-port", strconv.Itoa(int(d.port)), "-nodes", "mine*", "-watch")
	watch.Stdout, watch.Stderr = &out, &out
	wait.Must(t, watch.Start())
	t.Cleanup(func() {
		watch.Process.Kill()
		watch.Wait()
	})
	await := func(want string) {
		t.Helper()
		wait.Until(t, fmt.Sprintf("%q printed", want), func() error {
			if !strings.Contains(out.String(), want) {
				return fmt.Errorf("output %q", out.String())
			}
			return nil
		})
	}
	await(": 0 of 1 node, 0 on the LAN\n")
	d.register(t, "other2", 41001)
	mine := d.register(t, "mine", 41002)
	await("\n+ mine@")
	mine.Close()
	await("\n- mine@")
	d.stop(t, syscall.SIGTERM)
	await(" lost, waiting for it\n")
	if strings.Contains(out.String(), "other") {
		t.Errorf("printed what was not asked for:\n%s", &out)
	}
}

// onTerminal runs our epmd on a terminal of that size and returns what was written there.
func onTerminal(t *testing.T, size unix.Winsize, env []string, args ...string) string {
	t.Helper()
	master, slave := openTerminal(t, size)
	defer master.Close()
	cmd := exec.Command(eclusBinary(t), args...)
	cmd.Env = append([]string{"GORACE=" + goRace}, env...)
	cmd.Stdout, cmd.Stderr = slave, slave
	wait.Must(t, cmd.Start())
	slave.Close()
	master.SetReadDeadline(time.Now().Add(wait.Patience))
	out, err := io.ReadAll(master) // until nobody has the terminal open
	if err != nil && !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("epmd %q: %v, output %q", args, err, out)
	}
	return strings.ReplaceAll(string(out), "\r\n", "\n")
}

// openTerminal makes a terminal.
func openTerminal(t *testing.T, size unix.Winsize) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	wait.Must(t, err)
	wait.Must(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	wait.Must(t, err)
	wait.Must(t, unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &size))
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	wait.Must(t, err)
	return os.NewFile(uintptr(fd), "/dev/ptmx"), slave
}

// colour is what begins or ends one.
var colour = regexp.MustCompile("\x1b\\[[0-9]*m")

// TestNodesTerminal shows long and hostile names on terminals.
func TestNodesTerminal(t *testing.T) {
	d := startEpmd(t, eclusBinary(t))
	d.register(t, "a", 41000)
	d.register(t, strings.Repeat("long", 60), 41001)
	d.register(t, "evil\x1b[31m\u009b2J\r\u202e", 41002)
	port, screen := "ERL_EPMD_PORT="+strconv.Itoa(int(d.port)), unix.Winsize{Row: 24, Col: 80}
	for _, tt := range []struct {
		name     string
		size     unix.Winsize
		env      string
		longest  int // the longest line of the table, 0: not cut
		coloured bool
	}{
		{"80x24", screen, "TERM=xterm", 80, true},
		{"NO_COLOR", screen, "TERM=xterm NO_COLOR=1", 80, false},
		{"NO_COLOR empty", screen, "TERM=xterm NO_COLOR=", 80, true},
		{"dumb", screen, "TERM=dumb", 80, false},
		{"no TERM", screen, "", 80, false},
		{"60x24", unix.Winsize{Row: 24, Col: 60}, "TERM=xterm COLUMNS=99", 60, true},
		{"COLUMNS", unix.Winsize{}, "TERM=xterm COLUMNS=99", 99, true},
		{"no size", unix.Winsize{}, "TERM=xterm", 0, true},
	} {
		out := onTerminal(t, tt.size, append(strings.Fields(tt.env), port), "-nodes")
		if got := colour.MatchString(out); got != tt.coloured {
			t.Errorf("%s: coloured: %v, want %v: %q", tt.name, got, tt.coloured, out)
		}
		out = colour.ReplaceAllString(out, "")
		checkShown(t, tt.name, out)
		_, table, _ := strings.Cut(out, "\n\n")
		longest := 0
		for line := range strings.Lines(table) {
			longest = max(longest, utf8.RuneCountInString(strings.TrimRight(line, "\n")))
		}
		if tt.longest != 0 && longest != tt.longest || tt.longest == 0 && longest < 240 {
			t.Errorf("%s: the longest line has %d columns, want %d:\n%s", tt.name, longest, tt.longest, out)
		}
	}
	for _, flags := range [][]string{{"-nodes", "-json"}, {"-nodes", "evil*"}} {
		out := onTerminal(t, screen, []string{"TERM=xterm", port}, flags...)
		checkShown(t, strings.Join(flags, " "), colour.ReplaceAllString(out, ""))
		if flags[1] == "-json" && colour.MatchString(out) {
			t.Errorf("colours in %q", out)
		}
	}
	if got := command(t, eclusBinary(t), d.port, "-nodes"); strings.Contains(got.stdout, "\x1b") || !strings.Contains(got.stdout, strings.Repeat("long", 60)) {
		t.Errorf("into a pipe: %v; want whole names and no colours", got)
	}
}

// TestLANReachable lists nodes of hosts of which one does not answer any more.
func TestLANReachable(t *testing.T) {
	t.Parallel()
	hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{}, "hosta", "hostb", "hostc")
	for _, h := range hosts {
		h.start(t)
	}
	a, b, c := hosts[0], hosts[1], hosts[2]
	a.checkQuick(t, "without neighbours", 0, "-nodes")
	b.register(t, "b", 41001)
	c.register(t, "c", 41002)
	a.awaitTable(t, `(?m)^b@hostb\.local .* lan +yes [^$]*^c@hostc\.local .* lan +yes `)
	a.checkQuick(t, "all there", 0, "-nodes")

	const dead = `(?m)^b@hostb\.local .* lan +no [^$]*^c@hostc\.local .* lan +yes `
	check := func(what string) {
		t.Helper()
		if out := a.checkQuick(t, what, 500*time.Millisecond, "-nodes"); !regexp.MustCompile(dead).MatchString(out) {
			t.Errorf("%s: epmd -nodes shows\n%s\nwant %s", what, out, dead)
		}
		a.checkQuick(t, what+", -local", 0, "-nodes", "-local")
		a.checkQuick(t, what+", c*", 0, "-nodes", "c*")
		for line := range strings.Lines(a.ask(t, "-nodes", "-json")) {
			n := parseNode(t, line)
			if n.Origin == "lan" && (n.Reachable == nil || *n.Reachable != (n.Name == "c") || n.EPMD == nil || *n.EPMD != 4369) {
				t.Errorf("%s: got %s", what, line)
			}
		}
	}
	wait.Freeze(t, b.epmd.Pid())
	t.Cleanup(func() { b.epmd.Signal(syscall.SIGCONT) }) // if it has not gone on, it can't be ended
	check("epmd stopped")
	wait.Must(t, b.epmd.Signal(syscall.SIGCONT))
	a.awaitTable(t, `(?m)^b@hostb\.local .* lan +yes `)
	seen := a.watch(t)
	wait.Must(t, b.LinkDown(wait.Soon(t), "eth0"))
	checkNewLink(t, a, seen)
	check("link down")
	wait.Must(t, b.LinkUp(wait.Soon(t), "eth0"))
	a.awaitTable(t, `(?m)^b@hostb\.local .* lan +yes `)
}

// checkNewLink gives a another link: epmd looks at once who can be reached, and finds b gone.
func checkNewLink(t *testing.T, a *host, seen *watcher) {
	t.Helper()
	second, err := lan.New(wait.Soon(t), lan.OtherSubnet)
	wait.Must(t, err)
	t.Cleanup(func() { wait.Must(t, second.Close()) })
	begin := time.Now()
	_, err = second.Attach(wait.Soon(t), a.Host)
	wait.Must(t, err)
	at := seen.until(t, present("b@hostb.local", unreachable))
	t.Logf("b is out of reach %v after another link came", at.Sub(begin).Round(time.Millisecond))
	if took := at.Sub(begin); took > 10*time.Second { // without, once a minute
		t.Errorf("b is out of reach only %v after another link came", took)
	}
	wait.Must(t, a.RemoveInterface(wait.Soon(t), "eth1"))
}

func reachable(n registry.Node) bool { return n.Reach == registry.Reachable }

func unreachable(n registry.Node) bool { return n.Reach == registry.Unreachable }

// checkQuick runs epmd on the host a few times. The fastest may take so long, beside what it takes
// to run a program there.
func (h *host) checkQuick(t *testing.T, what string, may time.Duration, args ...string) (out string) {
	t.Helper()
	const slack = 300 * time.Millisecond
	best, run := wait.Patience, wait.Patience
	for i := 0; i < 5 || best > may+slack+run && i < 50; i++ {
		begin := time.Now()
		h.ask(t, "-version")
		begun := time.Now()
		run = min(run, begun.Sub(begin))
		out = h.ask(t, args...)
		best = min(best, time.Since(begun))
	}
	t.Logf("epmd %s, %s: %v; -version: %v", strings.Join(args, " "), what, best.Round(time.Millisecond), run.Round(time.Millisecond))
	if best > may+slack+run {
		t.Errorf("epmd %s, %s, takes %v, -version %v; want at most %v more", strings.Join(args, " "), what, best, run, may)
	}
	return out
}

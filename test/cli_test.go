package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// result is what a person or a script sees of a command.
type result struct {
	stdout, stderr string
	status         int
}

func (r result) String() string {
	return fmt.Sprintf("status %d, stdout %q, stderr %q", r.status, r.stdout, r.stderr)
}

// command runs an epmd's command line against the epmd on that port.
func command(t testing.TB, binary string, port uint16, args ...string) result {
	t.Helper()
	return commandEnv(t, []string{"ERL_EPMD_PORT=" + strconv.Itoa(int(port))}, binary, args...)
}

func commandEnv(t testing.TB, env []string, binary string, args ...string) result {
	t.Helper()
	// The command may clean up after the test.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), wait.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "GORACE=" + goRace, "ECLUS_LAN=off"}, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Fatalf("%s %q still runs after %v", binary, args, wait.Patience)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// masked returns r with what differs from one daemon or one second to the next replaced.
func (r result) masked(port uint16) result {
	mask := func(s string) string {
		s = strings.ReplaceAll(s, fmt.Sprintf("on port %d with", port), "on port PORT with")
		s = regexp.MustCompile(`fd = \d+`).ReplaceAllString(s, "fd = FD")
		return regexp.MustCompile(`epmd: \w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}:`).ReplaceAllString(s, "epmd: TIME:")
	}
	return result{mask(r.stdout), mask(r.stderr), r.status}
}

// stockCommands is what the epmd of OTP asks another.
var stockCommands = [][]string{
	{"-names"},
	{"-started"},
	{"-dump"},
	{"-kill"},
	{"-stop", "a"},
	{"-stop", "nobody"},
	{"-stop", ""},
	{"-stop", "-names"},
	{"-stop", strings.Repeat("x", 1000)},
	{"-stop", strings.Repeat("x", 1001)},
}

// prefixed are commands with flags before them that have nothing to do with them.
var prefixed = [][]string{
	{"-d", "-names"},
	{"-debug", "-d", "-dump"},
	{"-daemon", "-names"},
	{"-systemd", "-names"},
	{"-relaxed_command_check", "-stop", "a"},
	{"-packet_timeout", "5", "-names"},
	{"-delay_accept", "1", "-delay_write", "1", "-names"},
	{"-address", "127.0.0.1", "-names"},
	{"-address", "no address", "-names"},
	{"-address", "", "-names"},
}

// surroundings are the daemons that the commands meet.
var surroundings = []struct {
	name    string
	daemon  bool
	args    []string
	names   []string // registered, in this order
	oldName string   // registered and gone
}{
	{name: "none"},
	{name: "empty", daemon: true},
	{name: "nodes", daemon: true, names: []string{"a", "b", "æøå"}, oldName: "gone"},
	{name: "relaxed", daemon: true, args: []string{"-relaxed_command_check"}, names: []string{"a", "b"}},
}

// TestStockCommands compares all pairs of our epmd and that of OTP, one asking, one answering.
func TestStockCommands(t *testing.T) {
	need.Program(t, stockEpmd)
	for _, s := range surroundings {
		commands := stockCommands
		if s.name == "nodes" {
			commands = slices.Concat(stockCommands, prefixed)
		}
		for _, args := range commands {
			t.Run(s.name+"/"+strings.Join(args, " ")[:min(30, len(strings.Join(args, " ")))], func(t *testing.T) {
				t.Parallel()
				run := func(asking, answering string) result {
					if !s.daemon {
						return command(t, asking, freePort(t), args...)
					}
					d := startEpmd(t, answering, s.args...)
					d.populate(t, s.names, s.oldName)
					return command(t, asking, d.port, args...).masked(d.port)
				}
				want := run(stockEpmd, stockEpmd)
				for _, answering := range []string{stockEpmd, eclusBinary(t)} {
					if got := run(eclusBinary(t), answering); got.unexplained() != want {
						t.Errorf("asked of %s: got %v, want %v", answering, got, want)
					}
				}
				if got := run(stockEpmd, eclusBinary(t)); got != want {
					t.Errorf("OTP's epmd asks ours: got %v, want %v", got, want)
				}
			})
		}
	}
}

// populate registers names, and one before them that goes again.
func (d *daemon) populate(t *testing.T, names []string, oldName string) {
	t.Helper()
	if oldName != "" {
		d.register(t, oldName, 40999).Close()
		wait.Until(t, "a name that has gone", func() error {
			known, err := epmd.NewLocalClient(d.port).Names(t.Context())
			if err == nil && len(known.Nodes) > 0 {
				err = fmt.Errorf("registered: %v", known.Nodes)
			}
			return err
		})
	}
	for i, name := range names {
		d.register(t, name, uint16(41000+i))
	}
}

// TestBrokenAnswers compares what the commands say to something that closes or resets the
// connection too soon.
func TestBrokenAnswers(t *testing.T) {
	need.Program(t, stockEpmd)
	for _, says := range []string{"", "O", "NOEXIS"} {
		for _, reset := range []bool{false, true} {
			port := freePort(t)
			listener(t, "127.0.0.1", port, func(c net.Conn) {
				say(says)(c)
				if reset {
					c.(*net.TCPConn).SetLinger(0)
				}
			})
			for _, args := range [][]string{{"-kill"}, {"-stop", "a"}, {"-names"}, {"-dump"}, {"-started"}} {
				want := command(t, stockEpmd, port, args...).masked(port)
				if got := command(t, eclusBinary(t), port, args...).masked(port); got.unexplained() != want {
					t.Errorf("%q, then reset: %t; %q: got %v, want %v", says, reset, args, got, want)
				}
			}
		}
	}
}

// wrongCommands get the usage from the epmd of OTP. Ours says before that what is wrong, in a line
// that has all of the given words.
var wrongCommands = []struct {
	args []string
	says []string
}{
	{[]string{"-port", "abc", "-names"}, []string{"-port", `"abc"`}},
	{[]string{"-port", "0"}, []string{"-port", `"0"`}},
	{[]string{"-port"}, []string{"-port", "missing"}},
	{[]string{"-port", "-names"}, []string{"-port", `"-names"`}},
	{[]string{"-names", "-d"}, []string{"-names", `"-d"`}},
	{[]string{"-started", "x"}, []string{"-started", `"x"`}},
	{[]string{"-dump", ""}, []string{"-dump", `""`}},
	{[]string{"-kill", "-relaxed_command_check"}, []string{"-kill", `"-relaxed_command_check"`}},
	{[]string{"-stop"}, []string{"-stop", "missing"}},
	{[]string{"-stop", "a", "b"}, []string{"-stop", `"b"`}},
	{[]string{"-packet_timeout", "0"}, []string{"-packet_timeout", `"0"`}},
	{[]string{"-packet_timeout", "x", "-names"}, []string{"-packet_timeout", `"x"`}},
	{[]string{"-delay_accept"}, []string{"-delay_accept", "missing"}},
	{[]string{"-delay_write", ""}, []string{"-delay_write", `""`}},
	{[]string{"-address"}, []string{"-address", "missing"}},
	{[]string{""}, []string{`""`}},
	{[]string{"foo"}, []string{`"foo"`}},
	{[]string{"-daemon", "-?"}, []string{`"-?"`}},
	{[]string{"-foo\x1b[31m", "-names"}, []string{`"-foo\x1b[31m"`}},
}

func TestWrongCommands(t *testing.T) {
	need.Program(t, stockEpmd)
	for _, tt := range wrongCommands {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			t.Parallel()
			want := command(t, stockEpmd, freePort(t), tt.args...)
			got := command(t, eclusBinary(t), freePort(t), tt.args...)
			line, usage, _ := strings.Cut(got.stderr, "\n")
			for _, word := range append(tt.says, "epmd: ") {
				if !strings.Contains(line, word) {
					t.Errorf("first line %q does not say %q", line, word)
				}
			}
			got.stderr = usage[:min(len(usage), len(want.stderr))] // ours goes on with what is ours
			if got != want {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// TestOwnMistakes has mistakes in flags and variables that are ours alone. They get one line, and
// nothing starts.
func TestOwnMistakes(t *testing.T) {
	for _, tt := range []struct {
		args, env string // separated by spaces
		says      string
	}{
		{"-lan yes", "", `-lan "yes": not one of on, publish, browse, off`},
		{"", "ECLUS_ALLOW=x", `ECLUS_ALLOW "x": not local, lan, any or a comma-separated list of CIDR prefixes`},
		{"-interface", "", "-interface: value missing"},
		{"-ping", "", "-ping: node missing"},
		{"-nodes -lan_only -local", "", "-local contradicts -lan_only"},
		{"-version x", "", `-version must come last: "x" follows`},
		{"-hosts_file /missing/hosts -lan on", "", `-hosts_file "/missing/hosts": folder "/missing": no such file or directory`},
		{"-daemon -hosts_file /dev/null/hosts -lan on", "", `-hosts_file "/dev/null/hosts": folder "/dev/null": not a directory`},
		{"-lan on", "ECLUS_HOSTS_FILE=/missing/hosts", `-hosts_file "/missing/hosts": folder "/missing": no such file or directory`},
		{"-node -cookie_file /missing", "", "-node: cookie file: stat /missing: no such file or directory"},
		{"-node -cookie_file /dev/null", "", `-node: cookie file "/dev/null" is no regular file`},
		{"-node", "HOME=/missing", "-node: no cookie: neither -cookie_file nor ERLANG_COOKIE is given, and there is no ~/.erlang.cookie"},
		{"-ping a@b -cookie_file /missing", "", `-cookie_file "/missing": no such file or directory`},
		{"-peek a@b -cookie_file /missing", "", `-cookie_file "/missing": no such file or directory`},
	} {
		port := freePort(t)
		env := append(strings.Fields(tt.env), "ERL_EPMD_PORT="+strconv.Itoa(int(port)))
		want := result{"", "epmd: " + tt.says + "\n", 1}
		if got := commandEnv(t, env, eclusBinary(t), strings.Fields(tt.args)...); got != want {
			t.Errorf("%s %q: got %v, want %v", tt.env, tt.args, got, want)
		}
		if got := command(t, eclusBinary(t), port, "-started"); got.status == 0 {
			t.Errorf("%s %q: an epmd runs", tt.env, tt.args)
		}
	}
}

func TestHelp(t *testing.T) {
	usage := command(t, eclusBinary(t), freePort(t), "-?").stderr
	_, usage, _ = strings.Cut(usage, "\n")
	for _, flag := range []string{"-h", "-help", "--help"} {
		if got, want := command(t, eclusBinary(t), freePort(t), flag), (result{usage, "", 0}); got != want {
			t.Errorf("%s: got %v, want %v", flag, got, want)
		}
	}
	want := command(t, eclusBinary(t), freePort(t), "-version")
	if got := command(t, eclusBinary(t), freePort(t), "--version"); got != want || got.status != 0 || got.stderr != "" {
		t.Errorf("--version: got %v, want %v", got, want)
	}
}

// TestStartErrors has errors that are found when all flags are right.
func TestStartErrors(t *testing.T) {
	need.Program(t, stockEpmd)
	for _, args := range [][]string{
		{"-address", "no,127.0.0.1"},
		{"-address", "127.0.0.1,300.1.1.1"},
		{"-address", "127.1"},
		{"-address", "198.51.100.77"},
		{"-systemd"},
	} {
		want := command(t, stockEpmd, freePort(t), args...).masked(0)
		if got := command(t, eclusBinary(t), freePort(t), args...).masked(0); got != want {
			t.Errorf("%q: got %v, want %v", args, got, want)
		}
	}
}

// TestEnvironment has what OTP's epmd takes from the environment.
func TestEnvironment(t *testing.T) {
	need.Program(t, stockEpmd)
	for _, binary := range []string{stockEpmd, eclusBinary(t)} {
		t.Run(binary, func(t *testing.T) {
			t.Setenv("ERL_EPMD_RELAXED_COMMAND_CHECK", "")
			d := startEpmd(t, binary)
			d.register(t, "a", 41000)
			port := strconv.Itoa(int(d.port))
			env := []string{"ERL_EPMD_PORT=1"}
			if got := commandEnv(t, env, binary, "-port", port, "-stop", "a"); got != (result{"STOPPED\n", "", 0}) {
				t.Errorf("-stop a: %v", got)
			}
		})
	}
}

// TestSecondDaemon starts an epmd where one runs.
func TestSecondDaemon(t *testing.T) {
	need.Program(t, stockEpmd)
	for _, first := range []string{stockEpmd, eclusBinary(t)} {
		d := startEpmd(t, first)
		for _, second := range []string{stockEpmd, eclusBinary(t)} {
			for _, args := range [][]string{{}, {"-daemon"}, {"-address", "127.0.0.1"}, {"-relaxed_command_check", "-daemon"}} {
				if got := command(t, second, d.port, args...); got != (result{}) {
					t.Errorf("%s %q beside %s: got %v; want silence and 0", second, args, first, got)
				}
			}
		}
		if names := command(t, stockEpmd, d.port, "-started"); names.status != 0 {
			t.Errorf("%s has gone", first)
		}
	}
	d := startEpmd(t, eclusBinary(t))
	got := command(t, eclusBinary(t), d.port, "-d")
	if !strings.Contains(got.stderr, "there is already a epmd running") || got.status != 0 {
		t.Errorf("-d: got %v", got)
	}
}

func TestSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		d := startEpmd(t, eclusBinary(t))
		d.register(t, "a", 41000)
		if status := d.stop(t, sig); status != 0 || d.output.String() != "" {
			t.Errorf("%v: exit status %d, output %q; want 0 and nothing", sig, status, &d.output)
		}
	}
}

func TestKilled(t *testing.T) {
	d := startEpmd(t, eclusBinary(t))
	if got := command(t, stockEpmd, d.port, "-kill"); got != (result{"Killed\n", "", 0}) {
		t.Errorf("-kill: %v", got)
	}
	select {
	case <-d.ended:
	case <-time.After(wait.Patience):
		t.Fatal("still runs")
	}
	if status := d.cmd.ProcessState.ExitCode(); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
}

// TestDaemon checks that -daemon detaches. The daemon is in a session of its own that it does not
// lead. It holds no directory, has umask 0 and inherits nothing. It answers as soon as the command
// has ended.
func TestDaemon(t *testing.T) {
	port := freePort(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(eclusBinary(t), "-daemon", "-address", "127.0.0.1", "-port", strconv.Itoa(int(port)))
	cmd.Env = append(os.Environ(), "ECLUS_LAN=off", "NOTIFY_SOCKET=/nowhere")
	cmd.ExtraFiles = []*os.File{w}
	out, err := cmd.CombinedOutput() // until the last one that holds the pipe has closed it
	if len(out) > 0 || err != nil {
		t.Fatalf("%v, output %q; want silence and 0", err, out)
	}
	t.Cleanup(func() { command(t, eclusBinary(t), port, "-kill") })
	if _, err := epmd.NewLocalClient(port).Names(t.Context()); err != nil {
		t.Error(err)
	}
	w.Close()
	r.SetReadDeadline(time.Now().Add(wait.Patience))
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("inherited pipe: %v; want %v", err, io.EOF)
	}
	pid := listenerPID(t, port)
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); cwd != "/" {
		t.Errorf("working directory %q, %v; want /", cwd, err)
	}
	if args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); !bytes.Contains(args, []byte("-daemon")) {
		t.Errorf("arguments %q, %v; want -daemon among them", args, err)
	}
	if sid, err := unix.Getsid(pid); sid == pid || sid == ours(t) {
		t.Errorf("session %d, %v; want one that is neither this one nor led by the daemon, %d", sid, err, pid)
	}
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); !strings.Contains(string(status), "\nUmask:\t0000\n") {
		t.Errorf("status %s, %v; want umask 0", status, err)
	}
}

// ours returns the session of the tests.
func ours(t *testing.T) int {
	t.Helper()
	sid, err := unix.Getsid(0)
	if err != nil {
		t.Fatal(err)
	}
	return sid
}

// TestDaemonAsStock compares what a daemon is as a process.
func TestDaemonAsStock(t *testing.T) {
	need.Program(t, stockEpmd)
	seen := func(binary string) string {
		port := freePort(t)
		env := []string{"ERL_EPMD_PORT=" + strconv.Itoa(int(port)), "ERL_EPMD_ADDRESS=127.0.0.1", "ECLUS_BUS=off"}
		if got := commandEnv(t, env, binary, "-daemon"); got != (result{}) {
			t.Fatal(got)
		}
		t.Cleanup(func() { command(t, binary, port, "-kill") })
		awaitEpmd(t, port, nil, new(wait.Output))
		pid := listenerPID(t, port)
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		sid, sidErr := unix.Getsid(pid)
		pgid, pgidErr := unix.Getpgid(pid)
		cwd, cwdErr := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
		if err := errors.Join(err, sidErr, pgidErr, cwdErr); err != nil {
			t.Fatal(err)
		}
		umask := regexp.MustCompile(`(?m)^Umask:.*$`).FindString(string(status))
		return fmt.Sprintf("%s; leads its session: %t, its group: %t; in our session: %t; in %s",
			umask, sid == pid, pgid == pid, sid == ours(t), cwd)
	}
	want := seen(stockEpmd)
	if got := seen(eclusBinary(t)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// listenerPID returns the process that listens on a port.
func listenerPID(t *testing.T, port uint16) int {
	t.Helper()
	need.Program(t, "ss")
	out, err := exec.Command("ss", "-Hltnp", fmt.Sprintf("sport = :%d", port)).Output()
	m := regexp.MustCompile(`pid=(\d+)`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("ss: %s, %v", out, err)
	}
	pid, _ := strconv.Atoi(string(m[1]))
	return pid
}

func TestDaemonStartError(t *testing.T) {
	got := command(t, eclusBinary(t), freePort(t), "-daemon", "-address", "198.51.100.77")
	want := result{"", "epmd: failed to bind on ipaddr 198.51.100.77: Cannot assign requested address\n", 1}
	if got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestErlStartsEpmd lets a node start our epmd, as it would that of OTP.
func TestErlStartsEpmd(t *testing.T) {
	need.Program(t, "erl")
	port := freePort(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*wait.Patience)
	defer cancel()
	erl := exec.CommandContext(ctx, "erl", "-noshell", "-epmd", eclusBinary(t)+" -daemon", "-sname", "made_by_erl",
		"-setcookie", "x", "-eval", `io:format("~p ~p", [is_alive(), net_adm:names()]), halt().`)
	erl.Env = append(os.Environ(), "ECLUS_LAN=off", "ERL_EPMD_ADDRESS=127.0.0.1", "HOME="+t.TempDir(),
		"ERL_EPMD_PORT="+strconv.Itoa(int(port)))
	erl.WaitDelay = time.Second
	t.Cleanup(func() { command(t, eclusBinary(t), port, "-kill") })
	out, err := erl.CombinedOutput()
	if want := `true {ok,[{"made_by_erl",`; err != nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("got %q, %v; want %q", out, err, want)
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", listenerPID(t, port)))
	if exe != eclusBinary(t) {
		t.Errorf("the node registered with %q, %v", exe, err)
	}
}

// TestIdentified waits until a real node has been asked for its full name.
func TestIdentified(t *testing.T) {
	need.Program(t, "erl")
	d := startEpmd(t, eclusBinary(t))
	erl := exec.Command("erl", "-noinput", "-start_epmd", "false", "-hidden", "-name", "asked@127.0.0.1", "-setcookie", "x")
	erl.Env = append(os.Environ(), "HOME="+t.TempDir(), "ERL_EPMD_PORT="+strconv.Itoa(int(d.port)))
	if err := erl.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		erl.Process.Kill()
		erl.Wait()
	})
	wait.Until(t, "node identified", func() error {
		got := command(t, eclusBinary(t), d.port, "-nodes", "-json").stdout
		for _, want := range []string{`"node":"asked@127.0.0.1"`, `"sure":true`, `"type":"hidden"`, `"dist":"tcp"`} {
			if !strings.Contains(got, want) {
				return fmt.Errorf("got %s; want %s", got, want)
			}
		}
		return nil
	})
}

// TestNodes lists names of which one would do things to a terminal.
func TestNodes(t *testing.T) {
	d := startEpmd(t, eclusBinary(t))
	d.register(t, "a", 41000)
	d.register(t, "b\x1b[31m\u202e", 41001)
	table := command(t, eclusBinary(t), d.port, "-nodes")
	head := fmt.Sprintf("epmd on port %d: 2 nodes, 0 on the LAN\nLAN discovery off: -lan off\n\nNODE", d.port)
	if table.status != 0 || !strings.HasPrefix(table.stdout, head) || !strings.Contains(table.stdout, "\nb?[31m?@") {
		t.Errorf("got %v; want it to begin with %q and to list both names", table, head)
	}
	lines := strings.Split(strings.TrimSpace(command(t, eclusBinary(t), d.port, "-nodes", "-json").stdout), "\n")
	if len(lines) != 2 || !strings.Contains(lines[1], `b\u001b[31m\u202e@`) {
		t.Fatalf("got %q; want two lines, the second with control characters escaped", lines)
	}
	var node struct {
		Name, Type, Origin, Address string
		Port                        uint16
		Creation                    uint32
		Since                       time.Time
	}
	if err := json.Unmarshal([]byte(lines[1]), &node); err != nil {
		t.Fatal(err)
	}
	if node.Name != "b\x1b[31m\u202e" || node.Port != 41001 || node.Origin != "local" || node.Address != "127.0.0.1" {
		t.Errorf("got %+v", node)
	}
}

func TestNodesOfOther(t *testing.T) {
	need.Program(t, stockEpmd)
	d := startEpmd(t, stockEpmd)
	got := command(t, eclusBinary(t), d.port, "-nodes")
	if got.status != 1 || got.stdout != "" || !strings.Contains(got.stderr, strconv.Itoa(int(d.port))) {
		t.Errorf("got %v; want status 1 and a line that names the port", got)
	}
}

// TestWatch follows a node that comes and goes.
func TestWatch(t *testing.T) {
	d := startEpmd(t, eclusBinary(t))
	d.register(t, "first", 41000)
	for _, format := range []struct {
		args []string
		want []string // found in this order
	}{
		{[]string{"-nodes", "-watch"}, []string{"\nfirst@", "\n+ second@", "\n- second@"}},
		{[]string{"-watch", "-json", "-nodes"}, []string{`"event":"up","node":"first@`, `"event":"snapshot"`,
			`"event":"up","node":"second@`, `"event":"down","node":"second@`}},
	} {
		var out wait.Output
		watch := exec.Command(eclusBinary(t), append([]string{"-port", strconv.Itoa(int(d.port))}, format.args...)...)
		watch.Stdout = &out
		if err := watch.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			watch.Process.Kill()
			watch.Wait()
		})
		var second *epmd.Registration
		for i, want := range format.want {
			wait.Until(t, fmt.Sprintf("%q printed", want), func() error {
				if _, rest, found := strings.Cut(out.String(), want); !found {
					return fmt.Errorf("output %q, then %q", out.String(), rest)
				}
				return nil
			})
			switch len(format.want) - i {
			case 3:
				second = d.register(t, "second", 41001)
			case 2:
				second.Close()
			}
		}
	}
}

// TestWatchRestart watches over a reload and over an epmd that is killed. The node that registers
// again never goes, and the one that does not goes.
func TestWatchRestart(t *testing.T) {
	d := startEpmd(t, eclusBinary(t))
	d.register(t, "stays", 41000)
	d.register(t, "goes", 41001)
	var out, complaints wait.Output
	watch := exec.Command(eclusBinary(t), "-port", strconv.Itoa(int(d.port)), "-nodes", "-watch", "-json")
	watch.Stdout, watch.Stderr = &out, &complaints
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		watch.Process.Kill()
		watch.Wait()
	})
	want := func(o *wait.Output, pattern string) {
		t.Helper()
		wait.Until(t, pattern, func() error {
			if text := o.String(); !regexp.MustCompile(pattern).MatchString(text) {
				return fmt.Errorf("output %q", text)
			}
			return nil
		})
	}
	want(&out, `"event":"snapshot"`)
	if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	want(&complaints, `(?s)lost.*again`)
	if strings.Contains(out.String(), `"event":"down"`) {
		t.Errorf("after a reload: %s", &out)
	}
	d.cmd.Process.Kill()
	<-d.ended
	startEpmdAt(t, d.port, eclusBinary(t))
	d.register(t, "stays", 41000)
	want(&complaints, `(?s)lost.*again.*lost.*again`)
	want(&out, `"event":"down","node":"goes@`)
	d.register(t, "new", 41002)
	want(&out, `"event":"up","node":"new@`)
	if strings.Contains(out.String(), `"event":"down","node":"stays@`) {
		t.Errorf("a node that registered again: %s", &out)
	}
}

// TestTerminal prints a hostile name where control characters would count.
func TestTerminal(t *testing.T) {
	need.Program(t, "script")
	d := startEpmd(t, eclusBinary(t))
	d.register(t, "\x1b[31mred\xc2\x9b", 41000)
	for flag, want := range map[string]string{
		"-names": "name ?[31mred? at port 41000\r\n",
		"-dump":  "active name     <?[31mred?> at port 41000, fd = ",
		"-nodes": "?[31mred?@",
	} {
		got := command(t, "script", d.port, "-qec", eclusBinary(t)+" "+flag, "/dev/null")
		if !strings.Contains(got.stdout, want) || strings.ContainsAny(got.stdout, "\x1b\x00\u009b") {
			t.Errorf("%s: got %v; want %q and no control characters", flag, got, want)
		}
	}
}

// TestDefaultAddresses compares where both listen when they are told or not told where.
func TestDefaultAddresses(t *testing.T) {
	need.Program(t, stockEpmd)
	need.Program(t, "ss")
	for _, address := range []string{"", " , ", "127.0.0.1", "::1,127.0.0.2", "198.51.100.1"} {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			want := listensAt(t, stockEpmd, address)
			if got := listensAt(t, eclusBinary(t), address); got != want {
				t.Errorf("listens at\n%swant\n%s", got, want)
			}
		})
	}
	t.Run("0.0.0.0", func(t *testing.T) { // here OTP's epmd takes itself for another
		const want = "0.0.0.0:4369 \n[::1]:4369 v6only:1\n"
		if got := listensAt(t, eclusBinary(t), "0.0.0.0"); got != want {
			t.Errorf("listens at\n%swant\n%s", got, want)
		}
	})
}

// listensAt starts an epmd in a network namespace of its own and returns where it listens.
func listensAt(t *testing.T, binary, address string) string {
	t.Helper()
	need.Program(t, "unshare")
	const script = `
		ip link set lo up
		ip address add 198.51.100.1/32 dev lo
		"$0" -address "$1" &
		for i in $(seq 1000); do
			"$0" -started && break
			sleep 0.01
		done
		ss -Hltne | awk '{v6 = ""; for (i = 5; i <= NF; i++) if ($i ~ /^v6only/) v6 = $i; print $4, v6}' | sort
		kill $!
		wait $! || true`
	need.Root(t)
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--net", "sh", "-c", script, binary, address)
	cmd.Env = append(os.Environ(), "ECLUS_LAN=off", "ERL_EPMD_PORT=4369")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("unshare: %v, output %s", err, out)
	}
	return string(out)
}

// TestMissingAddresses starts epmd on hosts without some of the loopback addresses. One that is
// implied may be absent. One that the user named may not. None may be in use.
func TestMissingAddresses(t *testing.T) {
	const (
		noIPv4 = "ip link set lo up; ip -4 address flush dev lo"
		noIPv6 = "ip link set lo up; echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6"
		loDown = "ip link set lo down"
		all    = "ip link set lo up"
		lan    = "; ip link add lan type veth peer name other; ip link set lan up; ip address add 198.51.100.1/24 dev lan"
		v4, v6 = "127.0.0.1:4369 ", "[::1]:4369 v6only:1 "
	)
	fails := func(addr string) string {
		return "status 1 epmd: TIME: failed to bind on ipaddr " + addr + ": Cannot assign requested address\r"
	}
	for _, tt := range []struct{ host, address, want string }{
		{noIPv4, "::1", v6},
		{noIPv4, "::", "[::]:4369 v6only:1 "},
		{noIPv4, "127.0.0.1", fails("127.0.0.1")},
		{noIPv4, "127.0.0.1,::1", fails("127.0.0.1")},
		{noIPv4, "", "0.0.0.0:4369 [::]:4369 v6only:1 "},
		{noIPv6, "127.0.0.1", v4},
		{noIPv6, "0.0.0.0", "0.0.0.0:4369 "},
		{noIPv6, "::1", fails("::1")},
		{loDown + lan, "198.51.100.1", "198.51.100.1:4369 "},
		{loDown, "127.0.0.1", v4}, // Linux has it all the same
		{loDown, "::1", fails("::1")},
		{loDown, "0.0.0.0", "0.0.0.0:4369 "},
		{all, "127.0.0.2", "127.0.0.1:4369 127.0.0.2:4369 " + v6},
		{all, "198.51.100.1", fails("198.51.100.1")},
		{noIPv4 + `; "$0" -address ::1 & other=$!; until ss -Hltn | grep -q 4369; do sleep 0.01; done; ` +
			"ip address add 127.0.0.1/8 dev lo", "127.0.0.1", "status 0 "},
	} {
		t.Run(tt.host+"/"+tt.address, func(t *testing.T) {
			t.Parallel()
			if got := startsAt(t, tt.host, tt.address); got != tt.want {
				t.Errorf("got %q; want %q", got, tt.want)
			}
		})
	}
}

// startsAt starts our epmd on a host of its own, which a script makes. It returns where epmd
// listens, or what it says.
func startsAt(t *testing.T, host, address string) string {
	t.Helper()
	script := host + `
		"$0" -address "$1" 2>said & epmd=$!
		listening() { ss -Hltnpe 2>/dev/null | grep "pid=$epmd," ; } # ss says which cgroups it misses
		until listening >/dev/null || ! kill -0 $epmd 2>/dev/null; do sleep 0.01; done
		listening | awk '{v6 = ""; for (i = 5; i <= NF; i++) if ($i ~ /^v6only/) v6 = $i " "; print $4 " " v6}' | sort | tr -d '\n'
		if listening >/dev/null; then
			kill $epmd
		else
			wait $epmd
			echo "status $? $(cat said)"
		fi
		[ -z "$other" ] || kill $other`
	need.Root(t)
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--net", "sh", "-c", script, eclusBinary(t), address)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "ECLUS_LAN=off", "ECLUS_BUS=off", "ERL_EPMD_PORT=4369")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("unshare: %v, output %s", err, out)
	}
	return strings.TrimSuffix(result{stdout: string(out)}.masked(0).stdout, "\n")
}

// TestSocketActivation starts epmd by its first caller.
func TestSocketActivation(t *testing.T) {
	need.Program(t, "systemd-socket-activate")
	for _, args := range [][]string{{"-systemd"}, {}} {
		for _, hosts := range [][]string{{"127.0.0.1"}, {"127.0.0.1", "::1"}} {
			port := freePort(t)
			activate := []string{"-E", "ECLUS_LAN=off", "-E", "GORACE"}
			for _, host := range hosts {
				activate = append(activate, "-l", net.JoinHostPort(host, strconv.Itoa(int(port))))
			}
			cmd := exec.Command("systemd-socket-activate", append(append(activate, eclusBinary(t)), args...)...)
			var out wait.Output
			cmd.Stderr = &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for _, host := range hosts {
				askAt(t, net.JoinHostPort(host, strconv.Itoa(int(port))), uint32(port))
			}
			cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Errorf("%q, %q: %v, output %s", args, hosts, err, &out)
			}
		}
	}
}

// askAt asks the epmd at addr for names and compares the port that it tells.
func askAt(t *testing.T, addr string, want uint32) {
	t.Helper()
	wait.Until(t, "answer from "+addr, func() error {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(wait.Patience))
		if _, err := conn.Write([]byte{0, 1, 'n'}); err != nil {
			return err
		}
		names, err := epmd.ReadNames(conn)
		if err == nil && names.EPMDPort != want {
			t.Fatalf("%s tells port %d; want %d", addr, names.EPMDPort, want)
		}
		return err
	})
}

// TestNotify plays the service manager.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(wait.Patience))
	expect := func(want string) {
		t.Helper()
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		// What is kept is told beside.
		for err == nil && (strings.HasPrefix(string(buf[:n]), "FDSTORE") || strings.HasPrefix(string(buf[:n]), "BARRIER")) {
			n, err = conn.Read(buf)
		}
		if !strings.Contains(string(buf[:n]), want) {
			t.Fatalf("told %q, %v; want %q", buf[:n], err, want)
		}
	}
	t.Setenv("NOTIFY_SOCKET", path)
	d := startEpmd(t, eclusBinary(t))
	expect("READY=1")
	expect("STATUS=0 nodes registered, 0 on the LAN; LAN discovery off: -lan off")
	d.register(t, "a", 41000)
	expect("STATUS=1 node registered")
	d.register(t, "b", 41001)
	expect("STATUS=2 nodes registered")
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for { // the nodes may be seen to go first
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(errors.Join(errors.New("STOPPING=1 was not told"), err))
		}
		if strings.Contains(string(buf[:n]), "STOPPING=1") {
			return
		}
	}
}

// TestVersion only wants to see something that can be read.
func TestVersion(t *testing.T) {
	got := command(t, eclusBinary(t), 1, "-version")
	if !regexp.MustCompile(`^epmd \(Eclus\) \S+ go\S+\n$`).MatchString(got.stdout) || got.status != 0 {
		t.Errorf("got %v", got)
	}
}

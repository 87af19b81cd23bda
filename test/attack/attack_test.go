//go:build attack

// Package attack has what a hostile user of the host does to epmd, for a minute each. Beside every
// attack a probe measures what others get: lookups, registrations, and the end of epmd.
//
// How long a lookup takes is also up to the kernel: who gets a processor when others want it too.
// So the probe asks an idle stock epmd in turn with ours, while the attack is on ours alone. What
// the stock one takes is the floor.
//
// All runs in a network namespace of its own. The attackers are processes of this test binary, run
// as users without rights. So is epmd.
package attack

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// envAttack is set for the processes that attack. Its value is what they do; see attackers.
const envAttack = "ATTACK"

// Users without rights.
const (
	user   = 64000 // of epmd
	other  = 64001 // who is not to notice anything
	nobody = 65000 // the first of those that attack
)

func TestMain(m *testing.M) {
	if what := strings.Fields(os.Getenv(envAttack)); len(what) > 0 {
		if err := attackers[what[0]](what[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Where ours listens, and the stock epmd that nobody attacks.
var (
	at      = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), epmd.DefaultPort)
	floorAt = netip.AddrPortFrom(at.Addr(), epmd.DefaultPort+1)
)

// host is a network namespace with an epmd. It is that of the test's thread.
type host struct {
	t        *testing.T
	epmd     *exec.Cmd
	ended    chan error
	attacker string // path of this test binary, where anybody may run it
}

func newHost(t *testing.T) *host {
	need.Root(t)
	runtime.LockOSThread() // for good: the thread ends with the test, and its namespace
	need.Possible(t, unix.Unshare(unix.CLONE_NEWNET))
	out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir, err := os.MkdirTemp("", "attack-")
	wait.Must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	wait.Must(t, os.Chmod(dir, 0o755))
	self, err := os.ReadFile("/proc/self/exe")
	wait.Must(t, err)
	// By that name, epmd takes the process for a node of OTP.
	attacker, path := filepath.Join(dir, "beam.smp"), filepath.Join(dir, "epmd")
	wait.Must(t, os.WriteFile(attacker, self, 0o755))
	build := exec.Command("go", "build", "-o", path, "github.com/goerlang/eclus/cmd/epmd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build epmd: %v: %s", err, out)
	}
	h := &host{t: t, ended: make(chan error, 1), attacker: attacker}
	h.epmd = h.command(user, path, "-lan", "off", "-bus", "off")
	h.epmd.Stdout, h.epmd.Stderr = nil, nil // its log is long
	wait.Must(t, h.epmd.Start())
	go func() { h.ended <- h.epmd.Wait() }()
	t.Cleanup(func() { h.epmd.Process.Kill() })
	stock := h.command(user, "epmd", "-port", strconv.Itoa(int(floorAt.Port())))
	wait.Must(t, stock.Start())
	t.Cleanup(func() {
		stock.Process.Kill()
		stock.Wait()
	})
	for _, addr := range []netip.AddrPort{at, floorAt} {
		wait.Until(t, "epmd answers", func() error {
			_, err := lookup(addr)
			return err
		})
	}
	return h
}

// command returns a command of a user. What it writes goes to standard error.
func (h *host) command(uid uint32, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return cmd
}

// attack starts an attacking process of a user. It returns how many names or connections that has,
// once it has begun.
func (h *host) attack(uid uint32, what ...any) (count int) {
	h.t.Helper()
	cmd := h.command(uid, h.attacker)
	cmd.Env = append(os.Environ(), envAttack+"="+strings.TrimSpace(fmt.Sprintln(what...)))
	stdin, err := cmd.StdinPipe()
	wait.Must(h.t, err)
	stdout, err := cmd.StdoutPipe()
	wait.Must(h.t, err)
	wait.Must(h.t, cmd.Start())
	h.t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if _, scanErr := fmt.Sscanf(line, "ready %d\n", &count); scanErr != nil {
		h.t.Fatalf("%v: %q, %v", what, line, err)
	}
	return count
}

// lookup returns how long a lookup takes.
func lookup(addr netip.AddrPort) (time.Duration, error) {
	began := time.Now()
	conn, err := askAt(addr, epmd.PortReq{Name: "nobody"})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	_, err = io.ReadFull(conn, make([]byte, 2))
	return time.Since(began), err
}

// register returns how long a registration takes, which ends at once.
func (h *host) register(name string) (time.Duration, error) {
	began := time.Now()
	conn, err := ask(epmd.AliveReq{Port: 1, Type: registry.Normal, High: 6, Low: 5, Name: name})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	var answer [6]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil || answer[1] != 0 {
		return 0, fmt.Errorf("register %q: %x, %w", name, answer, err)
	}
	return time.Since(began), nil
}

// rssAnon returns the anonymous memory of epmd in MB.
func (h *host) rssAnon() int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.epmd.Process.Pid))
	wait.Must(h.t, err)
	_, rest, _ := strings.Cut(string(text), "RssAnon:")
	var kB int
	fmt.Sscan(rest, &kB)
	return kB / 1000
}

// figures are what the probe has measured.
type figures struct {
	lookups    times
	floor      times         // lookups at the stock epmd
	registered time.Duration // the slowest
	memory     int           // in MB, at most
}

// times are how long something has taken, the quickest first.
type times []time.Duration

func (t times) p99() time.Duration { return t[len(t)*99/100] }

// String says how many there are, and how slow they are.
func (t times) String() string {
	return fmt.Sprintf("%d, p50 %v, p99 %v, slowest %v", len(t), t[len(t)/2], t.p99(), t[len(t)-1])
}

// probe measures for that time what others get. Between two questions it waits for 2 ms, as other
// programs have it.
func (h *host) probe(d time.Duration) (f figures) {
	h.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for i, began := 0, time.Now(); time.Since(began) < d; i++ {
		took, err := lookup(at)
		wait.Must(h.t, err)
		f.lookups = append(f.lookups, took)
		<-tick.C
		took, err = lookup(floorAt)
		wait.Must(h.t, err)
		f.floor = append(f.floor, took)
		if i%20 == 0 {
			took, err := h.register(fmt.Sprint("probe", i))
			wait.Must(h.t, err)
			f.registered = max(f.registered, took)
			f.memory = max(f.memory, h.rssAnon())
		}
		<-tick.C
	}
	slices.Sort(f.lookups)
	slices.Sort(f.floor)
	return f
}

// terminate ends epmd. It returns how long that takes, and for how long of it epmd had a processor.
func (h *host) terminate() (took, busy time.Duration) {
	before := h.busy()
	began := time.Now()
	wait.Must(h.t, h.epmd.Process.Signal(unix.SIGTERM))
	select {
	case <-h.ended:
	case <-time.After(wait.Patience):
		h.t.Fatal("epmd has not ended")
	}
	took = time.Since(began)
	return took, h.epmd.ProcessState.UserTime() + h.epmd.ProcessState.SystemTime() - before
}

// busy returns for how long epmd has had a processor so far.
func (h *host) busy() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.epmd.Process.Pid))
	wait.Must(h.t, err)
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest) // from the third on: see proc(5)
	ticks := 0
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		wait.Must(h.t, err)
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100
}

// load returns how many processes have wanted a processor, of the last minute, 5 and 15.
func load(t *testing.T) string {
	text, err := os.ReadFile("/proc/loadavg")
	wait.Must(t, err)
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

// length returns how long each attack takes: a minute, or ATTACK_TIME.
func length(t *testing.T) time.Duration {
	text := os.Getenv("ATTACK_TIME")
	if text == "" {
		return time.Minute
	}
	d, err := time.ParseDuration(text)
	wait.Must(t, err)
	return d
}

// check ends epmd, and fails the test if others noticed the attack.
func (h *host) check(f figures) {
	h.t.Helper()
	ended, busy := h.terminate()
	h.t.Logf("lookups: %v; floor: %v; slowest registration %v; RssAnon %d MB; SIGTERM %v, %v of it on a processor; load %s",
		f.lookups, f.floor, f.registered, f.memory, ended, busy, load(h.t))
	if f.lookups.p99() > 20*time.Millisecond || f.registered > time.Second || f.memory > 100 || ended > time.Second {
		h.t.Error("want p99 of 20 ms, registrations in 1 s, 100 MB and an end in 1 s, at most")
	}
}

// TestFloods has a user send each request that has long answers, while there are very many names.
func TestFloods(t *testing.T) {
	for _, kind := range []struct {
		name  string
		count int
	}{{"plain", 10_000}, {"worst", 1000}} {
		for _, request := range []string{"d", "n", "N", "W"} {
			t.Run(fmt.Sprint(kind.count, " ", kind.name, " names, ", request), func(t *testing.T) {
				h := newHost(t)
				for uid := range uint32(2) { // one can't have all of them
					h.attack(nobody+uid, "names", kind.name, kind.count/2, fmt.Sprint("n", uid, "-"))
				}
				for range 4 {
					h.attack(nobody+2, "flood", request, 50)
				}
				h.check(h.probe(length(t)))
			})
		}
	}
}

// TestNames has a user register as many names as he can. Others register theirs.
func TestNames(t *testing.T) {
	h := newHost(t)
	const tried = 19_000
	count := h.attack(nobody, "names", "plain", tried, "n")
	t.Logf("the user has %d names of %d that he tried to register", count, tried)
	h.check(h.probe(length(t)))
}

// TestTarpits has 200 nodes of a user take connections and say nothing. A node of another user is
// identified in 3 s.
func TestTarpits(t *testing.T) {
	h := newHost(t)
	h.attack(nobody, "names", "tarpit", 200, "t")
	home := t.TempDir()
	wait.Must(t, os.Chmod(filepath.Dir(home), 0o755))
	wait.Must(t, os.Chown(home, other, other))
	erl := h.command(other, "erl", "-noshell", "-name", "rabbit@127.0.0.1", "-setcookie", "secret")
	erl.Env = append(os.Environ(), "HOME="+home)
	wait.Must(t, erl.Start())
	t.Cleanup(func() {
		erl.Process.Kill()
		erl.Wait()
	})
	var n registry.Node
	find := func() (err error) { n, err = h.find("rabbit"); return err }
	wait.Until(t, "rabbit registers", find)
	began := time.Now()
	wait.True(t, "rabbit is identified", func() bool { return find() == nil && n.Sure })
	took := time.Since(began)
	t.Logf("identified %v after it has registered", took)
	if took > 3*time.Second || n.Node != "rabbit@127.0.0.1" {
		t.Errorf("got %s after %v; want rabbit@127.0.0.1 in 3 s", n.Node, took)
	}
	h.check(h.probe(length(t)))
}

// find asks epmd for a node by its name.
func (h *host) find(name string) (n registry.Node, err error) {
	lines, err := epmd.NewClient(at).Find(wait.Soon(h.t), name)
	if err != nil {
		return n, err
	}
	defer lines.Close()
	line, err := lines.Next()
	if errors.Is(err, io.EOF) {
		return n, fmt.Errorf("nobody is called %q", name)
	}
	if err != nil {
		return n, err
	}
	return line.Node()
}

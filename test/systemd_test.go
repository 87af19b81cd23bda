package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/machine"
	"github.com/goerlang/eclus/test/wait"
)

func TestSystemdActivation(t *testing.T) {
	s := supervise(t)
	if state := s.show(t, "ActiveState"); state != "inactive" {
		t.Errorf("before the first lookup the service is %s, want inactive", state)
	}
	if _, err := s.lookup(wait.Soon(t), "nobody"); !errors.Is(err, epmd.ErrNotRegistered) {
		t.Errorf("the first lookup: %v, want %v", err, epmd.ErrNotRegistered)
	}
	s.await(t, "ActiveState", "^active$")
	s.await(t, "StatusText", "^0 nodes registered, 0 on the LAN")
	nodes := s.register(t, "a", 2)
	s.await(t, "StatusText", "^2 nodes registered")
	nodes[0].leave()
	s.await(t, "StatusText", "^1 node registered")

	t.Run("stop", func(t *testing.T) {
		s.systemctl(t, "stop", "epmd.socket", unit)
		<-nodes[1].ended
		var refused syscall.Errno
		if _, err := s.lookup(wait.Soon(t), "a1"); !errors.As(err, &refused) || refused != syscall.ECONNREFUSED {
			t.Errorf("lookup after the stop: %v, want %v", err, syscall.ECONNREFUSED)
		}
		s.systemctl(t, "start", "epmd.socket")
		s.checkOnly(t)
	})
}

func TestSystemdNothingLost(t *testing.T) {
	s := supervise(t)
	newer, newest := another(t, "newer"), another(t, "newest")
	nodes := append(s.register(t, "raw", 50), s.startErl(t, 3)...)
	s.checkOnly(t, nodes...)
	for _, tt := range []struct {
		name   string
		ends   int // how often epmd is ended, or replaced
		change func(*testing.T)
	}{
		{"SIGKILL", 1, s.crash},
		{"SIGKILL 20 times", 20, func(t *testing.T) {
			begin := time.Now()
			for range 20 {
				s.crash(t)
			}
			t.Logf("20 kills and restarts took %v", since(begin))
		}},
		{"restart 20 times", 20, func(t *testing.T) {
			for range 20 {
				s.systemctl(t, "restart", unit)
			}
		}},
		{"upgrade", 1, func(t *testing.T) {
			wait.Must(t, s.CopyFile("/usr/bin/epmd", newer, 0o755))
			s.systemctl(t, "restart", unit)
			s.checkRuns(t, newer)
		}},
		{"reload", 1, func(t *testing.T) {
			wait.Must(t, s.CopyFile("/usr/bin/epmd", newest, 0o755))
			s.checkSameProcess(t, func() { s.systemctl(t, "reload", unit) })
			s.checkRuns(t, newest)
		}},
		{"reload with a program that can't start", 0, func(t *testing.T) {
			wait.Must(t, s.CopyFile("/usr/bin/epmd", "/bin/false", 0o755))
			s.checkSameProcess(t, func() {
				// It may well say that it has not worked.
				_ = s.Command(wait.Soon(t), "systemctl", "reload", unit).Run()
				s.awaitJournal(t, "program not replaced")
			})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stop := s.poll(t, nodes[0].name, nodes[0].port)
			tt.change(t)
			s.checkOnly(t, nodes...)
			stop().check(t, tt.ends, tolerable)
		})
	}
}

// held makes the next starts of the service wait for release.
const (
	heldBy = "/run/test-hold"
	held   = "ExecStartPre=+/bin/sh -c 'while [ -e " + heldBy + " ]; do sleep 0.01; done'"
)

func TestSystemdDeadWhileDown(t *testing.T) {
	s := supervise(t, held)
	nodes := s.register(t, "node", 10)
	wait.Must(t, s.WriteFile(heldBy, nil, 0o644))
	s.kill(t)
	s.await(t, "SubState", "^start-pre$")
	living := nodes[:5]
	for _, n := range nodes[5:] {
		n.leave()
	}
	answer := make(chan error, 1)
	go func() {
		_, err := s.lookup(wait.Soon(t), nodes[9].name)
		answer <- err
	}()
	_, err := s.Output(wait.Soon(t), "rm", heldBy)
	wait.Must(t, err)
	if err := <-answer; !errors.Is(err, epmd.ErrNotRegistered) {
		t.Errorf("lookup of a node that died while epmd was down: %v, want %v", err, epmd.ErrNotRegistered)
	}
	s.checkOnly(t, living...)

	t.Run("name is free", func(t *testing.T) {
		again, err := s.tryRegister(wait.Soon(t), nodes[9].name, 1)
		wait.Must(t, err)
		defer again.leave()
		if want := nodes[9].creation + 1; again.creation != want {
			t.Errorf("creation %d, want %d", again.creation, want)
		}
	})
}

func TestSystemdCreations(t *testing.T) {
	s := supervise(t)
	gone := s.register(t, "gone", 3)
	for _, n := range gone {
		n.leave()
	}
	s.await(t, "StatusText", "^0 nodes registered")
	for name, end := range map[string]func(){
		"SIGKILL": func() { s.crash(t) },
		"restart": func() { s.systemctl(t, "restart", unit) },
	} {
		end()
		for i, n := range s.register(t, "gone", 3) {
			if want := gone[i].creation + 1; n.creation != want {
				t.Errorf("creation of %s after %s is %d, want %d", n.name, name, n.creation, want)
			}
			gone[i] = n
			n.leave()
		}
		s.await(t, "StatusText", "^0 nodes registered")
	}
}

func TestSystemdChurn(t *testing.T) {
	s := supervise(t)
	staying := s.register(t, "stays", 20)
	stop := s.poll(t, "stays0", staying[0].port)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() { s.comeAndGo(ctx, t, fmt.Sprint("busy", i)) })
	}
	const kills = 30
	pause := time.NewTicker(time.Millisecond)
	defer pause.Stop()
	for range kills {
		s.crash(t)
		for range rand.IntN(20) {
			<-pause.C
		}
	}
	cancel()
	group.Wait()
	stop().check(t, kills, tolerable)
	s.await(t, "StatusText", "^20 nodes registered")
	s.checkOnly(t, staying...)
}

// comeAndGo registers a node and ends it, over and over. A node that was told its creation is
// registered, whatever becomes of epmd. The next under that name has another creation. None is left
// without an answer.
func (s *supervised) comeAndGo(ctx context.Context, t *testing.T, name string) {
	var last uint32
	for ctx.Err() == nil {
		soon, cancel := context.WithTimeout(ctx, tolerable)
		n, err := s.tryRegister(soon, name, 4711)
		cancel()
		switch {
		case ctx.Err() != nil:
		case cutOff(err):
			continue
		case err != nil:
			t.Errorf("register %s: %v", name, err)
			return
		case n.creation == last:
			t.Errorf("%s: creation %d twice", name, last)
		default:
			if port, err := s.lookup(ctx, name); port != 4711 && !cutOff(err) && ctx.Err() == nil {
				t.Errorf("lookup of %s, which is registered: port %d, %v", name, port, err)
			}
			last = n.creation
		}
		if n != nil {
			n.leave()
		}
	}
}

// TestSystemdUnanswered kills epmd when a node is in the fd store and has yet to be told so.
func TestSystemdUnanswered(t *testing.T) {
	s := supervise(t, "ExecStart=", "ExecStart=/usr/bin/epmd -systemd -delay_write 3")
	type outcome struct {
		node *raw
		err  error
	}
	registered := make(chan outcome, 1)
	go func() {
		n, err := s.tryRegister(wait.Soon(t), "slow", 4711)
		registered <- outcome{n, err}
	}()
	s.await(t, "NFileDescriptorStore", "^2$") // the node and the state
	s.configure(t)
	s.kill(t)
	got := <-registered
	wait.Must(t, got.err)
	defer got.node.leave()
	s.checkOnly(t, got.node)
}

func TestSystemdQuickRestart(t *testing.T) {
	s := supervise(t)
	for i := range 200 {
		n, err := s.tryRegister(wait.Soon(t), "again", 4711)
		if err != nil {
			t.Fatalf("start %d: %v", i, err)
		}
		n.leave()
	}
}

// TestSystemdStoreSmall has a store with three places for nodes. One user can have two of them.
func TestSystemdStoreSmall(t *testing.T) {
	s := supervise(t, "FileDescriptorStoreMax=4")
	nodes := s.register(t, "node", 10)
	s.await(t, "StatusText", "^10 nodes registered.*8 of them are not kept: user 0 has 2 of 3 places")
	s.awaitJournal(t, "user 0 has 2 of 3 places")
	b, err := s.registerAtOnce(wait.Soon(t), 65001, "other", 1)
	wait.Must(t, err)
	defer b.leave()
	for range 2 { // a store that is full still has its state the second time
		s.crash(t)
		s.checkOnly(t, append(b.nodes, nodes[:2]...)...)
	}
}

func TestSystemdStoreOff(t *testing.T) {
	s := supervise(t, "FileDescriptorStoreMax=0")
	nodes := s.register(t, "node", 2)
	s.await(t, "StatusText", "^2 nodes registered.*FileDescriptorStoreMax= is 0")
	s.awaitJournal(t, "FileDescriptorStoreMax= is 0")
	s.crash(t)
	for _, n := range nodes {
		<-n.ended
	}
	s.checkOnly(t)
}

func TestSystemdWatchdog(t *testing.T) {
	s := supervise(t, "WatchdogSec=1")
	nodes := s.register(t, "node", 5)
	s.endBy(t, func() { s.signal(t, syscall.SIGSTOP) })
	s.checkOnly(t, nodes...)
	s.awaitJournal(t, "Watchdog timeout")
}

func TestSystemdSecurity(t *testing.T) {
	s := supervise(t)
	out, err := s.Output(wait.Soon(t), "systemd-analyze", "security", "--no-pager", "--threshold=15", unit)
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Log(regexp.MustCompile(`Overall exposure.*`).FindString(out))
}

// MESSAGE_ID= of entries.
const (
	nodeUp        = "ee43d0d7450846158a5dd1fa29aa3a3c"
	nodeNamed     = "ca8262d50f8342c7a108eb3f411c1912"
	nodeDown      = "4d41255004f84e54aab6749e86f7b406"
	stateRestored = "9a0838eb484c4bf0a19848d88d909030"

	neighbourUp    = "70754a3b8d3741a8bd106c9564612b82"
	neighbourNamed = "aa3eefb9efa9472184e4430034d92ff2"
	neighbourDown  = "dfd7d2c532c14ae4a3f55d735de30044"
)

// TestSystemdNodesFiles has a program of group epmd write a nodes file. The unit reads it, also
// after a restart, and keeps a table of hosts beside it.
func TestSystemdNodesFiles(t *testing.T) {
	s := supervise(t)
	const dropIn = "epmd.service.d/etc-hosts.conf"
	_, err := s.Output(wait.Soon(t), "mkdir", "-p", "/etc/systemd/system/epmd.service.d")
	wait.Must(t, err)
	wait.Must(t, s.CopyFile("/etc/systemd/system/"+dropIn, "../systemd/examples/"+dropIn, 0o644))
	s.systemctl(t, "daemon-reload")
	s.systemctl(t, "restart", unit)
	_, err = s.Output(wait.Soon(t), "setpriv", "--reuid=nobody", "--regid=epmd", "--clear-groups", "--",
		"sh", "-c", "echo 'b@hostb 192.0.2.7:9100' >/run/epmd/nodes.d/x.nodes")
	wait.Must(t, err)
	for range 2 {
		s.await(t, "StatusText", "1 elsewhere")
		wait.Until(t, "a table of hosts", func() error {
			out, err := s.Output(wait.Soon(t), "cat", "/run/epmd/hosts")
			if err == nil && !strings.Contains(out, "192.0.2.7 hostb.local") {
				err = fmt.Errorf("there is %q", out)
			}
			return err
		})
		s.systemctl(t, "restart", unit)
	}
}

func TestSystemdJournal(t *testing.T) {
	s := supervise(t)
	nodes := s.register(t, "node", 2)
	nodes[0].leave()
	for _, id := range []string{nodeUp, nodeDown} {
		e := s.awaitEntry(t, id, "node0")
		if e.Priority != "6" || e.Identifier != "epmd" || e.Port != "20000" {
			t.Errorf("entry %+v; want priority 6 of epmd for port 20000", e)
		}
		if id == nodeUp && !strings.HasPrefix(e.Peer, "127.0.0.1:") {
			t.Errorf("peer %q, want 127.0.0.1 and a port", e.Peer)
		}
	}
	s.awaitJournal(t, `Subject: Erlang node node0 has registered`, "-x", "MESSAGE_ID="+nodeUp)
	s.crash(t)
	s.awaitEntry(t, stateRestored, "")

	t.Run("wedged", func(t *testing.T) {
		s.systemctl(t, "kill", "--kill-whom=main", "--signal=SIGSTOP", "systemd-journald.service")
		stop := s.poll(t, "node1", nodes[1].port)
		for range 500 {
			s.register(t, "unheard-of", 1)[0].leave()
		}
		s.systemctl(t, "kill", "--kill-whom=main", "--signal=SIGCONT", "systemd-journald.service")
		stop().check(t, 0, tolerable)
		s.register(t, "heard-of", 1)
		s.awaitEntry(t, nodeUp, "heard-of0")
	})
	t.Run("stopped", func(t *testing.T) {
		sockets := []string{"systemd-journald.socket", "systemd-journald-dev-log.socket"}
		s.systemctl(t, append([]string{"stop", "systemd-journald.service"}, sockets...)...)
		s.register(t, "unheard-of-either", 1)
		s.systemctl(t, append([]string{"start", "systemd-journald.service"}, sockets...)...)
		s.register(t, "heard-again", 1)
		s.awaitEntry(t, nodeUp, "heard-again0")
	})
}

// catalogEntry is what the catalog says of a message.
type catalogEntry struct {
	id     string
	text   string
	fields []string // that are to be put in
}

// readCatalog returns the entries of our catalog.
func readCatalog(t *testing.T) []catalogEntry {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(units, "epmd.catalog"))
	wait.Must(t, err)
	var entries []catalogEntry
	for _, part := range strings.Split(string(text), "\n-- ")[1:] {
		id, rest, _ := strings.Cut(part, "\n")
		rest, _, _ = strings.Cut(rest, "\n# ") // of the next entry
		e := catalogEntry{id: id, text: rest}
		for _, m := range regexp.MustCompile(`@([A-Z_]+)@`).FindAllStringSubmatch(rest, -1) {
			e.fields = append(e.fields, m[1])
		}
		entries = append(entries, e)
	}
	return entries
}

// TestSystemdCatalog has everything happen on a host that the catalog explains, and reads the
// journal. Each entry has each field that its explanation names.
func TestSystemdCatalog(t *testing.T) {
	machine.Need(t)
	n := lan.ForTest(t, "avahi-publish")
	s := superviseOn(t, n, "hosta", machine.Options{Avahi: true}, "Environment=ECLUS_ALLOW=local")
	other := addHosts(t, n, lan.HostOptions{}, "other")[0]
	node := s.register(t, "twice", 1)[0]
	if _, err := s.tryRegister(wait.Soon(t), "twice0", 1); err == nil {
		t.Error("a name was registered twice")
	}
	node.leave()
	s.startErl(t, 1)
	wait.Must(t, other.inside(func() error {
		_, err := epmd.NewClient(netip.AddrPortFrom(s.Link.Address(), epmd.DefaultPort)).Lookup(wait.Soon(t), "nobody")
		if !cutOff(err) && !errors.Is(err, epmd.ErrNoAnswer) {
			t.Errorf("a lookup from another host: %v", err)
		}
		return nil
	}))
	seen := publish(t, other, "neighbour", "_epmd._tcp", "4711")
	s.awaitEntry(t, neighbourUp, "neighbour")
	named := publish(t, other, "says more", "_epmd._tcp", "4711", "node=neighbour@other")
	s.awaitEntry(t, neighbourNamed, "neighbour")
	wait.Must(t, seen.Kill(wait.Soon(t)))
	wait.Must(t, named.Kill(wait.Soon(t)))
	s.awaitEntry(t, neighbourDown, "neighbour")
	s.crash(t)

	known := make(map[string]bool)
	for _, explained := range readCatalog(t) {
		known[explained.id] = true
		var entries []map[string]any
		wait.Must(t, lan.Wait(wait.Soon(t), "entry "+explained.id, func(ctx context.Context) (bool, error) {
			out, err := s.Journal(ctx, "-o", "json", "-u", unit, "MESSAGE_ID="+explained.id)
			entries = nil
			for line := range strings.Lines(out) {
				var e map[string]any
				if err := json.Unmarshal([]byte(line), &e); err != nil {
					return false, fmt.Errorf("journal: %q: %w", line, err)
				}
				entries = append(entries, e)
			}
			return len(entries) > 0, err
		}))
		for _, e := range entries {
			want := explained.text
			for _, field := range explained.fields {
				value, _ := e[field].(string)
				if value == "" {
					t.Errorf("%v has no field %s, which its explanation names", e["MESSAGE"], field)
				}
				want = strings.ReplaceAll(want, "@"+field+"@", value)
			}
			cursor, _ := e["__CURSOR"].(string)
			shown, err := s.Journal(wait.Soon(t), "-x", "-o", "short", "-n", "1", "--cursor="+cursor)
			wait.Must(t, err)
			shown = regexp.MustCompile(`(?m)^░░ ?`).ReplaceAllString(shown, "")
			if _, body, _ := strings.Cut(want, "\n\n"); !strings.Contains(shown, strings.TrimSpace(body)) {
				t.Errorf("journalctl -x shows\n%s\nwant\n%s", shown, body)
			}
		}
	}
	for _, id := range []string{nodeUp, nodeNamed, nodeDown, neighbourUp, neighbourNamed, neighbourDown, stateRestored} {
		if !known[id] {
			t.Errorf("the catalog says nothing of %s", id)
		}
	}
}

// TestSystemdStory finds the whole story of a node by its full name, on its host and on another
// one.
func TestSystemdStory(t *testing.T) {
	machine.Need(t)
	n := lan.ForTest(t)
	a := superviseOn(t, n, "hosta", machine.Options{Avahi: true})
	b := superviseOn(t, n, "hostb", machine.Options{Avahi: true})
	b.checkOnly(t) // starts it
	const full = "story@hosta.local"
	_, err := a.Output(wait.Soon(t), "systemd-run", "--collect", "--quiet", "--unit=story", "--setenv=HOME=/root",
		"erl", "-noinput", "-name", full, "-setcookie", "supervised")
	wait.Must(t, err)
	onA := []string{"ERLANG_NAME=story", "PEER=127.0.0.1:", "ERLANG_UNIT=story.service"}
	onB := []string{"ERLANG_NAME=story", "ERLANG_HOST=hosta.local", "PEER=" + a.Link.Address().String()}
	a.awaitStory(t, full, `node (up|named): story@hosta\.local at port \d+`, onA...)
	b.awaitStory(t, full, `neighbour (up|named): story@hosta\.local host=hosta\.local at port \d+`, onB...)
	a.systemctl(t, "stop", "story")
	a.awaitStory(t, full, `node down: story@hosta\.local at port`, onA...)
	b.awaitStory(t, full, `neighbour down: story@hosta\.local host=hosta\.local`, onB...)
	// It is found by its alive name, whether or not its full name was known by then.
	up := a.awaitEntry(t, nodeUp, "story")
	if up.Node != "" && up.Node != full {
		t.Errorf("entry %+v", up)
	}
}

// awaitStory finds a node's entries by its full name. It waits until the last one has a message
// that matches. fields are how fields of it begin.
func (s *supervised) awaitStory(t *testing.T, node, message string, fields ...string) {
	t.Helper()
	s.awaitJournal(t, message, "-o", "cat", "-n", "1", "ERLANG_NODE="+node)
	export, err := s.Journal(wait.Soon(t), "-u", unit, "-o", "export", "-n", "1", "ERLANG_NODE="+node)
	wait.Must(t, err)
	for _, field := range fields {
		if !strings.Contains(export, "\n"+field) {
			t.Errorf("no %s in\n%s", field, export)
		}
	}
}

// TestSystemdServices has two services with nodes, of which one starts epmd, as far as it knows,
// and goes.
func TestSystemdServices(t *testing.T) {
	s := supervise(t)
	nodes := s.startErl(t, 2)
	wait.Must(t, lan.Wait(wait.Soon(t), "the unit of erl1 in epmd -nodes", func(ctx context.Context) (bool, error) {
		out, err := s.Output(ctx, "epmd", "-nodes")
		return regexp.MustCompile(`erl1.*\sroot\s.*\serl1\.service`).MatchString(out), err
	}))
	s.checkSameProcess(t, func() {
		s.systemctl(t, "stop", "erl0")
		wait.Must(t, lan.Wait(wait.Soon(t), "erl0 to go", func(context.Context) (bool, error) {
			_, found := s.known(t)["erl0"]
			return !found, nil
		}))
		s.checkOnly(t, nodes[1])
	})
}

// TestSystemdLAN has nodes found by a neighbour, with all the restrictions of the unit.
func TestSystemdLAN(t *testing.T) {
	t.Parallel()
	machine.Need(t)
	n := lan.ForTest(t)
	a := superviseOn(t, n, "hosta", machine.Options{Avahi: true})
	b := superviseOn(t, n, "hostb", machine.Options{Avahi: true})
	b.checkOnly(t) // starts it
	wait.Must(t, a.inside(func() error {
		l, err := net.Listen("tcp", ":20000") // or node0 is not published
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	}))
	a.register(t, "node", 1)
	appears := func() {
		t.Helper()
		wait.Must(t, lan.Wait(wait.Soon(t), "node0 on hostb", func(context.Context) (bool, error) {
			found, ok := b.known(t)["node0"]
			return ok && found.Host == "hosta.local" && found.Port == 20000, nil
		}))
	}
	appears()
	a.crash(t)
	b.crash(t)
	appears()
	b.await(t, "StatusText", "^0 nodes registered, 1 on the LAN")
}

package systemd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

// handOverTask makes a process of TestHandOverProcess: "rehearse", or how many nodes will connect,
// after which the process is replaced by itself.
const handOverTask = "ECLUS_TEST_HANDOVER"

// TestHandOverProcess is no test: it is the other process of those below.
func TestHandOverProcess(t *testing.T) {
	task := os.Getenv(handOverTask)
	switch {
	case task == "":
	case task == "rehearse":
		status := 0
		if asked, err := Rehearsal(os.Stdout); !asked || err != nil {
			fmt.Fprintln(os.Stderr, asked, err)
			status = 1
		}
		syscall.Exit(status) // before anything else is said
	case TakesOver():
		in := tellInherited(os.Stdout)
		store, err := OpenStore(registry.New("hosta.local", 10), in, Options{}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer store.Flush()
		answerOne(t, in.Listeners[0])
		io.Copy(io.Discard, os.Stdin)
	default:
		nodes, err := strconv.Atoi(task)
		if err != nil {
			t.Fatal(err)
		}
		t.Error(handOverNodes(nodes))
	}
}

// answerOne accepts a connection and says something to it.
func answerOne(t *testing.T, l *net.TCPListener) {
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "here")
}

// handOverNodes listens, registers as many nodes as n0, n1 and so on when they connect, and hands
// them over when standard input says so.
func handOverNodes(nodes int) error {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	reg := registry.New("hosta.local", registry.OldNames)
	reg.SetPeerID(peerID)
	reg.RestoreOld(registry.Old{Name: "old", Port: 5, FD: 6, Counter: 7})
	store, err := OpenStore(reg, Inherited{}, Options{}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	fmt.Printf("%q\n", l.Addr())
	var conns []net.Conn // which must not be closed for being unreachable
	for i := range nodes {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		conns = append(conns, c)
		err = control(c.(*net.TCPConn), func(fd int) error {
			r, err := reg.Register(registry.Node{Name: fmt.Sprint("n", i), Port: 4711, High: 6, FD: int32(fd)})
			if err == nil && store != nil {
				store.Keep(fd, reg.Node(r), nil)
			}
			return err
		})
		if err != nil {
			return err
		}
		io.WriteString(c, "registered ")
	}
	file, err := l.File()
	if err != nil {
		return err
	}
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		return err
	}
	err = HandOver("/proc/self/exe", os.Args, reg, store, []*os.File{file})
	return errors.Join(err, conns[0].Close())
}

// TestHandOver replaces a process that has nodes. It is the same process then; those that are alive
// notice nothing.
func TestHandOver(t *testing.T) {
	for _, withStore := range []bool{false, true} {
		t.Run(fmt.Sprintf("store: %t", withStore), func(t *testing.T) {
			t.Setenv("NOTIFY_SOCKET", "")
			var m *manager
			if withStore {
				m = startManager(t)
			}
			testHandOver(t, m)
		})
	}
}

func testHandOver(t *testing.T, m *manager) {
	stdin, stdout, stop := startTest(t, "TestHandOverProcess", nil, handOverTask+"=3")
	var addr string
	if err := stdout.Decode(&addr); err != nil {
		t.Fatal(err)
	}
	var peers []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(wait.Patience))
		wantSaid(t, c, "registered ", true)
		peers = append(peers, c)
	}
	peers[1].Close()
	early, err := net.Dial("tcp", addr) // is accepted by the next program
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	io.WriteString(stdin, "\n")
	var got inheritance
	if err := stdout.Decode(&got); err != nil {
		t.Fatal(err)
	}
	want := inheritance{Listeners: []string{addr}, Kept: []string{"1 n0", "3 n2"}, LastID: 3, PeerID: peerID, State: m != nil}
	if m != nil {
		want.Leaving = 1
	}
	if len(got.Old) == 2 { // its descriptor and counter may be any
		want.Old = []registry.Old{{Name: "old", Port: 5, FD: 6, Counter: 7}, got.Old[1]}
	}
	checkInherited(t, got, want)
	if got.Old[1].Name != "n1" || got.Old[1].Counter == 0 || len(got.Left) > 0 {
		t.Errorf("old: %+v, left in the environment: %v; want n1 and nothing", got.Old[1], got.Left)
	}
	wantSaid(t, peers[0], "n0", true)
	wantSaid(t, peers[2], "n2", true)
	early.SetDeadline(time.Now().Add(wait.Patience))
	wantSaid(t, early, "here", false)
	stop()
	if m == nil {
		return
	}
	for _, text := range []string{"FDNAME=state", "FDNAME=n", "FDNAME=n", "FDNAME=n"} {
		if got, _ := m.receive(); !strings.Contains(got, text+"\n") {
			t.Errorf("told %q; want %q", got, text)
		}
	}
	m.wantNothing()
}

// TestHandOverFails names a program that is not there. What was to be inherited is not left to
// children.
func TestHandOverFails(t *testing.T) {
	reg := registry.New("hosta.local", registry.OldNames)
	file, _ := connect(t)
	l := listening(t)
	listener := fileOf(t, l.(*net.TCPListener))
	fd := int(file.Fd())
	if _, err := reg.Register(registry.Node{Name: "a", FD: int32(fd)}); err != nil {
		t.Fatal(err)
	}
	err := HandOver("/nonexistent/epmd", []string{"epmd"}, reg, nil, []*os.File{listener})
	if !names(err, "execute /nonexistent/epmd: no such file") {
		t.Errorf("got %v", err)
	}
	for _, fd := range []int{fd, int(listener.Fd())} {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d: flags %#x, %v; want FD_CLOEXEC", fd, flags, err)
		}
	}
	listener.Close()
	if err := HandOver("/bin/false", nil, reg, nil, []*os.File{listener}); !names(err, "hand over ") {
		t.Errorf("closed listener: got %v", err)
	}
}

// TestTakeOverErrors is told what can't be.
func TestTakeOverErrors(t *testing.T) {
	pid := strconv.Itoa(os.Getpid())
	for _, tt := range []struct{ value, err string }{
		{pid, "too few words"},
		{pid + " 0", "too few words"},
		{pid + " 0 x", `"x": invalid syntax`},
		{pid + " -1 5", `"-1": invalid syntax`},
		{pid + " 0 99999999999999999999", "value out of range"},
		{pid + " 0 999999", "state begins with"},
		{pid + " 0 999998 999999", `socket "socket handed over"`},
	} {
		t.Setenv(envHandOver, tt.value)
		if _, err := Inherit(slog.New(slog.DiscardHandler)); !names(err, tt.err) {
			t.Errorf("%q: got error %v; want one naming %q", tt.value, err, tt.err)
		}
		if _, set := os.LookupEnv(envHandOver); set {
			t.Errorf("%q is still in the environment", tt.value)
		}
	}
	t.Setenv(envHandOver, "1 0 5") // of another process
	if TakesOver() {
		t.Error("takes over for another process")
	}
}

func TestRehearse(t *testing.T) {
	reg := fullRegistry(t)
	for _, tt := range []struct {
		name, script string
		err          string // what the message must name; empty: it is as good as this one
	}{
		{"good", "echo eclus: rehearsed", ""},
		{"is given a state", "head -c 7 <&3", `it is another program, which said "eclus 1"`},
		{"fails", "echo reason >&2; exit 3", `exit status 3: "reason\n"`},
		{"says something else", "echo epmd: usage", `it is another program, which said "epmd: usage\n"`},
		{"says more", "echo eclus: rehearsed; echo", `which said "eclus: rehearsed\n\n"`},
		{"says nothing", "", `which said ""`},
		{"says too much", "head -c 100000 /dev/zero; echo eclus: rehearsed", "it is another program"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := Rehearse(t.Context(), "/bin/sh", []string{"epmd", "-c", tt.script}, reg)
			if !names(err, tt.err) || err != nil && len(err.Error()) > 5*maxSaid {
				t.Errorf("got %v; want an error naming %q", err, tt.err)
			}
		})
	}
	t.Run("/bin/false", func(t *testing.T) {
		if err := Rehearse(t.Context(), "/bin/false", []string{"epmd"}, reg); !names(err, "rehearse /bin/false: exit status 1") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no program", func(t *testing.T) {
		if err := Rehearse(t.Context(), "/nonexistent/epmd", []string{"epmd"}, reg); !names(err, "no such file") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("itself", func(t *testing.T) {
		t.Setenv(handOverTask, "rehearse")
		if err := Rehearse(t.Context(), "/proc/self/exe", []string{os.Args[0], "-test.run=^TestHandOverProcess$"}, reg); err != nil {
			t.Errorf("got %v", err)
		}
	})
}

// TestRehearseChild starts a program that leaves a child which keeps its output open.
func TestRehearseChild(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	script := "sleep 600 & echo $! >" + pidFile + "; echo eclus: rehearsed"
	start := time.Now()
	err := Rehearse(t.Context(), "/bin/sh", []string{"sh", "-c", script}, fullRegistry(t))
	if took := time.Since(start); err == nil || took > rehearsalTime {
		t.Errorf("got %v after %v; want an error within some seconds", err, took)
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Errorf("end the child: %v", err)
	}
}

// TestRehearseInterrupted ends a program that goes on and on.
func TestRehearseInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	started := filepath.Join(t.TempDir(), "started")
	if err := unix.Mkfifo(started, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() {
		os.ReadFile(started) // until the program has opened and closed it
		cancel()
	}()
	start := time.Now()
	err := Rehearse(ctx, "/bin/sh", []string{"sh", "-c", "echo >" + started + "; exec sleep 600"}, fullRegistry(t))
	if took := time.Since(start); !names(err, "signal: killed") || took > rehearsalTime {
		t.Errorf("got %v after %v; want a killed program", err, took)
	}
}

// TestRehearsal does what is asked of a new program.
func TestRehearsal(t *testing.T) {
	t.Setenv(envRehearsal, "")
	var said strings.Builder
	if asked, err := Rehearsal(&said); asked || err != nil {
		t.Errorf("not asked: got %t, %v", asked, err)
	}
	s, err := newState(fullRegistry(t), unkept)
	if err != nil {
		t.Fatal(err)
	}
	defer s.file.Close()
	bad, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	for _, tt := range []struct{ value, err, said string }{
		{"three", `="three": invalid syntax`, ""},
		{"999999", "state begins with", ""},
		{copyOf(t, bad), `state begins with "Name:`, ""},
		{copyOf(t, s.file), "", rehearsed},
	} {
		said.Reset()
		t.Setenv(envRehearsal, tt.value)
		if asked, err := Rehearsal(&said); !asked || !names(err, tt.err) || said.String() != tt.said {
			t.Errorf("%q: got %t, %v and %q; want an error naming %q and %q", tt.value, asked, err, said.String(), tt.err, tt.said)
		}
	}
}

// copyOf returns the number of a new descriptor of f, which Rehearsal closes.
func copyOf(t *testing.T, f *os.File) string {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(fd)
}

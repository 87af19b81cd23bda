package systemd

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

// inheritTask makes a process of TestInheritProcess.
const inheritTask = "ECLUS_TEST_INHERIT"

// inheritance is what another process has inherited, as it tells it.
type inheritance struct {
	PID        int
	Listeners  []string
	Kept       []string // "ID name", to which the process has said the name
	Old        []registry.Old
	LastID     uint64
	PeerID     [16]byte
	State      bool
	Superseded []string
	Leaving    int
	Log        string
	Err        string
	Left       []string // variables that are still in the environment
}

// TestInheritProcess is no test: it is the other process of those below. It drops the node called
// "drop".
func TestInheritProcess(t *testing.T) {
	if os.Getenv(inheritTask) == "" {
		return
	}
	os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	tellInherited(os.Stdout)
	io.Copy(io.Discard, os.Stdin)
}

// tellInherited inherits and says what.
func tellInherited(w io.Writer) Inherited {
	var log strings.Builder
	in, err := Inherit(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	told := inheritance{PID: os.Getpid(), Old: in.Old, LastID: in.LastID, PeerID: in.PeerID, State: in.state != nil, Log: log.String()}
	if err != nil {
		told.Err = err.Error()
	}
	for _, l := range in.Listeners {
		told.Listeners = append(told.Listeners, l.Addr().String())
	}
	for _, k := range in.Kept {
		told.Kept = append(told.Kept, fmt.Sprint(k.Node.ID, " ", k.Node.Name))
		if _, err := unix.Write(k.FD, []byte(k.Node.Name)); err != nil || int(k.Node.FD) != k.FD {
			told.Err += fmt.Sprintf("descriptor %d of %s, said to be %d: %v", k.FD, k.Node.Name, k.Node.FD, err)
		}
		if flags, err := unix.FcntlInt(uintptr(k.FD), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			told.Err += fmt.Sprintf("descriptor %d of %s: flags %#x, %v", k.FD, k.Node.Name, flags, err)
		}
		if k.Node.Name == "drop" {
			in.Drop(k)
		}
	}
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", envHandOver} {
		if _, set := os.LookupEnv(name); set {
			told.Left = append(told.Left, name)
		}
	}
	told.Superseded, told.Leaving = in.superseded, in.leaving
	json.NewEncoder(w).Encode(told)
	return in
}

// startTest starts this program, which is to run that test alone, and returns its output and a
// function that ends it; it ends with the test too.
func startTest(t *testing.T, name string, files []*os.File, env ...string) (stdin io.Writer, stdout *json.Decoder, stop func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+name+"$")
	cmd.Env = append(os.Environ(), append(env, "GORACE=atexit_sleep_ms=0")...)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = files
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killer := time.AfterFunc(wait.Patience, func() { cmd.Process.Kill() })
	ended := false
	stop = func() {
		if !ended {
			in.Close()
			cmd.Wait()
			ended = true
		}
		killer.Stop()
	}
	t.Cleanup(stop)
	return in, json.NewDecoder(out), stop
}

// inherit has another process inherit files of those names, which are closed here, and returns what
// it tells. The process lives as long as the test.
func inherit(t *testing.T, descriptors []string, files []*os.File) (told inheritance) {
	t.Helper()
	_, stdout, _ := startTest(t, "TestInheritProcess", files, inheritTask+"=1",
		"LISTEN_FDS="+strconv.Itoa(len(files)), "LISTEN_FDNAMES="+strings.Join(descriptors, ":"))
	for _, f := range files {
		f.Close()
	}
	if err := stdout.Decode(&told); err != nil {
		t.Fatal(err)
	}
	if len(told.Left) > 0 {
		t.Errorf("still in the environment: %v", told.Left)
	}
	return told
}

// connect returns both ends of a connection over TCP, ours as a file.
func connect(t *testing.T) (ours *os.File, peer *net.TCPConn) {
	t.Helper()
	l := listening(t)
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(wait.Patience))
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	return fileOf(t, accepted.(*net.TCPConn)), c.(*net.TCPConn)
}

// fileOf returns a descriptor of its own for a socket.
func fileOf(t *testing.T, c interface{ File() (*os.File, error) }) *os.File {
	t.Helper()
	f, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// alsoHeld keeps a descriptor of a file until the test ends, as systemd does.
func alsoHeld(t *testing.T, f *os.File) {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
}

// awaitReadable waits until something has come on a socket: bytes, its end or an error.
func awaitReadable(t *testing.T, f *os.File) {
	t.Helper()
	err := control(f, func(fd int) error {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(wait.Patience.Milliseconds()))
		if err == nil && n != 1 {
			return os.ErrDeadlineExceeded
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// wantSaid reads what comes until the connection ends or, if it is to stay open, as much as is
// wanted.
func wantSaid(t *testing.T, c net.Conn, want string, open bool) {
	t.Helper()
	if !open {
		if got, err := io.ReadAll(c); err != nil || string(got) != want {
			t.Errorf("got %q, %v; want %q and the end", got, err, want)
		}
		return
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v; want %q", got, err, want)
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if n, err := c.Read(got); err == nil || !os.IsTimeout(err) {
		t.Errorf("read %d bytes, %v; want an open connection", n, err)
	}
	c.SetReadDeadline(time.Now().Add(wait.Patience))
}

// stored is a node whose connection has been kept.
type stored struct {
	name string
	does func(c *net.TCPConn) // what its peer has done since; nil: nothing
	gone bool                 // it went, of which systemd has not been told
	none bool                 // its connection is not there
	old  bool                 // want: it is taken for one that has gone
	told string               // want: the reason for that
	open bool                 // want: its connection stays open
}

var storedTests = []stored{
	{name: "alive", open: true},
	{name: "closed", does: func(c *net.TCPConn) { c.Close() }, old: true, told: `"connection closed"`},
	{name: "half", does: func(c *net.TCPConn) { c.CloseWrite() }, old: true, told: `"connection closed"`},
	{name: "reset", does: func(c *net.TCPConn) { c.SetLinger(0); c.Close() }, old: true, told: `"connection reset by peer"`},
	{name: "talks", does: func(c *net.TCPConn) { c.Write([]byte{0}) }, old: true, told: `"sent more than its registration"`},
	{name: "went", gone: true, old: true},
	{name: "lost", none: true, old: true, told: `"its connection was not kept"`},
	{name: "drop"},
	{name: "last", open: true},
}

// TestInherit restores nodes in all states they can be in, stored under one name and found by their
// cookies, or each under a name of its own, as an earlier epmd did.
func TestInherit(t *testing.T) {
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprintf("old form: %t", old), func(t *testing.T) { testInherit(t, old) })
	}
}

func testInherit(t *testing.T, oldForm bool) {
	reg := registry.New("hosta.local", registry.OldNames)
	reg.RestoreOld(registry.Old{Name: "earlier", Port: 3, FD: 4, Counter: 5})
	state, err := newState(reg, unkept)
	if err != nil {
		t.Fatal(err)
	}
	l := listening(t)
	l2 := listening(t)
	descriptors := []string{"epmd.socket", stateName}
	files := []*os.File{fileOf(t, l.(*net.TCPListener)), state.file}
	peers := make(map[string]*net.TCPConn)
	want := inheritance{State: true, PeerID: reg.PeerID(), Old: []registry.Old{{Name: "earlier", Port: 3, FD: 4, Counter: 5}}}
	var wentFirst, lost []registry.Old
	for _, tt := range storedTests {
		f, peer := connect(t)
		r, err := reg.Register(registry.Node{Name: tt.name, Port: 4711, High: 6, FD: 77})
		if err != nil {
			t.Fatal(err)
		}
		n := reg.Node(r)
		record := recordOf(n, tt.gone)
		name := nodeName
		if oldForm {
			name = oldName(n.ID)
		} else {
			record.Cookie = cookieOf(int(f.Fd()))
		}
		if err := state.append(record); err != nil {
			t.Fatal(err)
		}
		if tt.does != nil {
			tt.does(peer)
			awaitReadable(t, f)
		}
		peers[tt.name] = peer
		if tt.name == "drop" {
			alsoHeld(t, f)
		}
		if tt.none {
			f.Close()
		} else {
			descriptors, files = append(descriptors, name), append(files, f)
		}
		o := registry.Old{Name: tt.name, Port: 4711, FD: 77, Counter: n.Counter}
		switch {
		case tt.gone:
			wentFirst = append(wentFirst, o)
		case tt.old:
			lost = append(lost, o)
		default:
			want.Kept = append(want.Kept, fmt.Sprint(n.ID, " ", tt.name))
		}
		switch {
		case tt.none || tt.open:
		case oldForm:
			want.Superseded = append(want.Superseded, name)
		default:
			want.Leaving++
		}
		want.LastID = n.ID
	}
	want.Old = slices.Concat(want.Old, wentFirst, lost)
	// The last node comes twice, somebody else's socket among them, and nodes in another order than
	// theirs.
	twice, twicePeer := connect(t)
	if !oldForm { // then it can only be another one
		want.Leaving++
	}
	foreign, foreignPeer := connect(t)
	unknown, unknownPeer := connect(t)
	slices.Reverse(descriptors[2:])
	slices.Reverse(files[2:])
	descriptors = append(descriptors, descriptors[2], "stored", "node-4711", "other.socket")
	files = append(files, twice, foreign, unknown, fileOf(t, l2.(*net.TCPListener)))
	want.Superseded = append(want.Superseded, "node-4711")
	want.Listeners = []string{l.Addr().String(), l2.Addr().String()}

	got := inherit(t, descriptors, files)
	checkInherited(t, got, want)
	for _, tt := range storedTests {
		switch {
		case tt.open:
			wantSaid(t, peers[tt.name], tt.name, true)
		case tt.name == "drop":
			wantSaid(t, peers[tt.name], "drop", false)
		}
		if line := "name=" + tt.name + " port=4711 reason=" + tt.told; tt.told != "" && !strings.Contains(got.Log, line) {
			t.Errorf("log without %q:\n%s", line, got.Log)
		}
	}
	for _, c := range []net.Conn{twicePeer, foreignPeer, unknownPeer} {
		wantSaid(t, c, "", false)
	}
	lines := []string{
		`"inherited descriptor is no socket that listens" fdname=stored`,
		`"connection of a node that had gone" stored=node-4711`,
	}
	if oldForm {
		lines = append(lines, `"two descriptors of one name" stored=node-`)
	}
	for _, line := range lines {
		if !strings.Contains(got.Log, line) {
			t.Errorf("log without %q:\n%s", line, got.Log)
		}
	}
}

// checkInherited compares what is inherited, superseded names in any order.
func checkInherited(t *testing.T, got, want inheritance) {
	t.Helper()
	slices.Sort(got.Superseded)
	slices.Sort(want.Superseded)
	for _, tt := range []struct {
		what      string
		got, want any
	}{
		{"error", got.Err, want.Err},
		{"listeners", got.Listeners, want.Listeners},
		{"kept", got.Kept, want.Kept},
		{"old", got.Old, want.Old},
		{"last ID", got.LastID, want.LastID},
		{"peer ID", got.PeerID, want.PeerID},
		{"state", got.State, want.State},
		{"superseded", got.Superseded, want.Superseded},
		{"leaving", got.Leaving, want.Leaving},
	} {
		if g, w := fmt.Sprint(tt.got), fmt.Sprint(tt.want); g != w {
			t.Errorf("%s: got %s; want %s", tt.what, g, w)
		}
	}
}

// TestInheritNoState has connections and nothing that tells whose they are.
func TestInheritNoState(t *testing.T) {
	l := listening(t)
	f, peer := connect(t)
	got := inherit(t, []string{"epmd.socket", "node-1"}, []*os.File{fileOf(t, l.(*net.TCPListener)), f})
	checkInherited(t, got, inheritance{Listeners: []string{l.Addr().String()}, Superseded: []string{"node-1"}})
	if want := `"connections were kept, but no state: their nodes have to register anew" connections=1`; !strings.Contains(got.Log, want) {
		t.Errorf("log without %q:\n%s", want, got.Log)
	}
	wantSaid(t, peer, "", false)
}

// TestInheritBadState restores what comes before the line that can't be read.
func TestInheritBadState(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write(stateBytes(lineA, "garbage\n", lineB)); err != nil {
		t.Fatal(err)
	}
	a, peerA := connect(t)
	b, peerB := connect(t)
	got := inherit(t, []string{stateName, "node-1", "node-2"}, []*os.File{file, a, b})
	checkInherited(t, got, inheritance{State: true, LastID: 1, Kept: []string{"1 a"}, Superseded: []string{"node-2"}})
	if want := "state not read to its end"; !strings.Contains(got.Log, want) {
		t.Errorf("log without %q:\n%s", want, got.Log)
	}
	wantSaid(t, peerA, "a", true)
	wantSaid(t, peerB, "", false)
}

// TestInheritNotTCP is given a socket that epmd can't listen on: all that came is closed.
func TestInheritNotTCP(t *testing.T) {
	unixListener, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "socket"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer unixListener.Close()
	l := listening(t)
	node, peer := connect(t)
	files := []*os.File{fileOf(t, l.(*net.TCPListener)), fileOf(t, unixListener), node}
	l.Close()
	got := inherit(t, []string{"tcp.socket", "unix.socket", "node-1"}, files)
	checkInherited(t, got, inheritance{Err: `socket "unix.socket" from the service manager: unix, not TCP`})
	wantSaid(t, peer, "", false)
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("somebody listens still")
	}
}

// listening returns a listener of the loopback interface.
func listening(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

package owner

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
	"golang.org/x/sys/unix"
)

// holderTask is the environment variable that makes a process of TestHolderProcess. It is
// "connect IP PORT" or "find LOCAL PEER". "mapped IP PORT" connects an IPv6 socket to an IPv4
// address. Any other three words keep the inherited files open.
const holderTask = "ECLUS_TEST_HOLDER"

// TestHolderProcess is no test: it is the other process of those below.
func TestHolderProcess(t *testing.T) {
	task := strings.Fields(os.Getenv(holderTask))
	if len(task) != 3 {
		return
	}
	switch task[0] {
	case "connect":
		c, err := net.Dial("tcp", net.JoinHostPort(task[1], task[2]))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	case "mapped":
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		to := netip.MustParseAddrPort(task[1] + ":" + task[2])
		if err := unix.Connect(fd, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}); err != nil {
			t.Fatal(err)
		}
	case "find":
		c := Connection{netip.MustParseAddrPort(task[1]), netip.MustParseAddrPort(task[2])}
		holders, err := new(Finder).Find(t.Context(), []Connection{c})
		fmt.Printf("found: %+v %v\n", *holders[0], err)
	}
	io.Copy(io.Discard, os.Stdin)
}

// holder is another process.
type holder struct {
	cmd    *exec.Cmd
	stdout *bufio.Reader
	conn   net.Conn // our end of its connection
}

// startHolder starts a process that ends with the test.
func startHolder(t *testing.T, task string, attr *syscall.SysProcAttr, files ...*os.File) *holder {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHolderProcess$") // any user may
	cmd.Env = append(os.Environ(), holderTask+"="+task)
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = attr
	cmd.ExtraFiles = files
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	return &holder{cmd: cmd, stdout: bufio.NewReader(stdout)}
}

// startConnected starts a process that connects to a listener at that address.
func startConnected(t *testing.T, how, listen, to string, attr *syscall.SysProcAttr) *holder {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(listen, "0"))
	need.Possible(t, err)
	defer l.Close()
	h := startHolder(t, fmt.Sprint(how, " ", to, " ", l.Addr().(*net.TCPAddr).Port), attr)
	l.(*net.TCPListener).SetDeadline(time.Now().Add(wait.Patience))
	if h.conn, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.conn.Close() })
	return h
}

func connectionOf(c net.Conn) Connection {
	return Connection{c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()}
}

func findHolder(t *testing.T, c Connection) *Owner {
	t.Helper()
	holders, err := new(Finder).Find(t.Context(), []Connection{c})
	if err != nil || len(holders) != 1 {
		t.Fatalf("holders %v, %v; want one", holders, err)
	}
	return holders[0]
}

// nobody is a user other than root.
const nobody = 65534

func asNobody() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
}

func TestFind(t *testing.T) {
	for _, tt := range []struct {
		name, how, listen, to string
		nobody                bool
	}{
		{name: "IPv4", how: "connect", listen: "127.0.0.1", to: "127.0.0.1"},
		{name: "IPv6", how: "connect", listen: "::1", to: "::1"},
		{name: "other loopback address", how: "connect", listen: "127.0.0.2", to: "127.0.0.2"},
		{name: "IPv4 to a socket for both", how: "connect", listen: "::", to: "127.0.0.1"},
		{name: "IPv6 socket to IPv4", how: "mapped", listen: "127.0.0.1", to: "127.0.0.1"},
		{name: "IPv6 socket to IPv4 of a socket for both", how: "mapped", listen: "::", to: "127.0.0.1"},
		{name: "other user", how: "connect", listen: "127.0.0.1", to: "127.0.0.1", nobody: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := Owner{Foreign: true, UID: uint32(os.Geteuid()), Unit: unitOfProcess(int32(os.Getpid()))}
			var attr *syscall.SysProcAttr
			if tt.nobody {
				need.Root(t)
				attr, want.UID = asNobody(), nobody
			}
			h := startConnected(t, tt.how, tt.listen, tt.to, attr)
			want.PID = int32(h.cmd.Process.Pid)
			if got := findHolder(t, connectionOf(h.conn)); got == nil || *got != want {
				t.Errorf("held by %v; want %v", got, &want)
			}
		})
	}
}

// TestFindAtOnce finds the holders of several connections, between which are some that nobody
// holds.
func TestFindAtOnce(t *testing.T) {
	var conns []Connection
	var want []int32
	for range 3 {
		h := startConnected(t, "connect", "127.0.0.1", "127.0.0.1", nil)
		none := Connection{netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.1:2")}
		far := Connection{netip.MustParseAddrPort("198.51.100.1:4369"), netip.MustParseAddrPort("198.51.100.2:4711")}
		conns = append(conns, connectionOf(h.conn), none, far)
		want = append(want, int32(h.cmd.Process.Pid), 0, 0)
	}
	holders, err := new(Finder).Find(t.Context(), conns)
	if err != nil || len(holders) != len(conns) {
		t.Fatalf("%d holders, %v; want %d", len(holders), err, len(conns))
	}
	for i, h := range holders {
		if pid := want[i]; (h == nil) != (pid == 0) || h != nil && h.PID != pid {
			t.Errorf("connection %d is held by %v; want PID %d, 0 meaning none", i, h, pid)
		}
	}
}

// TestFindGone asks for the other end of connections that have none any more, of one port where
// somebody listens.
func TestFindGone(t *testing.T) {
	h := startConnected(t, "connect", "127.0.0.1", "127.0.0.1", nil)
	h.cmd.Process.Kill()
	if _, err := h.conn.Read(make([]byte, 1)); err == nil {
		t.Fatal("the other process said something")
	}
	if got := findHolder(t, connectionOf(h.conn)); got != nil {
		t.Errorf("held by %v after its end", got)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	listening := l.Addr().(*net.TCPAddr).AddrPort()
	if got := findHolder(t, Connection{netip.MustParseAddrPort("127.0.0.1:9"), listening}); got != nil {
		t.Errorf("held by %v, which only listens at that port", got)
	}
}

// TestFindInterrupted is told by the kernel alone.
func TestFindInterrupted(t *testing.T) {
	h := startConnected(t, "connect", "127.0.0.1", "127.0.0.1", nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	holders, err := new(Finder).Find(ctx, []Connection{connectionOf(h.conn)})
	want := Owner{UID: uint32(os.Geteuid())}
	if err != nil || holders[0] == nil || holders[0].PID != 0 || holders[0].UID != want.UID {
		t.Errorf("held by %v, %v; want %v", holders, err, &want)
	}
}

// TestFindShared asks for a socket that two processes have.
func TestFindShared(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	file, err := c.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	h := startHolder(t, "share the socket", nil, file)
	own := connectionOf(c)
	if got := findHolder(t, Connection{Local: own.Peer, Peer: own.Local}); got == nil || int(got.PID) != h.cmd.Process.Pid {
		t.Errorf("held by %v; want PID %d, the younger one", got, h.cmd.Process.Pid)
	}
}

// TestFindNext asks for sockets of a process that has many files open. Where a socket follows the
// last one, its place is known without a look at the other files.
func TestFindNext(t *testing.T) {
	for range manyFiles {
		file, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
	}
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	const base = 700
	pid := int32(os.Getpid())
	var f Finder
	for _, tt := range []struct {
		fd       int
		expected bool
	}{
		{base, false}, {base + 1, true}, {base + 1 + gap, true}, {base + 2 + 2*gap, false}, {base - 50, false}, {base - 49, true},
	} {
		c, inode := connectedAt(t, tt.fd)
		s := search{finder: &f, sockets: map[uint32]*Owner{inode: new(Owner)}}
		if s.next(int(dir.Fd()), pid); (len(s.sockets) == 0) != tt.expected {
			t.Errorf("descriptor %d: found among the next: %v, want %v", tt.fd, len(s.sockets) == 0, tt.expected)
		}
		holders, err := f.Find(t.Context(), []Connection{c})
		if err != nil || holders[0] == nil || holders[0].PID != pid {
			t.Fatalf("descriptor %d is held by %v, %v; want PID %d", tt.fd, holders, err, pid)
		}
		if at, _ := f.place(pid); at != tt.fd {
			t.Errorf("found last at %d, want descriptor %d", at, tt.fd)
		}
	}
}

// connectedAt connects with this process itself. One end has that descriptor. connectedAt returns
// the connection as the other end sees it, and the inode number of the one with the descriptor.
func connectedAt(t *testing.T, fd int) (c Connection, inode uint32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	node, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	epmd, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { epmd.Close() })
	file, err := node.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.Dup3(int(file.Fd()), fd, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return connectionOf(epmd), uint32(st.Ino)
}

// TestYoungestFirst has PIDs from before and after the kernel began with small ones again.
func TestYoungestFirst(t *testing.T) {
	names := []string{"1", "313", "972", "self", "32615", "32700"}
	for last, want := range map[int32][]int32{
		math.MaxInt32: {32700, 32615, 972, 313, 1},
		32700:         {32700, 32615, 972, 313, 1},
		972:           {972, 313, 1, 32700, 32615},
		500:           {313, 1, 32700, 32615, 972},
	} {
		if got := youngestFirst(names, last); !slices.Equal(got, want) {
			t.Errorf("last %d: got %v, want %v", last, got, want)
		}
	}
	if last := lastPID(); last < 1 || last == math.MaxInt32 {
		t.Errorf("the last PID is %d", last)
	}
}

// TestFindUnprivileged looks, as a user of no rights, for a process of root's in a unit.
func TestFindUnprivileged(t *testing.T) {
	need.Root(t)
	unit := fmt.Sprintf("eclus-test-%d.scope", os.Getpid())
	h := startConnected(t, "connect", "127.0.0.1", "127.0.0.1", inCgroup(t, unit))
	want := Owner{Foreign: true, PID: int32(h.cmd.Process.Pid), UID: 0, Unit: unit}
	if got := findHolder(t, connectionOf(h.conn)); got == nil || *got != want {
		t.Errorf("root finds %v; want %v", got, &want)
	}
	want.PID = 0
	c := connectionOf(h.conn)
	finder := startHolder(t, fmt.Sprint("find ", c.Local, " ", c.Peer), asNobody())
	line, err := finder.stdout.ReadString('\n')
	if wantLine := fmt.Sprintf("found: %+v <nil>\n", want); line != wantLine {
		t.Errorf("%q, %v; want %q", line, err, wantLine)
	}
}

// inCgroup makes a control group for a process to start in.
func inCgroup(t *testing.T, name string) *syscall.SysProcAttr {
	t.Helper()
	path := filepath.Join(cgroupRoot(), name)
	err := os.Mkdir(path, 0o755)
	if errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EROFS) || errors.Is(err, os.ErrNotExist) {
		need.Possible(t, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		dir.Close()
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	})
	return &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
}

// BenchmarkFind is what one registration costs, and each of a hundred at once.
func BenchmarkFind(b *testing.B) {
	for _, size := range []int{1, 100} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			var conns []Connection
			for range size {
				c, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				own := connectionOf(c)
				conns = append(conns, Connection{Local: own.Peer, Peer: own.Local})
			}
			var f Finder
			for b.Loop() {
				if holders, err := f.Find(b.Context(), conns); err != nil || holders[size-1].PID == 0 {
					b.Fatal(holders, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*size), "µs/conn")
		})
	}
}

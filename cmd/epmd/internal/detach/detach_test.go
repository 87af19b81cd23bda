package detach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/cmd/epmd/internal/exit"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

// envTest is set for the processes that Detach starts in a test. Its value is what the daemon
// notifies.
const envTest = "DETACH_TEST"

// waits is notified until nobody reads it any more.
const waits = "STATUS=waits"

// envEnd is set for processes that end in some way.
const envEnd = "DETACH_END"

func TestMain(m *testing.M) {
	switch os.Getenv(envEnd) {
	case "status":
		os.Exit(7)
	case "signal":
		unix.Kill(os.Getpid(), unix.SIGKILL)
	}
	if notify, isOurs := os.LookupEnv(envTest); isOurs {
		os.Exit(daemon(notify))
	}
	os.Exit(m.Run())
}

// daemon is what the started processes do. It returns the exit status.
func daemon(notify string) int {
	conn, err := Detach(context.Background(), 1, os.Args, os.LookupEnv)
	switch {
	case err != nil:
		return 7
	case conn == nil:
		return 0
	}
	if wrong := attached(); wrong != "" {
		notify = "STATUS=" + wrong
	}
	_, err = fmt.Fprint(conn, notify)
	for err == nil && notify == waits {
		time.Sleep(time.Millisecond)
		_, err = fmt.Fprint(conn, notify)
	}
	return 3
}

// attached returns what this process shares with the first, or "".
func attached() string {
	dir, _ := os.Getwd()
	input, _ := os.Readlink("/proc/self/fd/0")
	switch sid, _ := unix.Getsid(0); {
	case sid == os.Getpid() || sid == os.Getppid():
		return "its session"
	case dir != "/":
		return "folder " + dir
	case input != os.DevNull:
		return "standard input " + input
	case unix.Umask(0) != 0:
		return "its umask"
	case os.Getenv(envNotify) != "" || os.Getenv(envStarter) != "":
		return "what its environment says of others"
	case strings.Join(os.Args, " ") != "epmd -daemon":
		return fmt.Sprintf("arguments %q", os.Args)
	}
	return ""
}

func TestDetach(t *testing.T) {
	for notify, want := range map[string]string{
		"READY=1":                  "",
		"STATUS=starting\nREADY=1": "",
		"STATUS=address in use":    "address in use",
		"STATUS=a\x1b[31m\u009b":   "a?[31m?",
		"MAINPID=7":                "daemon ended at once: " + exit.Status(3).Error(),
	} {
		t.Setenv(envTest, notify)
		t.Setenv(envNotify, "/run/systemd/notify")
		conn, err := Detach(t.Context(), 1, []string{"epmd", "-daemon"}, os.LookupEnv)
		if conn != nil || (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("%q: %v, %v; want error %q", notify, conn, err, want)
		}
	}
}

// TestRunning starts no daemon where an epmd runs already.
func TestRunning(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := epmd.NewServer(epmd.Config{Registry: registry.New("hosta.local", registry.OldNames)})
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, l.(*net.TCPListener)) }()
	defer func() {
		cancel()
		<-served
	}()
	t.Setenv(envTest, "STATUS=a daemon was started")
	conn, err := Detach(t.Context(), l.Addr().(*net.TCPAddr).AddrPort().Port(), []string{"epmd", "-daemon"}, os.LookupEnv)
	if conn != nil || err != nil {
		t.Errorf("got %v, %v", conn, err)
	}
}

// TestAwaitDaemon has another child end while a daemon is awaited. A second Detach must not lose
// its children to the first.
func TestAwaitDaemon(t *testing.T) {
	other := exec.Command(os.Args[0], "-test.run=^$")
	wait.Must(t, other.Start())
	const nobody = 1 << 30 // above any process id
	if err := awaitDaemon(nobody); !errors.Is(err, unix.ECHILD) {
		t.Errorf("awaited a daemon that is not there: %v", err)
	}
	if err := other.Wait(); errors.Is(err, unix.ECHILD) {
		t.Errorf("the other child was taken: %v", err)
	}
}

// TestOthersStarter has an environment that calls this process a daemon, with nothing open to
// report on, or something else. That makes no daemon of it.
func TestOthersStarter(t *testing.T) {
	t.Setenv(envTest, "READY=1")
	getenv := func(name string) (string, bool) { return strconv.Itoa(os.Getppid()), name == envStarter }
	if conn, err := Detach(t.Context(), 1, []string{"epmd", "-daemon"}, getenv); conn != nil || err != nil {
		t.Errorf("got %v, %v", conn, err)
	}
}

// TestIsPair holds that nothing is a pair of sockets but what start makes.
func TestIsPair(t *testing.T) {
	for name, kind := range map[string]int{"stream": unix.SOCK_STREAM, "datagrams": unix.SOCK_DGRAM, "packets": unix.SOCK_SEQPACKET} {
		pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		wait.Must(t, err)
		if got := isPair(pair[0]); got != (kind == unix.SOCK_SEQPACKET) {
			t.Errorf("%s: %t", name, got)
		}
		wait.Must(t, errors.Join(unix.Close(pair[0]), unix.Close(pair[1])))
	}
	single, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	wait.Must(t, err)
	defer unix.Close(single)
	if null, err := os.Open(os.DevNull); err != nil || isPair(int(null.Fd())) || isPair(single) || isPair(-1) {
		t.Errorf("no pair is taken for one (%v)", err)
	}
}

package test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/test/wait"

	"github.com/goerlang/eclus/test/need"
)

// stockEpmd is the epmd of Erlang/OTP, as Debian has it.
const stockEpmd = "/usr/bin/epmd"

const goRace = "atexit_sleep_ms=0"

// buildDir holds what TestMain has built.
var buildDir string

// TestMain builds epmd, which a short run has no use for.
func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		os.Exit(m.Run())
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	var err error
	if buildDir, err = os.MkdirTemp("", "eclus-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(buildDir)
	build := exec.Command("go", append(append([]string{"build", "-o", buildDir}, buildFlags...), "github.com/goerlang/eclus/cmd/epmd")...)
	if len(buildFlags) == 0 {
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is shipped
	}
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build epmd: %v\n%s", err, out)
		return 1
	}
	os.Setenv("GORACE", goRace)
	return m.Run()
}

// eclusBinary returns the path of our epmd.
func eclusBinary(t testing.TB) string {
	t.Helper()
	need.Program(t, "go")
	return filepath.Join(buildDir, "epmd")
}

// daemon is an epmd that runs for a test.
type daemon struct {
	port   uint16
	cmd    *exec.Cmd
	ended  chan struct{} // closed when it has ended; cmd.ProcessState is set then
	output wait.Output
}

// startEpmd starts an epmd on a free port of the loopback interface, and returns when it answers.
// It has no LAN discovery and no D-Bus unless args say otherwise. It ends with the test.
func startEpmd(t testing.TB, binary string, args ...string) *daemon {
	t.Helper()
	return startEpmdAt(t, freePort(t), binary, args...)
}

// startEpmdAt is startEpmd on a certain port.
func startEpmdAt(t testing.TB, port uint16, binary string, args ...string) *daemon {
	t.Helper()
	d := &daemon{port: port, ended: make(chan struct{})}
	d.cmd = exec.Command(binary, append([]string{"-address", "127.0.0.1", "-port", strconv.Itoa(int(d.port))}, args...)...)
	d.cmd.Env = append(os.Environ(), "ECLUS_LAN=off", "ECLUS_BUS=off")
	d.cmd.Stdout, d.cmd.Stderr = &d.output, &d.output
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		d.cmd.Wait()
		close(d.ended)
	}()
	t.Cleanup(func() {
		d.cmd.Process.Kill()
		<-d.ended
	})
	awaitEpmd(t, d.port, d.ended, &d.output)
	return d
}

// stop sends a signal and returns the exit status, -1 if the signal ended the daemon.
func (d *daemon) stop(t testing.TB, sig syscall.Signal) int {
	t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	select {
	case <-d.ended:
	case <-time.After(wait.Patience):
		t.Fatalf("still runs after %v; output:\n%s", sig, &d.output)
	}
	return d.cmd.ProcessState.ExitCode()
}

// register registers a node that stays until the test ends or the registration is closed.
func (d *daemon) register(t testing.TB, name string, port uint16) *epmd.Registration {
	t.Helper()
	req := epmd.AliveReq{Port: port, Type: 'M', High: 6, Low: 5, Name: name}
	reg, err := epmd.NewLocalClient(d.port).Register(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reg.Close() })
	return reg
}

// awaitEpmd returns when an epmd answers on that port of this host. It fails the test if ended is
// closed before, with what the daemon has written.
func awaitEpmd(t testing.TB, port uint16, ended <-chan struct{}, written *wait.Output) {
	t.Helper()
	client := epmd.NewLocalClient(port)
	wait.Until(t, fmt.Sprintf("epmd answers on port %d", port), func() error {
		select {
		case <-ended:
			t.Fatalf("epmd on port %d has ended; output:\n%s", port, written)
		default:
		}
		ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
		defer cancel()
		_, err := client.Names(ctx)
		return err
	})
}

// freePort returns a port that is free on both loopback addresses and that no other test has got.
func freePort(t testing.TB) uint16 {
	t.Helper()
	port, err := claimPort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// claimPort is freePort. The port is below those that the kernel gives to connections. Nothing
// listens on it yet. The name of a socket says that it belongs to this process. Other runs of the
// tests see that too. The socket lasts as long as the process.
func claimPort() (uint16, error) {
	for range 1000 {
		port := uint16(10000 + rand.IntN(20000))
		claim, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return 0, err
		}
		err = unix.Bind(claim, &unix.SockaddrUnix{Name: fmt.Sprintf("@eclus-test-port-%d", port)})
		if err == nil && isFree("127.0.0.1", port) && isFree("::1", port) {
			return port, nil
		}
		unix.Close(claim)
	}
	return 0, errors.New("no free port")
}

// isFree reports whether nobody listens there; on a host without IPv6 that is so of all its
// addresses.
func isFree(host string, port uint16) bool {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
	if err == nil {
		l.Close()
	}
	return !errors.Is(err, syscall.EADDRINUSE)
}

// raced returns how long may take what takes d at most. That is five times as long with the race
// detector, which slows epmd and the tests down. A machine may stop for two seconds besides.
func raced(d time.Duration) time.Duration {
	const stops = 2 * time.Second
	if len(buildFlags) > 0 {
		return 5*d + stops
	}
	return d + stops
}

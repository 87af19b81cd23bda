package detach

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/cmd/epmd/internal/exit"
	"github.com/goerlang/eclus/test/wait"
)

// TestAwaitReady has a daemon notify what comes in each datagram.
func TestAwaitReady(t *testing.T) {
	for _, tt := range []struct {
		name, status string
		datagrams    []string
		err          error
	}{
		{"ready", "", []string{"READY=1"}, nil},
		{"ready among others", "up", []string{"MAINPID=7\nSTATUS=up\nREADY=1\nX=1"}, nil},
		{"ready at last", "b", []string{"STATUS=a", "X=1", "STATUS=b", "READY=1"}, nil},
		{"ended", "", []string{"READY=0", "ready=1", "READY=1 "}, io.EOF},
		{"ended at once", "", nil, io.EOF},
		{"says why, and ends", "in use", []string{"STATUS=in use"}, io.EOF},
		{"ready beyond what is read", "", []string{strings.Repeat("x", 4096) + "\nREADY=1"}, io.EOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
			wait.Must(t, err)
			ours, daemons := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "daemon's")
			defer ours.Close()
			for _, datagram := range tt.datagrams {
				_, err := daemons.WriteString(datagram)
				wait.Must(t, err)
			}
			wait.Must(t, daemons.Close())
			conn, err := net.FileConn(ours)
			wait.Must(t, err)
			defer conn.Close()
			wait.Must(t, conn.SetDeadline(time.Now().Add(wait.Patience)))
			if status, err := awaitReady(conn); status != tt.status || err != tt.err {
				t.Errorf("got %q, %v; want %q, %v", status, err, tt.status, tt.err)
			}
		})
	}
}

// TestAwaitDaemonStatus has the daemon end in each way.
func TestAwaitDaemonStatus(t *testing.T) {
	for end, want := range map[string]string{"": "", "status": exit.Status(7).Error(), "signal": "killed"} {
		daemon := exec.Command(os.Args[0], "-test.run=^$")
		daemon.Env = append(os.Environ(), envEnd+"="+end)
		daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		wait.Must(t, daemon.Start())
		if err := awaitDaemon(daemon.Process.Pid); (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("%q: got %v, want %q", end, err, want)
		}
	}
}

// TestStartError is what the first process says of a daemon that has ended.
func TestStartError(t *testing.T) {
	ended := exit.Status(3)
	for _, tt := range []struct {
		status string
		err    error
		want   string
	}{
		{"", nil, ""},
		{"in use", nil, ""}, // another epmd is as good
		{"in use", ended, "in use"},
		{"", ended, "daemon ended at once: " + ended.Error()},
	} {
		if err := startError(tt.status, tt.err); (err == nil) != (tt.want == "") || err != nil && err.Error() != tt.want {
			t.Errorf("%q, %v: got %v, want %q", tt.status, tt.err, err, tt.want)
		}
	}
}

// TestStartEnds gives up a daemon that does not say that it is ready.
func TestStartEnds(t *testing.T) {
	t.Setenv(envTest, waits)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := start(ctx, 1, []string{"epmd", "-daemon"})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "start daemon: does not listen yet: ") {
		t.Errorf("got %v", err)
	}
}

// TestIsRunning has something at the port that is no epmd, or none that answers.
func TestIsRunning(t *testing.T) {
	for name, answer := range map[string]string{"mute": "", "rude": "HTTP/1.1 400\r\n\r\n", "cut short": "\x00\x00"} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			wait.Must(t, err)
			defer l.Close()
			go func() {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				if answer == "" {
					io.Copy(io.Discard, conn) // until the asker gives up
				}
				io.WriteString(conn, answer)
			}()
			if isRunning(wait.Soon(t), l.Addr().(*net.TCPAddr).AddrPort().Port()) {
				t.Error("taken for an epmd that runs")
			}
		})
	}
}

package test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/test/wait"
)

// TestStopped stops epmd, lets a client end its request and its connection at once, and lets epmd
// go on. No name may be left.
func TestStopped(t *testing.T) {
	frame := framed(plainNode("a").body())
	for _, tt := range []struct {
		name   string
		before int // bytes sent before epmd is stopped
		more   string
		reset  bool
	}{
		{name: "last byte and FIN", before: len(frame) - 1},
		{name: "request and FIN", before: 0},
		{name: "last byte and surplus", before: len(frame) - 1, more: "\x00"},
		{name: "request cut behind its length, and reset", before: 2, reset: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := startEpmd(t, eclusBinary(t))
			conn := dialTCP(t, d.port)
			send(t, conn, frame[:tt.before])
			awaitNames(t, d.port, "") // is accepted behind conn
			pause, resume := stopper(t, d)
			pause()
			send(t, conn, append(frame[tt.before:], tt.more...))
			switch {
			case tt.reset:
				conn.SetLinger(0)
				conn.Close()
			case tt.more == "":
				conn.CloseWrite()
			}
			resume()
			if !tt.reset {
				conn.SetReadDeadline(time.Now().Add(wait.Patience))
				if _, err := io.ReadAll(conn); err != nil && !strings.Contains(err.Error(), "reset") {
					t.Error(err)
				}
			}
			awaitNames(t, d.port, "")
		})
	}
}

// TestStoppedForLong stops epmd for longer than its time-out, in which a client goes on.
func TestStoppedForLong(t *testing.T) {
	t.Parallel()
	d := startEpmd(t, eclusBinary(t), "-packet_timeout", "1")
	conn := dialTCP(t, d.port)
	send(t, conn, []byte{0, 1})
	awaitNames(t, d.port, "")
	pause, resume := stopper(t, d)
	pause()
	send(t, conn, []byte{'n'})
	over := time.NewTimer(3 * time.Second)
	<-over.C
	resume()
	conn.SetReadDeadline(time.Now().Add(wait.Patience))
	if answer, err := io.ReadAll(conn); err != nil || len(answer) != 4 {
		t.Errorf("answer %x, %v; want 4 bytes", answer, err)
	}
}

// stopper returns functions that stop a daemon and let it go on.
func stopper(t *testing.T, d *daemon) (pause, resume func()) {
	pause = func() {
		t.Helper()
		wait.Freeze(t, d.cmd.Process.Pid)
	}
	resume = func() {
		t.Helper()
		wait.Must(t, d.cmd.Process.Signal(syscall.SIGCONT))
	}
	return pause, resume
}

func dialTCP(t *testing.T, port uint16) *net.TCPConn {
	t.Helper()
	conn, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func send(t *testing.T, conn *net.TCPConn, b []byte) {
	t.Helper()
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
}

// awaitNames waits until these names are registered, which are separated by spaces.
func awaitNames(t *testing.T, port uint16, want string) {
	t.Helper()
	wait.Until(t, fmt.Sprintf("%q registered", want), func() error {
		names, err := epmd.NewLocalClient(port).Names(t.Context())
		if err != nil {
			return err
		}
		var got []string
		for _, n := range names.Nodes {
			got = append(got, n.Name)
		}
		if strings.Join(got, " ") != want {
			return fmt.Errorf("got %q", got)
		}
		return nil
	})
}

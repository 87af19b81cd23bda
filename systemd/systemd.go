// Package systemd is what ties epmd to the service manager: the sockets and the state that it is started
// with, what it tells about itself, the connections that it leaves in the file descriptor store, and the
// journal. Outside of systemd all of this does nothing; replacing the program (Rehearse, HandOver) works
// anywhere.
//
// Inherit and TakesOver read the environment of the process, so they are to be called early, Inherit once.
// All else may be called concurrently. A Store and a Journal never block.
package systemd

import (
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Assignments for Notify; see sd_notify(3).
const (
	Ready    = daemon.SdNotifyReady
	Stopping = daemon.SdNotifyStopping
)

// Status returns the assignment for Notify that tells in one line how it goes.
func Status(text string) string {
	return "STATUS=" + strings.ReplaceAll(text, "\n", " ")
}

// notifyTime is how long the service manager may take to take a datagram.
const notifyTime = time.Second

// Notify tells the service manager something, if there is one that wants to know (NOTIFY_SOCKET). It waits for
// at most a second; go-systemd's SdNotify would wait for ever.
func Notify(assignments ...string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	defer conn.Close()
	conn.SetWriteDeadline(time.Now().Add(notifyTime))
	if _, err := conn.Write([]byte(strings.Join(assignments, "\n"))); err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	return nil
}

// tcpListener makes a listener of f, which it closes.
func tcpListener(f *os.File) (*net.TCPListener, error) {
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("socket %q from the service manager: %w", f.Name(), err)
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("socket %q from the service manager: %v, not TCP", f.Name(), l.Addr().Network())
	}
	return tcp, nil
}

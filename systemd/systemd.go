// Package systemd ties epmd to the service manager and the journal. It has the sockets and the
// state that epmd is started with, the file descriptor store that keeps connections, notifications,
// and the watchdog. Outside of systemd all of this does nothing. Replacing the program (Rehearse,
// HandOver) works anywhere.
//
// Inherit and TakesOver read the environment of the process. Call them early, and Inherit once. All
// else may be called concurrently. A Store and a Journal never block.
package systemd

import (
	"context"
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

// Status returns the assignment for Notify that describes the state in one line.
func Status(text string) string {
	return "STATUS=" + strings.ReplaceAll(text, "\n", " ")
}

// notifyTime is how long Notify waits for the service manager to take a datagram.
const notifyTime = time.Second

// Manager is the service manager that wants to know how this process is. A nil Manager is none: its
// methods do nothing and return nil.
type Manager struct{ socket string }

// NewManager returns the service manager of the environment (NOTIFY_SOCKET), or nil.
func NewManager() *Manager {
	if path := os.Getenv("NOTIFY_SOCKET"); path != "" {
		return &Manager{path}
	}
	return nil
}

// Notify sends assignments to the service manager. It waits for at most a second. SdNotify of
// go-systemd would wait for ever.
func (m *Manager) Notify(assignments ...string) error {
	if m == nil {
		return nil
	}
	return m.notify(context.Background(), notifyTime, assignments...)
}

// notify is Notify that waits for at most so long, and until ctx ends.
func (m *Manager) notify(ctx context.Context, patience time.Duration, assignments ...string) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := notifyOn(ctx, conn, assignments...); err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	return nil
}

// NotifyOn sends assignments to whoever has the other end of a connection, and closes it. It waits
// for at most a second.
func NotifyOn(conn net.Conn, assignments ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), notifyTime)
	defer cancel()
	return notifyOn(ctx, conn, assignments...)
}

func notifyOn(ctx context.Context, conn net.Conn, assignments ...string) error {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetWriteDeadline(time.Unix(1, 0)) })()
	_, err := conn.Write([]byte(strings.Join(assignments, "\n")))
	return err
}

// tcpListener makes a listener of f, and closes f.
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

package bus

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/test/wait"
)

// await waits for the sockets, and reports each failure.
func await(ctx context.Context, report func(error), sockets ...string) error {
	a := Address{name: "test", sockets: sockets}
	return a.Await(ctx, func() error {
		conn, err := a.Dial(ctx)
		if err == nil {
			conn.Close()
		}
		return err
	}, report)
}

// TestAwait makes the folders of a socket, and then the socket. The bus has two addresses: each of
// them may come.
func TestAwait(t *testing.T) {
	for which := range 2 {
		ctx := wait.Soon(t)
		sockets := []string{filepath.Join(t.TempDir(), "a", "b", "socket"), filepath.Join(t.TempDir(), "a", "b", "socket")}
		reports := make(chan error, 1000)
		done := make(chan error, 1)
		go func() { done <- await(ctx, func(err error) { reports <- err }, sockets...) }()
		<-reports
		if err := os.MkdirAll(filepath.Dir(sockets[which]), 0o755); err != nil {
			t.Fatal(err)
		}
		<-reports
		l, err := net.Listen("unix", sockets[which])
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := <-done; err != nil {
			t.Errorf("socket %d: %v", which, err)
		}
	}
}

// TestAwaitMeanwhile makes the folders of a socket and the socket while Await looks for them.
func TestAwaitMeanwhile(t *testing.T) {
	for range 300 {
		top := t.TempDir()
		socket := filepath.Join(top, "a", "b", "c", "d", "e", "f", "g", "h", "socket")
		done, begun := make(chan error, 1), make(chan struct{})
		ctx := wait.Soon(t)
		go func() {
			close(begun)
			done <- await(ctx, func(error) {}, socket)
		}()
		<-begun
		wait.Must(t, os.MkdirAll(filepath.Dir(socket), 0o755))
		l, err := net.Listen("unix", socket)
		wait.Must(t, err)
		wait.Must(t, <-done)
		l.Close()
		wait.Must(t, os.RemoveAll(top))
	}
}

// TestAwaitBound has a socket that listens late, beside one that is missing.
func TestAwaitBound(t *testing.T) {
	dir := t.TempDir()
	bound := filepath.Join(dir, "bound")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	wait.Must(t, err)
	defer unix.Close(fd)
	wait.Must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: bound}))
	tries := make(chan error, 1000)
	done := make(chan error, 1)
	ctx := wait.Soon(t)
	go func() { done <- await(ctx, func(err error) { tries <- err }, filepath.Join(dir, "missing"), bound) }()
	<-tries
	wait.Must(t, unix.Listen(fd, 1))
	wait.Must(t, <-done)
}

// TestAwaitAbsent holds that Await ends with its context, and tries once while nothing changes.
func TestAwaitAbsent(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	tries := 0
	err := await(ctx, func(error) { tries++ }, filepath.Join(t.TempDir(), "socket"))
	if err == nil || tries != 1 {
		t.Errorf("%v after %d tries, want 1", err, tries)
	}
}

// TestAwaitUnwatched has an abstract name, which Await tries again and again.
func TestAwaitUnwatched(t *testing.T) {
	ctx := wait.Soon(t)
	tries := make(chan error, 1000)
	done := make(chan error, 1)
	name := "@" + filepath.Join(t.TempDir(), "bus")
	go func() { done <- await(ctx, func(err error) { tries <- err }, name) }()
	for range 3 {
		<-tries
	}
	l, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestAwaitForLong has nobody make an abstract name for an hour. Await tries it every 2 s, and no
// more often later.
func TestAwaitForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		tries := 0
		a := Address{name: "test", sockets: []string{"@nobody"}}
		err := a.Await(ctx, func() error {
			if tries++; tries > 2000 {
				cancel()
			}
			return errors.New("nobody listens")
		}, func(error) {})
		if err == nil || tries < 1800 || tries > 1810 {
			t.Errorf("%d tries in an hour, %v; want 1 each 2 s", tries, err)
		}
	})
}

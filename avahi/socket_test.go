package avahi

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestDialWhenThere has the folders of a socket and then the socket come into being.
func TestDialWhenThere(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	path := filepath.Join(t.TempDir(), "a", "b", "socket")
	reports := make(chan error, 1000)
	done := make(chan error, 1)
	go func() {
		_, err := dialWhenThere(ctx, "unix:path="+path, func() (*client, error) {
			conn, err := net.Dial("unix", path)
			if err == nil {
				conn.Close()
			}
			return nil, err
		}, func(err error) { reports <- err })
		done <- err
	}()
	<-reports
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	<-reports
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestDialAbsent gives up when the context ends, and doesn't try again and again.
func TestDialAbsent(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	path := filepath.Join(t.TempDir(), "socket")
	tries := 0
	_, err := dialWhenThere(ctx, "unix:path="+path, func() (*client, error) {
		_, err := net.Dial("unix", path)
		return nil, err
	}, func(error) { tries++ })
	if err == nil || tries != 1 {
		t.Errorf("%v after %d tries, want 1", err, tries)
	}
}

func TestSocketPath(t *testing.T) {
	for address, want := range map[string]string{
		"unix:path=/run/dbus/system_bus_socket": "/run/dbus/system_bus_socket",
		"unix:path=/a;unix:path=/b":             "",
		"unix:abstract=a":                       "",
		"unix:path=/a%20b":                      "",
		"tcp:host=localhost":                    "",
	} {
		if got := socketPath(address); got != want {
			t.Errorf("socketPath(%q) is %q, want %q", address, got, want)
		}
	}
}

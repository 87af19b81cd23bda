package systemd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/registry"
)

func TestListenersNone(t *testing.T) {
	t.Setenv("LISTEN_PID", "1") // meant for another process
	t.Setenv("LISTEN_FDS", "1")
	if got, err := Inherit(slog.New(slog.DiscardHandler)); len(got.Listeners) > 0 || err != nil {
		t.Errorf("got %v, %v; want none", got, err)
	}
	if _, set := os.LookupEnv("LISTEN_FDS"); set {
		t.Error("LISTEN_FDS is still there")
	}
}

func TestListenerNotTCP(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "socket"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tcpListener(f); got != nil || err == nil || !strings.Contains(err.Error(), "not TCP") {
		t.Errorf("got %v, %v; want an error that says not TCP", got, err)
	}
}

func TestNotifyNobody(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	none := NewManager()
	alive := func(context.Context) error { return errors.New("asked") }
	if err := errors.Join(none.Notify(Ready, Status("a\nb")), none.KeepStatus(t.Context(), nil, nil, nil),
		none.Watchdog(t.Context(), alive, func(err error) { t.Error(err) })); none != nil || err != nil {
		t.Errorf("manager %v, %v; want none", none, err)
	}
}

// TestKeepStatus counts how often a status is asked for: once a second however much happens, and
// never while nothing does.
func TestKeepStatus(t *testing.T) {
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", manager.LocalAddr().String())
	synctest.Test(t, func(t *testing.T) {
		reg := registry.New("hosta.local", 10)
		asked := 0
		go NewManager().KeepStatus(t.Context(), reg, nil, func() string { asked++; return "fine" })
		time.Sleep(time.Hour)
		synctest.Wait()
		if asked != 1 {
			t.Errorf("asked %d times while nothing happened, want 1", asked)
		}
		for range 20 {
			r, err := reg.Register(registry.Node{Name: "a"})
			if err != nil {
				t.Fatal(err)
			}
			reg.Unregister(r)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if asked < 3 || asked > 5 {
			t.Errorf("asked %d times for 2 s of changes, want once a second", asked)
		}
	})
}

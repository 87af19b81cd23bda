package inotify

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/test/wait"
)

// TestWatch has files come. Those that count are reported, others are not.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	seen := make(chan Event, 2)
	w, err := New(func(e Event) bool {
		seen <- e
		return e.Name == "mine"
	})
	wait.Must(t, err)
	defer w.Close()
	wd, err := w.Add(dir, unix.IN_CREATE)
	wait.Must(t, err)
	for _, name := range []string{"another's", "mine"} {
		wait.Must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
		if e := <-seen; e != (Event{wd, unix.IN_CREATE, name}) {
			t.Errorf("got %+v", e)
		}
		if name != "mine" && len(w.Changed()) != 0 {
			t.Errorf("%s is reported", name)
		}
	}
	select {
	case <-w.Changed():
	case <-wait.Soon(t).Done():
		t.Error("nothing is reported")
	}
	if _, err := w.Add(filepath.Join(dir, "none"), unix.IN_CREATE); err != unix.ENOENT {
		t.Errorf("watching nothing: %v", err)
	}
}

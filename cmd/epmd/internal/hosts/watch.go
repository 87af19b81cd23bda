package hosts

import (
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/cmd/epmd/internal/inotify"
	"github.com/goerlang/eclus/cmd/epmd/internal/openat"
)

// fileWatch tells by inotify(7) when a file comes, goes, is replaced or is written to. It runs
// one goroutine until close. A nil one never tells.
type fileWatch struct {
	inotify *inotify.Watch

	mu    sync.Mutex
	names []string // last elements of the paths that are followed
}

const (
	folderEvents = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_ONLYDIR
	fileEvents   = unix.IN_CLOSE_WRITE | unix.IN_DONT_FOLLOW
)

func newFileWatch() (w *fileWatch, err error) {
	w = new(fileWatch)
	if w.inotify, err = inotify.New(w.concerns); err != nil {
		return nil, err
	}
	return w, nil
}

// changed returns a channel that yields after one or several changes.
func (w *fileWatch) changed() <-chan struct{} {
	if w == nil {
		return nil
	}
	return w.inotify.Changed()
}

func (w *fileWatch) close() {
	if w != nil {
		w.inotify.Close()
	}
}

// follow watches the file at the last of these places, and in their folders the names of all. It
// also watches files that are open and may have no name any more. What is followed already goes
// on being followed.
func (w *fileWatch) follow(places []*openat.Place, open []*os.File) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names = nil
	for _, p := range places {
		w.names = append(w.names, p.Name)
		_, _ = w.inotify.Add(pathOf(p.Folder()), folderEvents)
	}
	for _, f := range open {
		_, _ = w.inotify.Add(pathOf(f), unix.IN_MODIFY)
	}
	if len(places) > 0 {
		last := places[len(places)-1]
		_, _ = w.inotify.Add(pathOf(last.Folder())+"/"+last.Name, fileEvents)
	}
}

// pathOf returns a path that leads to an open file, wherever that is.
func pathOf(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// concerns reports whether an event is of a file that is followed.
func (w *fileWatch) concerns(e inotify.Event) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return e.Mask&unix.IN_IGNORED == 0 && (e.Name == "" || slices.Contains(w.names, e.Name))
}

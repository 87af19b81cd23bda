package nodesd

import (
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/cmd/epmd/internal/inotify"
)

// watch reports by inotify(7) when nodes files in folders come, go or change. A folder may come
// later. It runs one goroutine until close. A nil watch never reports anything.
type watch struct {
	inotify *inotify.Watch

	mu    sync.Mutex
	names map[int32]map[string]bool // by watch: what counts there; nil: nodes files
}

const (
	folderEvents = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_CLOSE_WRITE |
		unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	aboveEvents = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ATTRIB | unix.IN_ONLYDIR
)

func newWatch() (w *watch, err error) {
	w = &watch{names: make(map[int32]map[string]bool)}
	if w.inotify, err = inotify.New(w.concerns); err != nil {
		return nil, err
	}
	return w, nil
}

// changed returns a channel that yields after one or several changes.
func (w *watch) changed() <-chan struct{} {
	if w == nil {
		return nil
	}
	return w.inotify.Changed()
}

func (w *watch) close() {
	if w != nil {
		w.inotify.Close()
	}
}

// follow watches a folder. Where there is none yet, it watches the nearest folder above for what
// leads there. It is called again after each change.
func (w *watch) follow(folder string) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for range 8 { // it may come meanwhile
		if wd, err := w.inotify.Add(folder, folderEvents); err == nil {
			w.names[wd] = nil
			return
		}
		next := filepath.Base(folder)
		above := filepath.Dir(folder)
		wd, err := w.inotify.Add(above, aboveEvents|unix.IN_MASK_ADD)
		for err != nil && above != filepath.Dir(above) {
			next, above = filepath.Base(above), filepath.Dir(above)
			wd, err = w.inotify.Add(above, aboveEvents|unix.IN_MASK_ADD)
		}
		if err != nil {
			return
		}
		if all, known := w.names[wd]; !known {
			w.names[wd] = map[string]bool{next: true}
		} else if all != nil {
			all[next] = true
		}
		if _, err := os.Stat(filepath.Join(above, next)); err != nil {
			return
		}
	}
}

// concerns reports whether an event counts.
func (w *watch) concerns(e inotify.Event) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.Mask&unix.IN_IGNORED != 0 {
		delete(w.names, e.Watch)
		return true
	}
	all, known := w.names[e.Watch]
	return e.Mask&unix.IN_Q_OVERFLOW != 0 || e.Name == "" || known && all == nil && isNodesFile(e.Name) || all[e.Name]
}

package hosts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goerlang/eclus/test/wait"
)

// fileModel is what a hosts file must be, as lines.
type fileModel struct {
	exists  bool
	lines   []string
	pending []string // of people, added to a file that epmd has replaced
}

// write does as hostsFile.write. It reports whether it has replaced the file, and whether it can.
func (m *fileModel) write(lines []string) (replaced, ok bool) {
	if len(m.pending) > 0 {
		m.lines, m.exists, m.pending = append(m.lines, m.pending...), true, nil
	}
	was, existed := m.lines, m.exists
	from, to := slices.Index(was, World.begin), slices.Index(was, World.end)
	switch {
	case from < 0 && to < 0:
		m.lines = slices.Concat(was, []string{World.begin}, lines, []string{World.end})
	case from < 0 || to < from:
		return false, false
	default:
		m.lines = slices.Concat(was[:from+1], lines, was[to:])
	}
	m.exists = true
	return existed && !slices.Equal(m.lines, was), true
}

func (m *fileModel) text() string {
	if len(m.lines) == 0 {
		return ""
	}
	return strings.Join(m.lines, "\n") + "\n"
}

// fileRun does to a file what it does to the model.
type fileRun struct {
	t      *testing.T
	path   string
	file   *hostsFile
	model  fileModel
	held   *os.File // by a person, to append to
	isHeld string   // the file that it is: "current", "replaced" by epmd, or "" if it is lost
	count  int      // of people's lines
}

// line returns another line of people.
func (r *fileRun) line() string {
	r.count++
	return fmt.Sprintf("'person%d'.", r.count)
}

// put puts other lines there, as editors do.
func (r *fileRun) put(lines []string) {
	r.model.lines, r.model.exists = lines, true
	wait.Must(r.t, os.WriteFile(r.path+".mine", []byte(r.model.text()), 0o644))
	wait.Must(r.t, os.Rename(r.path+".mine", r.path))
	r.lose()
}

// lose notes that the file is not at its path any more, and epmd has not replaced it.
func (r *fileRun) lose() {
	if r.isHeld == "current" {
		r.isHeld = ""
	}
}

func (r *fileRun) hold() {
	if r.held != nil {
		r.held.Close()
	}
	file, err := os.OpenFile(r.path, os.O_WRONLY|os.O_APPEND, 0)
	wait.Must(r.t, err)
	r.held, r.isHeld = file, "current"
}

func (r *fileRun) appendHeld() {
	line := r.line()
	_, err := r.held.WriteString(line + "\n")
	wait.Must(r.t, err)
	switch r.isHeld {
	case "current":
		r.model.lines = append(r.model.lines, line)
	case "replaced":
		r.model.pending = append(r.model.pending, line)
	}
}

// link moves the file, and puts a link to it in its place.
func (r *fileRun) link() {
	if is, err := os.Lstat(r.path); err == nil && is.Mode().IsRegular() {
		wait.Must(r.t, errors.Join(os.Rename(r.path, r.path+".real"), os.Symlink(filepath.Base(r.path)+".real", r.path)))
	}
}

// write has epmd write a number of hosts, and compares.
func (r *fileRun) write(hosts int) {
	r.t.Helper()
	lines := manyHosts[:hosts]
	replaced, ok := r.model.write(lines)
	if replaced && r.isHeld == "current" {
		r.isHeld = "replaced"
	}
	if err := r.file.write(lines); (err == nil) != ok {
		r.t.Fatalf("got error %v, want one: %t", err, !ok)
	}
	if text, err := os.ReadFile(r.path); err != nil || string(text) != r.model.text() {
		r.t.Fatalf("got %q, %v; want %q", text, err, r.model.text())
	}
}

// do does what a byte says. What needs a file does nothing without one.
func (r *fileRun) do(b byte) {
	r.t.Helper()
	m := &r.model
	lines := slices.Clone(m.lines)
	switch what := b & 7; {
	case what <= 1:
		r.write(int(b>>3) % 4)
	case what == 2:
		line := r.line()
		m.lines, m.exists = append(m.lines, line), true
		wait.Must(r.t, add(r.path, []byte(line+"\n")))
	case !m.exists:
	case what == 3:
		r.put(append(lines, r.line()))
	case what == 4: // one line less, maybe one of epmd's
		if n := len(lines); n > 0 {
			i := int(b>>3) % n
			r.put(slices.Delete(lines, i, i+1))
		}
	case what == 5:
		r.hold()
	case what == 6 && b&8 == 0:
		r.link()
	case what == 6:
		wait.Must(r.t, os.Remove(r.path))
		m.lines, m.exists = nil, false
		r.lose()
	case r.held != nil:
		r.appendHeld()
	}
}

// FuzzHostsFile has people append to a file, replace, move and remove it, and hold it open, while
// epmd writes it. After each time that epmd does so, it is as the model has it.
func FuzzHostsFile(f *testing.F) {
	for _, ops := range []string{
		"\x08\x10\x00", "\x02\x08\x03\x10\x02\x00", "\x08\x05\x10\x07\x00\x07\x07\x08", "\x08\x05\x06\x10\x07\x08\x03\x08\x07\x08",
		"\x08\x04\x10\x0c\x10\x0e\x08", "\x08\x05\x0e\x07\x08", "\x08\x05\x10\x0e\x07\x08\x10", "\x02\x06\x08\x04\x08\x06\x10\x0e\x10",
	} {
		f.Add([]byte(ops))
	}
	f.Fuzz(func(t *testing.T, ops []byte) {
		path := filepath.Join(t.TempDir(), "hosts")
		r := &fileRun{t: t, path: path, file: &hostsFile{path: path, format: World}}
		defer r.file.close()
		for _, b := range ops[:min(len(ops), 64)] {
			r.do(b)
		}
		if r.held != nil {
			r.held.Close()
		}
		if _, err := os.Lstat(filepath.Join(filepath.Dir(path), ".hosts.epmd-new")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the temporary file: %v", err)
		}
	})
}

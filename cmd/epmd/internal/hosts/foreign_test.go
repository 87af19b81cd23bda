package hosts

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/cmd/epmd/internal/openat"
	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

const (
	stranger = 65533 // a user without a name, and his group
	mine     = "'mine'.\n"
)

// openTo returns a folder that every user can look into.
func openTo(t *testing.T) string {
	dir := t.TempDir()
	wait.Must(t, errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)))
	return dir
}

// asStranger does something as another user.
func asStranger(t *testing.T, do func() error) {
	t.Helper()
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		_ = unix.Setfsuid(stranger)
		failed <- do()
	}()
	wait.Must(t, <-failed)
}

// foreignTests say what is at hosts in a folder, and what must be wrong with it.
var foreignTests = []struct {
	name string
	path string
	make func() error // in the folder, as root
	mine func() error // as another user
	err  string       // in %q, the folder; empty: it is fine
}{
	{"file", "hosts", func() error {
		return errors.Join(os.WriteFile("hosts", []byte(mine), 0o644), os.Chown("hosts", stranger, 0))
	}, nil, "/hosts: it belongs to user 65533, neither to root nor to user 0"},
	{"folder", "his/hosts", func() error {
		return errors.Join(os.Mkdir("his", 0o755), os.Chown("his", stranger, 0))
	}, nil, "/his: it belongs to user 65533"},
	{"folder on the way", "his/root/hosts", func() error {
		return errors.Join(os.MkdirAll("his/root", 0o755), os.Chown("his", stranger, 0))
	}, nil, "/his: it belongs to user 65533"},
	{"link", "hosts", func() error {
		return errors.Join(os.Symlink("other", "hosts"), os.Lchown("hosts", stranger, 0))
	}, nil, "/hosts: it belongs to user 65533"},
	{"link on the way", "his/hosts", func() error {
		return errors.Join(os.Mkdir("root", 0o755), os.Symlink("root", "his"), os.Lchown("his", stranger, 0))
	}, nil, "/his: it belongs to user 65533"},
	{"link of root to what is another's", "hosts", func() error {
		return errors.Join(os.Mkdir("his", 0o755), os.Chown("his", stranger, 0), os.Symlink("his/hosts", "hosts"))
	}, nil, "/his: it belongs to user 65533"},
	{"folder of all", "all/hosts", func() error {
		return errors.Join(os.Mkdir("all", 0o777), os.Chmod("all", 0o777))
	}, nil, "/all: others may move what is in it (mode 777)"},
	{"folder of a group", "group/hosts", func() error {
		return errors.Join(os.Mkdir("group", 0o755), os.Chown("group", 0, stranger), os.Chmod("group", 0o775))
	}, nil, "/group: others may move what is in it (mode 775)"},
	{"folder of root's group", "group/hosts", func() error {
		return errors.Join(os.Mkdir("group", 0o755), os.Chmod("group", 0o775))
	}, nil, ""},
	{"sticky", "tmp/hosts", sticky, nil, ""},
	{"sticky, with another's file", "tmp/hosts", sticky, func() error {
		return os.WriteFile("tmp/hosts", []byte(mine), 0o666)
	}, "/tmp/hosts: it belongs to user 65533"},
	{"sticky, with another's file under the name of the new one", "tmp/hosts", sticky, func() error {
		return os.WriteFile("tmp/.hosts.epmd-new", []byte(mine), 0o666)
	}, ""},
	{"sticky, with another's link under the name of the new one", "tmp/hosts", sticky, func() error {
		return os.Symlink("../elsewhere", "tmp/.hosts.epmd-new")
	}, ""},
	{"sticky, with another's link", "tmp/hosts", sticky, func() error {
		return os.Symlink("../elsewhere", "tmp/hosts")
	}, "/tmp/hosts: it belongs to user 65533"},
	{"sticky, with a link of root, which others may have moved there", "tmp/hosts", func() error {
		return errors.Join(sticky(), os.Symlink("../elsewhere", "tmp/hosts"))
	}, nil, "/tmp/hosts: it is a link, and others may make files in "},
	{"sticky, with a second name of root's file", "tmp/hosts", func() error {
		return errors.Join(sticky(), os.Link("elsewhere", "tmp/hosts"))
	}, nil, "/tmp/hosts: it has another name, and others may make files in "},
}

func sticky() error {
	return errors.Join(os.Mkdir("tmp", 0o777), os.Chmod("tmp", 0o777|fs.ModeSticky))
}

// TestHostsFileForeign writes by what other users have, as root. The error names it and its owner,
// and nothing is written. In a sticky folder nothing but the file is.
func TestHostsFileForeign(t *testing.T) {
	need.Root(t)
	for _, tt := range foreignTests {
		t.Run(tt.name, func(t *testing.T) {
			dir := openTo(t)
			t.Chdir(dir)
			wait.Must(t, os.WriteFile("elsewhere", []byte(mine), 0o644))
			wait.Must(t, tt.make())
			if tt.mine != nil {
				asStranger(t, tt.mine)
			}
			path := filepath.Join(dir, tt.path)
			f := &hostsFile{path: path, format: World}
			defer f.close()
			for _, hosts := range [][]string{{"a.local"}, {"b.local"}} {
				if err := f.write(terms(hosts...)); tt.err == "" {
					wait.Must(t, err)
				} else if err == nil || !strings.Contains(err.Error(), dir+tt.err) {
					t.Errorf("got %v; want an error that names %s%s", err, dir, tt.err)
				}
			}
			if tt.err == "" {
				text, err := os.ReadFile(path)
				if want := blockBegin + "'b.local'.\n" + blockEnd; err != nil || string(text) != want {
					t.Errorf("got %q, %v; want %q", text, err, want)
				}
			}
			unwritten(t, dir, path, tt.err != "")
		})
	}
}

// unwritten holds that no file in a folder has lines of epmd, but the one at path if it may.
func unwritten(t *testing.T, dir, path string, refused bool) {
	t.Helper()
	wait.Must(t, filepath.WalkDir(dir, func(at string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || at == path && !refused {
			return err
		}
		if text, err := os.ReadFile(at); err != nil || string(text) != mine {
			t.Errorf("%s has %q, %v", at, text, err)
		}
		return nil
	}))
}

// TestCheckFolder has folders of other users refused before anything begins. What is at the path
// itself doesn't count.
func TestCheckFolder(t *testing.T) {
	need.Root(t)
	for _, tt := range foreignTests {
		t.Run(tt.name, func(t *testing.T) {
			dir := openTo(t)
			t.Chdir(dir)
			wait.Must(t, os.WriteFile("elsewhere", []byte(mine), 0o644))
			wait.Must(t, tt.make())
			if tt.mine != nil {
				asStranger(t, tt.mine)
			}
			at, what, _ := strings.Cut(tt.err, ": ")
			err := openat.CheckFolder(filepath.Join(dir, tt.path))
			if tt.err == "" || at == "/"+tt.path {
				wait.Must(t, err)
			} else if err == nil || !strings.HasPrefix(err.Error(), "folder \""+dir+at+"\": "+what) {
				t.Errorf("got %v; want an error that names %s%s", err, dir, tt.err)
			}
		})
	}
}

// TestHostsFileSwapped has another user put links in the place of folders while root writes by
// them. A folder is his own, one of root that he can move, and in a sticky folder. Root writes
// nothing elsewhere.
func TestHostsFileSwapped(t *testing.T) {
	need.Root(t)
	for name, mode := range map[string]fs.FileMode{"another's": 0o755, "root's, to be moved": 0o777, "another's, in a sticky one": 0o777 | fs.ModeSticky} {
		t.Run(name, func(t *testing.T) {
			dir := openTo(t)
			in, elsewhere := filepath.Join(dir, "in"), filepath.Join(dir, "elsewhere")
			wait.Must(t, errors.Join(os.Mkdir(in, 0o755), os.Chmod(in, mode), os.Mkdir(elsewhere, 0o755)))
			folder, link := filepath.Join(in, "folder"), filepath.Join(in, "link")
			if mode == 0o777 {
				wait.Must(t, os.Mkdir(folder, 0o755))
			} else if mode == 0o755 {
				wait.Must(t, os.Chown(in, stranger, 0))
			}
			asStranger(t, func() error {
				if mode == 0o777 {
					return os.Symlink(elsewhere, link)
				}
				return errors.Join(os.Mkdir(folder, 0o755), os.Symlink(elsewhere, link))
			})
			end := meanwhile(t, func() error {
				return unix.Renameat2(unix.AT_FDCWD, folder, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			})
			f := &hostsFile{path: filepath.Join(folder, "hosts"), format: World}
			tries := 0
			for ; tries < 500; tries++ {
				if err := f.write(terms("a.local")); err == nil {
					t.Error("written")
				}
			}
			swaps := end()
			f.close()
			t.Logf("%d tries to write, %d swaps", tries, swaps)
			if swaps == 0 {
				t.Error("nothing was swapped")
			}
			if entries, err := os.ReadDir(elsewhere); err != nil || len(entries) > 0 {
				t.Errorf("elsewhere there is %v, %v", entries, err)
			}
		})
	}
}

// meanwhile has another user do something over and over, until end. That returns how often he did.
func meanwhile(t *testing.T, do func() error) (end func() int) {
	times, ended := 0, make(chan struct{})
	var doing sync.WaitGroup
	doing.Go(func() {
		asStranger(t, func() error {
			for {
				select {
				case <-ended:
					return nil
				default:
				}
				if err := do(); err != nil {
					return err
				}
				times++
			}
		})
	})
	return func() int {
		close(ended)
		doing.Wait()
		return times
	}
}

// TestHostsFileLinked has links of another user come and go in a sticky folder, at the file and at
// the one that is to take its place. Root writes the file there whenever it can, and nothing else.
func TestHostsFileLinked(t *testing.T) {
	need.Root(t)
	dir := openTo(t)
	t.Chdir(dir)
	wait.Must(t, errors.Join(sticky(), os.WriteFile("elsewhere", []byte(mine), 0o644)))
	path := filepath.Join(dir, "tmp", "hosts")
	links, deadline := 0, time.Now().Add(wait.Patience)
	end := meanwhile(t, func() error {
		for _, name := range []string{path, filepath.Join(dir, "tmp", ".hosts.epmd-new")} {
			if os.Symlink("../elsewhere", name) == nil {
				links++
			}
			_ = os.Remove(name)
		}
		return nil
	})
	f := &hostsFile{path: path, format: World}
	written, refused := 0, 0
	for (written < 20 || refused < 20) && time.Now().Before(deadline) {
		for _, hosts := range [][]string{{"a.local"}, {"b.local"}} {
			if err := f.write(terms(hosts...)); err != nil {
				refused++
				continue
			}
			written++
			if text, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(text), blockBegin) {
				t.Errorf("got %q, %v", text, err)
			}
		}
		if is, err := os.Lstat(path); err == nil && owner(is)[0] == 0 {
			wait.Must(t, os.Remove(path))
		}
	}
	end()
	f.close()
	t.Logf("%d links; %d times written, %d refused", links, written, refused)
	if written < 20 || refused < 20 {
		t.Error("too few to show anything")
	}
	if text, err := os.ReadFile("elsewhere"); err != nil || string(text) != mine {
		t.Errorf("elsewhere is %q, %v", text, err)
	}
}

// TestHostsFileOpen holds that nothing stays open but what is looked after.
func TestHostsFileOpen(t *testing.T) {
	dir := t.TempDir()
	wait.Must(t, errors.Join(os.MkdirAll(dir+"/a/b", 0o755), os.Symlink("a/b/hosts", dir+"/link"), os.Symlink("self", dir+"/self"), os.Symlink("link/x", dir+"/lost")))
	before := openFiles(t)
	for _, name := range []string{"link", "self", "lost", "a/b/hosts", "a", "none/x"} {
		f := &hostsFile{path: filepath.Join(dir, name), format: World}
		for _, hosts := range []string{"a.local", "b.local"} {
			_ = f.write(terms(hosts))
			_ = openat.CheckFolder(f.path)
			places, _ := f.watched()
			openat.CloseAll(places)
			_, _ = f.listed()
		}
		f.close()
	}
	if now := openFiles(t); now != before {
		t.Errorf("%d files are open, %d were before", now, before)
	}
}

func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	wait.Must(t, err)
	return len(entries)
}

// Package openat finds, reads and writes files where other users may be at work. It opens each
// folder on the way in the one before (openat(2)), and keeps the last one open. So nobody can lead
// it elsewhere meanwhile. What another user owns is refused, by path and owner.
package openat

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links there may be on the way to a file, as the kernel has it.
const maxLinks = 40

// folder is one that is held open. Nobody can put another in its place.
type folder struct {
	file   *os.File // opened with O_PATH
	path   string   // by which it was found, without links
	shared bool     // others may make files in it
}

// Place is where a file is, or is to be. The folder is held open until Close.
type Place struct {
	Name  string // of the file in its folder
	dir   *folder
	trust trust
}

// ErrMeanwhile says that somebody else has put something there since the place was found.
var ErrMeanwhile = errors.New("somebody else is replacing it")

// trust is whose files and folders count as not another's.
type trust struct {
	users  []uint32 // root, the user of epmd, and whoever has the root folder
	groups []uint32 // the same
}

// trustOf returns whom to trust where the root folder has that owner and group. In a user
// namespace without root, that stands for root.
func trustOf(root *unix.Stat_t) trust {
	return trust{
		users:  []uint32{0, uint32(os.Geteuid()), root.Uid},
		groups: []uint32{0, uint32(os.Getegid()), root.Gid},
	}
}

// checkOwner returns an error if another user has something.
func (t trust) checkOwner(of *unix.Stat_t) error {
	if slices.Contains(t.users, of.Uid) {
		return nil
	}
	return fmt.Errorf("it belongs to %s, neither to root nor to %s", userName(of.Uid), userName(t.users[1]))
}

func userName(uid uint32) string {
	number := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(number); err == nil {
		return fmt.Sprintf("user %s (%q)", number, u.Username)
	}
	return "user " + number
}

// isShared reports whether others may make files in a folder.
func (t trust) isShared(folder *unix.Stat_t) bool {
	const byGroup, byAll = 0o020, 0o002
	return folder.Mode&byAll != 0 || folder.Mode&byGroup != 0 && !slices.Contains(t.groups, folder.Gid)
}

// checkFolder returns an error if another user has a folder, or may move what is in it.
func (t trust) checkFolder(is *unix.Stat_t) error {
	if err := t.checkOwner(is); err != nil {
		return err
	}
	if t.isShared(is) && is.Mode&unix.S_ISVTX == 0 {
		return fmt.Errorf("others may move what is in it (mode %03o)", is.Mode&0o7777)
	}
	return nil
}

// way is how a path is gone, one name after the other, each in the folder that was found before.
type way struct {
	trust  trust
	at     *folder
	rest   []string // names that are left
	links  int      // that were followed
	places []*Place // of the path and of the links at its end
	found  bool     // the last of these is no link
}

// Find goes the way of an absolute path, whether there is a file at its end or not. It
// returns where the path ends. If there is a symbolic link, where that leads comes next, and so
// on. So the last place is the file's. With an error it returns the places that it has found. The
// caller closes them.
//
// The way leads through no folder and no link of users other than root and epmd's own. A folder
// in which others may make files must be a sticky one, and no link in it is followed.
func Find(path string) ([]*Place, error) {
	root, is, err := openPath(unix.AT_FDCWD, "/", "/")
	if err != nil {
		return nil, err
	}
	w := &way{trust: trustOf(is), at: &folder{file: root, path: "/"}, rest: names(path)}
	for err == nil && !w.found {
		err = w.step()
	}
	w.leave()
	return w.places, err
}

// FindLast is Find for the last place alone: where the file is, or is to be.
func FindLast(path string) (*Place, error) {
	places, err := Find(path)
	if err != nil {
		CloseAll(places)
		return nil, err
	}
	last := places[len(places)-1]
	for _, p := range places {
		if p.dir != last.dir {
			p.Close()
		}
	}
	return last, nil
}

// names returns the elements of a path. It leaves ".." as it is: that depends on links.
func names(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" || s == "." })
}

// step goes on by one name.
func (w *way) step() error {
	if len(w.rest) == 0 {
		return &fs.PathError{Op: "open", Path: w.at.path, Err: unix.EISDIR}
	}
	name := w.rest[0]
	w.rest = w.rest[1:]
	here := path.Join(w.at.path, name)
	if err := w.enter(name, here); err != nil {
		return &fs.PathError{Op: "open", Path: here, Err: err}
	}
	return nil
}

// enter goes into a folder, or by a symbolic link, or finds where the path ends.
func (w *way) enter(name, here string) error {
	isLast := len(w.rest) == 0 && name != ".."
	if isLast {
		w.places = append(w.places, &Place{name, w.at, w.trust})
	}
	file, is, err := openPath(int(w.at.file.Fd()), name, here)
	if isLast && err == unix.ENOENT {
		w.found = true
		return nil
	}
	if err != nil {
		return err
	}
	switch is.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		defer file.Close()
		return w.follow(file, is)
	case unix.S_IFDIR:
		if !isLast {
			w.leave()
			w.at = &folder{file, here, w.trust.isShared(is)}
			return w.trust.checkFolder(is)
		}
	}
	file.Close()
	if w.found = isLast; !isLast {
		return unix.ENOTDIR
	}
	return nil
}

// follow goes on by a symbolic link.
func (w *way) follow(link *os.File, is *unix.Stat_t) error {
	if err := w.trust.checkOwner(is); err != nil {
		return err
	}
	if w.at.shared {
		return fmt.Errorf("it is a link, and others may make files in %q", w.at.path)
	}
	if w.links++; w.links > maxLinks {
		return unix.ELOOP
	}
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(link.Fd()), "", target)
	if err != nil {
		return err
	}
	if to := string(target[:n]); !path.IsAbs(to) {
		w.rest = append(names(to), w.rest...)
		return nil
	}
	root, _, err := openPath(unix.AT_FDCWD, "/", "/")
	if err != nil {
		return err
	}
	w.leave()
	w.at = &folder{file: root, path: "/"}
	w.rest = append(names(string(target[:n])), w.rest...)
	return nil
}

// leave closes the folder if no place is in it.
func (w *way) leave() {
	if !slices.ContainsFunc(w.places, func(p *Place) bool { return p.dir == w.at }) {
		w.at.file.Close()
	}
}

// openPath opens what is called name in a folder, to look at it. It doesn't follow a link.
func openPath(folder int, name, path string) (*os.File, *unix.Stat_t, error) {
	fd, err := openat(folder, name, unix.O_PATH, 0)
	if err != nil {
		return nil, nil, err
	}
	is := new(unix.Stat_t)
	if err := unix.Fstat(fd, is); err != nil {
		unix.Close(fd)
		return nil, nil, err
	}
	return os.NewFile(uintptr(fd), path), is, nil
}

// openat follows no link, and waits neither for a FIFO nor for whoever has a lease on a file.
func openat(folder int, name string, flags int, mode fs.FileMode) (fd int, err error) {
	for {
		fd, err = unix.Openat(folder, name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, uint32(mode.Perm()))
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// Path returns the path by which the place was found, without links.
func (p *Place) Path() string { return path.Join(p.dir.path, p.Name) }

// Folder returns the folder, opened with O_PATH. It is closed with p.
func (p *Place) Folder() *os.File { return p.dir.file }

// Close closes the folder.
func (p *Place) Close() { p.dir.file.Close() }

// CloseAll closes the folders of places.
func CloseAll(places []*Place) {
	for _, p := range places {
		p.Close()
	}
}

// Beside returns the place of another file in the folder. It is closed with p.
func (p *Place) Beside(name string) *Place { return &Place{name, p.dir, p.trust} }

// Open opens the file. It must be a regular one that no other user has. In a folder where others
// may make files it may have no other name: that can be anywhere. The error is ErrMeanwhile if
// there is a link, which was not there when the place was found.
func (p *Place) Open(flags int, mode fs.FileMode) (*os.File, error) {
	fd, err := openat(int(p.dir.file.Fd()), p.Name, flags, mode)
	if err == unix.ELOOP {
		return nil, ErrMeanwhile
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: p.Path(), Err: err}
	}
	file := os.NewFile(uintptr(fd), p.Path())
	if err := p.check(file); err != nil {
		file.Close()
		return nil, &fs.PathError{Op: "open", Path: p.Path(), Err: err}
	}
	return file, nil
}

func (p *Place) check(file *os.File) error {
	var is unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &is); err != nil {
		return err
	}
	if is.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("not a regular file")
	}
	if err := p.trust.checkOwner(&is); err != nil {
		return err
	}
	if p.dir.shared && is.Nlink > 1 {
		return fmt.Errorf("it has another name, and others may make files in %q", p.dir.path)
	}
	return nil
}

// Create makes a file that is not there yet.
func (p *Place) Create(mode fs.FileMode) (*os.File, error) {
	fd, err := openat(int(p.dir.file.Fd()), p.Name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, mode)
	if err != nil {
		return nil, &fs.PathError{Op: "create", Path: p.Path(), Err: err}
	}
	return os.NewFile(uintptr(fd), p.Path()), nil
}

// Remove removes what is there, unless it is a folder.
func (p *Place) Remove() error {
	if err := unix.Unlinkat(int(p.dir.file.Fd()), p.Name, 0); err != nil && err != unix.ENOENT {
		return &fs.PathError{Op: "remove", Path: p.Path(), Err: err}
	}
	return nil
}

// RenameTo gives what is there the name of another place in its folder; see renameat2(2).
func (p *Place) RenameTo(to *Place, flags uint) error {
	return unix.Renameat2(int(p.dir.file.Fd()), p.Name, int(to.dir.file.Fd()), to.Name, flags)
}

// Sync has the folder survive a loss of power as it is.
func (p *Place) Sync() error {
	fd, err := openat(int(p.dir.file.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: p.dir.path, Err: err}
	}
	dir := os.NewFile(uintptr(fd), p.dir.path)
	defer dir.Close()
	return dir.Sync()
}

// CheckFolder returns an error if a file at an absolute path can't be made for want of a folder,
// or because another user has one on the way. What is at the path doesn't matter: in a folder such
// as /tmp, anybody could keep epmd from beginning by it.
func CheckFolder(path string) error {
	places, err := Find(path)
	defer CloseAll(places)
	at, ok := err.(*fs.PathError)
	if !ok {
		return err
	}
	if n := len(places); n > 0 && places[n-1].Path() == at.Path {
		return nil
	}
	return fmt.Errorf("folder %q: %w", at.Path, at.Err)
}

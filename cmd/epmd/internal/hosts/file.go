package hosts

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The lines around what epmd keeps of a hosts file. All other lines belong to people.
const (
	hostsBegin = "%% epmd keeps the lines from here"
	hostsEnd   = "%% to here: hosts of the local network that have nodes"
)

const (
	maxHostsFile  = 1 << 20 // bytes
	hostsFileMode = 0o644   // of a new one: it is there to be read
)

// hostsFile is a .hosts.erlang, which tells net_adm:world/0 where nodes may be. It has one host
// a line as an Erlang term, and comments (OTP, net_adm(3erl)). It is for one goroutine.
type hostsFile struct {
	path     string
	replaced []*replacedFile // the latest last
}

const (
	replacedFor = 10 * time.Second // that each file is looked after that has been replaced
	minReplaced = 16               // of them that are looked after in any case
	maxReplaced = 128              // at most: four times what is replaced in that time
	maxTries    = 10               // to replace a file that others replace at the same time
	maxLinks    = 40               // as the kernel has it
)

// errMeanwhile says that somebody else has replaced the file since it was read.
var errMeanwhile = errors.New("somebody else is replacing it")

// write has the file name these hosts, sorted, between the lines of epmd. If there is no file,
// it makes one. Whoever reads the file meanwhile, or after a crash, finds the old or the new
// one. The new one is made beside it, under a fixed name that the next write takes too. Then it
// is put in its place. It keeps mode and owner. Where the file is a symbolic link, its target
// is replaced or made. A file that is right already is left alone. So is one that can't be
// understood.
//
// What others write meanwhile is kept. A file that they put there is read anew. What they add
// to a file that was replaced is added to the new one, by this call or the next. On a full disk
// no new file can be made. Then hosts that are not to be named are struck out in the old one.
func (f *hostsFile) write(hosts []string) error {
	for range maxTries {
		late := f.takeOver()
		changed, err := f.update(hosts)
		if err = errors.Join(late, err); err != nil || !changed {
			return err
		}
	}
	return fmt.Errorf("write hosts file %q: %w", f.path, errMeanwhile)
}

// update replaces the file if it is not right. It reports whether something has changed since
// the file was read.
func (f *hostsFile) update(hosts []string) (changed bool, err error) {
	path, was, err := f.read()
	if err != nil {
		return false, err
	}
	text, err := withHosts(was.content(), hosts)
	if err != nil || was != nil && bytes.Equal(text, was.text) {
		was.close()
	} else if err = f.replace(path, text, was); err == nil || errors.Is(err, errMeanwhile) {
		return true, nil
	} else {
		err = errors.Join(err, was.strikeOut(path, hosts))
	}
	if err != nil {
		err = fmt.Errorf("write hosts file %q: %w", path, err)
	}
	return false, err
}

// replacedFile is a file that was replaced. Others may still write to it.
type replacedFile struct {
	file  *os.File // open for reading
	text  []byte   // what of it is in the new file
	since time.Time
}

// keep remembers a file that has been replaced, and forgets older ones.
func (f *hostsFile) keep(r *replacedFile) {
	f.replaced = append(f.replaced, r)
	for len(f.replaced) > minReplaced && (time.Since(f.replaced[0].since) > replacedFor || len(f.replaced) > maxReplaced) {
		f.replaced[0].file.Close()
		f.replaced = slices.Delete(f.replaced, 0, 1)
	}
}

// takeOver adds to the file what others have added to those that it has replaced. They had
// opened them before, or had put them there just then. One that they have written anew takes
// the file's place.
func (f *hostsFile) takeOver() error {
	for _, r := range f.replaced {
		now, err := io.ReadAll(io.NewSectionReader(r.file, 0, maxHostsFile))
		if err != nil || bytes.Equal(now, r.text) {
			continue
		}
		added, isLonger := bytes.CutPrefix(now, r.text)
		if isLonger {
			err = appendFile(f.path, added)
		} else {
			err = f.putBack(now)
		}
		if err != nil {
			return fmt.Errorf("write hosts file %q: %w", f.path, err)
		}
		r.text = now
	}
	return nil
}

// appendFile adds to a file, as others do.
func appendFile(path string, text []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, hostsFileMode)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	return errors.Join(err, file.Close())
}

// putBack puts a text in the place of the file.
func (f *hostsFile) putBack(text []byte) error {
	path, was, err := f.read()
	if err != nil {
		return err
	}
	return f.replace(path, text, was)
}

// close forgets the files that have been replaced.
func (f *hostsFile) close() {
	for _, r := range f.replaced {
		r.file.Close()
	}
	f.replaced = nil
}

// CheckFolder returns an error if a file at path can't be made for want of a folder.
func CheckFolder(path string) error {
	path, err := followLinks(path, func(string) {})
	folder := filepath.Dir(path)
	if err == nil {
		var info fs.FileInfo
		if info, err = os.Stat(folder); err == nil && !info.IsDir() {
			err = syscall.ENOTDIR
		}
	}
	if err != nil {
		var without *fs.PathError
		if errors.As(err, &without) {
			err = without.Err // the call and the path are said already
		}
		return fmt.Errorf("folder %q: %w", folder, err)
	}
	return nil
}

// watched returns the paths on the way to the file, the file's own last. It also returns the
// files that it has replaced.
func (f *hostsFile) watched() (paths []string, open []*os.File) {
	_, _ = followLinks(f.path, func(path string) { paths = append(paths, path) })
	for _, r := range f.replaced {
		open = append(open, r.file)
	}
	return paths, open
}

// listed returns what the file names between the lines of epmd, as it stands there.
func (f *hostsFile) listed() ([]byte, error) {
	_, was, err := f.read()
	if err != nil {
		return nil, err
	}
	defer was.close()
	text := was.content()
	b, err := findHosts(text)
	return text[b.from:b.to], err
}

// read returns the file and where it really is. It returns nil if there is none.
func (f *hostsFile) read() (path string, was *foundFile, err error) {
	path, err = followLinks(f.path, func(string) {})
	if err == nil {
		if was, err = readRegular(path); errors.Is(err, fs.ErrNotExist) {
			return path, nil, nil
		}
	}
	if err != nil {
		return "", nil, fmt.Errorf("read hosts file %q: %w", f.path, err)
	}
	return path, was, nil
}

// followLinks returns where a path leads, whether there is a file or not. It calls visit for
// each path on the way. With an error it returns the path that has no folder.
func followLinks(path string, visit func(string)) (string, error) {
	for range maxLinks {
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			return path, err
		}
		path = filepath.Join(dir, filepath.Base(path))
		visit(path)
		target, err := os.Readlink(path)
		if err != nil { // it is no link, or not there
			return path, nil
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		}
		path = target
	}
	return path, syscall.ELOOP
}

// foundFile is a file as it was found. A nil one stands for none.
type foundFile struct {
	file *os.File // open for reading
	info fs.FileInfo
	text []byte
}

func (f *foundFile) content() []byte {
	if f == nil {
		return nil
	}
	return f.text
}

func (f *foundFile) close() {
	if f != nil {
		f.file.Close()
	}
}

// readRegular reads a regular file of at most maxHostsFile bytes. It does not wait for a FIFO.
func readRegular(path string) (*foundFile, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	var text []byte
	if err == nil {
		text, err = io.ReadAll(io.LimitReader(file, maxHostsFile+1))
	}
	if err == nil && len(text) > maxHostsFile {
		err = fmt.Errorf("larger than %d bytes", maxHostsFile)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return &foundFile{file, info, text}, nil
}

// strikeOut makes comments of the lines of epmd that name other hosts than these. That takes
// one byte each, and no place on the disk. Whoever reads the file finds each line as it was, or
// struck out.
func (f *foundFile) strikeOut(path string, hosts []string) error {
	if f == nil {
		return nil
	}
	b, err := findHosts(f.text)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !os.SameFile(info, f.info) {
		return cmp.Or(err, errMeanwhile)
	}
	at := int64(b.from)
	for line := range bytes.Lines(f.text[b.from:b.to]) {
		first := byte('%')
		if host, isHost := strings.CutSuffix(string(line[1:]), "'.\n"); isHost && slices.Contains(hosts, host) {
			first = '\''
		}
		if line[0] != first && (line[0] == '\'' || line[0] == '%') {
			if _, err := file.WriteAt([]byte{first}, at); err != nil {
				return err
			}
		}
		at += int64(len(line))
	}
	return file.Sync()
}

// withHosts returns a hosts file that names these hosts between the lines of epmd. If there are
// no such lines, it adds them at the end. Nothing else is changed.
func withHosts(old []byte, hosts []string) ([]byte, error) {
	b, err := findHosts(old)
	if err != nil {
		return nil, err
	}
	text := slices.Clone(old[:b.from])
	if !b.found {
		text = append(endLine(text), hostsBegin+"\n"...)
	}
	for _, host := range hosts {
		text = fmt.Appendf(text, "'%s'.\n", host)
	}
	if !b.found {
		text = append(text, hostsEnd+"\n"...)
	}
	return append(text, old[b.to:]...), nil
}

// endLine ends the last line of a text if it isn't.
func endLine(text []byte) []byte {
	if len(text) > 0 && text[len(text)-1] != '\n' {
		return append(text, '\n')
	}
	return text
}

// hostsBlock is where a hosts file has the hosts that epmd names.
type hostsBlock struct {
	from, to int  // after the line that begins it, and where the line begins that ends it
	found    bool // otherwise both are the size of the file
}

// findHosts finds what epmd keeps of a hosts file. The two lines around it must be there once
// each and in order. Else someone has edited them, which is an error.
func findHosts(text []byte) (hostsBlock, error) {
	var begins, ends []int
	b := hostsBlock{from: len(text), to: len(text)}
	at := 0
	for line := range bytes.Lines(text) {
		switch strings.TrimRight(string(line), " \t\r\n") {
		case hostsBegin:
			begins = append(begins, at)
			b.from = at + len(line)
		case hostsEnd:
			ends = append(ends, at)
			b.to = at
		}
		at += len(line)
	}
	b.found = len(begins) == 1
	if len(begins) != len(ends) || len(begins) > 1 || b.from > b.to {
		return hostsBlock{}, fmt.Errorf("the lines %q and %q must be there once each, in this order, or not at all", hostsBegin, hostsEnd)
	}
	return b, nil
}

// replace puts a file in the place of path. was was found there; nil: nothing. replace closes
// was. The error is errMeanwhile if something else is there by now that can't be replaced.
func (f *hostsFile) replace(path string, text []byte, was *foundFile) error {
	defer was.close()
	dir, name := filepath.Split(path)
	temporary := filepath.Join(dir, "."+strings.TrimPrefix(name, ".")+".epmd-new")
	if err := makeFile(temporary, text, was); err != nil {
		return err
	}
	taken, err := exchange(temporary, path, was)
	_ = os.Remove(temporary) // what was there, or what could not be put there
	if err != nil {
		return err
	}
	if taken != nil { // it may be another one than was, but was is what is known of it
		f.keep(&replacedFile{file: taken, text: was.text, since: time.Now()})
	}
	return syncDir(filepath.Dir(path))
}

// makeFile makes a file like the one that it is to replace.
func makeFile(path string, text []byte, was *foundFile) error {
	// An epmd that was killed may have left it.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err = errors.Join(err, likeBefore(file, was), file.Sync(), file.Close()); err != nil {
		_ = os.Remove(path)
	}
	return err
}

// exchange puts a temporary file in the place of path. What is there takes the place of the
// temporary file, and is returned, open for reading. If was is nil nothing is to be there. File
// systems that can't exchange files replace was.
func exchange(temporary, path string, was *foundFile) (taken *os.File, err error) {
	flags := uint(unix.RENAME_EXCHANGE)
	if was == nil {
		flags = unix.RENAME_NOREPLACE
	}
	rename := func() error { return unix.Renameat2(unix.AT_FDCWD, temporary, unix.AT_FDCWD, path, flags) }
	switch err := rename(); err {
	case nil:
	case unix.EINVAL, unix.ENOSYS:
		return nil, os.Rename(temporary, path)
	case unix.EEXIST, unix.ENOENT:
		return nil, errMeanwhile
	default:
		return nil, err
	}
	if was == nil {
		return nil, nil
	}
	taken, err = os.OpenFile(temporary, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err == nil {
		return taken, nil
	}
	return nil, errors.Join(errMeanwhile, rename()) // somebody has put a link there
}

// likeBefore gives a new file the mode and owner of the old one.
func likeBefore(file *os.File, found *foundFile) error {
	if found == nil {
		return file.Chmod(hostsFileMode)
	}
	info := found.info
	if was := info.Sys().(*syscall.Stat_t); int(was.Uid) != os.Geteuid() || int(was.Gid) != os.Getegid() {
		if err := file.Chown(int(was.Uid), int(was.Gid)); err != nil {
			return err
		}
	}
	return file.Chmod(info.Mode().Perm())
}

// syncDir has a directory survive a loss of power as it is.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

package hosts

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/cmd/epmd/internal/openat"
)

const (
	maxHostsFile  = 2 << 20 // bytes
	maxLines      = 1 << 20 // bytes in lines of epmd
	hostsFileMode = 0o644   // of a new one: it is there to be read
)

// hostsFile is a file of which epmd keeps some lines. It is for one goroutine.
type hostsFile struct {
	path     string
	format   *Format
	replaced []*replacedFile // the latest last
}

const (
	replacedFor = 10 * time.Second // that each file is looked after that has been replaced
	minReplaced = 16               // of them that are looked after in any case
	maxReplaced = 128              // at most: four times what is replaced in that time
	maxTries    = 10               // to replace a file that others replace at the same time
)

// write has the file hold these lines between the comments of epmd. If there is no file, it
// makes one. Whoever reads the file meanwhile, or after a crash, finds the old or the new
// one. The new one is made beside it, under a fixed name that the next write takes too. Then it
// is put in its place. It keeps mode and owner. Where the file is a symbolic link, its target
// is replaced or made. A file that is right already is left alone. So is one that can't be
// understood. What another user has, file, link or folder, is an error; see package openat.
//
// What others write meanwhile is kept. A file that they put there is read anew. What they add
// to a file that was replaced is added to the new one, by this call or the next. On a full disk
// no new file can be made. Then lines that are not to be there are struck out in the old one.
func (f *hostsFile) write(lines []string) error {
	for range maxTries {
		late := f.takeOver()
		changed, err := f.update(lines)
		if err = errors.Join(late, err); err != nil || !changed {
			return err
		}
	}
	return fmt.Errorf("write hosts file %q: %w", f.path, openat.ErrMeanwhile)
}

// update replaces the file if it is not right. It reports whether something has changed since
// the file was read.
func (f *hostsFile) update(lines []string) (changed bool, err error) {
	p, was, err := f.read()
	if errors.Is(err, openat.ErrMeanwhile) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer p.Close()
	text, err := f.format.with(was.content(), lines)
	if err != nil || was != nil && bytes.Equal(text, was.text) {
		was.close()
	} else if err = f.replace(p, text, was); err == nil || errors.Is(err, openat.ErrMeanwhile) {
		return true, nil
	} else {
		err = errors.Join(err, was.strikeOut(p, f.format, lines))
	}
	if err != nil {
		err = fmt.Errorf("write hosts file %q: %w", p.Path(), err)
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
			err = f.append(added)
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

// append adds to the file, as others do.
func (f *hostsFile) append(text []byte) error {
	p, err := openat.FindLast(f.path)
	if err != nil {
		return err
	}
	defer p.Close()
	file, err := p.Open(os.O_WRONLY|os.O_APPEND|os.O_CREATE, hostsFileMode)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	return errors.Join(err, file.Close())
}

// putBack puts a text in the place of the file.
func (f *hostsFile) putBack(text []byte) error {
	p, was, err := f.read()
	if err != nil {
		return err
	}
	defer p.Close()
	return f.replace(p, text, was)
}

// close forgets the files that have been replaced.
func (f *hostsFile) close() {
	for _, r := range f.replaced {
		r.file.Close()
	}
	f.replaced = nil
}

// watched returns the places on the way to the file, the file's own last. It also returns the
// files that it has replaced. The caller closes the places.
func (f *hostsFile) watched() (places []*openat.Place, open []*os.File) {
	places, _ = openat.Find(f.path)
	for _, r := range f.replaced {
		open = append(open, r.file)
	}
	return places, open
}

// listed returns the lines of epmd, as they stand there.
func (f *hostsFile) listed() ([]byte, error) {
	p, was, err := f.read()
	if err != nil {
		return nil, err
	}
	defer p.Close()
	defer was.close()
	text := was.content()
	b, err := f.format.find(text)
	return text[b.from:b.to], err
}

// read returns the file and its place. It returns nil in place of the file if there is none. The
// caller closes both.
func (f *hostsFile) read() (p *openat.Place, was *foundFile, err error) {
	p, err = openat.FindLast(f.path)
	if err == nil {
		if was, err = readFile(p); errors.Is(err, fs.ErrNotExist) {
			return p, nil, nil
		}
		if err != nil {
			p.Close()
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read hosts file %q: %w", f.path, err)
	}
	return p, was, nil
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

// readFile reads a file of at most maxHostsFile bytes.
func readFile(p *openat.Place) (*foundFile, error) {
	file, err := p.Open(os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
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

// strikeOut makes comments of the lines of epmd other than these. That takes one byte each, and
// no place on the disk. Whoever reads the file finds each line as it was, or struck out.
func (f *foundFile) strikeOut(p *openat.Place, is *Format, lines []string) error {
	if f == nil {
		return nil
	}
	b, err := is.find(f.text)
	if err != nil {
		return err
	}
	file, err := p.Open(os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !os.SameFile(info, f.info) {
		return cmp.Or(err, openat.ErrMeanwhile)
	}
	listed := make(map[string]bool)
	for _, line := range lines {
		listed[line[1:]] = true
	}
	at := int64(b.from)
	for line := range bytes.Lines(f.text[b.from:b.to]) {
		first := is.struck
		if listed[strings.TrimSuffix(string(line[1:]), "\n")] {
			first = is.lead
		}
		if line[0] != first && (line[0] == is.lead || line[0] == is.struck) {
			if _, err := file.WriteAt([]byte{first}, at); err != nil {
				return err
			}
		}
		at += int64(len(line))
	}
	return file.Sync()
}

// replace puts a file in a place. was was found there; nil: nothing. replace closes was. The error
// is openat.ErrMeanwhile if something else is there by now that can't be replaced.
func (f *hostsFile) replace(p *openat.Place, text []byte, was *foundFile) error {
	defer was.close()
	temporary := p.Beside("." + strings.TrimPrefix(p.Name, ".") + ".epmd-new")
	if err := makeFile(temporary, text, was); err != nil {
		return err
	}
	taken, err := exchange(temporary, p, was)
	_ = temporary.Remove() // what was there, or what could not be put there
	if err != nil {
		return err
	}
	if taken != nil { // it may be another one than was, but was is what is known of it
		f.keep(&replacedFile{file: taken, text: was.text, since: time.Now()})
	}
	return p.Sync()
}

// makeFile makes a file like the one that it is to replace.
func makeFile(p *openat.Place, text []byte, was *foundFile) error {
	// An epmd that was killed may have left it.
	if err := p.Remove(); err != nil {
		return err
	}
	file, err := p.Create(0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err = errors.Join(err, likeBefore(file, was), file.Sync(), file.Close()); err != nil {
		_ = p.Remove()
	}
	return err
}

// exchange puts a temporary file in a place. What is there takes the place of the temporary file,
// and is returned, open for reading. If was is nil nothing is to be there. File systems that can't
// exchange files replace was.
func exchange(temporary, p *openat.Place, was *foundFile) (taken *os.File, err error) {
	flags := uint(unix.RENAME_EXCHANGE)
	if was == nil {
		flags = unix.RENAME_NOREPLACE
	}
	switch err := temporary.RenameTo(p, flags); err {
	case nil:
	case unix.EINVAL, unix.ENOSYS:
		return nil, temporary.RenameTo(p, 0)
	case unix.EEXIST, unix.ENOENT:
		return nil, openat.ErrMeanwhile
	default:
		return nil, err
	}
	if was == nil {
		return nil, nil
	}
	taken, err = temporary.Open(os.O_RDONLY, 0)
	if err == nil {
		return taken, nil
	}
	// Somebody has put there a link, or a file of his.
	return nil, errors.Join(openat.ErrMeanwhile, temporary.RenameTo(p, flags))
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

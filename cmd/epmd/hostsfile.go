package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
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

// hostsFile is a .hosts.erlang, which tells net_adm:world/0 where nodes may be: one host a line as an Erlang term, and
// comments (OTP, net_adm(3erl)).
type hostsFile struct{ path string }

// write has the file name these hosts, sorted, between the lines of epmd, or makes it. Whoever reads it meanwhile finds
// the old or the new one, also after a crash: the new one is made beside it, under a fixed name that the next one takes
// too, and put in its place. It keeps its mode and owner; where it is a symbolic link, its target is what is
// replaced. A file that is right already is left alone, and so is one that can't be understood.
func (f hostsFile) write(hosts []string) error {
	path, old, info, err := f.read()
	if err != nil {
		return err
	}
	text, err := withHosts(old, hosts)
	if err == nil && (info == nil || !bytes.Equal(text, old)) {
		err = replaceFile(path, text, info)
	}
	if err != nil {
		return fmt.Errorf("write hosts file %q: %w", path, err)
	}
	return nil
}

// checkFolder returns an error if the file can't be made, because there is no folder for it.
func (f hostsFile) checkFolder() error {
	path, err := filepath.EvalSymlinks(f.path)
	if err != nil {
		path = f.path
	}
	folder := filepath.Dir(path)
	info, err := os.Stat(folder)
	if err == nil && !info.IsDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return fmt.Errorf("folder %q: %w", folder, cause(err))
	}
	return nil
}

// listed returns what the file names between the lines of epmd, as it stands there.
func (f hostsFile) listed() ([]byte, error) {
	_, text, _, err := f.read()
	if err != nil {
		return nil, err
	}
	b, err := findHosts(text)
	return text[b.from:b.to], err
}

// read returns the file and where it really is. Where there is none, info is nil.
func (f hostsFile) read() (path string, text []byte, info fs.FileInfo, err error) {
	path, err = filepath.EvalSymlinks(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return f.path, nil, nil, nil
	}
	if err == nil {
		text, info, err = readRegular(path)
	}
	if err != nil {
		return "", nil, nil, fmt.Errorf("read hosts file %q: %w", f.path, err)
	}
	return path, text, info, nil
}

// readRegular reads a regular file of at most maxHostsFile bytes. It does not wait for a FIFO.
func readRegular(path string) ([]byte, fs.FileInfo, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, errors.New("not a regular file")
	}
	text, err := io.ReadAll(io.LimitReader(file, maxHostsFile+1))
	if err == nil && len(text) > maxHostsFile {
		err = fmt.Errorf("larger than %d bytes", maxHostsFile)
	}
	return text, info, err
}

// withHosts returns a hosts file that names these hosts between the lines of epmd, which are put at the end of one that
// has none. Nothing else is changed.
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

// hostsBlock is where in a hosts file the hosts are that epmd names.
type hostsBlock struct {
	from, to int  // after the line that begins it, and where the line begins that ends it
	found    bool // otherwise both are the size of the file
}

// findHosts finds what epmd keeps of a hosts file. It is an error if the two lines around it are not there once
// each and in order: someone has edited them.
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

// replaceFile puts a file in the place of path, where info was found, or nothing if that is nil.
func replaceFile(path string, text []byte, info fs.FileInfo) error {
	dir, name := filepath.Split(path)
	temporary := filepath.Join(dir, "."+strings.TrimPrefix(name, ".")+".epmd-new")
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) { // of one that was killed
		return err
	}
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	err = errors.Join(err, likeBefore(file, info), file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return syncDir(filepath.Dir(path))
}

// likeBefore gives a new file the mode and owner of the one that it replaces.
func likeBefore(file *os.File, info fs.FileInfo) error {
	if info == nil {
		return file.Chmod(hostsFileMode)
	}
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

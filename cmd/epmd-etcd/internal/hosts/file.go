package hosts

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// heading is the first line of the file.
const heading = "# epmd-etcd writes this file anew whenever etcd has other hosts.\n"

// maxFile is how much of an earlier file is read, in bytes.
const maxFile = 1 << 20

// read returns the hosts in the file of an earlier run. What else is in it doesn't count. A file
// that is not there has none.
func read(path string) ([]netip.AddrPort, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	var list []netip.AddrPort
	for line := range bytes.Lines(text) {
		value, is := bytes.CutPrefix(bytes.TrimSuffix(line, []byte("\n")), []byte("@"))
		if at, err := Parse(value); is && err == nil && len(list) < MaxHosts {
			list = append(list, at)
		}
	}
	return list, err
}

// write has the file at path hold a line @ADDRESS:PORT for each host. epmd sees the old file or the
// new one, and never a part. The new file first has a name that epmd doesn't read.
func write(path string, list []netip.AddrPort) error {
	var text bytes.Buffer
	text.WriteString(heading)
	for _, at := range list {
		fmt.Fprintf(&text, "@%v\n", at)
	}
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text.Bytes())
	err = errors.Join(err, f.Chmod(0o644), f.Close()) // epmd is another user
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		os.Remove(temporary)
	}
	return err
}

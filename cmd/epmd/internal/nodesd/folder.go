package nodesd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits of all folders together.
const (
	maxFiles = 64
	maxLines = 10000
	maxBytes = 4 << 20 // of a file
)

// suffix is how the names of nodes files end.
const suffix = ".nodes"

// list returns the paths of the nodes files in folders, in order. Files of the first folder lead. A
// folder that is not there has none.
func list(folders []string) (paths []string, err error) {
	for _, folder := range folders {
		entries, failed := os.ReadDir(folder)
		if failed != nil && !errors.Is(failed, fs.ErrNotExist) {
			err = errors.Join(err, failed)
		}
		for _, e := range entries {
			if isNodesFile(e.Name()) {
				paths = append(paths, filepath.Join(folder, e.Name()))
			}
		}
	}
	return paths, err
}

// isNodesFile reports whether a file of that name counts. Editors and programs write others beside.
func isNodesFile(name string) bool {
	return strings.HasSuffix(name, suffix) && len(name) > len(suffix) && name[0] != '.'
}

// read returns the content of a nodes file. It reads regular files alone, so it never waits for a
// writer.
func read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	var text bytes.Buffer
	text.Grow(int(min(info.Size(), maxBytes)) + bytes.MinRead)
	if _, err = text.ReadFrom(io.LimitReader(f, maxBytes+1)); err == nil && text.Len() > maxBytes {
		err = fmt.Errorf("%s has more than %d bytes", path, maxBytes)
	}
	return text.Bytes(), err
}

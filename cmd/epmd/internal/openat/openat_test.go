package openat

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goerlang/eclus/test/wait"
)

// TestFind follows links as the kernel does.
func TestFind(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	wait.Must(t, err)
	t.Chdir(dir)
	wait.Must(t, errors.Join(
		os.MkdirAll("a/b", 0o755), os.MkdirAll("c", 0o755), os.WriteFile("file", nil, 0o644),
		os.Symlink("../a/b", "c/link"), os.Symlink(dir+"/c/link/../..", "top"), os.Symlink("top/a/./b//hosts", "far"),
		os.Symlink("a/b/", "folder"), os.Symlink("a/b/..", "up"), os.Symlink("/", "root"), os.Symlink("self", "self"),
		os.Symlink("missing/x", "lost"),
	))
	for path, want := range map[string]string{
		"hosts":          dir + "/hosts",
		"c/link/hosts":   dir + "/a/b/hosts",
		"c/link/../h":    dir + "/a/h",
		"top/h":          dir + "/h",
		"far":            dir + "/far " + dir + "/a/b/hosts",
		"a//b/./../h":    dir + "/a/h",
		"folder/h":       dir + "/a/b/h",
		"folder":         dir + "/folder " + dir + "/a/b",
		"up":             dir + "/up ! " + dir + "/a",
		"root":           dir + "/root ! /",
		"root/etc/hosts": "/etc/hosts",
		"self":           strings.Repeat(dir+"/self ", maxLinks+1) + "! " + dir + "/self",
		"lost":           dir + "/lost ! " + dir + "/missing",
		"file/x":         "! " + dir + "/file",
		"missing/x":      "! " + dir + "/missing",
	} {
		places, err := Find(filepath.Join(dir) + "/" + path)
		var got []string
		for _, p := range places {
			got = append(got, p.Path())
		}
		CloseAll(places)
		if at, ok := err.(*fs.PathError); ok {
			got = append(got, "!", at.Path)
		}
		if got := strings.Join(got, " "); got != want {
			t.Errorf("%s: got %s (%v), want %s", path, got, err, want)
		}
	}
}

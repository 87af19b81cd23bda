package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goerlang/eclus/test/wait"
)

// TestFlags holds that a wrong flag is refused by name and value.
func TestFlags(t *testing.T) {
	for _, tt := range []struct {
		flags string
		want  string // what the error names; empty: right
	}{
		{"", ""},
		{"-endpoints https://a:1,https://[::1]:2 -prefix /x/ -advertise eth0 -port 5000 -ttl 2 -nodes_file /a/b.nodes", ""},
		{"-advertise 2001:db8::1", ""},
		{"-endpoints a:2379", `"a:2379" is not http`},
		{"-endpoints http://a:2379,https://b:2379", "either all are https"},
		{"-endpoints http://a", "without host or port"},
		{"-endpoints http://:2379", "without host or port"},
		{"-endpoints http://a:2379/x", "is not http"},
		{"-endpoints http://u:p@a:2379", "is not http"},
		{"-endpoints http://a:2379,", `"" is not`},
		{"-prefix /", `-prefix "/"`},
		{"-prefix a\x1bb", "printable"},
		{"-prefix " + strings.Repeat("x", 256), "255"},
		{"-advertise 127.0.0.1", "other hosts don't find"},
		{"-advertise fe80::1%eth0", "don't find"},
		{"-advertise a/b", "neither an address"},
		{"-port 80", `-port "80"`},
		{"-port x", `-port "x"`},
		{"-ttl 1", `-ttl "1"`},
		{"-ttl 3601", "3600"},
		{"-nodes_file etcd.nodes", "absolute"},
		{"-nodes_file /run/etcd.txt", "NAME.nodes"},
		{"-nodes_file /run/.nodes", "NAME.nodes"},
		{"-ca /x", `-ca "/x": the endpoints are not https`},
		{"-cert /x -key /y", "not https"},
		{"-cert /x", "each needs the other"},
		{"-unknown", "-unknown"},
		{"word", `"word"`},
	} {
		_, err := parse(strings.Fields(tt.flags), func(string) string { return "" })
		switch {
		case tt.want == "" && err != nil, tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%.80q: got %v; want %q", tt.flags, err, tt.want)
		}
	}
	c, err := parse(nil, func(name string) string { return map[string]string{"ERL_EPMD_PORT": "5001"}[name] })
	if err != nil || c.port != 5001 {
		t.Errorf("ERL_EPMD_PORT=5001 gives port %d, %v", c.port, err)
	}
}

// TestSecretFiles holds which files are refused, before anything is asked.
func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		wait.Must(t, os.WriteFile(path, []byte(text), 0o600))
		wait.Must(t, os.Chmod(path, mode))
		return path
	}
	for _, tt := range []struct{ path, want string }{
		{filepath.Join(dir, "none"), "no such file"},
		{dir, "not a regular file"},
		{file("open", "epmd:x\n", 0o644), "everybody may use it"},
		{file("user", "epmd\n", 0o640), "USER:PASSWORD"},
		{file("empty", "", 0o640), "USER:PASSWORD"},
		{file("two", "epmd:x\nmore:y\n", 0o640), "USER:PASSWORD"},
	} {
		err := run(context.Background(), []string{"-credentials_file", tt.path, "-nodes_file", filepath.Join(dir, "x.nodes")}, os.Getenv, os.Stdout)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "-credentials_file") {
			t.Errorf("%s: got %v; want %q", tt.path, err, tt.want)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.nodes")); len(left) > 0 {
		t.Errorf("it has written %q", left)
	}
}

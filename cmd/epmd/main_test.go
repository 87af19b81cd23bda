package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goerlang/eclus/cmd/epmd/internal/exit"
	"github.com/goerlang/eclus/cmd/epmd/internal/stockerror"
)

// TestRun runs commands that need no epmd. Nobody listens on port 1.
func TestRun(t *testing.T) {
	for _, tt := range []struct {
		args           string
		status         int
		stdout, stderr string // how they begin
	}{
		{"-h", 0, "usage: epmd [-d|-debug]", ""},
		{"-version", 0, "epmd (Eclus) ", ""},
		{"-port 1 -names", 1, "", "epmd: Cannot connect to local epmd\nepmd: nothing listens on port 1 "},
		{"-port 1 -started", 1, "", ""},
		{"-port 1 -kill", 1, "", "epmd: Cannot connect to local epmd\n"},
		{"-port 1 -nodes", 1, "", "epmd: Cannot connect to local epmd\n"},
		{"-port 1 -ping b", 1, "✗ name ", ""},
		{"-port 1 -ping b -json", 1, `{"v":1,"node":"b","pong":false,`, ""},
		{"-port 1 -peek b", 1, "", "epmd: name: "},
		{"-port 0", 1, "", "epmd: -port \"0\": not a port from 1 to 65535\nusage: epmd "},
		{"-lan x", 1, "", "epmd: -lan \"x\": not one of on, publish, browse, off\n"},
		{"-address x", 1, "", "epmd: "},
		{"-node -cookie_file /missing", 1, "", "epmd: -node: cookie file: stat /missing: "},
		{"-ping a@b -cookie_file /missing", 1, "", "epmd: -cookie_file \"/missing\": no such file or directory\n"},
		{"-hosts_file /missing/hosts", 1, "", "epmd: -hosts_file \"/missing/hosts\": "},
	} {
		var stdout, stderr strings.Builder
		args := append([]string{"epmd"}, strings.Fields(tt.args)...)
		err := run(t.Context(), args, environ(""), &stdout, &stderr)
		if status := report(err, &stderr); status != tt.status {
			t.Errorf("%s: exit status %d, want %d (%v)", tt.args, status, tt.status, err)
		}
		for got, want := range map[*strings.Builder]string{&stdout: tt.stdout, &stderr: tt.stderr} {
			if !strings.HasPrefix(got.String(), want) || want == "" && got.Len() > 0 {
				t.Errorf("%s: wrote %q, want %q", tt.args, got, want)
			}
		}
	}
}

// TestReport makes an exit status of each kind of error, and says what has not been said.
func TestReport(t *testing.T) {
	for _, tt := range []struct {
		err    error
		status int
		stderr string // how it begins
	}{
		{nil, 0, ""},
		{exit.Status(2), 2, ""},
		{fmt.Errorf("list: %w", exit.Status(3)), 3, ""},
		{usagef("unknown flag %q", "-x"), 1, "epmd: unknown flag \"-x\"\nusage: epmd "},
		{stockerror.Errorf("no sockets"), 1, "epmd: "},
		{errors.New("-lan contradicts"), 1, "epmd: -lan contradicts\n"},
	} {
		var stderr strings.Builder
		if got := report(tt.err, &stderr); got != tt.status {
			t.Errorf("%v: exit status %d, want %d", tt.err, got, tt.status)
		}
		if !strings.HasPrefix(stderr.String(), tt.stderr) || tt.stderr == "" && stderr.Len() > 0 {
			t.Errorf("%v: wrote %q, want %q", tt.err, &stderr, tt.stderr)
		}
	}
}

// TestCookieForNode has the daemon get the cookie of a file, whoever starts it.
func TestCookieForNode(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cookie")
	if err := os.WriteFile(file, []byte("SECRET\n"), 0o400); err != nil {
		t.Fatal(err)
	}
	c, err := parse([]string{"-node", "-cookie_file", file}, environ(""))
	if err == nil {
		err = c.checkFiles(environ(""))
	}
	if o := c.daemonOptions([]string{"epmd", "-node"}, nil); err != nil || o.Cookie != "SECRET" || !o.AsNode || o.Port != 4369 || len(o.Args) != 2 {
		t.Errorf("got %+v, %v", o, err)
	}
}

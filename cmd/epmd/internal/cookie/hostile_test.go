package cookie

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goerlang/eclus/test/wait"
)

// TestCheckCookie has texts as they stand in files. No error shows what is in them.
func TestCheckCookie(t *testing.T) {
	const secret = "SECRET"
	for _, tt := range []struct{ name, text, want, err string }{
		{"alone", secret, secret, ""},
		{"DOS line", secret + "\r\n", secret, ""},
		{"empty lines", secret + "\n\n \r\n", secret, ""},
		{"blanks belong to it", " " + secret + " ", " " + secret + " ", ""},
		{"all characters", " !\"#~", " !\"#~", ""},
		{"second line", secret + "\n" + secret, "", "no printable ASCII"},
		{"tab", secret + "\t", "", "no printable ASCII"},
		{"NUL", secret + "\x00", "", "no printable ASCII"},
		{"DEL", secret + "\x7f", "", "no printable ASCII"},
		{"escape", secret + "\x1b[31m", "", "no printable ASCII"},
		{"Latin-1", secret + "\xe5", "", "no printable ASCII"},
		{"UTF-8", secret + "å", "", "no printable ASCII"},
		{"byte order mark", "\ufeff" + secret, "", "no printable ASCII"},
		{"nothing", "", "", "is empty"},
		{"only ends of lines", "\r\n\n", "", "is empty"},
		{"line before it", "\n" + secret, "", "no printable ASCII"},
		{"longest", strings.Repeat("x", 255) + "\n", strings.Repeat("x", 255), ""},
		{"too long", secret + strings.Repeat("x", 250), "", "more than 255"},
	} {
		got, err := checkCookie(tt.text)
		if string(got) != tt.want || (err == nil) != (tt.err == "") || !strings.Contains(errorText(err), tt.err) {
			t.Errorf("%s: got %q, %v; want %q, %q", tt.name, string(got), err, tt.want, tt.err)
		}
		if strings.Contains(errorText(err), secret) {
			t.Errorf("%s: the cookie shows: %v", tt.name, err)
		}
	}
}

// folder has files of these texts, which only their owner may use.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		wait.Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		wait.Must(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return dir
}

// TestFindFirst has several cookies. What comes first counts, even if it is wrong.
func TestFindFirst(t *testing.T) {
	dir := folder(t, map[string]string{
		"good/.erlang.cookie": "HOME", "good/.config/erlang/.erlang.cookie": "CONFIG",
		"bad/.erlang.cookie": "\n", "bad/.config/erlang/.erlang.cookie": "CONFIG",
		"xdg/erlang/.erlang.cookie": "XDG", "none/x": "",
	})
	at := func(path string) string { return filepath.Join(dir, path) }
	for _, tt := range []struct {
		name            string
		env             map[string]string
		want, from, err string
	}{
		{"both", map[string]string{"HOME": at("good")}, "HOME", at("good/.erlang.cookie"), ""},
		{"wrong in HOME", map[string]string{"HOME": at("bad")}, "", "", "is empty"},
		{"no HOME", map[string]string{"XDG_CONFIG_HOME": at("xdg")}, "XDG", at("xdg/erlang/.erlang.cookie"), ""},
		{"HOME is empty", map[string]string{"HOME": "", "XDG_CONFIG_HOME": at("xdg")}, "XDG", at("xdg/erlang/.erlang.cookie"), ""},
		{"no cookie in HOME", map[string]string{"HOME": at("none"), "XDG_CONFIG_HOME": at("xdg")}, "XDG", at("xdg/erlang/.erlang.cookie"), ""},
		{"nothing is set", nil, "", "", ErrNone.Error()},
		{"the variable is empty", map[string]string{"HOME": at("good"), Variable: ""}, "", "", "cookie in ERLANG_COOKIE: the cookie is empty"},
		{"the variable", map[string]string{"HOME": at("bad"), Variable: "V"}, "V", Variable, ""},
	} {
		got, from, err := Find("", func(name string) (string, bool) { v, ok := tt.env[name]; return v, ok })
		if string(got) != tt.want || err == nil && from != tt.from || (err == nil) != (tt.err == "") || !strings.Contains(errorText(err), tt.err) {
			t.Errorf("%s: got %q from %q, %v; want %q from %q, %q", tt.name, string(got), from, err, tt.want, tt.from, tt.err)
		}
	}
}

// TestFindFile has what may stand where a file is named.
func TestFindFile(t *testing.T) {
	dir := folder(t, map[string]string{"file": "FILE\n", "padded": "PADDED" + strings.Repeat("\n", 2*maxCookieFile),
		"huge": "SECRET" + strings.Repeat("x", 1<<20), "owner": "OWNER", "world": "SECRET", "group": "SECRET"})
	at := func(name string) string { return filepath.Join(dir, name) }
	wait.Must(t, errors.Join(os.Symlink("file", at("link")), os.Symlink("absent", at("dangling")), os.Symlink("loop", at("loop")),
		os.Chmod(at("owner"), 0o400), os.Chmod(at("world"), 0o604), os.Chmod(at("group"), 0o610)))
	env := func(string) (string, bool) { return "ENVIRONMENT", true }
	for name, tt := range map[string]struct{ want, err string }{
		"file":     {"FILE", ""},
		"link":     {"FILE", ""},
		"owner":    {"OWNER", ""},
		"padded":   {"PADDED", ""},
		"huge":     {"", "more than 255"},
		"world":    {"", "(mode 604): chmod 400 it"},
		"group":    {"", "(mode 610): chmod 400 it"},
		"":         {"", "is no regular file"},
		"dangling": {"", "no such file"},
		"loop":     {"", "too many levels"},
		"file/x":   {"", "not a directory"},
	} {
		got, from, err := Find(at(name), env)
		if string(got) != tt.want || from != at(name) || (err == nil) != (tt.err == "") || !strings.Contains(errorText(err), tt.err) {
			t.Errorf("%s: got %q from %q, %v; want %q, %q", name, string(got), from, err, tt.want, tt.err)
		}
		if text := errorText(err); strings.Contains(text, "SECRET") || err != nil && !strings.HasPrefix(text, "cookie file") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := Find(at("absent"), env); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNone) {
		t.Errorf("a named file is absent: %v", err)
	}
}

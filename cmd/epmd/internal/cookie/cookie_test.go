package cookie

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestFindCookie(t *testing.T) {
	home, config := t.TempDir(), t.TempDir()
	write := func(path, text string, mode os.FileMode) string {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fifo := filepath.Join(home, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"HOME": home}
	getenv := func(name string) (string, bool) { value, ok := env[name]; return value, ok }
	check := func(name, file, want, from, wantErr string) {
		t.Helper()
		got, gotFrom, err := Find(file, getenv)
		if string(got) != want || gotFrom != from && err == nil || !strings.Contains(errorText(err), wantErr) || (err == nil) != (wantErr == "") {
			t.Errorf("%s: got %q from %q, error %v; want %q from %q, error naming %q", name, string(got), gotFrom, err, want, from, wantErr)
		}
	}
	check("nothing", "", "", "", "no cookie")
	inConfig := write(filepath.Join(home, ".config/erlang/.erlang.cookie"), "CONFIG", 0o400)
	check("default config", "", "CONFIG", inConfig, "")
	env["XDG_CONFIG_HOME"] = config
	check("config without", "", "", "", "no cookie")
	inConfig = write(filepath.Join(config, "erlang/.erlang.cookie"), "CONFIG2\r\n", 0o600)
	check("config", "", "CONFIG2", inConfig, "")
	inHome := write(filepath.Join(home, ".erlang.cookie"), "HOME\n\r \n", 0o400)
	check("home", "", "HOME", inHome, "")
	env["ERLANG_COOKIE"] = "ENVIRONMENT"
	check("environment", "", "ENVIRONMENT", "ERLANG_COOKIE", "")
	file := write(filepath.Join(home, "file"), "FILE  \n", 0o600)
	check("file", file, "FILE  ", file, "")
	env["ERLANG_COOKIE"] = "bad\tcookie"
	check("bad environment", "", "", "", "cookie in ERLANG_COOKIE: the cookie has characters")
	check("absent", filepath.Join(home, "absent"), "", "", "no such file")
	check("fifo", fifo, "", "", "no regular file")
	check("empty", write(filepath.Join(home, "empty"), "\n", 0o600), "", "", "is empty")
	check("too long", write(filepath.Join(home, "long"), strings.Repeat("x", 256), 0o600), "", "", "more than 255")
	check("longest", write(filepath.Join(home, "longest"), strings.Repeat("x", 255), 0o600), strings.Repeat("x", 255), filepath.Join(home, "longest"), "")
	check("for the group", write(filepath.Join(home, "group"), "SECRET", 0o640), "", "", "mode 640")
	if _, _, err := Find(filepath.Join(home, "group"), getenv); strings.Contains(err.Error(), "SECRET") {
		t.Errorf("the cookie shows: %v", err)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

package test

import (
	"encoding/json"
	"fmt"
	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestHolder lists nodes with the processes that hold their names: this test, and a node.
func TestHolder(t *testing.T) {
	need.Program(t, "erl")
	d := startEpmd(t, eclusBinary(t), "-d")
	first := d.register(t, "held", 41000)
	pids := map[string]int{"held": os.Getpid()}
	erl := exec.Command("erl", "-noinput", "-start_epmd", "false", "-name", "erl@127.0.0.1", "-setcookie", "x")
	erl.Env = append(os.Environ(), "HOME="+t.TempDir(), "ERL_EPMD_PORT="+strconv.Itoa(int(d.port)))
	if err := erl.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		erl.Process.Kill()
		erl.Wait()
	})
	pids["erl"] = erl.Process.Pid
	wait.Until(t, "holders listed", func() error { return checkHolders(t, d, pids) })

	table := command(t, eclusBinary(t), d.port, "-nodes").stdout
	want := fmt.Sprintf(`(?m) SINCE +PID +USER\b[^$]*^held@.*:\d\d +%d +\S+`, os.Getpid())
	if !regexp.MustCompile(want).MatchString(table) {
		t.Errorf("got\n%s\nwant it to match %s", table, want)
	}
	first.Close()
	for _, text := range []string{"node up", "node down"} {
		wait.Until(t, "log written", func() error {
			entry := regexp.MustCompile(fmt.Sprintf(`msg=%q name=held port=41000 peer=127\.0\.0\.1:\d+ pid=%d uid=%d\b`, text, os.Getpid(), os.Getuid()))
			if log := d.output.String(); !entry.MatchString(log) {
				return fmt.Errorf("the log is\n%s\nwant it to match %v", log, entry)
			}
			return nil
		})
	}
}

// checkHolders returns an error unless all those nodes are listed as held by those processes, of
// this user.
func checkHolders(t *testing.T, d *daemon, pids map[string]int) error {
	t.Helper()
	found := make(map[string]int)
	for line := range strings.Lines(command(t, eclusBinary(t), d.port, "-nodes", "-json").stdout) {
		var node struct {
			Name     string
			PID, UID int
			User     string
		}
		node.UID = -1
		if err := json.Unmarshal([]byte(line), &node); err != nil {
			t.Fatal(err)
		}
		if node.PID != 0 && (node.UID != os.Getuid() || node.User == "") {
			t.Fatalf("got %s; want user %d and a name", line, os.Getuid())
		}
		found[node.Name] = node.PID
	}
	if fmt.Sprint(found) != fmt.Sprint(pids) {
		return fmt.Errorf("held by processes %v; want %v", found, pids)
	}
	return nil
}

package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
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
	awaitLogged(t, d, "node down", "held")
	// An entry does not wait for the holder on a machine that has no time to look for it.
	for i := 0; ; i++ {
		name := fmt.Sprint("held", i)
		d.register(t, name, 41000)
		if i == 200 {
			awaitLogged(t, d, "node up", name)
		}
		if up := awaitEntry(t, d, "node up", name); strings.Contains(up, " pid=") {
			awaitLogged(t, d, "node up", name)
			return
		}
	}
}

// awaitLogged waits for the entry of a node that this test holds.
func awaitLogged(t *testing.T, d *daemon, text, name string) {
	t.Helper()
	want := fmt.Sprintf(" pid=%d uid=%d", os.Getpid(), os.Getuid())
	if entry := awaitEntry(t, d, text, name); !strings.HasSuffix(entry, want) {
		t.Errorf("logged %q, want it to end in %q", entry, want)
	}
}

// awaitEntry waits for an entry of the log about a node, and returns it.
func awaitEntry(t *testing.T, d *daemon, text, name string) (entry string) {
	t.Helper()
	pattern := regexp.MustCompile(fmt.Sprintf(`(?m)^.*msg=%q name=%s port=41000 peer=127\.0\.0\.1:\d+.*$`, text, name))
	wait.Until(t, "log written", func() error {
		log := d.output.String()
		if entry = pattern.FindString(log); entry == "" {
			return fmt.Errorf("the log is\n%s\nwant it to match %v", log, pattern)
		}
		return nil
	})
	return entry
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

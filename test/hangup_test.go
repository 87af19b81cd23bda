package test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/test/wait"
)

// TestHangup replaces the program of an epmd that no systemd looks after. 50 nodes are registered,
// and somebody looks them up all the time. The first program in its place is of no use, the second
// is epmd itself.
func TestHangup(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "epmd")
	copyFile(t, eclusBinary(t), binary)
	d := startEpmd(t, binary, "-d")
	var ends []chan error
	for i := range 50 {
		reg := d.register(t, fmt.Sprintf("n%d", i), 41000)
		end := make(chan error, 1)
		go func() { end <- reg.Done() }()
		ends = append(ends, end)
	}
	before := d.entries(t)

	replace(t, binary, "/bin/false")
	d.hangup(t, "program not replaced")
	replace(t, binary, eclusBinary(t))
	if worst := d.hangup(t, "state restored"); worst > tolerable {
		t.Errorf("a lookup waited %v", worst)
	}
	if after := d.entries(t); after != before {
		t.Errorf("registered before:\n%s\nafter:\n%s", before, after)
	}
	for i, end := range ends {
		select {
		case err := <-end:
			t.Errorf("connection of n%d ended: %v", i, err)
		default:
		}
	}
	if status := d.stop(t, syscall.SIGTERM); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// hangup sends SIGHUP and looks nodes up until the log says so. It returns how long the longest
// lookup took.
func (d *daemon) hangup(t *testing.T, said string) (worst time.Duration) {
	t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	client := epmd.NewLocalClient(d.port)
	count := 0
	for began := time.Now(); !strings.Contains(d.output.String(), said); count++ {
		if time.Since(began) > wait.Patience {
			t.Fatalf("no %q in the log:\n%s", said, &d.output)
		}
		asked := time.Now()
		if _, err := client.Lookup(t.Context(), fmt.Sprintf("n%d", count%50)); err != nil {
			t.Fatal(err)
		}
		worst = max(worst, time.Since(asked))
	}
	t.Logf("%s: %d lookups, the longest %v", said, count, worst)
	return worst
}

// entries returns what is registered, with creations, as lines do.
func (d *daemon) entries(t *testing.T) string {
	t.Helper()
	lines, err := epmd.NewLocalClient(d.port).Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	var list strings.Builder
	for {
		line, err := lines.Next()
		if err == io.EOF {
			return list.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&list, line.Get("name"), line.Get("port"), line.Get("creation"), line.Get("since"))
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, content, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// replace puts a copy of another program where one may be running, as a package does.
func replace(t *testing.T, program, by string) {
	t.Helper()
	copyFile(t, by, program+".new")
	if err := os.Rename(program+".new", program); err != nil {
		t.Fatal(err)
	}
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"eclus/registry"
)

const (
	blockBegin = hostsBegin + "\n"
	blockEnd   = hostsEnd + "\n"
)

var withHostsTests = []struct {
	name, old string
	hosts     []string
	want      string // empty: an error
}{
	{"new", "", nil, blockBegin + blockEnd},
	{"new, two", "", []string{"a.local", "b.local"}, blockBegin + "'a.local'.\n'b.local'.\n" + blockEnd},
	{"added", "'mine'.\n", []string{"a.local"}, "'mine'.\n" + blockBegin + "'a.local'.\n" + blockEnd},
	{"line not ended", "'mine'.", nil, "'mine'.\n" + blockBegin + blockEnd},
	{"replaced", "'x'.\n" + blockBegin + "'old'.\n" + blockEnd + "'y'. % \xff\n", []string{"a.local"},
		"'x'.\n" + blockBegin + "'a.local'.\n" + blockEnd + "'y'. % \xff\n"},
	{"emptied", blockBegin + "'old'.\n" + blockEnd, nil, blockBegin + blockEnd},
	{"DOS lines, no last end", hostsBegin + "\r\n'old'.\r\n" + hostsEnd, nil, hostsBegin + "\r\n" + hostsEnd},
	{"no end", blockBegin + "'mine'.\n", nil, ""},
	{"no begin", "'mine'.\n" + blockEnd, nil, ""},
	{"other order", blockEnd + blockBegin, nil, ""},
	{"twice", blockBegin + blockEnd + blockBegin + blockEnd, nil, ""},
	{"two begins", blockBegin + blockBegin + blockEnd, nil, ""},
}

func TestWithHosts(t *testing.T) {
	for _, tt := range withHostsTests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := withHosts([]byte(tt.old), tt.hosts)
			if string(got) != tt.want || (err != nil) != (tt.want == "") {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

// FuzzWithHosts sees to it that what people wrote stays, and that what is written is found again.
func FuzzWithHosts(f *testing.F) {
	for _, tt := range withHostsTests {
		f.Add([]byte(tt.old))
	}
	f.Fuzz(func(t *testing.T, old []byte) {
		was, _ := findHosts(old)
		text, err := withHosts(old, []string{"a.local"})
		if err != nil {
			return
		}
		now, err := findHosts(text)
		if err != nil || !now.found || string(text[now.from:now.to]) != "'a.local'.\n" {
			t.Fatalf("%q became %q: %+v, %v", old, text, now, err)
		}
		if !bytes.HasPrefix(text, old[:was.from]) || was.found && !bytes.HasSuffix(text, old[was.to:]) {
			t.Errorf("%q became %q, which lacks something", old, text)
		}
		if again, err := withHosts(text, []string{"a.local"}); err != nil || !bytes.Equal(again, text) {
			t.Errorf("%q became %q: %v", text, again, err)
		}
	})
}

// TestHostsFile writes a file as it is, and where it can't be.
func TestHostsFile(t *testing.T) {
	dir := t.TempDir()
	f := hostsFile{filepath.Join(dir, ".hosts.erlang")}
	link := hostsFile{filepath.Join(dir, "link")}
	leftover := filepath.Join(dir, ".hosts.erlang.epmd-new")
	for _, err := range []error{
		os.WriteFile(f.path, []byte("'mine'.\n"), 0o640),
		os.Chown(f.path, 1, 2),
		os.Symlink(".hosts.erlang", link.path),
		os.WriteFile(leftover, []byte("'hal"), 0o600), // of an epmd that was killed
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := link.write([]string{"a.local"}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(f.path)
	if want := "'mine'.\n" + blockBegin + "'a.local'.\n" + blockEnd; err != nil || string(text) != want {
		t.Errorf("got %q, %v; want %q", text, err, want)
	}
	_, _, info, err := f.read()
	if err != nil || info.Mode() != 0o640 || owner(info) != [2]uint32{1, 2} {
		t.Errorf("got %v of %v, %v; want mode 640 of 1, 2", info.Mode(), owner(info), err)
	}
	if err := f.write([]string{"a.local"}); err != nil {
		t.Fatal(err)
	}
	if _, _, same, err := f.read(); err != nil || !os.SameFile(info, same) {
		t.Errorf("what was right has been replaced: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("beside the file and a link there is something: %v, %v", entries, err)
	}
	for _, path := range []string{dir, "/dev/null", filepath.Join(dir, "none", "x"), "/proc/x"} {
		if err := (hostsFile{path}).write(nil); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", path)) {
			t.Errorf("%s: got error %v, want one that names it", path, err)
		}
	}
}

const envWriter = "ECLUS_TEST_HOSTS_WRITER"

// TestHostsFileWriter is what TestHostsFileKilled kills: it writes a file over and over, and a byte each time.
func TestHostsFileWriter(t *testing.T) {
	path := os.Getenv(envWriter)
	if path == "" {
		return // not run by TestHostsFileKilled
	}
	for i := range 100000 {
		if err := (hostsFile{path}).write(manyHosts[:1+i%len(manyHosts)]); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString(".")
	}
}

// manyHosts make a file of which a part can be written.
var manyHosts = func() (list []string) {
	for i := range 1000 {
		list = append(list, fmt.Sprintf("host%d.local", i))
	}
	return list
}()

// TestHostsFileKilled kills who writes a hosts file at any moment: what is there is whole.
func TestHostsFileKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	for round := range 50 {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestHostsFileWriter$")
		cmd.Env = append(os.Environ(), envWriter+"="+path)
		progress, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadFull(progress, make([]byte, 1+rand.IntN(20)))
		pause(t.Context(), rand.N(time.Millisecond))
		cmd.Process.Kill()
		cmd.Wait()
		if err != nil {
			t.Fatalf("round %d: the writer ended: %v", round, err)
		}
		text, err := os.ReadFile(path)
		n := bytes.Count(text, []byte("'host"))
		if want, _ := withHosts(nil, manyHosts[:n]); err != nil || n == 0 || !bytes.Equal(text, want) {
			t.Fatalf("round %d: got %v and half a file:\n%s", round, err, text)
		}
	}
}

func owner(info fs.FileInfo) [2]uint32 {
	stat := info.Sys().(*syscall.Stat_t)
	return [2]uint32{stat.Uid, stat.Gid}
}

func TestIsHostOfLAN(t *testing.T) {
	for name, want := range map[string]bool{
		"hosta.local": true, "a-1.B.local": true, strings.Repeat("a", 63) + ".local": true,
		"": false, "local": false, ".local": false, "hosta": false, "hosta.example": false, "hosta.local.": false,
		"a..local": false, "-a.local": false, "a-.local": false, strings.Repeat("a", 64) + ".local": false,
		"a'.\n'b.local": false, "hösta.local": false, "a b.local": false, "a\\.local": false, "%.local": false,
		strings.Repeat("a.", 125) + "local": false,
	} {
		if got := isHostOfLAN(name); got != want {
			t.Errorf("%q: got %t", name, got)
		}
	}
}

// keepHosts keeps a hosts file, in a bubble of synctest, until end is called.
func keepHosts(t *testing.T, path string) (reg *registry.Registry, end func()) {
	reg = registry.New("here.local", registry.OldNames)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		newHosts(reg, path, 4369, slog.New(slog.DiscardHandler)).run(ctx)
	}()
	end = func() { cancel(); <-ended }
	t.Cleanup(end)
	return reg, end
}

// see enters a neighbour on a host whose epmd listens on a port.
func see(t *testing.T, reg *registry.Registry, host string, epmd uint16) *registry.Node {
	t.Helper()
	n := registry.Node{
		Node: "n@" + host, Name: "n", Host: host, Port: 4711, EPMDPort: epmd, Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.7")},
	}
	if err := reg.SetNeighbour(n); err != nil {
		t.Fatal(err)
	}
	nodes, s := reg.Subscribe()
	s.Close()
	i := slices.IndexFunc(nodes, func(n *registry.Node) bool { return n.Host == host })
	return nodes[i]
}

func checkHosts(t *testing.T, path, want string) {
	t.Helper()
	synctest.Wait()
	text, err := os.ReadFile(path)
	if want = blockBegin + want + blockEnd; err != nil || string(text) != want {
		t.Errorf("got %q, %v; want %q", text, err, want)
	}
}

// TestHosts has hosts come and go.
func TestHosts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	synctest.Test(t, func(t *testing.T) {
		reg, end := keepHosts(t, path)
		checkHosts(t, path, "")
		n := see(t, reg, "b.local", 4369)
		other := see(t, reg, "c.local", 4370)
		foreign := see(t, reg, "d.example", 4369)
		time.Sleep(hostsSettle)
		checkHosts(t, path, "")
		for _, n := range []*registry.Node{n, other, foreign} {
			reg.SetReach(n, registry.Reachable)
		}
		time.Sleep(hostsSettle - time.Millisecond)
		checkHosts(t, path, "")
		time.Sleep(time.Millisecond)
		checkHosts(t, path, "'b.local'.\n")
		reg.SetReach(see(t, reg, "b.local", 4369), registry.Unreachable)
		time.Sleep(hostsSettle)
		checkHosts(t, path, "")
		reg.SetReach(see(t, reg, "b.local", 4369), registry.Reachable)
		time.Sleep(hostsSettle)
		end()
		checkHosts(t, path, "")
	})
}

// TestHostsGrace begins with what an epmd left that was killed, and finds one of the hosts anew.
func TestHostsGrace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(path, []byte(blockBegin+"'b.local'.\n'c.local'.\n"+blockEnd), 0o644); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		reg, _ := keepHosts(t, path)
		synctest.Wait()
		reg.SetReach(see(t, reg, "c.local", 4369), registry.Reachable)
		time.Sleep(hostsGrace - time.Millisecond)
		checkHosts(t, path, "'b.local'.\n'c.local'.\n")
		time.Sleep(time.Millisecond)
		checkHosts(t, path, "'c.local'.\n")
	})
}

// TestHostsRetry can't write at first.
func TestHostsRetry(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	path := filepath.Join(dir, "hosts")
	synctest.Test(t, func(t *testing.T) {
		keepHosts(t, path)
		synctest.Wait()
		if err := os.Mkdir(dir, fs.ModePerm); err != nil {
			t.Fatal(err)
		}
		time.Sleep(hostsRetry)
		checkHosts(t, path, "")
	})
}

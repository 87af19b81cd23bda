package hosts

import (
	"bytes"
	"context"
	"errors"
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

	"github.com/goerlang/eclus/registry"

	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

var (
	blockBegin = World.begin + "\n"
	blockEnd   = World.end + "\n"
)

// terms returns the lines of a .hosts.erlang that name hosts.
func terms(hosts ...string) []string {
	lines := []string{}
	for _, host := range hosts {
		lines = append(lines, "'"+host+"'.")
	}
	return lines
}

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
	{"DOS lines, no last end", World.begin + "\r\n'old'.\r\n" + World.end, nil, World.begin + "\r\n" + World.end},
	{"no end", blockBegin + "'mine'.\n", nil, ""},
	{"no begin", "'mine'.\n" + blockEnd, nil, ""},
	{"other order", blockEnd + blockBegin, nil, ""},
	{"twice", blockBegin + blockEnd + blockBegin + blockEnd, nil, ""},
	{"two begins", blockBegin + blockBegin + blockEnd, nil, ""},
}

func TestWithHosts(t *testing.T) {
	for _, tt := range withHostsTests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := World.with([]byte(tt.old), terms(tt.hosts...))
			if string(got) != tt.want || (err != nil) != (tt.want == "") {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

// FuzzWithHosts holds that what people wrote stays. What is written is found again.
func FuzzWithHosts(f *testing.F) {
	for _, tt := range withHostsTests {
		f.Add([]byte(tt.old))
	}
	f.Fuzz(func(t *testing.T, old []byte) {
		was, _ := World.find(old)
		text, err := World.with(old, terms("a.local"))
		if err != nil {
			return
		}
		now, err := World.find(text)
		if err != nil || !now.found || string(text[now.from:now.to]) != "'a.local'.\n" {
			t.Fatalf("%q became %q: %+v, %v", old, text, now, err)
		}
		if !bytes.HasPrefix(text, old[:was.from]) || was.found && !bytes.HasSuffix(text, old[was.to:]) {
			t.Errorf("%q became %q, which lacks something", old, text)
		}
		if again, err := World.with(text, terms("a.local")); err != nil || !bytes.Equal(again, text) {
			t.Errorf("%q became %q: %v", text, again, err)
		}
	})
}

// TestHostsFile writes a file as it is, and where it can't be.
func TestHostsFile(t *testing.T) {
	dir := t.TempDir()
	f := &hostsFile{path: filepath.Join(dir, ".hosts.erlang"), format: World}
	link := &hostsFile{path: filepath.Join(dir, "link"), format: World}
	leftover := filepath.Join(dir, ".hosts.erlang.epmd-new")
	for _, err := range []error{
		os.WriteFile(f.path, []byte("'mine'.\n"), 0o640),
		os.Chown(f.path, os.Geteuid(), 2),
		os.Symlink(".hosts.erlang", link.path),
		os.WriteFile(leftover, []byte("'hal"), 0o600), // of an epmd that was killed
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := link.write(terms("a.local")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(f.path)
	if want := "'mine'.\n" + blockBegin + "'a.local'.\n" + blockEnd; err != nil || string(text) != want {
		t.Errorf("got %q, %v; want %q", text, err, want)
	}
	info, err := os.Stat(f.path)
	if err != nil || info.Mode() != 0o640 || owner(info) != [2]uint32{0, 2} {
		t.Errorf("got %v of %v, %v; want mode 640 of 0, 2", info.Mode(), owner(info), err)
	}
	if err := f.write(terms("a.local")); err != nil {
		t.Fatal(err)
	}
	if same, err := os.Stat(f.path); err != nil || !os.SameFile(info, same) {
		t.Errorf("what was right has been replaced: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("beside the file and a link there is something: %v, %v", entries, err)
	}
	for _, path := range []string{dir, "/dev/null", filepath.Join(dir, "none", "x"), "/proc/x"} {
		if err := (&hostsFile{path: path, format: World}).write(nil); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", path)) {
			t.Errorf("%s: got error %v, want one that names it", path, err)
		}
	}
}

// TestHostsFileDangling writes by links. The last leads to nothing, or to nowhere.
func TestHostsFileDangling(t *testing.T) {
	dir := t.TempDir()
	for name, target := range map[string]string{
		"link": "further", "further": filepath.Join(dir, "folder", "hosts"), "lost": "no/folder", "self": "self", "over": "folderlink/other", "folderlink": "folder",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	want := blockBegin + "'a.local'.\n" + blockEnd
	for link, target := range map[string]string{"link": "folder/hosts", "over": "folder/other"} {
		for range 2 {
			if err := (&hostsFile{path: filepath.Join(dir, link), format: World}).write(terms("a.local")); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(filepath.Join(dir, target))
		info, statErr := os.Lstat(filepath.Join(dir, link))
		if err != nil || string(text) != want || statErr != nil || info.Mode().Type() != fs.ModeSymlink {
			t.Errorf("%s: got %q, %v, and %v, %v; want %q and a link", link, text, err, info.Mode(), statErr, want)
		}
	}
	for _, link := range []string{"lost", "self"} {
		path := filepath.Join(dir, link)
		if err := (&hostsFile{path: path, format: World}).write(nil); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", path)) {
			t.Errorf("%s: got error %v, want one that names it", link, err)
		}
	}
}

// TestHostsFileOthers has others add lines to a file that epmd replaces all the time. They
// append, and once each time that epmd replaces it, as editors do. None is lost.
func TestHostsFileOthers(t *testing.T) {
	for name, change := range map[string]func(path string, line []byte) error{"append": add, "replace": rewrite} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "hosts")
			f := &hostsFile{path: path, format: World}
			defer f.close()
			if err := f.write(nil); err != nil {
				t.Fatal(err)
			}
			lines := map[string]int{"append": 2500, "replace": 200}[name]
			line := func(i int) []byte { return fmt.Appendf(nil, "'mine%d'.\n", i) }
			added, written := make(chan error, 1), make(chan struct{})
			go func() {
				var err error
				for i := 0; i < lines && err == nil; i++ {
					if name == "replace" {
						<-written
					}
					err = change(path, line(i))
				}
				added <- err
			}()
			for i, done := 0, false; !done; i++ {
				select {
				case err := <-added:
					if err != nil {
						t.Fatal(err)
					}
					done = true
				case written <- struct{}{}:
				default:
				}
				if err := f.write(manyHosts[:i%3]); err != nil {
					t.Fatal(err)
				}
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for i := range lines {
				if n := bytes.Count(text, line(i)); n != 1 {
					t.Errorf("line %d is there %d times", i, n)
				}
			}
		})
	}
}

// add adds a line to a file, as others do.
func add(path string, line []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err == nil {
		_, err = file.Write(line)
		err = errors.Join(err, file.Close())
	}
	return err
}

// rewrite replaces a file by one with another line, as editors do.
func rewrite(path string, line []byte) error {
	text, err := os.ReadFile(path)
	temporary := path + ".mine"
	if err == nil {
		err = os.WriteFile(temporary, append(text, line...), 0o644)
	}
	if err == nil {
		err = os.Rename(temporary, path)
	}
	return err
}

// TestHostsFileHeldOpen adds to a file by one descriptor while it is replaced many times. Then
// it writes it anew in place.
func TestHostsFileHeldOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	f := &hostsFile{path: path, format: World}
	write := func(hosts ...string) {
		t.Helper()
		if err := f.write(terms(hosts...)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want string) {
		t.Helper()
		if text, err := os.ReadFile(path); err != nil || string(text) != want {
			t.Errorf("got %q, %v; want %q", text, err, want)
		}
	}
	write("a.local")
	held, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	write()
	for _, s := range []string{"'one'.\n", "'two'.\n"} {
		if _, err := held.WriteString(s); err != nil {
			t.Fatal(err)
		}
		write()
	}
	check(blockBegin + blockEnd + "'one'.\n'two'.\n")
	write("b.local")
	if err := held.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if _, err := held.WriteString("'anew'.\n"); err != nil {
		t.Fatal(err)
	}
	write("b.local")
	check("'anew'.\n" + blockBegin + "'b.local'.\n" + blockEnd)
}

const fullDisk = "ECLUS_TEST_FULL_DISK"

// TestHostsFileFullDisk has hosts go, and come back, while the disk is full. It has a mount
// namespace of its own.
func TestHostsFileFullDisk(t *testing.T) {
	if os.Getenv(fullDisk) == "" {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestHostsFileFullDisk$", "-test.v")
		cmd.Env = append(os.Environ(), fullDisk+"="+t.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Unshareflags: syscall.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	dir := os.Getenv(fullDisk)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "hosts")
	f := &hostsFile{path: path, format: World}
	if err := f.write(terms("a.local", "b.local", "c.local")); err != nil {
		t.Fatal(err)
	}
	fill, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = fill.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	check := func(want string) {
		t.Helper()
		if text, err := os.ReadFile(path); err != nil || string(text) != blockBegin+want+blockEnd {
			t.Errorf("got %q, %v; want %q", text, err, want)
		}
	}
	for _, tt := range []struct {
		hosts string
		want  string
	}{
		{"a.local c.local", "'a.local'.\n%b.local'.\n'c.local'.\n"},
		{"", "%a.local'.\n%b.local'.\n%c.local'.\n"},
		{"b.local d.local", "%a.local'.\n'b.local'.\n%c.local'.\n"},
	} {
		if err := f.write(terms(strings.Fields(tt.hosts)...)); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("on a full disk: %v; want %v", err, syscall.ENOSPC)
		}
		check(tt.want)
	}
	if err := fill.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if err := f.write(terms("d.local")); err != nil {
		t.Fatal(err)
	}
	check("'d.local'.\n")
}

// TestHostsFileRemoved removes the file, the link to it and its folder's entry, and edits it.
// It finds the file right again soon, though no host comes or goes.
func TestHostsFileRemoved(t *testing.T) {
	need.Time(t)
	dir := t.TempDir()
	link, path := filepath.Join(dir, "link"), filepath.Join(dir, "hosts")
	if err := os.Symlink("hosts", link); err != nil {
		t.Fatal(err)
	}
	watch, err := newFileWatch()
	if err != nil {
		t.Fatal(err)
	}
	reg := registry.New("here.local", registry.OldNames)
	reg.SetReach(see(t, reg, "b.local", 4369), registry.Reachable)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = newKeeper(Options{Registry: reg, Format: World, HostName: here, Path: link, Port: 4369, Log: slog.New(slog.DiscardHandler)}, watch).Run(ctx)
	}()
	defer func() { cancel(); <-ended }()
	block := blockBegin + "'b.local'.\n" + blockEnd
	await := func(path, want string) {
		t.Helper()
		deadline := time.After(wait.Patience)
		for {
			text, err := os.ReadFile(path)
			rest, found := strings.CutSuffix(string(text), block)
			if !found { // the lines of others may have come behind
				rest, found = strings.CutPrefix(string(text), block)
			}
			if err == nil && found && rest == want {
				return
			}
			select {
			case <-deadline:
				t.Fatalf("%s: got %q, %v; want %q beside %q", path, text, err, want, block)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	await(path, "")
	for _, change := range []struct {
		name string
		do   func() error
		want string
	}{
		{"removed", func() error { return os.Remove(path) }, ""},
		{"moved away", func() error { return os.Rename(path, path+".old") }, ""},
		{"edited", func() error { return os.WriteFile(path, []byte("'mine'.\n"), 0o644) }, "'mine'.\n"},
		{"replaced", func() error { return os.Rename(path+".old", path) }, ""},
	} {
		began := time.Now()
		if err := change.do(); err != nil {
			t.Fatal(err)
		}
		await(path, change.want)
		t.Logf("%s: right again after %v", change.name, time.Since(began).Round(time.Millisecond))
	}
	other := filepath.Join(dir, "other")
	if err := errors.Join(os.Remove(link), os.Symlink("other", link)); err != nil {
		t.Fatal(err)
	}
	await(other, "")
}

const envWriter = "ECLUS_TEST_HOSTS_WRITER"

// TestHostsFileWriter is what TestHostsFileKilled kills. It writes a file over and over, and a
// byte each time.
func TestHostsFileWriter(t *testing.T) {
	path := os.Getenv(envWriter)
	if path == "" {
		return // not run by TestHostsFileKilled
	}
	f := &hostsFile{path: path, format: World}
	for i := range 100000 {
		if err := f.write(manyHosts[:1+i%len(manyHosts)]); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString(".")
	}
}

// manyHosts make a file of which a part can be written.
var manyHosts = func() (list []string) {
	for i := range 1000 {
		list = append(list, fmt.Sprintf("'host%d.local'.", i))
	}
	return list
}()

// TestHostsFileKilled kills the writer of a hosts file at any moment. What is there is whole.
func TestHostsFileKilled(t *testing.T) {
	need.Time(t)
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
		select {
		case <-t.Context().Done():
		case <-time.After(rand.N(time.Millisecond)):
		}
		cmd.Process.Kill()
		cmd.Wait()
		if err != nil {
			t.Fatalf("round %d: the writer ended: %v", round, err)
		}
		text, err := os.ReadFile(path)
		n := bytes.Count(text, []byte("'host"))
		if want, _ := World.with(nil, manyHosts[:n]); err != nil || n == 0 || !bytes.Equal(text, want) {
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

func here() string { return "here" }

// keepHosts keeps a hosts file, in a bubble of synctest, until end is called.
func keepHosts(t *testing.T, path string) (reg *registry.Registry, end func()) {
	reg = registry.New("here.local", registry.OldNames)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = newKeeper(Options{Registry: reg, Format: World, HostName: here, Path: path, Port: 4369, Log: slog.New(slog.DiscardHandler)}, nil).Run(ctx)
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
		Sure: true,
	}
	if err := reg.SetNeighbour(n); err != nil {
		t.Fatal(err)
	}
	nodes := reg.Nodes()
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

// TestHostsUnsure has nodes that have not told their names. Their hosts count after 500 ms, or at
// once when they do tell. A node that was taken back by then counts for nothing.
func TestHostsUnsure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	synctest.Test(t, func(t *testing.T) {
		reg, end := keepHosts(t, path)
		checkHosts(t, path, "")
		unsure := func(host string) registry.Node {
			return registry.Node{Node: "n@" + host, Name: "n", Host: host, Port: 4711, EPMDPort: 4369}
		}
		for _, host := range []string{"b.local", "c.local", "d.local"} {
			if err := reg.SetNeighbour(unsure(host)); err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range reg.Nodes() {
			reg.SetReach(n, registry.Reachable)
		}
		gone := unsure("d.local")
		reg.RemoveNeighbour(gone.NeighbourKey())
		see(t, reg, "c.local", 4369)
		time.Sleep(hostsSettle)
		checkHosts(t, path, "'c.local'.\n")
		time.Sleep(hostsUnsure - hostsSettle - time.Millisecond)
		checkHosts(t, path, "'c.local'.\n")
		time.Sleep(hostsUnsure + time.Millisecond)
		checkHosts(t, path, "'b.local'.\n'c.local'.\n")
		end()
	})
}

// TestHostsForeign has hosts in no domain of the LAN. The log names one of each domain.
func TestHostsForeign(t *testing.T) {
	reg := registry.New("here.lan", registry.OldNames)
	var log bytes.Buffer
	h := newKeeper(Options{Registry: reg, Format: World, HostName: here, Path: filepath.Join(t.TempDir(), "hosts"), Port: 4369, Log: slog.New(slog.NewTextHandler(&log, nil))}, nil)
	for _, host := range []string{"b.lan", "c.lan", "d.example", "e.local"} {
		reg.SetReach(see(t, reg, host, 4369), registry.Reachable)
	}
	h.take(reg.Subscribe().Take())
	text := log.String() // in any order, as the registry has neighbours in none
	if strings.Count(text, "\n") != 2 || strings.Count(text, ".lan\n") != 1 || !strings.Contains(text, "host=d.example\n") {
		t.Errorf("the log is %q; want a line about b.lan or c.lan and one about d.example", text)
	}
	if lines := h.lines(); !slices.Equal(lines, terms("e.local")) {
		t.Errorf("named are %q; want e.local", lines)
	}
}

// TestHostsGrace begins with what a killed epmd left. It finds one of the hosts anew.
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

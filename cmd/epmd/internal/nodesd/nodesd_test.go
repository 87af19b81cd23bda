package nodesd

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/cmd/epmd/internal/named"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

// setting is a Reader that reads two folders, which are not there yet.
type setting struct {
	t        *testing.T
	reg      *registry.Registry
	etc, run string

	mu   sync.Mutex
	whos map[string]string // by file
	log  strings.Builder
}

func (s *setting) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(b)
}

func (s *setting) logged() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

func newSetting(t *testing.T) *setting {
	dir := t.TempDir()
	s := &setting{
		t: t, reg: registry.New("us.local", registry.OldNames), whos: make(map[string]string),
		etc: filepath.Join(dir, "etc/epmd/nodes.d"), run: filepath.Join(dir, "run/epmd/nodes.d"),
	}
	r := New(Options{
		Registry: s.reg, Folders: []Folder{{Path: s.etc}, {Path: s.run, Written: true}},
		Whos: func(path string, written bool, whos []named.Who) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.whos[filepath.Base(path)] = fmt.Sprint(written, whos)
		},
		Log: slog.New(slog.NewTextHandler(s, nil)),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		wait.Must(t, <-done)
		if n := len(s.reg.Nodes()); n != 0 {
			t.Errorf("%d nodes are left", n)
		}
	})
	return s
}

// write replaces a file as a whole.
func (s *setting) write(path, text string) {
	s.t.Helper()
	wait.Must(s.t, os.MkdirAll(filepath.Dir(path), 0o755))
	wait.Must(s.t, os.WriteFile(path+".new", []byte(text), 0o644))
	wait.Must(s.t, os.Rename(path+".new", path))
}

// nodes returns what the registry has, to compare.
func (s *setting) nodes() string {
	var list []string
	for _, n := range s.reg.Nodes() {
		list = append(list, fmt.Sprintf("%s %s:%d %s named=%v", n.Node, n.Addresses[0], n.Port, n.Via, n.Named))
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

func (s *setting) want(want string) {
	s.t.Helper()
	wait.Until(s.t, "nodes "+want, func() error {
		if got := s.nodes(); got != want {
			return fmt.Errorf("got %q; log %s", got, s.logged())
		}
		return nil
	})
}

// TestFiles has folders and files come, change, be written in pieces, and go.
func TestFiles(t *testing.T) {
	s := newSetting(t)
	a, b := filepath.Join(s.etc, "a.nodes"), filepath.Join(s.run, "b.nodes")
	s.write(a, "b@hostb 192.0.2.7:9100\n@192.0.2.8\n@gateway\n")
	const first = "b@hostb 192.0.2.7:9100 a.nodes named=true"
	s.want(first)
	s.write(b, "c@hostc 192.0.2.9:9100\n@dns:web")
	const both = first + ", c@hostc 192.0.2.9:9100 b.nodes named=false"
	s.want(both)
	s.mu.Lock()
	if s.whos["a.nodes"] != "false [192.0.2.8 gateway]" || s.whos["b.nodes"] != "true [dns:web]" {
		t.Errorf("epmds: %q", s.whos)
	}
	s.mu.Unlock()

	f, err := os.OpenFile(b, os.O_APPEND|os.O_WRONLY, 0)
	wait.Must(t, err)
	for _, piece := range []string{"\nd@host", "d 192.0.", "2.10:9100\n"} {
		_, err := f.WriteString(piece)
		wait.Must(t, err)
	}
	wait.Must(t, f.Close())
	s.want(both + ", d@hostd 192.0.2.10:9100 b.nodes named=false")
	if log := s.logged(); log != "" {
		t.Errorf("log: %s", log)
	}
	wait.Must(t, os.WriteFile(filepath.Join(s.etc, ".x.nodes"), []byte("x@hostx 192.0.2.1:1"), 0o644))
	wait.Must(t, os.WriteFile(filepath.Join(s.etc, "x.nodes~"), []byte("x@hostx 192.0.2.1:1"), 0o644))
	wait.Must(t, unix.Mkfifo(filepath.Join(s.etc, "pipe.nodes"), 0o644))
	wait.Must(t, os.Symlink("nowhere", filepath.Join(s.etc, "link.nodes")))
	wait.Must(t, os.Remove(b))
	s.want(first)
	wait.Must(t, os.RemoveAll(filepath.Dir(s.etc)))
	s.want("")
	s.write(a, "b@hostb 192.0.2.7:9100\n")
	s.want(first)
}

// TestBadLines has each bad line logged once, with its file and number. The others count.
func TestBadLines(t *testing.T) {
	s := newSetting(t)
	a := filepath.Join(s.etc, "a.nodes")
	s.write(a, "b@hostb 192.0.2.7:9100\nnonsense\x1b[2J\nc@hostc 192.0.2.9:9100\n")
	s.want("b@hostb 192.0.2.7:9100 a.nodes named=true, c@hostc 192.0.2.9:9100 a.nodes named=true")
	s.write(a, "\nc@hostc 192.0.2.9:9100\nnonsense\x1b[2J\n@nobody\n")
	s.want("c@hostc 192.0.2.9:9100 a.nodes named=true")
	log := s.logged()
	if strings.Count(log, "nonsense") != 1 || !strings.Contains(log, "file="+a+" line=2 ") || !strings.Contains(log, "line=4 ") || strings.Contains(log, "\x1b") {
		t.Errorf("log: %s", log)
	}
}

// many is how many lines the file of TestChanges has.
const many = 1000

// rabbits returns a file with nodes called rabbit, each on a host of its own.
func rabbits(host string, port int) string {
	var text strings.Builder
	for i := range many {
		fmt.Fprintf(&text, "rabbit@%s%d 10.0.%d.%d:%d\n", host, i, i/250, i%250+1, port)
	}
	return text.String()
}

// TestChanges changes a long file in several ways. The registry hears of each line that differs,
// and of no other.
func TestChanges(t *testing.T) {
	s := newSetting(t)
	a, b := filepath.Join(s.etc, "a.nodes"), filepath.Join(s.etc, "b.nodes")
	changes := s.reg.Subscribe()
	defer changes.Close()
	var got [registry.Down + 1]int
	want := func(what string, want [registry.Down + 1]int) {
		t.Helper()
		for sum := want[0] + want[1] + want[2]; got[0]+got[1]+got[2] < sum; {
			batch, err := changes.Next(wait.Soon(t))
			if err != nil {
				t.Fatalf("%s: got %d; want %d events up, changed, down: %v", what, got, want, err)
			}
			for _, e := range batch.Events {
				got[e.Kind]++
			}
		}
		if got != want {
			t.Errorf("%s: got %d; want %d events up, changed, down", what, got, want)
		}
		clear(got[:])
	}
	changes.Take()
	const last = "rabbit@last 192.0.2.7:1\n"
	text := rabbits("h", 9000)
	s.write(a, text)
	want("new", [...]int{many, 0, 0})
	s.write(a, strings.Replace(text, ":9000\n", ":9001\n", 1))
	want("one port", [...]int{0, 1, 0})
	text = rabbits("h", 9001)
	s.write(a, text)
	want("all other ports", [...]int{0, many - 1, 0})
	lines := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
	slices.Reverse(lines)
	s.write(a, lines[0]+"\n"+strings.Join(lines[1:], "")+last)
	want("another order and a node more", [...]int{1, 0, 0})
	s.write(b, last)
	s.write(a, rabbits("x", 9001))
	want("all other names, and a node in another file", [...]int{many, 1, many})
	wait.Must(t, os.Remove(a))
	want("a file less", [...]int{0, 0, many})
	if got := s.nodes(); got != "rabbit@last 192.0.2.7:1 b.nodes named=true" {
		t.Errorf("got %q", got)
	}
}

// TestLimits has more files and lines than count.
func TestLimits(t *testing.T) {
	s := newSetting(t)
	var text strings.Builder
	for i := range maxLines + 1 {
		fmt.Fprintf(&text, "n%d@h%d 10.0.%d.%d:9100\n", i, i, i/250, i%250+1)
	}
	s.write(filepath.Join(s.etc, "a.nodes"), text.String())
	count := func(want int) {
		t.Helper()
		wait.Until(t, fmt.Sprint(want, " nodes"), func() error {
			if _, n := s.reg.Counts(); n != want {
				return fmt.Errorf("%d nodes", n)
			}
			return nil
		})
	}
	count(maxLines)
	wait.Until(t, "a line in the log", func() error {
		if strings.Count(s.logged(), "too many lines") != 1 {
			return fmt.Errorf("log %s", s.logged())
		}
		return nil
	})
	wait.Must(t, os.Remove(filepath.Join(s.etc, "a.nodes")))
	count(0)
	for i := range maxFiles + 1 {
		s.write(filepath.Join(s.run, fmt.Sprintf("f%03d.nodes", i)), fmt.Sprintf("n@h%d 192.0.2.1:%d\n", i, i+1))
	}
	count(maxFiles)
}

// TestOneNeighbour has a node that others know too. It is one neighbour, as its epmd says.
func TestOneNeighbour(t *testing.T) {
	s := newSetting(t)
	at := []netip.Addr{netip.MustParseAddr("192.0.2.7")}
	s.write(filepath.Join(s.etc, "a.nodes"), "b@hostb.lab.example 192.0.2.7:9100\n")
	const listed = "b@hostb.lab.example 192.0.2.7:9100 a.nodes named=true"
	s.want(listed)

	told := s.reg.NewSource(registry.Told)
	n := registry.Node{Node: "b@hostb.lab.example", Name: "b", Host: "hostb.local", Port: 9101, EPMDPort: 4369, Addresses: at,
		Origin: registry.Peer, Via: registry.ViaEPMD, Sure: true}
	wait.Must(t, told.See(1, n))
	s.want("b@hostb.lab.example 192.0.2.7:9101 epmd named=false")
	told.Lose(1)
	s.want(listed)

	asked := s.reg.NewSource(registry.Announced)
	n.Node, n.Host, n.Sure = "b@192.0.2.7", "192.0.2.7", false
	wait.Must(t, asked.See(1, n))
	s.want("b@hostb.lab.example 192.0.2.7:9101 epmd named=true")
	asked.Lose(1)
	s.want(listed)

	n.Node, n.Host, n.Via, n.Port = "b@hostb", "hostb.local", registry.ViaMDNS, 666
	wait.Must(t, asked.See(1, n))
	s.want(listed)
	n.Node, n.Host = "b@evil", "evil.local"
	wait.Must(t, asked.See(2, n))
	s.want("b@evil 192.0.2.7:666 mdns named=false, " + listed)
	asked.Close()
}

// TestWriting has a file that is written without end. It is read all the same.
func TestWriting(t *testing.T) {
	s := newSetting(t)
	a := filepath.Join(s.etc, "a.nodes")
	s.write(a, "")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.Tick(20 * time.Millisecond); ; {
			select {
			case <-stop:
				return
			case <-tick:
				_ = os.WriteFile(a, []byte("b@hostb 192.0.2.7:9100\n"), 0o644)
			}
		}
	}()
	s.want("b@hostb 192.0.2.7:9100 a.nodes named=true")
	close(stop)
	<-done
}

package systemd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/internal/message"

	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// journald is the journal's side of the socket.
type journald struct {
	t    testing.TB
	path string
	conn *net.UnixConn
	buf  [1 << 20]byte
}

// startJournald listens in a new folder.
func startJournald(t testing.TB) *journald {
	d := &journald{t: t, path: filepath.Join(t.TempDir(), "socket")}
	d.start()
	return d
}

func (d *journald) start() {
	d.t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: d.path, Net: "unixgram"})
	if err != nil {
		d.t.Fatal(err)
	}
	d.conn = conn
	d.t.Cleanup(func() { conn.Close() })
}

func (d *journald) stop() {
	d.t.Helper()
	if err := errors.Join(d.conn.Close(), os.Remove(d.path)); err != nil {
		d.t.Fatal(err)
	}
}

// receive returns the fields of the next entry.
func (d *journald) receive() map[string]string {
	d.t.Helper()
	d.conn.SetReadDeadline(time.Now().Add(wait.Patience))
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := d.conn.ReadMsgUnix(d.buf[:], oob)
	if err != nil {
		d.t.Fatal(err)
	}
	raw := d.buf[:n]
	if oobn > 0 {
		if n > 0 {
			d.t.Fatalf("datagram has %q beside a descriptor", raw)
		}
		raw = d.readMemfd(oob[:oobn])
	}
	fields, err := parseEntry(raw)
	if err != nil {
		d.t.Fatal(err)
	}
	return fields
}

// readMemfd returns what is in a file that came with a datagram, which nobody can change.
func (d *journald) readMemfd(oob []byte) []byte {
	d.t.Helper()
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		d.t.Fatalf("got %d control messages, %v; want 1", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		d.t.Fatalf("got descriptors %v, %v; want 1", fds, err)
	}
	f := os.NewFile(uintptr(fds[0]), "memfd")
	defer f.Close()
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if want := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE; seals != want || err != nil {
		d.t.Errorf("seals %#x, %v; want %#x", seals, err, want)
	}
	size, err := f.Seek(0, 2)
	b := make([]byte, size)
	if _, readErr := f.ReadAt(b, 0); err != nil || readErr != nil {
		d.t.Fatal(err, readErr)
	}
	return b
}

var validField = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,63}$`)

// parseEntry returns the fields of an entry, of which each has a valid name and is there once.
func parseEntry(b []byte) (map[string]string, error) {
	fields := make(map[string]string)
	for len(b) > 0 {
		end := bytes.IndexAny(b, "=\n")
		if end < 0 {
			return nil, fmt.Errorf("no end of a name in %q", b)
		}
		name, rest := string(b[:end]), b[end+1:]
		size := bytes.IndexByte(rest, '\n')
		if b[end] == '\n' {
			if len(rest) < 8 {
				return nil, fmt.Errorf("no length in %q", b)
			}
			size, rest = int(binary.LittleEndian.Uint64(rest)), rest[8:]
		}
		if size < 0 || size >= len(rest) || rest[size] != '\n' {
			return nil, fmt.Errorf("no end of the value in %q", b)
		}
		if _, again := fields[name]; again || !validField.MatchString(name) {
			return nil, fmt.Errorf("name %q is invalid or there twice", name)
		}
		fields[name], b = string(rest[:size]), rest[size+1:]
	}
	return fields, nil
}

// receiveNumbers reads entries that are numbered from first up to, but without, end. It returns how
// many were lost. An entry that still found room may come before the journal is told of a loss.
func (d *journald) receiveNumbers(first, end int) (lost int) {
	d.t.Helper()
	next := first
	for seen := 0; seen+lost < end-first; {
		fields := d.receive()
		if count, err := strconv.Atoi(fields["COUNT"]); err == nil {
			lost += count
			continue
		}
		n, err := strconv.Atoi(fields["N"])
		if err != nil || n < next {
			d.t.Fatalf("got %q after %d lost, want n=%d or more", fields, lost, next)
		}
		next = n + 1
		seen++
	}
	return lost
}

// openJournal returns a Journal that looks for the socket often.
func openJournal(t testing.TB, path string) *Journal {
	j := NewJournal(path, "epmd")
	j.retry = time.Millisecond
	t.Cleanup(func() { j.Close() })
	return j
}

// runJournal calls Run until stop is called or the test ends; stop returns when Run has.
func runJournal(t testing.TB, j *Journal) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { j.Run(ctx) })
	stop = func() {
		cancel()
		run.Wait()
	}
	t.Cleanup(stop)
	return stop
}

func TestJournalHandler(t *testing.T) {
	var d *journald
	slogtest.Run(t, func(t *testing.T) slog.Handler {
		d = startJournald(t)
		return openJournal(t, d.path).Handler(slog.LevelInfo)
	}, func(*testing.T) map[string]any {
		fields := d.receive()
		return nested(fields)
	})
}

// nested returns an entry as slogtest wants to see it.
func nested(fields map[string]string) map[string]any {
	builtin := map[string]string{"TIMESTAMP": slog.TimeKey, "PRIORITY": slog.LevelKey, "MESSAGE": slog.MessageKey}
	all := make(map[string]any)
	for name, value := range fields {
		if key, ok := builtin[name]; ok {
			value, _, _ = strings.Cut(value, ":") // of MESSAGE: what was logged
			all[key] = value
			continue
		}
		groups := strings.Split(name, "_")
		m := all
		for _, g := range groups[:len(groups)-1] {
			if m[g] == nil {
				m[g] = make(map[string]any)
			}
			m = m[g].(map[string]any)
		}
		m[strings.ToLower(groups[len(groups)-1])] = value
	}
	return all
}

var peer = netip.MustParseAddrPort("127.0.0.1:51844")

var entryTests = []struct {
	name    string
	level   slog.Level
	message string
	args    []any
	want    string // the entry; N8 stands for a length of N
}{
	{"node up", slog.LevelInfo, "node up", []any{message.NodeUp.Attr(), "name", "a", "port", 41233, "peer", peer},
		"MESSAGE=node up: a at port 41233 peer=127.0.0.1:51844\nPRIORITY=6\nSYSLOG_IDENTIFIER=epmd\n" +
			"MESSAGE_ID=ee43d0d7450846158a5dd1fa29aa3a3c\nERLANG_NAME=a\nERLANG_PORT=41233\nPEER=127.0.0.1:51844\n"},
	{"no attributes", slog.LevelDebug, "dump asked for", nil,
		"MESSAGE=dump asked for\nPRIORITY=7\nSYSLOG_IDENTIFIER=epmd\n"},
	{"names", slog.LevelInfo, "node named", []any{"node", "a@hosta.local", message.NodeNamed.Attr(), "name", "a", "port", 1},
		"MESSAGE=node named: a@hosta.local at port 1\nPRIORITY=6\nSYSLOG_IDENTIFIER=epmd\n" +
			"MESSAGE_ID=ca8262d50f8342c7a108eb3f411c1912\nERLANG_NODE=a@hosta.local\nERLANG_NAME=a\nERLANG_PORT=1\n"},
	{"error", slog.LevelWarn, "name refused", []any{message.NameRefused.Attr(), "name", "é", "err", errors.New("name taken")},
		"MESSAGE=name refused: é err=\"name taken\"\nPRIORITY=4\nSYSLOG_IDENTIFIER=epmd\n" +
			"MESSAGE_ID=1283f3189e7c437c91677929bf9df1fb\nERLANG_NAME=é\nERROR=name taken\n"},
	{"holder", slog.LevelError, "m", []any{"host", "h", "pid", 1, "uid", 2, "unit", "x.service"},
		"MESSAGE=m: host=h pid=1 uid=2 unit=x.service\nPRIORITY=3\nSYSLOG_IDENTIFIER=epmd\n" +
			"ERLANG_HOST=h\nERLANG_PID=1\nERLANG_UID=2\nERLANG_UNIT=x.service\n"},
	{"newline", slog.LevelInfo, "m", []any{"node", "a\nPRIORITY=0"},
		"MESSAGE=m: \"a\\nPRIORITY=0\"\nPRIORITY=6\nSYSLOG_IDENTIFIER=epmd\n" +
			"ERLANG_NODE\n\x0c\x00\x00\x00\x00\x00\x00\x00a\nPRIORITY=0\n"},
	{"control characters", slog.LevelInfo, "m\x1b[2J\n", []any{"node", "a\x1b[2J\x00\u202e\xff\u009b\t"},
		`MESSAGE=m\x1b[2J\n: "a\x1b[2J\x00\u202e\xff\u009b\t"` + "\nPRIORITY=6\nSYSLOG_IDENTIFIER=epmd\n" +
			`ERLANG_NODE=a\x1b[2J\x00\u202e\xff\u009b` + "\t\n"},
	{"keys of ours", slog.LevelInfo, "m", []any{"message", "x", "Priority", 0, "syslog_identifier", "sshd"},
		"MESSAGE=m: message=x Priority=0 syslog_identifier=sshd\nPRIORITY=6\nSYSLOG_IDENTIFIER=epmd\n" +
			"ATTR_MESSAGE=x\nATTR_PRIORITY=0\nATTR_SYSLOG_IDENTIFIER=sshd\n"},
	{"keys that are no names", slog.LevelInfo, "m", []any{"_pid", 1, "9p", 2, "", 3, "né=\n", 4},
		"MESSAGE=m: _pid=1 9p=2 \"\"=3 \"né=\\n\"=4\nPRIORITY=6\nSYSLOG_IDENTIFIER=epmd\n" +
			"ATTR__PID=1\nATTR_9P=2\nATTR_=3\nN___=4\n"},
	{"long key", slog.LevelInfo, "m", []any{strings.Repeat("k", 65), 1},
		"MESSAGE=m: " + strings.Repeat("k", 65) + "=1\nPRIORITY=6\nSYSLOG_IDENTIFIER=epmd\n" +
			strings.Repeat("K", 64) + "=1\n"},
	{"groups", slog.LevelInfo, "m", []any{slog.Group("g", "node", "a", slog.Group("h", "b", ""))},
		"MESSAGE=m: g.node=a g.h.b=\"\"\nPRIORITY=6\nSYSLOG_IDENTIFIER=epmd\nG_NODE=a\nG_H_B=\n"},
	{"time", slog.LevelInfo, "m", []any{"since", time.Date(2025, 1, 2, 3, 4, 5, 6000, time.UTC), "took", time.Second},
		"MESSAGE=m: since=2025-01-02T03:04:05.000006Z took=1s\nPRIORITY=6\nSYSLOG_IDENTIFIER=epmd\n" +
			"SINCE=2025-01-02T03:04:05.000006Z\nTOOK=1s\n"},
}

func TestEntry(t *testing.T) {
	for _, tt := range entryTests {
		t.Run(tt.name, func(t *testing.T) {
			r := slog.NewRecord(time.Time{}, tt.level, tt.message, 0)
			r.Add(tt.args...)
			if got := string(journalHandler{journal: &Journal{identifier: "epmd"}}.format(r)); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

// FuzzEntry logs what may come from anywhere and looks whether it can be parsed, and read.
func FuzzEntry(f *testing.F) {
	f.Add("node up", "node", "a")
	f.Add("m\x1b", "\n=", "a\nb\xff")
	f.Fuzz(func(t *testing.T, message, key, value string) {
		r := slog.NewRecord(time.Now(), slog.LevelInfo, message, 0)
		r.Add(slog.String(key, value))
		fields, err := parseEntry(journalHandler{journal: &Journal{identifier: "epmd"}}.format(r))
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range fields {
			unprintable := func(r rune) bool {
				return !unicode.IsPrint(r) && (name == "MESSAGE" || r != '\n' && r != '\t')
			}
			if strings.ContainsFunc(value, unprintable) {
				t.Errorf("%s=%q can't be printed", name, value)
			}
		}
	})
}

func TestJournalLevels(t *testing.T) {
	d := startJournald(t)
	log := slog.New(openJournal(t, d.path).Handler(slog.LevelWarn))
	log.Info("too low")
	log.Warn("high enough")
	if got := d.receive(); got["MESSAGE"] != "high enough" {
		t.Errorf("got %q, want what was logged as a warning", got)
	}
}

func TestBigEntry(t *testing.T) {
	d := startJournald(t)
	j := openJournal(t, d.path)
	if err := j.conn.SetWriteBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	log := slog.New(j.Handler(slog.LevelInfo))
	for _, size := range []int{1, 300 << 10, 2} { // the second is too big for the socket
		big := strings.Repeat("a", size)
		log.Info("big", "node", big, "peer", peer)
		if got := d.receive(); got["ERLANG_NODE"] != big || got["PEER"] != peer.String() {
			t.Errorf("got %d bytes and peer %q, want %d and %v", len(got["ERLANG_NODE"]), got["PEER"], len(big), peer)
		}
	}
}

// TestHugeEntry logs what is larger than all that may wait: it is lost, and the journal told so.
func TestHugeEntry(t *testing.T) {
	d := startJournald(t)
	j := openJournal(t, d.path)
	runJournal(t, j)
	slog.New(j.Handler(slog.LevelInfo)).Info("huge", "node", strings.Repeat("a", maxBacklog))
	if got := d.receive(); got["MESSAGE"] != "log entries lost: count=1" {
		t.Errorf("got %q, want that one is lost", got)
	}
}

// TestRefusedEntry logs what can't be sent, for there is no descriptor left for its memfd: it is
// lost, and the journal told so.
func TestRefusedEntry(t *testing.T) {
	d := startJournald(t)
	j := openJournal(t, d.path)
	var limit unix.Rlimit
	if err := errors.Join(j.conn.SetWriteBuffer(64<<10), unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	slog.New(j.Handler(slog.LevelInfo)).Info("big", "node", strings.Repeat("a", 300<<10))
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	runJournal(t, j)
	if got := d.receive(); got["MESSAGE"] != "log entries lost: count=1" {
		t.Errorf("got %q, want that one is lost", got)
	}
}

// TestJournalFull logs more than the socket and the backlog hold while the journal reads nothing.
// It would not end if that were waited for.
func TestJournalFull(t *testing.T) {
	d := startJournald(t)
	j := openJournal(t, d.path)
	j.retry = time.Hour // room in the socket is noticed, not tried for
	runJournal(t, j)
	log := slog.New(j.Handler(slog.LevelInfo))
	const count = 4000
	for n := range count {
		log.Info("numbered", "n", n, "padding", strings.Repeat("a", 500))
	}
	if lost := d.receiveNumbers(0, count); lost == 0 {
		t.Errorf("none of %d was lost, the test is no use", count)
	}
	log.Info("numbered", "n", count)
	if lost := d.receiveNumbers(count, count+1); lost > 0 {
		t.Errorf("%d lost after the journal worked again", lost)
	}
}

// TestJournalSlow reads while others log, for as long as it takes to be sure that all arrives, in
// each one's order.
func TestJournalSlow(t *testing.T) {
	d := startJournald(t)
	j := openJournal(t, d.path)
	runJournal(t, j)
	const loggers, count = 4, 200
	var all sync.WaitGroup
	defer all.Wait()
	for l := range loggers {
		log := slog.New(j.Handler(slog.LevelInfo)).With("logger", l)
		all.Go(func() {
			for n := range count {
				log.Info("numbered", "n", n)
			}
		})
	}
	next := make(map[string]int)
	for range loggers * count {
		fields := d.receive()
		l := fields["LOGGER"]
		if fields["N"] != strconv.Itoa(next[l]) {
			t.Fatalf("got %q, want n=%d", fields, next[l])
		}
		next[l]++
	}
}

func TestJournalAbsent(t *testing.T) {
	d := &journald{t: t, path: filepath.Join(t.TempDir(), "socket")}
	j := openJournal(t, d.path)
	runJournal(t, j)
	log := slog.New(j.Handler(slog.LevelInfo))
	const count = 5000
	for n := range count {
		log.Info("numbered", "n", n, "padding", strings.Repeat("a", 500))
	}
	d.start()
	if lost := d.receiveNumbers(0, count); lost == 0 {
		t.Errorf("none of %d was lost, the test is no use", count)
	}
}

func TestJournalRestart(t *testing.T) {
	d := startJournald(t)
	j := openJournal(t, d.path)
	runJournal(t, j)
	log := slog.New(j.Handler(slog.LevelInfo))
	for n := range 5 {
		log.Info("numbered", "n", 2*n)
		d.receiveNumbers(2*n, 2*n+1)
		d.stop()
		log.Info("numbered", "n", 2*n+1)
		d.start()
		if lost := d.receiveNumbers(2*n+1, 2*n+2); lost > 0 {
			t.Errorf("restart %d: %d lost", n, lost)
		}
	}
}

// TestJournalRestartFull restarts the journal while Run waits for room in its socket. What was in
// there is gone with it; what waited is not.
func TestJournalRestartFull(t *testing.T) {
	d := startJournald(t)
	j := openJournal(t, d.path)
	runJournal(t, j)
	log := slog.New(j.Handler(slog.LevelInfo))
	sent := 0
	for ; j.waiting() == 0; sent++ {
		log.Info("numbered", "n", sent)
	}
	d.stop()
	d.start()
	if lost := d.receiveNumbers(sent-1, sent); lost > 0 {
		t.Errorf("%d lost", lost)
	}
}

// waiting returns how many entries wait for the journal.
func (j *Journal) waiting() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.queue)
}

// TestJournalStop ends Run while it waits for room, logs more, and closes when there is some room
// and when there is none.
func TestJournalStop(t *testing.T) {
	for _, read := range []int{0, 2} {
		d := startJournald(t)
		j := openJournal(t, d.path)
		stop := runJournal(t, j)
		log := slog.New(j.Handler(slog.LevelInfo))
		sent := 0
		for ; j.waiting() == 0; sent++ {
			log.Info("numbered", "n", sent)
		}
		stop()
		log.Info("numbered", "n", sent)
		d.receiveNumbers(0, read)
		err := j.Close()
		if read == 0 && (err == nil || !strings.Contains(err.Error(), "2 log entries lost")) {
			t.Errorf("got %v, want an error that says that 2 log entries are lost", err)
		}
		if read == 0 {
			continue
		}
		if err != nil {
			t.Error(err)
		}
		if lost := d.receiveNumbers(read, sent+1); lost > 0 {
			t.Errorf("%d lost", lost)
		}
	}
}

func TestStderrIsJournal(t *testing.T) {
	var stat unix.Stat_t
	if err := unix.Fstat(2, &stat); err != nil {
		t.Fatal(err)
	}
	for stream, want := range map[string]bool{
		fmt.Sprintf("%d:%d", stat.Dev, stat.Ino):   true,
		fmt.Sprintf("%d:%d", stat.Dev, stat.Ino+1): false,
		fmt.Sprintf("%d:%d", stat.Dev+1, stat.Ino): false,
		"": false, ":": false, "x": false,
	} {
		t.Setenv("JOURNAL_STREAM", stream)
		if got := StderrIsJournal(); got != want {
			t.Errorf("JOURNAL_STREAM=%s: got %v, want %v", stream, got, want)
		}
	}
}

// TestCatalog compares the catalog with the messages that have an ID, and has journalctl(1) read
// it.
func TestCatalog(t *testing.T) {
	const catalog = "epmd.catalog"
	text, err := os.ReadFile(catalog)
	if err != nil {
		t.Fatal(err)
	}
	explained := make(map[string]string) // by message
	for _, m := range regexp.MustCompile(`(?m)^# (.+)\n-- ([0-9a-f]{32})$`).FindAllSubmatch(text, -1) {
		explained[string(m[1])] = string(m[2])
	}
	want := map[string]string{
		"name refused":    string(message.NameRefused),
		"neighbour down":  string(message.NeighbourDown),
		"neighbour named": string(message.NeighbourNamed),
		"neighbour up":    string(message.NeighbourUp),
		"node down":       string(message.NodeDown),
		"node named":      string(message.NodeNamed),
		"node up":         string(message.NodeUp),
		"peer refused":    string(message.PeerRefused),
		"state restored":  string(message.StateRestored),
	}
	if !maps.Equal(explained, want) {
		t.Errorf("catalog explains %q, want %q", explained, want)
	}
	listed := listCatalog(t, text)
	for _, id := range explained {
		if !strings.Contains(listed, id+" epmd: ") {
			t.Errorf("journalctl lists %q, want %s", listed, id)
		}
	}
}

// listCatalog returns what journalctl(1) knows when it has a catalog.
func listCatalog(t *testing.T, catalog []byte) string {
	t.Helper()
	journalctl := need.Program(t, "journalctl")
	root := t.TempDir()
	sources := filepath.Join(root, "usr/lib/systemd/catalog")
	err := errors.Join(os.MkdirAll(sources, 0o755), os.MkdirAll(filepath.Join(root, "var/lib/systemd/catalog"), 0o755),
		os.WriteFile(filepath.Join(sources, "epmd.catalog"), catalog, 0o644))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(journalctl, "--root="+root, "--update-catalog").CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("journalctl --update-catalog: %s %v", out, err)
	}
	out, err := exec.Command(journalctl, "--root="+root, "--list-catalog").Output()
	if err != nil {
		t.Fatalf("journalctl --list-catalog: %v", err)
	}
	return string(out)
}

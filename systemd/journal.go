package systemd

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/internal/message"
)

// JournalSocket is where systemd-journald takes entries.
const JournalSocket = "/run/systemd/journal/socket"

const (
	maxBacklog    = 1 << 20     // bytes of entries that wait for the journal
	journalRetry  = time.Second // from losing the journal to looking for it again
	journalBuffer = 8 << 20     // of the socket, as in libsystemd; the kernel may grant less
	maxFieldName  = 64          // bytes; journald drops a field with a longer name
	attrPrefix    = "ATTR_"     // of fields that could not have their name otherwise
	lostMessage   = "log entries lost"
)

// StderrIsJournal reports whether standard error goes to the journal as lines of text. Then entries
// with fields can go there instead. See JOURNAL_STREAM in systemd.exec(5).
func StderrIsJournal() bool {
	is, err := journal.StderrIsJournalStream()
	return is && err == nil
}

// Journal writes entries to the systemd journal in its native protocol (systemd.io, "Native Journal
// Protocol"). A datagram is an entry. Each field of it is one of
//
//	NAME=value\n
//	NAME\n  length of value, 8 bytes, little-endian  value\n     (if there is a newline in value)
//
// An entry too large for a datagram is in a sealed memfd. Its descriptor comes in a datagram
// without content.
//
// Logging never waits. If the journal takes an entry, it is sent at once. So the journal has all
// that was logged, whatever ends the process. While the journal is slow or absent, up to 1 MiB of
// entries wait until Run sends them in order. Further entries are dropped. Once the journal works
// again, an entry says how many.
//
// Send of go-systemd's journal package waits for as long as the journal is full. It has one socket
// for the process and one path for all, and its temporary file needs a writable /dev/shm.
type Journal struct {
	path       string
	identifier string
	retry      time.Duration

	// mu is held over sending, which never waits. A connection is closed without it: closing waits
	// for whoever uses the connection, which may be waiting for mu.
	mu     sync.Mutex
	conn   *net.UnixConn // nil: none; set by Run alone, but for the first and the last
	queue  [][]byte      // entries that wait
	size   int           // bytes in queue
	lost   int           // entries that were dropped since the journal was last told of them
	queued chan struct{} // holds a token while something may wait
}

// NewJournal returns a Journal that writes to the socket at path, usually JournalSocket. The socket
// need not exist yet. The identifier, a program's name, is SYSLOG_IDENTIFIER= of each entry.
func NewJournal(path, identifier string) *Journal {
	j := &Journal{path: path, identifier: identifier, retry: journalRetry, queued: make(chan struct{}, 1)}
	j.conn, _ = dialJournal(path) // else Run does it
	return j
}

func dialJournal(path string) (*net.UnixConn, error) {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("connect to the journal: %w", err)
	}
	_ = conn.SetWriteBuffer(journalBuffer) // with less, entries wait here a little sooner
	return conn, nil
}

// Run sends what waits for the journal, until ctx ends. After that entries are still written (see
// Close).
func (j *Journal) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-j.queued:
		}
		for j.drain(ctx) != nil {
			if !pause(ctx, j.retry) {
				return
			}
		}
	}
}

// Close sends as much of what waits as the journal takes at once, and closes the connection. Its
// error says how much was lost. Run has ended before.
func (j *Journal) Close() error {
	conn, err := j.connect()
	if err == nil {
		err = control(conn, j.sendAll)
		j.disconnect()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if lost := len(j.queue) + j.lost; lost > 0 {
		return fmt.Errorf("%d log entries lost: %w", lost, err)
	}
	return nil
}

// drain sends all that waits, and waits for room in the journal's socket. It connects if there is
// no connection.
func (j *Journal) drain(ctx context.Context) error {
	conn, err := j.connect()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetWriteDeadline(time.Now()) })
	defer stop()
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Write(func(fd uintptr) bool {
		sendErr = j.sendAll(int(fd))
		return sendErr != unix.EAGAIN
	})
	switch {
	case err != nil: // ctx has ended
		return err
	case sendErr == io.EOF:
		return nil
	}
	j.disconnect()
	return sendErr
}

func (j *Journal) connect() (*net.UnixConn, error) {
	j.mu.Lock()
	conn := j.conn
	j.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	conn, err := dialJournal(j.path)
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	j.conn = conn
	j.mu.Unlock()
	return conn, nil
}

func (j *Journal) disconnect() {
	j.mu.Lock()
	conn := j.conn
	j.conn = nil
	j.mu.Unlock()
	conn.Close()
}

// write sends an entry, or queues it behind those that wait.
func (j *Journal) write(entry []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	atOnce := j.conn != nil && len(j.queue) == 0 && j.lost == 0
	if j.size+len(entry) > maxBacklog {
		j.lost++
	} else {
		j.queue = append(j.queue, entry)
		j.size += len(entry)
		if atOnce && control(j.conn, j.sendFirst) == nil {
			return
		}
	}
	select {
	case j.queued <- struct{}{}:
	default: // the token is there already
	}
}

// sendAll sends all that waits, and how many entries were lost. Its error is never nil: io.EOF when
// nothing waits any more, EAGAIN when the journal takes no more at present.
func (j *Journal) sendAll(fd int) (err error) {
	for err == nil {
		err = j.sendNext(fd)
	}
	return err
}

// sendNext is a step of sendAll. Between the steps others can log.
func (j *Journal) sendNext(fd int) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case len(j.queue) > 0:
		return j.sendFirst(fd)
	case j.lost == 0:
		return io.EOF
	}
	r := slog.NewRecord(time.Now(), slog.LevelWarn, lostMessage, 0)
	r.AddAttrs(slog.Int("count", j.lost))
	err := transmit(fd, journalHandler{journal: j}.format(r))
	if err == nil {
		j.lost = 0
	}
	return err
}

// sendFirst sends the entry that has waited longest. It keeps the entry if the journal will take it
// later, and drops it otherwise.
func (j *Journal) sendFirst(fd int) error {
	err := transmit(fd, j.queue[0])
	switch err {
	case unix.EAGAIN, unix.ECONNREFUSED, unix.ECONNRESET, unix.ENOTCONN, unix.EPIPE:
		return err
	case nil:
	default:
		j.lost++
	}
	j.size -= len(j.queue[0])
	j.queue[0] = nil
	j.queue = j.queue[1:]
	return err
}

// transmit sends an entry without waiting. It returns the system's error.
func transmit(fd int, entry []byte) error {
	err := unix.Sendmsg(fd, entry, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if err != unix.EMSGSIZE {
		return err
	}
	file, err := unix.MemfdCreate("epmd journal entry", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return err
	}
	defer unix.Close(file)
	if n, err := unix.Write(file, entry); err != nil || n < len(entry) {
		return cmp.Or(err, error(unix.ENOSPC))
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(file), unix.F_ADD_SEALS, seals); err != nil {
		return err
	}
	return unix.Sendmsg(fd, nil, unix.UnixRights(file), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

// Handler returns a handler that writes records of a level and above. MESSAGE= has the record's
// message and its attributes, so that a bare journalctl(1) shows all:
//
//	node down: a@hosta.local at port 41233 peer=127.0.0.1:51844
//
// Each attribute has a field too:
//
//	node                        ERLANG_NODE=: a full node name
//	name                        ERLANG_NAME=: an alive name; not in MESSAGE= behind a full one
//	port, host, pid, uid, unit  ERLANG_PORT= and so on
//	err                         ERROR=
//	a in group g                G_A=: any other key is in capitals, behind its groups
//	message, 9p                 ATTR_MESSAGE=, ATTR_9P=: ours, or no field's name
//
// Every entry has PRIORITY=, SYSLOG_IDENTIFIER= and TIMESTAMP= (RFC 3339). The journal's own time
// is when it got the entry. A record with a message.ID has MESSAGE_ID=.
//
// What can't be printed is escaped as in a Go string, because journalctl writes some fields to the
// terminal as they are. Newlines and tabs remain in fields, but not in MESSAGE=.
func (j *Journal) Handler(level slog.Leveler) slog.Handler {
	return journalHandler{journal: j, level: level}
}

type journalHandler struct {
	journal *Journal
	level   slog.Leveler
	attrs   attrs  // of the logger
	group   string // of what follows: names of groups, a dot behind each
}

// attrs is attributes in the two forms that an entry has.
type attrs struct {
	fields  []byte // as the journal takes them
	text    []byte // to be read in MESSAGE=; begins with a space unless empty
	hasNode bool   // a full node name is among them
	id      message.ID
}

func (h journalHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level.Level()
}

func (h journalHandler) WithAttrs(list []slog.Attr) slog.Handler {
	h.attrs = h.attrs.clone()
	for _, a := range list {
		h.attrs.add(h.group, a)
	}
	return h
}

func (h journalHandler) WithGroup(name string) slog.Handler {
	if name != "" {
		h.group += name + "."
	}
	return h
}

// Handle never fails: an entry that gets lost is counted.
func (h journalHandler) Handle(_ context.Context, r slog.Record) error {
	h.journal.write(h.format(r))
	return nil
}

// format returns the entry for a record.
func (h journalHandler) format(r slog.Record) []byte {
	a := h.attrs.clone()
	r.Attrs(func(attr slog.Attr) bool {
		a.add(h.group, attr)
		return true
	})
	text := escape(r.Message, "")
	if len(a.text) > 0 {
		text += ":" + string(a.text)
	}
	entry := appendField(nil, "MESSAGE", text)
	entry = appendField(entry, "PRIORITY", strconv.Itoa(priority(r.Level)))
	entry = appendField(entry, "SYSLOG_IDENTIFIER", h.journal.identifier)
	if a.id != "" {
		entry = appendField(entry, "MESSAGE_ID", string(a.id))
	}
	if !r.Time.IsZero() {
		entry = appendField(entry, "TIMESTAMP", r.Time.UTC().Format(time.RFC3339Nano))
	}
	return append(entry, a.fields...)
}

// priority returns syslog's number for a level.
func priority(level slog.Level) int {
	switch {
	case level < slog.LevelInfo:
		return 7 // debug
	case level < slog.LevelWarn:
		return 6 // informational
	case level < slog.LevelError:
		return 4 // warning
	}
	return 3 // error
}

func (a attrs) clone() attrs {
	a.fields, a.text = slices.Clone(a.fields), slices.Clone(a.text)
	return a
}

// add adds an attribute, or those that are in it.
func (a *attrs) add(group string, attr slog.Attr) {
	if id, ok := attr.Value.Any().(message.ID); ok {
		a.id = id
		return
	}
	v := attr.Value.Resolve()
	switch {
	case v.Kind() == slog.KindGroup:
		if attr.Key != "" {
			group += attr.Key + "."
		}
		for _, member := range v.Group() {
			a.add(group, member)
		}
		return
	case attr.Equal(slog.Attr{}):
		return
	}
	key, value := group+attr.Key, v.String()
	if v.Kind() == slog.KindTime {
		value = v.Time().Format(time.RFC3339Nano)
	}
	a.fields = appendField(a.fields, fieldName(key), escape(value, "\n\t"))
	if key == "name" && a.hasNode {
		return
	}
	a.hasNode = a.hasNode || key == "node"
	a.text = append(a.text, ' ')
	switch key {
	case "node", "name":
	case "port":
		a.text = append(a.text, "at port "...)
	default:
		a.text = append(append(a.text, quote(key)...), '=')
	}
	a.text = append(a.text, quote(value)...)
}

// fieldName returns the name of the field for an attribute.
func fieldName(key string) string {
	switch key {
	case "node", "name", "port", "host", "pid", "uid", "unit":
		return "ERLANG_" + strings.ToUpper(key)
	case "err":
		return "ERROR"
	}
	name := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		}
		return '_'
	}, key)
	switch name {
	case "MESSAGE", "MESSAGE_ID", "PRIORITY", "SYSLOG_IDENTIFIER", "TIMESTAMP":
		return attrPrefix + name
	}
	if name == "" || name[0] < 'A' || name[0] == '_' {
		name = attrPrefix + name
	}
	return name[:min(len(name), maxFieldName)]
}

// appendField appends a field to an entry.
func appendField(entry []byte, name, value string) []byte {
	entry = append(entry, name...)
	if strings.Contains(value, "\n") {
		entry = append(entry, '\n')
		entry = binary.LittleEndian.AppendUint64(entry, uint64(len(value)))
	} else {
		entry = append(entry, '=')
	}
	return append(append(entry, value...), '\n')
}

// escape returns s with unprintable characters as in a Go string, except those in keep.
func escape(s, keep string) string {
	if printable(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if printable(s[:size]) || strings.ContainsRune(keep, r) {
			b.WriteString(s[:size])
		} else {
			escaped := strconv.Quote(s[:size])
			b.WriteString(escaped[1 : len(escaped)-1])
		}
		s = s[size:]
	}
	return b.String()
}

// quote returns s, in quotes if its end would not be clear.
func quote(s string) string {
	if s == "" || strings.ContainsAny(s, " =\"") || !printable(s) {
		return strconv.Quote(s)
	}
	return s
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) })
}

package screen

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/test/wait"
)

// terminal returns both ends of a terminal of that size.
func terminal(t *testing.T, columns, lines uint16) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	wait.Must(t, err)
	t.Cleanup(func() { master.Close() })
	wait.Must(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	fd, err := unix.IoctlRetInt(int(master.Fd()), unix.TIOCGPTPEER)
	wait.Must(t, err)
	slave = os.NewFile(uintptr(fd), "terminal")
	t.Cleanup(func() { slave.Close() })
	wait.Must(t, unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: lines}))
	return master, slave
}

// TestOfTerminal shows something on a terminal. Its size counts before COLUMNS.
func TestOfTerminal(t *testing.T) {
	for _, tt := range []struct {
		name           string
		columns, lines uint16
		env            map[string]string
		width          int
		coloured       bool
	}{
		{"a terminal", 132, 43, map[string]string{"TERM": "xterm"}, 132, true},
		{"COLUMNS differs", 132, 43, map[string]string{"TERM": "xterm", "COLUMNS": "10"}, 132, true},
		{"no size", 0, 0, map[string]string{"TERM": "xterm", "COLUMNS": "90"}, 90, true},
		{"no size at all", 0, 0, map[string]string{"TERM": "xterm"}, 0, true},
		{"COLUMNS is no number", 0, 0, map[string]string{"TERM": "xterm", "COLUMNS": "9x"}, 0, true},
		{"COLUMNS is negative", 0, 0, map[string]string{"TERM": "xterm", "COLUMNS": "-1"}, 0, true},
		{"COLUMNS is huge", 0, 0, map[string]string{"TERM": "xterm", "COLUMNS": "65536"}, 0, true},
		{"NO_COLOR", 80, 24, map[string]string{"TERM": "xterm", "NO_COLOR": "1"}, 80, false},
		{"NO_COLOR is empty", 80, 24, map[string]string{"TERM": "xterm", "NO_COLOR": ""}, 80, true},
		{"dumb", 80, 24, map[string]string{"TERM": "dumb"}, 80, false},
		{"no TERM", 80, 24, nil, 80, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, slave := terminal(t, tt.columns, tt.lines)
			s := Of(slave, func(name string) (string, bool) { v, ok := tt.env[name]; return v, ok })
			if !IsTerminal(slave) || s.Width == nil {
				t.Fatal("taken for no terminal")
			}
			if s.Width() != tt.width || s.Coloured != tt.coloured || Height(slave) != int(tt.lines) {
				t.Errorf("%d columns, %d lines, coloured %t", s.Width(), Height(slave), s.Coloured)
			}
		})
	}
}

// TestOfTerminalResized makes a terminal narrower while something is shown.
func TestOfTerminalResized(t *testing.T) {
	master, slave := terminal(t, 80, 24)
	s := Of(slave, func(string) (string, bool) { return "", false })
	if got := s.Columns(10); got != 70 {
		t.Errorf("%d columns left, want 70", got)
	}
	wait.Must(t, unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: 20, Row: 5}))
	if got, lines := s.Columns(10), Height(slave); got != 10 || lines != 5 {
		t.Errorf("%d columns left of %d lines, want 10 of 5", got, lines)
	}
}

// TestPrintable has texts that would take over a terminal, or deceive who reads it.
func TestPrintable(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", ""},
		{"letters", "a@höst 日本 ~", "a@höst 日本 ~"},
		{"colour", "\x1b[31mred", "?[31mred"},
		{"title", "\x1b]0;x\a", "?]0;x?"},
		{"C1 control", "\u009b31m\u0090q", "?31m?q"},
		{"delete and backspace", "a\x7f\b", "a??"},
		{"lines", "a\nb\rc\vd\fe", "a?b?c?d?e"},
		{"NUL and tab", "a\x00\tb", "a??b"},
		{"bytes", "\xff\xfe", "??"},
		{"cut rune", "a\xe6\x97", "a??"},
		{"overlong slash", "\xc0\xaf", "??"},
		{"surrogate", "\xed\xa0\x80", "???"},
		{"right to left", "\u202exe.txt\u2066", "?xe.txt?"},
		{"no width", "a\u200bb\ufeff\u2060", "a?b??"},
		{"line separators", "a\u2028b\u2029\u0085", "a?b??"},
		{"other blanks", "a\u00a0b\u3000", "a?b?"},
		{"private", "\ue000\U000f0000", "??"},
		{"tag", "\U000e0041", "?"},
		{"replacement", "\ufffd", "?"},
		{"mark", "e\u0301", "e\u0301"},
	} {
		got := Printable(tt.text)
		if got != tt.want {
			t.Errorf("%s: %q becomes %q, want %q", tt.name, tt.text, got, tt.want)
		}
		if again := Printable(got); again != got {
			t.Errorf("%s: %q becomes %q", tt.name, got, again)
		}
		var out strings.Builder
		CopyPrintable(&out, strings.NewReader(strings.NewReplacer("\n", "", "\x00", "").Replace(tt.text)))
		if want := strings.NewReplacer("\n", "", "\x00", "").Replace(tt.text); out.String() != Printable(want) {
			t.Errorf("%s: copied as %q", tt.name, out.String())
		}
	}
}

// TestCopyPrintableAsItComes copies lines one by one, while there are more to come.
func TestCopyPrintableAsItComes(t *testing.T) {
	in, send := io.Pipe()
	receive, out := io.Pipe()
	go func() {
		CopyPrintable(out, in)
		out.Close()
	}()
	lines := bufio.NewReader(receive)
	for _, text := range []string{"one\n", "two\x1b\n", "\n"} {
		go io.WriteString(send, text)
		if got, err := lines.ReadString('\n'); err != nil || got != Printable(strings.TrimSuffix(text, "\n"))+"\n" {
			t.Errorf("got %q, %v; want %q", got, err, text)
		}
	}
	go func() {
		io.WriteString(send, "cut")
		send.CloseWithError(errors.New("connection reset"))
	}()
	if rest, err := io.ReadAll(lines); err != nil || string(rest) != "cut" {
		t.Errorf("got %q, %v; want what came before the end", rest, err)
	}
}

// TestCopyPrintableHuge copies a line longer than any buffer, whose runes come in pieces.
func TestCopyPrintableHuge(t *testing.T) {
	text := strings.Repeat("日\x1b", 20000)
	var out strings.Builder
	CopyPrintable(&out, iotest.OneByteReader(strings.NewReader(text)))
	if want := strings.Repeat("日?", 20000); out.String() != want {
		t.Errorf("got %d bytes, want %d: %.40q", out.Len(), len(want), out.String())
	}
}

// TestEscapeUnprintableKeeps holds that JSON means the same when it is escaped.
func TestEscapeUnprintableKeeps(t *testing.T) {
	for _, text := range []string{"", `"\/`, "\x1b]0;x\a", "\u202e\u2066", "\U000e0041\U0001f98a", "\u2028\u2029", "\x7f\u0080\u009f", "日本\ufeff\u00a0"} {
		plain, err := json.Marshal(map[string]string{text: text})
		wait.Must(t, err)
		escaped := EscapeUnprintable(plain)
		if i := strings.IndexFunc(string(escaped), func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%q: %q has something at %d", text, escaped, i)
		}
		var got map[string]string
		if err := json.Unmarshal(escaped, &got); err != nil || len(got) != 1 || got[text] != text {
			t.Errorf("%q: %s means %q, %v", text, escaped, got, err)
		}
	}
}

// TestTextWidth has the first and last characters of scripts that take other than one column.
func TestTextWidth(t *testing.T) {
	for text, want := range map[string]int{
		"": 0, "a~": 2, "å": 1, "\u0301": 0, "\u20dd": 0, "漢": 2, "한": 2, "ひ": 2, "カ": 2,
		"\uff01": 2, "\uff60": 2, "\uff61": 1, "\uff9f": 1, "\uffdc": 1,
		"\U0001f2ff": 1, "\U0001f300": 2, "\U0001faff": 2, "\U0001fb00": 1, "é漢e\u0301": 4,
	} {
		if got := TextWidth(text); got != want {
			t.Errorf("%q takes %d columns, want %d", text, got, want)
		}
	}
}

// TestCutFits cuts a text to every width. It never takes more than that.
func TestCutFits(t *testing.T) {
	const text = "a漢e\u0301🦊ﾊ-한b"
	for columns := 1; columns <= TextWidth(text); columns++ {
		got := Cut(text, columns)
		if w := TextWidth(got); w > columns || w < columns-1 {
			t.Errorf("cut to %d columns: %q takes %d", columns, got, w)
		}
		if got != text && !strings.HasPrefix(text, strings.TrimSuffix(got, ellipsis)) {
			t.Errorf("cut to %d columns: %q", columns, got)
		}
	}
}

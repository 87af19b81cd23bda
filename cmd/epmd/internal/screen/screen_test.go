package screen

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCut(t *testing.T) {
	for _, tt := range []struct {
		text    string
		columns int
		want    string
	}{
		{"a@hosta", 7, "a@hosta"},
		{"a@hosta", 6, "a@hos…"},
		{"a@hosta", 1, "…"},
		{"a@hosta", -1, "…"},
		{"", 0, ""},
		{"日本語", 6, "日本語"},
		{"日本語", 5, "日本…"},
		{"日本語", 4, "日…"},
		{"e\u0301e\u0301e\u0301", 3, "e\u0301e\u0301e\u0301"},
		{"e\u0301e\u0301e\u0301", 2, "e\u0301…"},
		{"ﾊﾛｰ", 3, "ﾊﾛｰ"},
		{"🦊x", 3, "🦊x"},
	} {
		if got := Cut(tt.text, tt.columns); got != tt.want {
			t.Errorf("%q cut to %d columns: %q, want %q", tt.text, tt.columns, got, tt.want)
		}
	}
}

func TestCopyPrintable(t *testing.T) {
	var out strings.Builder
	CopyPrintable(&out, strings.NewReader("name \x1b[31m\xff\u009bå\n\x00x\r\n"))
	if got, want := out.String(), "name ?[31m??å\nx?\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEscapeUnprintable(t *testing.T) {
	const text = "\"å\x1b[31m\u2028\U000e0001\u202e\"\xff"
	if got, want := string(EscapeUnprintable([]byte(text))), `"å\u001b[31m\u2028\udb40\udc01\u202e"`+"\ufffd"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestOfFile writes to what is no terminal: no colours, lines of any length.
func TestOfFile(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, out := range []io.Writer{f, new(strings.Builder)} {
		s := Of(out, func(string) (string, bool) { return "80", true })
		if s.Columns(0) != 0 || s.Paint("x", Red) != "x" || IsTerminal(out) || Height(out) != 0 {
			t.Errorf("%T is a screen %+v", out, s)
		}
	}
}

func TestColumns(t *testing.T) {
	s := Screen{Width: func() int { return 80 }, Coloured: true}
	if got := [3]int{s.Columns(0), s.Columns(20), s.Columns(90)}; got != [3]int{80, 60, 1} {
		t.Errorf("got %v columns; want 80, 60 and 1", got)
	}
	if got := s.Paint("x", Bold) + s.Paint("y", Plain); got != "\x1b[1mx\x1b[my" {
		t.Errorf("painted %q", got)
	}
}

func TestCounted(t *testing.T) {
	if got := Counted(0, "node") + Counted(1, " node") + Counted(2, " node"); got != "0 nodes1  node2  nodes" {
		t.Errorf("got %q", got)
	}
}

func TestFirstLines(t *testing.T) {
	for rows, want := range map[int]string{0: "a\nb\nc\n", 2: "a\nb", 3: "a\nb\nc", 9: "a\nb\nc"} {
		if got := string(firstLines([]byte("a\nb\nc\n"), rows)); got != want {
			t.Errorf("%d rows: %q, want %q", rows, got, want)
		}
	}
}

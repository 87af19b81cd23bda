// Package screen knows terminals: their width, colours, and what may be printed. Texts may be what
// somebody registered or announced.
//
// It asks the kernel about terminals and writes to what it is given. It starts no goroutine.
package screen

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// IsTerminal reports whether w is a terminal, which control characters could take over.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Screen is what is known of where something is shown. The zero value is no terminal.
type Screen struct {
	Width    func() int // of the terminal now, in columns; nil or 0: lines may be of any length
	Coloured bool
}

// Of returns what is known of where stdout leads. Colours are for terminals that have them, unless
// NO_COLOR is set (https://no-color.org).
func Of(stdout io.Writer, getenv func(string) (string, bool)) Screen {
	if !IsTerminal(stdout) {
		return Screen{}
	}
	noColour, _ := getenv("NO_COLOR")
	kind, _ := getenv("TERM")
	columns, _ := getenv("COLUMNS")
	return Screen{
		Width:    func() int { return terminalWidth(stdout.(*os.File), columns) },
		Coloured: noColour == "" && kind != "" && kind != "dumb",
	}
}

// terminalWidth returns the width of a terminal, else that of the environment, else 0.
func terminalWidth(terminal *os.File, environment string) int {
	size, err := unix.IoctlGetWinsize(int(terminal.Fd()), unix.TIOCGWINSZ)
	if err == nil && size.Col > 0 {
		return int(size.Col)
	}
	columns, err := strconv.ParseUint(environment, 10, 16)
	if err != nil {
		return 0
	}
	return int(columns)
}

// Height returns how many lines a terminal has. 0 means none, or not known.
func Height(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Row)
}

// Columns returns how many columns of a line are left. 0 means any number.
func (s Screen) Columns(taken int) int {
	if s.Width == nil || s.Width() == 0 {
		return 0
	}
	return max(s.Width()-taken, 1)
}

// Look is how a terminal shows a text: the parameter of ECMA-48's SGR.
type Look string

// The looks that texts have.
const (
	Plain  Look = ""
	Bold   Look = "1"
	Faint  Look = "2"
	Red    Look = "31"
	Green  Look = "32"
	Yellow Look = "33"
)

// Paint returns a text as it is to be written for that look.
func (s Screen) Paint(text string, l Look) string {
	if !s.Coloured || l == Plain {
		return text
	}
	return "\x1b[" + string(l) + "m" + text + "\x1b[m"
}

// TextWidth returns how many columns of a terminal a text takes, which is printable. East Asian
// characters take two, and marks none.
func TextWidth(s string) int {
	width := 0
	for _, r := range s {
		width += runeWidth(r)
	}
	return width
}

// runeWidth knows scripts, not the whole table of Unicode's annex 11. Others take one column.
func runeWidth(r rune) int {
	const (
		emoji, lastEmoji         = 0x1f300, 0x1faff
		fullWidth, lastFullWidth = 0xff01, 0xff60
		halfWidth, lastHalfWidth = 0xff61, 0xffdc
	)
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case halfWidth <= r && r <= lastHalfWidth:
		return 1
	case emoji <= r && r <= lastEmoji, fullWidth <= r && r <= lastFullWidth,
		unicode.In(r, unicode.Han, unicode.Hangul, unicode.Hiragana, unicode.Katakana):
		return 2
	}
	return 1
}

// ellipsis stands for what has been cut off.
const ellipsis = "…"

// Cut returns a text of at most that many columns.
func Cut(s string, columns int) string {
	if TextWidth(s) <= columns {
		return s
	}
	left := columns - TextWidth(ellipsis)
	for i, r := range s {
		if left -= runeWidth(r); left < 0 {
			return s[:i] + ellipsis
		}
	}
	return s
}

// Printable returns s with "?" for whatever can't be printed.
func Printable(s string) string { return strings.Map(printableRune, s) }

func printableRune(r rune) rune {
	if r == utf8.RuneError || !unicode.IsPrint(r) {
		return '?'
	}
	return r
}

// CopyPrintable copies lines from an epmd to a terminal, as Printable has them, until they end. The
// NULs that end lines of an answer to DumpReq are left out.
func CopyPrintable(dst io.Writer, src io.Reader) {
	in, out := bufio.NewReader(src), bufio.NewWriter(dst)
	defer out.Flush()
	for {
		r, _, err := in.ReadRune()
		switch {
		case err != nil:
			return
		case r == 0:
		case r == '\n':
			out.WriteRune(r)
			if in.Buffered() == 0 {
				out.Flush()
			}
		default:
			out.WriteRune(printableRune(r))
		}
	}
}

// EscapeUnprintable escapes what can't be printed in the strings of a JSON text. It could take over
// a terminal.
func EscapeUnprintable(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for _, r := range string(text) {
		switch {
		case unicode.IsPrint(r):
			out = fmt.Appendf(out, "%c", r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

// Counted returns "1 node" or "2 nodes".
func Counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

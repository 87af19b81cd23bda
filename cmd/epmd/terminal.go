package main

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// isTerminal tells whether w is a terminal, which control characters could take over.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// screen is what is known of where something is shown; the zero value: that it is no terminal.
type screen struct {
	width    func() int // of the terminal now, in columns; nil or 0: lines may be of any length
	coloured bool
}

// screenOf returns what is known of where stdout leads. Colours are for terminals that are known to have them, unless
// NO_COLOR is set (https://no-color.org).
func screenOf(stdout io.Writer, getenv func(string) (string, bool)) screen {
	if !isTerminal(stdout) {
		return screen{}
	}
	noColour, _ := getenv("NO_COLOR")
	kind, _ := getenv("TERM")
	columns, _ := getenv("COLUMNS")
	return screen{
		width:    func() int { return terminalWidth(stdout.(*os.File), columns) },
		coloured: noColour == "" && kind != "" && kind != "dumb",
	}
}

// terminalWidth returns the width of a terminal, or if it does not tell what the environment says, or 0.
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

// terminalHeight returns how many lines a terminal has, or 0 if it is none or does not tell.
func terminalHeight(w io.Writer) int {
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

// columns returns how many columns are left of a line of which so many are taken; 0: any number.
func (s screen) columns(taken int) int {
	if s.width == nil || s.width() == 0 {
		return 0
	}
	return max(s.width()-taken, 1)
}

// look is how a text is shown on a terminal: what ECMA-48 has for it between "ESC [" and "m".
type look string

const (
	plain  look = ""
	bold   look = "1"
	faint  look = "2"
	red    look = "31"
	green  look = "32"
	yellow look = "33"
)

// paint returns a text as it is to be written for that look.
func (s screen) paint(text string, l look) string {
	if !s.coloured || l == plain {
		return text
	}
	return "\x1b[" + string(l) + "m" + text + "\x1b[m"
}

// textWidth returns how many columns of a terminal a text takes, which is printable. East Asian characters take two,
// and marks none.
func textWidth(s string) int {
	width := 0
	for _, r := range s {
		width += runeWidth(r)
	}
	return width
}

// runeWidth knows scripts rather than the whole table of Unicode's annex 11: what is not known takes one.
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

// cut returns a text of at most that many columns.
func cut(s string, columns int) string {
	if textWidth(s) <= columns {
		return s
	}
	left := columns - textWidth(ellipsis)
	for i, r := range s {
		if left -= runeWidth(r); left < 0 {
			return s[:i] + ellipsis
		}
	}
	return s
}

// printable returns s with "?" for whatever can't be printed: names are what somebody registered or
// announced.
func printable(s string) string { return strings.Map(printableRune, s) }

func printableRune(r rune) rune {
	if r == utf8.RuneError || !unicode.IsPrint(r) {
		return '?'
	}
	return r
}

// copyPrintable copies lines from an epmd to a terminal until there are no more, without what can't be
// printed. The NULs that end lines of an answer to DumpReq are left out.
func copyPrintable(dst io.Writer, src io.Reader) {
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

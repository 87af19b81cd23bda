package screen

import (
	"bytes"
	"slices"
)

// What a terminal is told before and after texts that are drawn in place (ECMA-48, and the private
// modes of xterm).
const (
	Enter = "\x1b[?1049h\x1b[?25l" // another screen, and no cursor
	Leave = "\x1b[?25h\x1b[?1049l"
)

const (
	drawAnew   = "\x1b[H" // from the upper left corner
	clearLine  = "\x1b[K" // from the cursor on
	clearBelow = "\x1b[J" // from the cursor on
)

// Draw returns what draws a text over the one before, as many lines as fit on a screen of so many
// rows. 0 rows are no limit.
func Draw(text []byte, rows int) []byte {
	text = bytes.ReplaceAll(firstLines(text, rows), []byte("\n"), []byte(clearLine+"\r\n"))
	return slices.Concat([]byte(drawAnew), text, []byte(clearLine+clearBelow))
}

func firstLines(text []byte, rows int) []byte {
	if rows == 0 {
		return text
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	return bytes.TrimSuffix(bytes.Join(lines[:min(len(lines), rows)], nil), []byte("\n"))
}

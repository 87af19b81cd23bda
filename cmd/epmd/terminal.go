package main

import (
	"bufio"
	"io"
	"os"
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

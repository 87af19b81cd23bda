package main

import (
	"bufio"
	"strings"
	"testing"
	"testing/iotest"
)

// writes is what was written, a string for each write.
type writes []string

func (w *writes) Write(b []byte) (int, error) {
	*w = append(*w, string(b))
	return len(b), nil
}

// TestPrintNamesAtOnce prints a list that comes in pieces to what is no terminal. OTP's own tests read it once.
func TestPrintNamesAtOnce(t *testing.T) {
	const list = "name a at port 41000\nname b at port 41001\n"
	answer := bufio.NewReader(iotest.OneByteReader(strings.NewReader("\x00\x00\x11\x11" + list)))
	var out writes
	if valid, err := printNames(answer, &out); !valid || err != nil {
		t.Errorf("%t, %v", valid, err)
	}
	if want := "epmd: up and running on port 4369 with data:\n" + list; len(out) != 1 || out[0] != want {
		t.Errorf("wrote %q; want %q at once", out, want)
	}
}

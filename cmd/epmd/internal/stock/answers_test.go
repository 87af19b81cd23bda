package stock

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/goerlang/eclus/cmd/epmd/internal/exit"
)

// TestPrintAnswer has answers as they may come from whoever holds the port.
func TestPrintAnswer(t *testing.T) {
	const cannot = "epmd: failed to read answer from local epmd\n"
	for _, tt := range []struct {
		name   string
		asked  Question
		answer string
		begun  error
		stdout string
		valid  bool
		status exit.Status
	}{
		{"killed", Kill, "OK", nil, "Killed\n", true, 0},
		{"killed and more", Kill, "OK\x1b", nil, "Killed\n", true, 0},
		{"refused", Kill, "NO", nil, "Killing not allowed - living nodes in database.\n", true, 1},
		{"half", Kill, "O", nil, "epmd: local epmd responded with <>\n", false, 1},
		{"reset", Kill, "OK", syscall.ECONNRESET, cannot, false, 1},
		{"stopped", Stop, "STOPPED", nil, "STOPPED\n", true, 0},
		{"controls", Stop, "\x1b]0;x\a\xff", nil, "?]0;x??\n", false, 0},
		{"cut", Stop, "STOPPE", nil, "epmd: local epmd responded with <>\n", false, 1},
		{"ended", Stop, "", io.EOF, "epmd: local epmd responded with <>\n", false, 1},
		{"no names", Names, "\x00\x00\x11\x11", nil, "epmd: up and running on port 4369 with data:\n", true, 0},
		{"last port", Names, "\x00\x00\xff\xff", nil, "epmd: up and running on port 65535 with data:\n", true, 0},
		{"port 0", Names, "\x00\x00\x00\x00", nil, "epmd: up and running on port 0 with data:\n", false, 0},
		{"port too large", Names, "\x00\x01\x00\x00", nil, "epmd: up and running on port 65536 with data:\n", false, 0},
		{"negative port", Names, "\xff\xff\xff\xff", nil, "epmd: up and running on port -1 with data:\n", false, 0},
		{"cut port", Names, "\x00\x00\x11", nil, "epmd: no response from local epmd\n", false, 1},
		{"bytes as they are", Dump, "\x00\x00\x11\x11\x1b\xff\x00", nil, "epmd: up and running on port 4369 with data:\n\x1b\xff\x00", true, 0},
		{"started", Started, "\x00\x00\x11\x11name", nil, "", true, 0},
		{"not started", Started, "\x00", nil, "", false, 1},
	} {
		var out strings.Builder
		answer := bufio.NewReader(iotest.OneByteReader(strings.NewReader(tt.answer)))
		valid, err := printAnswer(tt.asked, answer, tt.begun, &out)
		var status exit.Status
		if errors.As(err, &status); valid != tt.valid || status != tt.status || (err != nil) != (tt.status != 0) || out.String() != tt.stdout {
			t.Errorf("%s: wrote %q, valid %t, %v; want %q, %t, %d", tt.name, out.String(), valid, err, tt.stdout, tt.valid, tt.status)
		}
	}
}

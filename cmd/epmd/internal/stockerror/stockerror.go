// Package stockerror has the errors that OTP's epmd has too. It does no I/O but to the writer that
// it is given.
package stockerror

import (
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"
)

// Error is an error that OTP's epmd has too. It is shown as there: like a log entry, with the time
// and a CR.
type Error struct {
	Text  string
	Cause error // nil: none
}

// Errorf returns an Error without a cause.
func Errorf(format string, args ...any) error {
	return Error{Text: fmt.Sprintf(format, args...)}
}

// Error returns the text.
func (e Error) Error() string { return e.Text }

// Unwrap returns the cause.
func (e Error) Unwrap() error { return e.Cause }

// Report writes the error as OTP's epmd does.
func (e Error) Report(stderr io.Writer) {
	fmt.Fprintf(stderr, "epmd: %s: %s\r\n", time.Now().Format(time.ANSIC), e.Text)
}

// Strerror returns what C calls that error. Go has the same words, but for the capital.
func Strerror(errno syscall.Errno) string {
	s := errno.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}

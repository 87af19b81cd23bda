package main

import (
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"
)

// stockError is an error that OTP's epmd has too. It is shown as there, for whoever looks for it: like a
// log entry, with the time and a CR.
type stockError struct {
	text  string
	cause error
}

func stockErrorf(format string, args ...any) error {
	return stockError{text: fmt.Sprintf(format, args...)}
}

func (e stockError) Error() string { return e.text }

func (e stockError) Unwrap() error { return e.cause }

func (e stockError) report(stderr io.Writer) {
	fmt.Fprintf(stderr, "epmd: %s: %s\r\n", time.Now().Format(time.ANSIC), e.text)
}

// strerror returns what C calls that error: Go has the same words, but for the capital.
func strerror(errno syscall.Errno) string {
	s := errno.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}

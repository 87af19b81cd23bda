package etf

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// ErrLimit is in the chain of the error for a term that is beyond the [Limits].
var ErrLimit = errors.New("beyond the limit")

// SyntaxError says that bytes are no term. Offset counts from the version byte. In a compressed
// term it counts from the first byte of what was decompressed.
type SyntaxError struct {
	Offset int
	Reason string
}

// Error names the fault and where in the term it is.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("decode term: byte %d: %s", e.Offset, e.Reason)
}

// TypeError says that a term does not fit into the Go value for it.
type TypeError struct {
	Term string       // what was met, as `atom "ok"` or `tuple of 3`
	Type reflect.Type // of the Go value
	Err  error        // what the type's UnmarshalTerm returned, or nil
	termPath
}

// Error names the term, the Go type, and where in the value the two meet.
func (e *TypeError) Error() string {
	s := fmt.Sprintf("decode term: %s%s into Go %v", e.prefix(), e.Term, e.Type)
	if e.Err != nil {
		return s + ": " + e.Err.Error()
	}
	return s + ": does not fit"
}

// Unwrap returns the cause.
func (e *TypeError) Unwrap() error { return e.Err }

// ValueError says that a Go value has no term.
type ValueError struct {
	Type reflect.Type // of the Go value
	Err  error        // why
	termPath
}

// Error names the Go type, where in the value it is, and the cause.
func (e *ValueError) Error() string {
	return fmt.Sprintf("encode term: %sGo %v: %v", e.prefix(), e.Type, e.Err)
}

// Unwrap returns the cause.
func (e *ValueError) Unwrap() error { return e.Err }

// maxPath bounds the path that an error in a deep term brings with it.
const maxPath = 32

// termPath leads to a part of a value. Its segments are those next to the part, innermost first.
type termPath struct{ segments []string }

// Path returns where in the value the error is, as `.Apps[3].Version`. It is empty for the value
// as a whole. It begins with "..." when only its last 32 segments are known.
func (p *termPath) Path() string {
	segments := slices.Clone(p.segments)
	slices.Reverse(segments)
	return strings.Join(segments, "")
}

func (p *termPath) prefix() string {
	if len(p.segments) == 0 {
		return ""
	}
	return p.Path() + ": "
}

func (p *termPath) extend(segment string) {
	if n := len(p.segments); n < maxPath {
		p.segments = append(p.segments, segment)
	} else if n == maxPath {
		p.segments = append(p.segments, "...")
	}
}

// within adds to err that it came from this segment of a value.
func within(err error, format string, args ...any) error {
	if e, ok := err.(interface{ extend(string) }); ok {
		e.extend(fmt.Sprintf(format, args...))
	}
	return err
}

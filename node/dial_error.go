package node

import (
	"errors"
	"fmt"
)

// Step is a part of the way to a node, in the order in which [Dialer.Dial] takes them.
type Step string

// The steps of a dial.
const (
	StepName    Step = "name"    // the name asked for is a full node name
	StepLookup  Step = "lookup"  // Lookup knows where the node listens: else its error
	StepConnect Step = "connect" // its distribution port is open, at one of its addresses
	StepTLS     Step = "tls"     // TLS, if it is asked for: else ErrTLS, ErrPlain or ErrUnverified
	// StepHandshake: it accepts us. Else the error is a *StatusError, *NameError, *FlagsError or
	// ErrWantsTLS.
	StepHandshake Step = "handshake"
	StepCookie    Step = "cookie" // both know the same cookie: else ErrCookie
)

var (
	// ErrPlain is the error of a node that does not answer a TLS greeting.
	ErrPlain = errPlain
	// ErrWantsTLS is the error of a node that answers a plain handshake with TLS.
	ErrWantsTLS = errors.New("node speaks TLS")
	// ErrCookie is the error of a node that our cookie did not convince, or that did not know it.
	ErrCookie = errors.New("cookies differ")
	// ErrFirstMessage is the error of a node that closes the connection when it gets the first
	// message. It may take only messages with a distribution header. OTP leaves that away unless
	// both ends announce DistHdrAtomCache, and a Conn does not.
	ErrFirstMessage = errors.New("node closed the connection on our first message")
	// ErrSilent is the error of a connection that is silent for too long. Nothing has come, not
	// even a tick, or nothing could be sent.
	ErrSilent = errors.New("node is silent")
)

// DialError says at which step a dial failed.
type DialError struct {
	Node string // the name asked for
	Step Step
	Err  error
}

// Error names the node, quoted, the step and the cause.
func (e *DialError) Error() string {
	return fmt.Sprintf("dial node %q: %s: %v", e.Node, e.Step, e.Err)
}

// Unwrap returns the cause.
func (e *DialError) Unwrap() error { return e.Err }

// at adds the step to err, unless err is nil or has a step of its own.
func at(step Step, err error) error {
	if staged := (*DialError)(nil); err == nil || errors.As(err, &staged) {
		return err
	}
	return &DialError{Step: step, Err: err}
}

// NameError says that the node at a port is another than was looked for.
type NameError struct {
	Want, Got string // full node names; Got passes CheckName
}

// Error names both.
func (e *NameError) Error() string { return fmt.Sprintf("node is %q; want %q", e.Got, e.Want) }

// FlagsError says that a node can't do what this package needs.
type FlagsError struct {
	Missing Flags
}

// Error shows the missing flags in hexadecimal.
func (e *FlagsError) Error() string {
	return fmt.Sprintf("node is older than OTP 23: lacks distribution flags %#x", uint64(e.Missing))
}

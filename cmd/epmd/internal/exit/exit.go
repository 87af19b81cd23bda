// Package exit has the error of a command with an exit status of its own.
package exit

import "fmt"

// Status is an exit status. It is the error of a command that has said all.
type Status int

// Error returns "exit status 1".
func (s Status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

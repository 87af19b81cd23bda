// Package exit has the error of a command that ends with an exit status of its own.
package exit

import "fmt"

// Status is the error of a command that has said already what there is to say. It is the exit status.
type Status int

func (s Status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

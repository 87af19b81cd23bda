package wait

import (
	"bytes"
	"sync"
)

// Output is what a process has written so far. Its methods may be called concurrently.
type Output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write adds to the end.
func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

// String returns all of it.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

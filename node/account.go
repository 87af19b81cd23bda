package node

import (
	"fmt"
	"sync"
)

// maxHeld is how many bytes of messages wait on all connections of a Server, for a Handler or for
// the peer to read them.
const maxHeld = 32 << 20

var errHeld = fmt.Errorf("more than %d MiB of messages wait, and most of them on this connection", maxHeld>>20)

// account counts the messages that wait on the connections of a Server. When they are too many, the
// connection with most of them is closed. A nil account counts nothing.
type account struct {
	mu   sync.Mutex
	sum  int
	held map[*Conn]int // bytes
}

// add counts a message of so many bytes that waits on c, or with a negative number one that waits
// no more.
func (a *account) add(c *Conn, bytes int) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.Err() != nil {
		return // it is settled, or about to be
	}
	if a.held == nil {
		a.held = map[*Conn]int{}
	}
	a.sum += bytes
	a.held[c] += bytes
	for a.sum > maxHeld {
		most := c
		for other, held := range a.held {
			if held > a.held[most] {
				most = other
			}
		}
		most.fail(errHeld)
		a.forget(most)
	}
}

// settle forgets a connection that has ended.
func (a *account) settle(c *Conn) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.forget(c)
}

// forget wants a.mu.
func (a *account) forget(c *Conn) {
	a.sum -= a.held[c]
	delete(a.held, c)
}

package epmd

import (
	"context"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// maxStreams is how many streams of one share there may be.
const maxStreams = 128

// stream says how a connection goes on that has a goroutine of its own.
type stream struct {
	share string // streams of one share are counted together
	run   func(ctx context.Context, conn *os.File)
}

// streams counts those that are running.
type streams struct {
	running map[string]int // by share
	sum     int
	ended   sync.WaitGroup
}

// add counts n more streams of a share.
func (s *streams) add(share string, n int) {
	s.running[share] += n
	s.sum += n
}

// beyondReserve returns how many streams are not in the reserve.
func (s *streams) beyondReserve() int { return max(0, s.sum-reservedStreams) }

// roomForStream reports whether there may be another stream of a share.
func (e *engine) roomForStream(share string) bool {
	full := e.streams.sum >= reservedStreams && e.roomToRegister() != nil
	return e.ctx.Err() == nil && e.streams.running[share] < maxStreams && !full
}

// startStream hands a connection over to a goroutine, which closes it.
func (e *engine) startStream(c *conn, s *stream) {
	if !e.roomForStream(s.share) {
		e.complain(c.caller, "subscriber refused: too many", "subscribers", e.streams.running[s.share])
		e.end(c, "")
		return
	}
	if c.wait != nil {
		e.watch(unix.EPOLL_CTL_DEL, c, 0)
	}
	e.remove(c)
	e.streams.add(s.share, 1)
	conn := os.NewFile(uintptr(c.fd), "subscriber")
	e.streams.ended.Go(func() {
		s.run(e.ctx, conn)
		e.mu.Lock()
		defer e.mu.Unlock()
		e.streams.add(s.share, -1)
	})
}

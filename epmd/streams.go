package epmd

import (
	"context"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// maxStreams is how many streams of a kind the programs of this host may have.
const maxStreams = 128

// share is a number of streams that are counted together.
type share struct {
	of     any // what they have in common: comparable
	most   int
	byUser bool // users of this host share them; see users.go
}

// usersShare is what the streams of a share have in common that one user has.
type usersShare struct {
	of   any
	user uint32
}

// stream says how a connection goes on that has a goroutine of its own.
type stream struct {
	shares  []share // it takes a place in each
	reserve bool    // it may have one of the descriptors that nodes never get
	local   bool    // a program of this host has it
	user    uint32  // who, if it is local and a share is by user
	run     func(ctx context.Context, conn *os.File)
}

// streams counts those that are running.
type streams struct {
	running   map[any]int // by what a share has in common
	reserving int         // those that may use the reserve
	others    int
	ended     sync.WaitGroup
}

// add counts n more of a stream's kind.
func (s *streams) add(st *stream, n int) {
	for _, sh := range st.shares {
		s.count(sh.of, n)
		if sh.byUser && st.local {
			s.count(usersShare{sh.of, st.user}, n)
		}
	}
	if st.reserve {
		s.reserving += n
	} else {
		s.others += n
	}
}

func (s *streams) count(of any, n int) {
	if s.running[of] += n; s.running[of] == 0 {
		delete(s.running, of)
	}
}

// beyondReserve returns how many streams are not in the reserve.
func (s *streams) beyondReserve() int { return s.others + max(0, s.reserving-reservedStreams) }

// roomForStream reports whether there may be another stream of that kind. If not, it returns how
// many there are, of all or of that user.
func (e *engine) roomForStream(s *stream) (count int, ok bool) {
	for _, sh := range s.shares {
		if count = e.streams.running[sh.of]; count >= sh.most {
			return count, false
		}
		his := func() int { return e.streams.running[usersShare{sh.of, s.user}] }
		if sh.byUser && s.local && e.userOf != nil && !mayTake(count, sh.most, his) {
			return his(), false
		}
	}
	reserved := s.reserve && e.streams.reserving < reservedStreams
	return count, e.ctx.Err() == nil && (reserved || e.roomForFile() == nil)
}

// startStream hands a connection over to a goroutine, which closes it.
func (e *engine) startStream(c *conn, s *stream) {
	if s.local = c.local; s.local {
		s.user = e.user(c.fd)
	}
	if count, ok := e.roomForStream(s); !ok {
		args := []any{"subscribers", count}
		if c.local {
			args = append(args, "uid", s.user)
		}
		e.complain(c.caller, "subscriber refused: too many", args...)
		e.end(c, "")
		return
	}
	if c.wait != nil {
		e.watch(unix.EPOLL_CTL_DEL, c, 0)
	}
	e.remove(c)
	e.streams.add(s, 1)
	fd := c.fd // the next connection may get c
	e.streams.ended.Go(func() {
		s.run(e.ctx, os.NewFile(uintptr(fd), "subscriber"))
		e.mu.Lock()
		defer e.mu.Unlock()
		e.streams.add(s, -1)
	})
}

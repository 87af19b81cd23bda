package epmd

import (
	"context"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/internal/places"
)

// refusalPause is how long it takes until a stream is refused. Whoever asks again at once would
// keep the engine busy otherwise.
const refusalPause = 500 * time.Millisecond

// maxStreams is how many streams of a kind the programs of this host may have.
const maxStreams = 128

// ownersAge is how old the count of what owners of addresses have may get.
const ownersAge = time.Second

// share is a number of streams that are counted together.
type share struct {
	of     any // what they have in common: comparable
	most   int
	byUser bool // users of this host share them, and owners of addresses; see users.go
}

// usersShare is what the streams of a share have in common that one user has.
type usersShare struct {
	of   any
	user uint32
}

// addrShare is what the streams have in common that a peer of another host has at an address.
type addrShare struct{ netip.Addr }

// stream says how a connection goes on that has a goroutine of its own.
type stream struct {
	shares  []share    // it takes a place in each
	reserve bool       // it may have one of the descriptors that nodes never get
	local   bool       // a program of this host has it
	user    uint32     // who, if it is local
	addr    netip.Addr // of a peer, local or not
	run     func(ctx context.Context, conn *os.File, whose any)
}

// streams counts those that are running.
type streams struct {
	running   map[any]int // by what a share has in common
	reserving int         // those that may use the reserve
	others    int
	owned     map[string]int // by owner of the address, of other hosts' peers; see ownedBy
	counted   time.Time      // when owned was
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

// takePlaces counts a stream that begins.
func (e *engine) takePlaces(s *stream) {
	e.streams.add(s, 1)
	if s.local {
		return
	}
	owner := e.owner(s.addr) // if he isn't known, that has him found out
	if e.streams.owned != nil {
		e.streams.owned[owner]++
	}
}

// ownedBy returns how many streams somebody has at all of his addresses. Whose an address is may
// turn out later. So all are counted anew, at most once a second.
func (s *streams) ownedBy(owner string, ownerOf func(netip.Addr) string) int {
	if now := time.Now(); now.Sub(s.counted) > ownersAge {
		s.counted, s.owned = now, make(map[string]int)
		for of, n := range s.running {
			if a, is := of.(addrShare); is {
				s.owned[ownerOf(a.Addr)] += n
			}
		}
	}
	return s.owned[owner]
}

// owner returns who answers at an address, as far as that is known.
func (e *engine) owner(addr netip.Addr) string {
	if e.ownerOf == nil {
		return addr.String()
	}
	return e.ownerOf(addr)
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
		if !sh.byUser || s.local && e.userOf == nil {
			continue
		}
		his := func() int { return e.streams.running[usersShare{sh.of, s.user}] }
		if !s.local {
			his = func() int { return e.streams.ownedBy(e.owner(s.addr), e.owner) }
		}
		if !places.MayTake(count, sh.most, his) {
			return his(), false
		}
	}
	reserved := s.reserve && e.streams.reserving < reservedStreams
	return count, e.ctx.Err() == nil && (reserved || e.roomForFile() == nil)
}

// endLater ends a connection after refusalPause.
func (e *engine) endLater(c *conn) {
	w := e.await(c)
	w.part, w.asked = nil, true
	e.watch(unix.EPOLL_CTL_MOD, c, 0)
	generation := c.generation
	time.AfterFunc(refusalPause, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.ctx.Err() == nil && e.conns[c.fd] == c && c.generation == generation {
			e.end(c, "")
		}
	})
}

// startStream hands a connection over to a goroutine, which closes it.
func (e *engine) startStream(c *conn, s *stream) {
	whose := e.who(c.caller)
	if s.local = c.local; s.local {
		s.user = whose.(uint32)
	}
	if count, ok := e.roomForStream(s); !ok {
		args := []any{"subscribers", count}
		if c.local {
			args = append(args, "uid", s.user)
		}
		e.complain(c.caller, "subscriber refused: too many", args...)
		e.endLater(c)
		return
	}
	if c.wait != nil {
		e.watch(unix.EPOLL_CTL_DEL, c, 0)
	}
	e.remove(c)
	e.takePlaces(s)
	e.askSome()
	fd := c.fd // the next connection may get c
	e.streams.ended.Go(func() {
		s.run(e.ctx, os.NewFile(uintptr(fd), "subscriber"), whose)
		e.mu.Lock()
		defer e.mu.Unlock()
		e.streams.add(s, -1)
	})
}

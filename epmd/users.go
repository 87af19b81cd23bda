package epmd

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/goerlang/eclus/internal/owner"
)

// What can run out on this host is shared by its users. A user may have another place of a kind
// while he has fewer of them than are free. So the first user can have half of them, the second a
// quarter, and the next one finds room. Nobody's place is taken away. Root is no exception.
//
// Until half of the places are taken, that holds for everybody. If the kernel does not tell users
// apart, all may take all.

// unknownUser stands for all whom the kernel does not know.
const unknownUser = ^uint32(0)

// userName returns what a log calls a user.
func userName(uid uint32) string {
	if uid == unknownUser {
		return "a user who is not known"
	}
	return fmt.Sprintf("user %d", uid)
}

// mayTake reports whether somebody who has so many of these places may have another.
func mayTake(taken, most int, his func() int) bool {
	free := most - taken
	return free > 0 && (taken < free || his() < free)
}

// openUsers begins to ask the kernel for users, unless Config says who else is asked.
func (s *Server) openUsers() (closeAll func()) {
	s.engine.userOf = s.cfg.UserOf
	if s.engine.userOf != nil {
		return func() {}
	}
	kernel, err := owner.Open()
	if err != nil {
		s.log.Warn("users are not told apart", "err", err)
		return func() {}
	}
	s.engine.userOf = kernel.PeerUser
	return kernel.Close
}

// user returns the user at the other end of a connection of this host.
func (e *engine) user(fd int) uint32 {
	if e.userOf == nil {
		return unknownUser
	}
	uid, err := e.userOf(fd)
	if err != nil {
		return unknownUser
	}
	return uid
}

// who returns by what log entries about a caller are counted: its user, or of another host its
// address.
func (e *engine) who(from caller) any {
	if from.local {
		return e.user(from.fd)
	}
	return from.peer.Addr()
}

// maxRegistered returns how many registered connections the limit on open files allows, and streams
// beyond the reserve.
func (e *engine) maxRegistered() int {
	return max(e.files-reservedFiles-lookupFiles, e.files/2)
}

// roomForFile returns an error if another registered connection would take the last descriptors.
func (e *engine) roomForFile() error {
	if e.registered+e.streams.beyondReserve() >= e.maxRegistered() {
		return fmt.Errorf("%d nodes are registered, all that the limit of %d open files allows", e.registered, e.files)
	}
	return nil
}

// roomToRegister returns an error if the caller may not have another registered connection.
func (e *engine) roomToRegister(from caller) error {
	if err := e.roomForFile(); err != nil {
		return err
	}
	taken, most := e.registered+e.streams.beyondReserve(), e.maxRegistered()
	his := func() int { return e.registeredBy[e.user(from.fd)] }
	if e.userOf != nil && !mayTake(taken, most, his) {
		return fmt.Errorf("%s has %d names, and the %d places left are for others", userName(e.user(from.fd)), his(), most-taken)
	}
	return nil
}

// Shortage says in a few words that nobody can register another node, or that whoever has most
// can't. It is empty if everybody can.
func (s *Server) Shortage() string {
	e := s.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	taken, most := e.registered+e.streams.beyondReserve(), e.maxRegistered()
	if e.files == 0 || taken < most-taken {
		return ""
	}
	if taken >= most {
		return "no place for another name"
	}
	user, his := unknownUser, 0
	for u, n := range e.registeredBy {
		if n > his {
			user, his = u, n
		}
	}
	if e.userOf == nil || his < most-taken {
		return ""
	}
	return fmt.Sprintf("%s has %d names and may register no more", userName(user), his)
}

// maxWarnings is how many entries a minute a caller may cause that name what was refused.
const maxWarnings = 10

// warn logs that a request was refused, and why. Beyond maxWarnings a minute for each user it
// counts.
func (s *Server) warn(from caller, msg string, args ...any) {
	switch count := s.warnings.add(s.engine.who(from), time.Now()); count {
	case 0:
		return
	case 1:
	default:
		args = append(args, "withheld", count-1)
	}
	s.log.Warn(msg, append(args, "peer", from.peer)...)
}

// anyPeer is under which those are counted whom there is no room to tell apart.
var anyPeer any = netip.Addr{}

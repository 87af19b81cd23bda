package epmd

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/goerlang/eclus/internal/owner"
	"github.com/goerlang/eclus/internal/places"
)

// What can run out on this host is shared by its users: see package places. Nobody's place is taken
// away. If the kernel does not tell users apart, all may take all.
//
// Whose a registration is matters once half of the places are taken. Asking the kernel takes a
// quarter of a registration's time. So nobody is asked for before a quarter is taken. From then on
// each registration and each stream has usersAtOnce asked for, while more than maxUnasked are left.
// So nodes that go again soon have nobody asked. Those left are asked for when it matters.

const (
	usersAtOnce = 4
	maxUnasked  = 32
)

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
		return places.Unknown
	}
	uid, err := e.userOf(fd)
	if err != nil {
		return places.Unknown
	}
	return uid
}

// askUser asks for the user of a registered connection of which that is not known.
func (e *engine) askUser(c *conn) {
	c.user, c.asked = e.user(c.fd), true
	e.registeredBy[c.user]++
	e.unasked--
}

// askUsers is askUser for so many connections.
func (e *engine) askUsers(most int) {
	for ; e.unasked > 0 && most > 0; e.nextAsked++ {
		if e.nextAsked >= len(e.conns) {
			e.nextAsked = 0
		}
		if c := e.conns[e.nextAsked]; c != nil && c.reg != nil && !c.asked {
			e.askUser(c)
			most--
		}
	}
}

// askSome asks for some users if so many places are taken that they may matter.
func (e *engine) askSome() {
	if e.usersMatter() {
		e.askUsers(min(usersAtOnce, e.unasked-maxUnasked))
	}
}

// usersMatter reports whether so many places are taken that users are asked for.
func (e *engine) usersMatter() bool { return 4*e.taken() >= e.maxRegistered() }

// taken returns how many places of maxRegistered are taken.
func (e *engine) taken() int { return e.registered + e.streams.beyondReserve() }

// nodesOf returns how many registered connections a user has.
func (e *engine) nodesOf(user uint32) int {
	e.askUsers(e.unasked)
	return e.registeredBy[user]
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
	if e.taken() >= e.maxRegistered() {
		return fmt.Errorf("%d nodes are registered, all that the limit of %d open files allows", e.registered, e.files)
	}
	return nil
}

// roomToRegister returns an error if the caller may not have another registered connection.
func (e *engine) roomToRegister(from caller) error {
	if err := e.roomForFile(); err != nil {
		return err
	}
	taken, most := e.taken(), e.maxRegistered()
	his := func() int { return e.nodesOf(e.user(from.fd)) }
	if e.userOf != nil && !places.MayTake(taken, most, his) {
		return fmt.Errorf("%s has %d names, and the %d places left are for others", places.UserName(e.user(from.fd)), his(), most-taken)
	}
	return nil
}

// Shortage says in a few words that nobody can register another node, or that whoever has most
// can't. It is empty if everybody can.
func (s *Server) Shortage() string {
	e := s.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	taken, most := e.taken(), e.maxRegistered()
	if e.files == 0 || taken < most-taken {
		return ""
	}
	if taken >= most {
		return "no place for another name"
	}
	e.askUsers(e.unasked)
	user, his := places.Greediest(e.registeredBy)
	if e.userOf == nil || his < most-taken {
		return ""
	}
	return fmt.Sprintf("%s has %d names and may register no more", places.UserName(user), his)
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

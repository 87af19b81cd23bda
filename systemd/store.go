package systemd

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/internal/owner"
	"github.com/goerlang/eclus/internal/places"
	"github.com/goerlang/eclus/registry"
)

// Names of descriptors in the fd store (FDNAME=). systemd passes all of them in one variable,
// LISTEN_FDNAMES. So a connection's name is as short as can be, and its record finds it by the
// cookie of its socket.
const (
	nodeName  = "n"
	stateName = "state"
	oldPrefix = "node-" // and the node's ID: how an earlier epmd stored connections
)

// maxNames is how many bytes the names of stored descriptors may take, each with a colon. execve(2)
// takes at most 128 KiB for a variable. The sockets that listen have names too.
const maxNames = 124 << 10

// maxPassed returns how many descriptors systemd can pass to a process that may have so many files
// open. Each has to become a certain number. Until all have, they may need twice as many numbers.
func maxPassed(files uint64) int {
	const ownFiles = 64 // the process's others
	return int(min(files, math.MaxInt32)-ownFiles) / 2
}

// PerUser is how many nodes of one user the store keeps, unless [Options] have another number.
// systemd compares each new descriptor with all that it has.
const PerUser = 4096

// maxWithheld is how long the answer to a registration waits for systemd. OTP gives up after 10 s.
const maxWithheld = 8 * time.Second

// Store keeps the connections of registered nodes in systemd's file descriptor store, and a state
// to rebuild the registry from. The service finds them when it is started again, however it ended.
// See sd_notify(3), FDSTORE=1, and systemd.service(5), FileDescriptorStoreMax=.
//
// Keep and Release never wait. What systemd's socket does not take at once, Run sends, up to 253
// descriptors in a message. When they keep systemd busy for seconds, they are spread, so that it
// has time for others. What is in that socket is safe: systemd reads it before it looks at how a
// service has ended. systemd answers nothing. So the Store counts what it has sent, and asks
// systemd how many it has.
//
// systemd drops a node's connection by itself (FDPOLL=1) once epmd has called shutdown(2) on it.
type Store struct {
	reg      *registry.Registry
	log      *slog.Logger
	conn     *net.UnixConn
	changed  func()
	perUser  int
	patience time.Duration // maxWithheld
	calm     time.Duration // calmPause
	count    func(context.Context) (int, error)
	limit    func(context.Context) (uint64, error)

	queued chan struct{} // holds a token while there may be something to send
	doubts chan struct{} // holds a token while systemd is to be asked

	mu          sync.Mutex
	state       *state
	owners      *owner.Kernel            // nil: the kernel can't be asked
	connections map[uint64]*connection   // of registered nodes, by ID
	queue       []*connection            // to be sent, those that wait for longest first
	removals    []string                 // names that systemd is to drop
	unfit       map[uint32][]*connection // for which there is no room, by user
	size        int                      // FileDescriptorStoreMax=; unknownSize: not known
	files       uint64                   // LimitNOFILE= of this service
	learning    bool                     // size is about to be known
	sent        int                      // connections in the store
	reserved    int                      // these and those in queue for the first time
	users       map[uint32]int           // of reserved, by user
	names       int                      // bytes in LISTEN_FDNAMES of reserved
	leaving     int                      // have ended and may be in the store still
	ended       int                      // connections of sent that have ever ended
	messages    uint64                   // how many brought connections
	pace        pace                     // of all messages
	counted     uint64                   // of messages: all that these brought was there once
	again       time.Time                // when what may be missing was sent again
	missing     int                      // of sent, are not in the store
	shortages   [shortageKinds]int       // connections that are not kept
	beyond      map[uint32]int           // of these, by user: beyond his share
	failing     bool                     // the last message failed, which is in the log
	said        string                   // the last complaint in the log
	saidAt      time.Time
}

// connection is the connection of a node.
type connection struct {
	id      uint64
	cookie  uint64 // SO_COOKIE
	message uint64 // the last that brought it
	fd      int32
	uid     uint32 // of its peer
	old     bool   // it has a name of its own
	queued  bool
	sent    bool
	lack    shortage
	kept    func() // sends the answer that is withheld; nil: there is none
	timer   *time.Timer
}

// shortage is why a connection is not kept, though its node has had an answer.
type shortage uint8

const (
	none      shortage = iota
	noRoom             // the store is full, or off
	userFull           // its user has perUser
	forOthers          // its user has his share of the places
	noNames            // LISTEN_FDNAMES is full
	noFiles            // systemd could not hand more to a new process
	late               // systemd does not take it
	shortageKinds
)

const unknownSize = -1

// byUser reports whether there is room for other users.
func (l shortage) byUser() bool { return l == userFull || l == forOthers }

// count adds to what a user has. A user who has nothing is not in the map.
func count(of map[uint32]int, uid uint32, n int) {
	if of[uid] += n; of[uid] == 0 {
		delete(of, uid)
	}
}

// Options say how a Store differs from the usual one.
type Options struct {
	PerUser int    // nodes of one user that are kept; 0: PerUser
	Changed func() // called with a lock held when Shortage has changed; may be nil
}

// OpenStore returns a Store for the service that this process is. It returns nil if this process is
// none. reg has been restored from inherited.
func OpenStore(reg *registry.Registry, inherited Inherited, opt Options, log *slog.Logger) (*Store, error) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil, nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("connect to the service manager: %w", err)
	}
	s := &Store{
		reg: reg, log: log, conn: conn, changed: opt.Changed, perUser: opt.PerUser, patience: maxWithheld, calm: calmPause,
		count: storeCount, limit: softLimit,
		queued: make(chan struct{}, 1), doubts: make(chan struct{}, 1),
		connections: make(map[uint64]*connection), unfit: make(map[uint32][]*connection), users: make(map[uint32]int),
		beyond:  make(map[uint32]int),
		leaving: inherited.leaving, pace: inherited.pace,
	}
	if s.changed == nil {
		s.changed = func() {}
	}
	if s.perUser == 0 {
		s.perUser = PerUser
	}
	if s.files, err = openLimit(); err != nil {
		conn.Close()
		return nil, err
	}
	if s.owners, err = owner.Open(); err != nil {
		log.Warn("users of nodes not known", "err", err)
	}
	s.size, s.learning = toldSize()
	s.pace.forks = !s.learning // release 254 brought both
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takeBack(inherited.Kept)
	if err := s.openState(inherited.state); err != nil {
		conn.Close()
		return nil, err
	}
	s.recordPace()
	s.removals = append(s.removals, inherited.superseded...)
	s.send(s.sendPaced)
	s.wake() // something may be in the way
	return s, nil
}

// takeBack enters the connections that were inherited.
func (s *Store) takeBack(kept []Kept) {
	for _, k := range kept {
		n := s.reg.Lookup(k.Node.Name)
		if n == nil || n.ID != k.Node.ID {
			continue // it was dropped
		}
		c := &connection{id: n.ID, cookie: k.cookie, uid: k.uid, fd: n.FD, old: k.stored != "" && k.stored != nodeName}
		if c.cookie == 0 {
			c.cookie, c.uid = cookieOf(k.FD), s.owner(k.FD)
		}
		s.connections[c.id] = c
		if k.stored == "" {
			s.admit(c)
			continue
		}
		s.reserve(c, 1)
		c.sent = true
		s.sent++
	}
}

// openState continues the stored state, or begins one. It stores a new one before anything else: if
// systemd keeps little, it keeps that.
func (s *Store) openState(stored *os.File) (err error) {
	if stored != nil {
		s.state, err = continueState(stored, s.reg, s.recordOf)
		return err
	}
	if s.state, err = newState(s.reg, s.recordOf); err != nil {
		return err
	}
	return control(s.state.file, func(fd int) error {
		_, err := s.try("FDSTORE=1\nFDNAME="+stateName+"\nFDPOLL=0", []int{fd})
		return err
	})
}

func oldName(id uint64) string { return oldPrefix + strconv.FormatUint(id, 10) }

// name returns FDNAME= of a connection.
func (c *connection) name() string {
	if c.old {
		return oldName(c.id)
	}
	return nodeName
}

// cookieOf returns a number that no other socket has while the system runs; 0 if there is none.
func cookieOf(fd int) uint64 {
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return 0
	}
	return cookie
}

// owner returns the user at the other end of a connection.
func (s *Store) owner(fd int) uint32 {
	if s.owners == nil {
		return places.Unknown
	}
	uid, err := s.owners.PeerUser(fd)
	if err != nil {
		return places.Unknown
	}
	return uid
}

// recordOf returns the record of a registered node.
func (s *Store) recordOf(n *registry.Node) record {
	r := recordOf(n, false)
	if c := s.connections[n.ID]; c != nil {
		r.Cookie, r.UID = c.cookie, c.uid
		if c.sent {
			r.Stored = c.name()
		}
	}
	return r
}

// writeState writes the state anew, with whether each connection is stored. It returns the file.
func (s *Store) writeState() (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.file, s.state.renew(s.reg, s.recordOf)
}

// Keep stores the connection of a node that is being registered. It implements epmd.Keeper.
func (s *Store) Keep(fd int, n *registry.Node, kept func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.connections[n.ID]
	if c == nil {
		c = &connection{id: n.ID, cookie: cookieOf(fd), fd: int32(fd), uid: s.owner(fd)}
		s.connections[n.ID] = c
		s.record(s.recordOf(n))
		s.admit(c)
	}
	if len(s.queue) == 1 {
		s.send(s.sendPaced)
	}
	if c.sent || !c.queued {
		return true
	}
	c.answer()
	c.kept = kept
	c.timer = time.AfterFunc(s.patience, func() { s.giveUp(c) })
	return false
}

// giveUp has a node answered that has waited for long enough. This process may have been stopped,
// so systemd gets another chance first.
func (s *Store) giveUp(c *connection) {
	s.mu.Lock()
	answers := s.send(s.sendOne)
	if c.kept != nil {
		s.setLack(c, late)
		answers = append(answers, c.answer()...)
	}
	s.complain()
	s.mu.Unlock()
	call(answers)
}

// answer returns the withheld answer, if there is one, and forgets it.
func (c *connection) answer() (answer []func()) {
	if c.kept == nil {
		return nil
	}
	c.timer.Stop()
	answer = []func(){c.kept}
	c.kept, c.timer = nil, nil
	return answer
}

func call(functions []func()) {
	for _, f := range functions {
		f()
	}
}

// Release forgets the connection of a node that has gone, or is about to. It implements
// epmd.Keeper.
func (s *Store) Release(n *registry.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record(recordOf(n, true))
	c := s.connections[n.ID]
	if c == nil {
		return
	}
	delete(s.connections, n.ID)
	s.setLack(c, none)
	c.answer()    // is not to be sent
	if c.queued { // its descriptor will be another's
		s.queue = slices.DeleteFunc(s.queue, func(q *connection) bool { return q == c })
	}
	switch {
	case c.sent:
		s.reserve(c, -1)
		s.sent--
		s.ended++
		s.leaving++
	case c.queued:
		s.reserve(c, -1)
	default:
		s.setUnfit(c.uid, slices.DeleteFunc(s.unfit[c.uid], func(u *connection) bool { return u == c }))
	}
	if c.old && c.sent {
		s.removals = append(s.removals, oldName(c.id))
	}
	if len(s.removals) > 0 || len(s.unfit) > 0 {
		s.wake()
	}
}

// Update notes that more is known of a node, if it is still registered. s may be nil.
func (s *Store) Update(n *registry.Node) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.reg.Lookup(n.Name); now == nil || now.ID != n.ID {
		return
	}
	s.record(s.recordOf(n))
}

// record writes to the state. It begins a new state when most records are outdated.
func (s *Store) record(r record) {
	err := s.state.append(r)
	if err == nil && s.state.size > s.state.full {
		err = s.state.renew(s.reg, s.recordOf)
	}
	if err != nil {
		s.log.Error("registration not kept", r.logNames(), "err", err)
	}
}

// reserve counts a connection that is in the store or on its way there (one is 1), or no longer
// counts it (-1).
func (s *Store) reserve(c *connection, one int) {
	s.reserved += one
	s.names += one * (len(c.name()) + 1)
	count(s.users, c.uid, one)
}

// lack returns why there is no room for another connection of that user.
func (s *Store) lack(uid uint32) shortage {
	const stateItself = 1
	switch {
	case s.size != unknownSize && stateItself+s.reserved >= s.size:
		return noRoom
	case s.names+len(nodeName)+1 > maxNames:
		return noNames
	case stateItself+s.reserved >= maxPassed(s.files):
		return noFiles
	case s.users[uid] >= s.perUser:
		return userFull
	case s.owners != nil && !places.MayTake(s.reserved, s.places(), func() int { return s.users[uid] }):
		return forOthers
	}
	return none
}

// places returns for how many connections there are places, as far as that is known.
func (s *Store) places() int {
	n := min(maxPassed(s.files)-1, s.reserved+(maxNames-s.names)/(len(nodeName)+1))
	if s.size != unknownSize {
		n = min(n, s.size-1)
	}
	return max(0, n)
}

// admit puts a connection into the queue, or aside if there is no room.
func (s *Store) admit(c *connection) {
	s.setLack(c, s.lack(c.uid))
	if c.lack != none {
		s.setUnfit(c.uid, append(s.unfit[c.uid], c))
		s.wake() // which complains
		return
	}
	s.reserve(c, 1)
	s.enqueue(c)
}

func (s *Store) enqueue(c *connection) {
	c.queued = true
	s.queue = append(s.queue, c)
	s.wake()
}

func (s *Store) setUnfit(uid uint32, list []*connection) {
	if s.unfit[uid] = list; len(list) == 0 {
		delete(s.unfit, uid)
	}
}

// promote queues connections for which there was no room and now is.
func (s *Store) promote() {
	for uid, list := range s.unfit {
		for len(list) > 0 && s.lack(uid) == none {
			c := list[0]
			list = list[1:]
			s.setUnfit(uid, list)
			s.admit(c)
			if c.queued {
				s.setLack(c, late)
			}
		}
	}
}

// setLack notes why a connection is not kept.
func (s *Store) setLack(c *connection, lack shortage) {
	if c.lack == lack {
		return
	}
	s.shortages[c.lack]--
	s.shortages[lack]++
	if c.lack.byUser() {
		count(s.beyond, c.uid, -1)
	}
	if lack.byUser() {
		count(s.beyond, c.uid, 1)
	}
	c.lack = lack
	s.changed()
}

// control calls op with the descriptor of c.
func control(c syscall.Conn, op func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var opErr error
	if err := raw.Control(func(fd uintptr) { opErr = op(int(fd)) }); err != nil {
		return err
	}
	return opErr
}

// wake has Run look at what is to be sent.
func (s *Store) wake() { signal(s.queued) }

// doubt has Run ask systemd how many descriptors it has.
func (s *Store) doubt() { signal(s.doubts) }

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // the token is there already
	}
}

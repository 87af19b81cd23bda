package test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/need"
	"golang.org/x/sys/unix"
)

// The tests of this file send the same bytes to the epmd of Erlang/OTP and to ours. They compare
// what comes back, which connections end and how, and what is registered then. These differences
// are meant to be, and nothing here leads to them:
//
//	requests N and W                 the stock closes, ours answers
//	descriptor numbers in DUMP_REQ   are the process's own, and replaced before comparing
//	first creation of a name         is random; each return of the name adds 1
//	more than 1,001 names have gone  the stock drops one when one comes back, ours when one goes
//	more than 1,017 nodes            the stock does not answer any more
//	a reset right behind ALIVE2_REQ  registers the name for a moment or not at all; left out
//
// The registry is compared by NAMES_REQ and DUMP_REQ, as text.

var (
	sequences = flag.Int("sequences", 300, "random sequences to compare with the stock epmd")
	firstSeed = flag.Uint64("seed", 0, "seed of the first random sequence; 0: any")
)

// opKind is what a step does on its connection.
type opKind uint8

const (
	opSend    opKind = iota // connect unless connected, and send
	opLast                  // send, and close the sending side, in one segment
	opCheck                 // see whether the connection is still open
	opHalf                  // close the sending side
	opClose                 // close, by FIN
	opReset                 // close, by RST
	opBarrier               // let the daemon handle all that was sent, and see NAMES
	opDump                  // see DUMP
)

// want is what a step waits for. If it is wrong the step takes longer, but sees the same.
type want uint8

const (
	wantNothing want = iota
	wantAnswer       // one read
	wantEnd          // reads until the connection ends
	wantOpen         // what is there once the daemon has handled the step
)

// step is one thing done to a daemon, on a connection known by a number.
type step struct {
	op   opKind
	slot int
	data []byte
	want want
}

func (s step) String() string {
	switch s.op {
	case opSend, opLast:
		return fmt.Sprintf("%d: %s %s", s.slot, [...]string{"send", "send last"}[s.op], abridged(s.data))
	case opBarrier:
		return "names"
	case opDump:
		return "dump"
	}
	return fmt.Sprintf("%d: %s", s.slot, [...]string{"", "", "check", "half-close", "close", "reset"}[s.op])
}

func abridged(b []byte) string {
	if len(b) > 80 {
		return fmt.Sprintf("%x… (%d bytes)", b[:60], len(b))
	}
	return fmt.Sprintf("%x", b)
}

// side is one of the two daemons and what the harness holds of it.
type side struct {
	name     string
	argv     []string
	port     int
	cmd      *exec.Cmd
	exited   chan struct{}         // closed when it has
	slots    map[int]int           // connections by number
	sent     map[int][]byte        // what was sent on them
	parked   int                   // a connection with half a NAMES_REQ; -1: none
	parkedAt time.Time             // since when
	last     map[string]*creations // by name
	killed   bool                  // by a request that was granted
	buf      [1 << 16]byte
}

// differentialTimeout is how long an answer or a close may take.
const differentialTimeout = 30 * time.Second

func newSide(name string, argv ...string) *side {
	return &side{name: name, argv: argv, parked: -1}
}

// start starts the daemon anew on a free port.
func (s *side) start() error {
	port, err := claimPort()
	if err != nil {
		return err
	}
	s.port, s.killed = int(port), false
	s.slots, s.sent, s.last = make(map[int]int), make(map[int][]byte), make(map[string]*creations)
	s.cmd = exec.Command(s.argv[0], append(slices.Clone(s.argv[1:]), "-address", "127.0.0.1", "-port", strconv.Itoa(s.port))...)
	s.cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	if err := s.run(); err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	return s.awaitListener()
}

// awaitListener returns when the daemon accepts connections, of which the first is parked.
func (s *side) awaitListener() error {
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	deadline := time.After(differentialTimeout)
	for {
		err := s.park()
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-deadline:
			return fmt.Errorf("start %s: %w", s.name, err)
		}
	}
}

// run starts the command from a thread that is not bound to a core. It sees to its end.
func (s *side) run() error {
	cmd, started, exited := s.cmd, make(chan error), make(chan struct{})
	go func() {
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
			close(exited)
		}
	}()
	s.exited = exited
	return <-started
}

// stop ends the daemon and all connections to it.
func (s *side) stop() {
	for _, fd := range s.slots {
		unix.Close(fd)
	}
	clear(s.slots)
	clear(s.sent)
	unix.Close(s.parked)
	s.parked = -1
	if s.cmd != nil && s.cmd.Process != nil {
		s.cmd.Process.Kill()
		<-s.exited
	}
}

// dial returns a blocking socket of which nothing blocks for longer than the time-out.
func (s *side) dial() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	timeout := unix.NsecToTimeval(int64(differentialTimeout))
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		s.connect(fd),
	)
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect to %s: %w", s.name, err)
	}
	return fd, nil
}

// connect goes on until the connection stands: a signal does not end the attempt.
func (s *side) connect(fd int) error {
	for again := false; ; again = true {
		err := unix.Connect(fd, &unix.SockaddrInet4{Port: s.port, Addr: [4]byte{127, 0, 0, 1}})
		switch {
		case err == unix.EISCONN && again:
			return nil
		case err != unix.EINTR && err != unix.EALREADY:
			return err
		}
	}
}

// do does one step and returns what was seen. Its error is that the daemon can't be talked to.
func (s *side) do(st step) (seen string, err error) {
	switch st.op {
	case opBarrier:
		return s.barrier()
	case opDump:
		return s.exchange("d")
	case opSend, opLast:
		return s.send(st)
	case opCheck:
		return s.observe(st.slot, wantOpen)
	}
	fd, open := s.slots[st.slot]
	if !open {
		return "no connection", nil
	}
	if st.op == opHalf {
		unix.Shutdown(fd, unix.SHUT_WR)
		return s.observe(st.slot, st.want)
	}
	if st.op == opReset {
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	s.hangUp(st.slot)
	return s.barrier()
}

func (s *side) hangUp(slot int) {
	unix.Close(s.slots[slot])
	delete(s.slots, slot)
	delete(s.sent, slot)
}

func (s *side) send(st step) (string, error) {
	if _, open := s.slots[st.slot]; !open {
		fd, err := s.dial()
		if err != nil {
			return "", err
		}
		s.slots[st.slot] = fd
	}
	flags := unix.MSG_NOSIGNAL
	if st.op == opLast {
		flags |= unix.MSG_MORE // until the FIN
	}
	unix.SetsockoptInt(s.slots[st.slot], unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) // see mayBeCut
	sent, err := unix.SendmsgN(s.slots[st.slot], st.data, nil, nil, flags)
	if err == unix.EPIPE || err == unix.ECONNRESET {
		s.hangUp(st.slot)
		return "was closed", nil
	}
	if err != nil || sent < len(st.data) {
		return "", fmt.Errorf("send to %s: %d of %d bytes: %w", s.name, sent, len(st.data), err)
	}
	if st.op == opLast {
		unix.Shutdown(s.slots[st.slot], unix.SHUT_WR)
	}
	all := append(s.sent[st.slot], st.data...)
	s.sent[st.slot] = all
	seen, err := s.observe(st.slot, st.want)
	if strings.HasPrefix(seen, "79") || strings.HasPrefix(seen, "76") {
		seen = s.replaceCreation(all, seen)
	}
	s.killed = s.killed || seen == "4f4b closed"
	return seen, err
}

// observe returns what comes on a connection, in hex. "closed" or "reset" follows if it ends,
// "silent" if an answer or an end was expected in vain.
func (s *side) observe(slot int, w want) (string, error) {
	fd, open := s.slots[slot]
	if !open {
		return "no connection", nil
	}
	flags := 0
	switch w {
	case wantNothing:
		return "", nil
	case wantOpen:
		if _, err := s.barrier(); err != nil {
			return "", err
		}
		flags = unix.MSG_DONTWAIT
	}
	var got []byte
	for {
		n, err := s.receive(fd, flags)
		got = append(got, s.buf[:max(n, 0)]...)
		switch {
		case n > 0 && w == wantAnswer:
			return fmt.Sprintf("%x", got), nil
		case n > 0:
			continue
		case err == unix.EAGAIN && w == wantOpen:
			return fmt.Sprintf("%x open", got), nil
		case err == unix.EAGAIN:
			return fmt.Sprintf("%x silent", got), nil
		}
		s.hangUp(slot)
		end := "closed"
		if err != nil {
			end = "reset"
		}
		if text, ok := s.text(got); ok {
			return text + end, nil
		}
		return fmt.Sprintf("%x %s", got, end), nil
	}
}

// receive reads once; signals that Go's runtime sends itself don't end it.
func (s *side) receive(fd, flags int) (int, error) {
	for {
		n, _, err := unix.Recvfrom(fd, s.buf[:], flags)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// barrier returns when the daemon has handled all that has reached it, and what NAMES_REQ says
// then. It takes two turns. A daemon may handle a request of a connection in one turn, and what is
// behind its end in the next.
func (s *side) barrier() (names string, err error) {
	if _, err := s.turn(); err != nil {
		return "", err
	}
	return s.turn()
}

// turn returns when the daemon has looked at every connection once. What is new to it is accepted
// in order. So a request over a new connection comes after it. What happens on connections that it
// has, it may see at another time, but in order too. The connection that was parked with half a
// request comes after that.
func (s *side) turn() (names string, err error) {
	if _, err := s.exchange("n"); err != nil {
		return "", err
	}
	if time.Since(s.parkedAt) > maxParked {
		unix.Close(s.parked)
		if err := s.park(); err != nil {
			return "", err
		}
	}
	parked := s.parked
	s.parked = -1
	if names, err = s.finish(parked, []byte{1, 'n'}); err != nil {
		return "", err
	}
	return names, s.park()
}

// maxParked is how long a connection is parked. After a minute the daemon would close it.
const maxParked = 20 * time.Second

// park connects and sends the first byte of NAMES_REQ.
func (s *side) park() (err error) {
	s.parkedAt = time.Now()
	if s.parked, err = s.dial(); err != nil {
		return err
	}
	if _, err := unix.Write(s.parked, []byte{0}); err != nil {
		return fmt.Errorf("park at %s: %w", s.name, err)
	}
	return nil
}

// exchange makes a request that is answered with the daemon's port and text.
func (s *side) exchange(request string) (string, error) {
	fd, err := s.dial()
	if err != nil {
		return "", err
	}
	return s.finish(fd, framed(request))
}

var (
	descriptor = regexp.MustCompile(`, fd = \d+`)
	racyOld    = regexp.MustCompile(`old/unused name <` + racyName + `>.*\n\x00`)
)

// racyName is what nodes are called that reset their connection before they are answered.
const racyName = "racy"

// finish sends the end of a request. It returns the text of the answer without what is the daemon's
// own.
func (s *side) finish(fd int, request []byte) (string, error) {
	defer unix.Close(fd)
	if _, err := unix.Write(fd, request); err != nil {
		return "", fmt.Errorf("ask %s: %w", s.name, err)
	}
	var answer []byte
	for {
		n, err := s.receive(fd, 0)
		if err != nil {
			return "", fmt.Errorf("answer of %s: %w", s.name, err)
		}
		if n == 0 {
			break
		}
		answer = append(answer, s.buf[:n]...)
	}
	text, ok := s.text(answer)
	if !ok {
		return "", fmt.Errorf("answer of %s: no port in %q", s.name, answer)
	}
	return text, nil
}

// text returns an answer that begins with the daemon's port without what is the daemon's own.
func (s *side) text(answer []byte) (text string, ok bool) {
	if len(answer) < 4 || int(binary.BigEndian.Uint32(answer)) != s.port {
		return "", false
	}
	answer = racyOld.ReplaceAll(answer[4:], nil)
	return string(descriptor.ReplaceAll(answer, []byte(", fd = ?"))), true
}

// creations are the last ones that a daemon gave a name, of 32 bits and of 2. 0 stands for none.
type creations struct{ wide, narrow uint32 }

// replaceCreation returns an answer to an ALIVE2_REQ, in hex. In place of the creation stands its
// distance from the last one of that name. The distance is 1 if no registration happened unseen.
func (s *side) replaceCreation(frame []byte, answer string) string {
	name, ok := aliveName(frame)
	head, digits, tail := answer[:4], answer[4:], ""
	if i := strings.IndexByte(digits, ' '); i >= 0 {
		digits, tail = digits[:i], digits[i:]
	}
	creation, err := strconv.ParseUint(digits, 16, 32)
	if !ok || err != nil || head[2:] != "00" {
		return answer
	}
	if s.last[name] == nil {
		s.last[name] = new(creations)
	}
	return fmt.Sprintf("%s creation %s of %d digits%s", head, s.last[name].distance(uint32(creation), head == "7600"), len(digits), tail)
}

// distance enters a creation and returns how far it is from the one before it.
func (c *creations) distance(creation uint32, wide bool) string {
	last, modulus, valid := &c.narrow, uint64(3), creation >= 1 && creation <= 3
	if wide {
		last, modulus, valid = &c.wide, 1<<32, creation >= 4
	}
	before := *last
	*last = creation
	switch {
	case !valid:
		return fmt.Sprintf("%#x", creation)
	case before == 0:
		return "the first"
	}
	return fmt.Sprintf("+%d", (uint64(creation)+modulus-uint64(before))%modulus)
}

// aliveName returns the name in an ALIVE2_REQ with its length before it.
func aliveName(frame []byte) (string, bool) {
	if len(frame) < 13 || frame[2] != 'x' {
		return "", false
	}
	length := int(binary.BigEndian.Uint16(frame[11:]))
	if len(frame) < 13+length {
		return "", false
	}
	return string(frame[13 : 13+length]), true
}

// framed returns a request with its length before it.
func framed(body string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(body))), body...)
}

// rivals is a stock epmd and ours.
type rivals struct {
	stock, ours *side
	crashes     int            // of the stock
	cut         map[int]string // differences of this play that a cut answer may have made, by step
	again       int            // plays that were repeated for them
	// forks is held for writing while a process is started. That process holds copies of all
	// connections until it runs its program. Until then, connections that are closed here do not
	// end.
	forks *sync.RWMutex
}

// startRivals starts both, with the same arguments.
func startRivals(t *testing.T, forks *sync.RWMutex, args ...string) *rivals {
	t.Helper()
	need.Program(t, stockEpmd)
	r := &rivals{
		stock: newSide("stock", append([]string{stockEpmd}, args...)...),
		ours:  newSide("ours", append([]string{eclusBinary(t), "-lan", "off"}, args...)...),
		forks: forks,
	}
	if err := r.restart(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.stock.stop()
		r.ours.stop()
	})
	return r
}

func (r *rivals) restart() error {
	r.forks.Lock()
	defer r.forks.Unlock()
	r.stock.stop()
	r.ours.stop()
	return errors.Join(r.stock.start(), r.ours.start())
}

// maxPlays is how often a sequence is played in which answers were cut.
const maxPlays = 30

// play does the steps to both. Then it looks at what has become of each connection and at what is
// registered. At last it ends the connections one by one. It returns the first difference, or "".
// The daemons are left with nothing registered. If answers were cut the sequence is played again,
// until each step was seen alike once. So a cut never hides a difference.
func (r *rivals) play(steps []step) (difference string, err error) {
	var cut map[int]string // in each play so far
	for n := range maxPlays {
		r.cut = make(map[int]string)
		difference, err = r.playOnce(append(slices.Clone(steps), ending(steps)...))
		if difference != "" || err != nil {
			return difference, err
		}
		if n == 0 {
			cut = r.cut
		}
		maps.DeleteFunc(cut, func(i int, _ string) bool { return r.cut[i] == "" })
		if len(cut) == 0 {
			return "", nil
		}
		r.again++
	}
	return fmt.Sprintf("%d plays:\n%s", maxPlays, cut[slices.Min(slices.Collect(maps.Keys(cut)))]), nil
}

// exitTime is how much later than the end of its connections the end of a process may be noticed.
const exitTime = 10 * time.Second

func (r *rivals) playOnce(steps []step) (difference string, err error) {
	difference, err = r.compare(steps)
	killed := r.stock.killed && difference == ""
	switch {
	case err != nil:
		select {
		case <-r.stock.exited:
			r.crashes++
			err = fmt.Errorf("%w: %v (%w)", errStockDied, r.stock.cmd.ProcessState, err)
		case <-time.After(exitTime):
			return "", err
		}
	case killed:
		difference = r.afterKill()
	case difference == "":
		return "", nil
	}
	return difference, errors.Join(err, r.restart())
}

// compare does the steps to both until they differ or a request has killed them.
func (r *rivals) compare(steps []step) (difference string, err error) {
	r.forks.RLock()
	defer r.forks.RUnlock()
	for i, st := range steps {
		stock, err := r.stock.do(st)
		if err != nil {
			return "", err
		}
		ours, err := r.ours.do(st)
		if err != nil {
			return "", fmt.Errorf("step %d, %v: %w", i, st, err)
		}
		if stock != ours {
			difference := describe(steps[:i+1], stock, ours)
			if !mayBeCut(stock, ours) {
				return difference, nil
			}
			r.cut[i] = difference
		}
		if r.stock.killed {
			return "", nil
		}
	}
	return "", nil
}

// mayBeCut reports whether one side saw the beginning of what the other saw. A daemon that closes
// with something unread resets the connection. The kernel then drops what it has not sent yet. The
// stock writes some answers in pieces, such as "NOEXIST" and "STOPPED". Nagle's algorithm holds the
// second piece until the first is acknowledged.
func mayBeCut(stock, ours string) bool {
	a, reset := strings.CutSuffix(stock, "reset")
	b, too := strings.CutSuffix(ours, "reset")
	a, b = strings.TrimSuffix(a, " "), strings.TrimSuffix(b, " ") // behind hex
	return reset && too && (strings.HasPrefix(a, b) || strings.HasPrefix(b, a))
}

func TestMayBeCut(t *testing.T) {
	for _, tt := range []struct {
		stock, ours string
		want        bool
	}{
		{"4e4f reset", "4e4f53 reset", true},
		{"4e4f53 reset", " reset", true},
		{"name a at port 1\nreset", "name areset", true},
		{"4e4f closed", "4e4f53 closed", false},
		{"4e4f reset", "4e4f53 closed", false},
		{"4e4f reset", "4e5053 reset", false},
	} {
		if got := mayBeCut(tt.stock, tt.ours); got != tt.want {
			t.Errorf("%q, %q: %v, want %v", tt.stock, tt.ours, got, tt.want)
		}
	}
}

// ending returns the steps with which a sequence ends.
func ending(steps []step) []step {
	var slots []int
	for _, st := range steps {
		if (st.op == opSend || st.op == opLast) && !slices.Contains(slots, st.slot) {
			slots = append(slots, st.slot)
		}
	}
	var end []step
	for _, slot := range slots {
		end = append(end, step{op: opCheck, slot: slot})
	}
	end = append(end, step{op: opDump})
	for _, slot := range slots {
		end = append(end, step{op: opClose, slot: slot})
	}
	return append(end, step{op: opBarrier}, step{op: opDump})
}

// errStockDied marks a sequence that can't be compared because the stock did not survive it.
var errStockDied = errors.New("the stock epmd died")

// afterKill compares how the daemons end that were killed by request.
func (r *rivals) afterKill() (difference string) {
	for _, s := range []*side{r.stock, r.ours} {
		select {
		case <-s.exited:
		case <-time.After(differentialTimeout):
			return fmt.Sprintf("after KILL_REQ %s goes on", s.name)
		}
	}
	if a, b := r.stock.cmd.ProcessState, r.ours.cmd.ProcessState; a.String() != b.String() {
		return fmt.Sprintf("after KILL_REQ the stock ends with %v, ours with %v", a, b)
	}
	return ""
}

// describe tells what was done, and what was seen of the last step.
func describe(steps []step, stock, ours string) string {
	var b strings.Builder
	for i, st := range steps {
		fmt.Fprintf(&b, "%3d  %v\n", i, st)
	}
	fmt.Fprintf(&b, "     stock: %q\n     ours:  %q", stock, ours)
	return b.String()
}

// script makes steps of a few words each, for the tables.
func script(steps ...step) []step { return steps }

func asks(slot int, body string) step {
	return step{op: opSend, slot: slot, data: framed(body), want: wantEnd}
}

func says(slot int, w want, data string) step {
	return step{op: opSend, slot: slot, data: []byte(data), want: w}
}

func registers(slot int, a aliveFields) step {
	return step{op: opSend, slot: slot, data: framed(a.body()), want: wantAnswer}
}

func plainNode(name string) aliveFields {
	return aliveFields{port: 41233, kind: 77, high: 6, low: 5, name: name}
}

// aliveFields makes up an ALIVE2_REQ, which need not be right.
type aliveFields struct {
	port        uint16
	kind, proto byte
	high, low   uint16
	name, extra string
	trailing    string
	moreName    int // added to the length of the name
	moreExtra   int // added to the length of extra
}

func (a aliveFields) body() string {
	b := []byte{'x'}
	b = binary.BigEndian.AppendUint16(b, a.port)
	b = append(b, a.kind, a.proto)
	b = binary.BigEndian.AppendUint16(b, a.high)
	b = binary.BigEndian.AppendUint16(b, a.low)
	b = binary.BigEndian.AppendUint16(b, uint16(len(a.name)+a.moreName))
	b = append(b, a.name...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(a.extra)+a.moreExtra))
	b = append(b, a.extra...)
	return string(append(b, a.trailing...))
}

// differentialScripts are sequences of which each shows one thing.
var differentialScripts = []struct {
	name  string
	steps []step
}{
	{"look up what is registered", script(registers(0, plainNode("a")), asks(1, "za"), asks(1, "za\x00"), asks(1, "zb"))},
	{"name taken", script(registers(0, plainNode("a")), registers(1, plainNode("a")), step{op: opClose, slot: 0}, registers(2, plainNode("a")))},
	{"the same name again and again", script(registers(0, plainNode("a")), step{op: opClose, slot: 0}, registers(0, plainNode("a")),
		step{op: opReset, slot: 0}, registers(0, plainNode("a")), step{op: opHalf, slot: 0, want: wantEnd}, registers(0, plainNode("a")))},
	{"anything said on a registered connection", script(registers(0, plainNode("a")), says(0, wantEnd, "\x00"), asks(1, "za"))},
	{"a refused connection says more", script(registers(0, plainNode("a")), registers(1, plainNode("a")), says(1, wantEnd, "\x00"))},
	{"NAMES, DUMP newest first", script(registers(0, plainNode("a")), registers(1, plainNode("b")), registers(2, plainNode("c")),
		asks(3, "q"), step{op: opClose, slot: 1}, step{op: opBarrier}, step{op: opDump})},
	{"request in pieces", script(says(0, wantOpen, "\x00"), says(0, wantOpen, "\x02"), says(0, wantOpen, "z"), says(0, wantEnd, "a"))},
	{"surplus with the last piece", script(says(0, wantOpen, "\x00\x04nod"), says(0, wantEnd, "e\x00\x00"))},
	{"refused in pieces, then more than was missing", script(registers(0, plainNode("a")), says(1, wantOpen, "\x00\x0ex\xa1\x11M\x00"),
		says(1, wantAnswer, "\x00\x06\x00\x05\x00\x01a\x00\x00"), says(1, wantEnd, strings.Repeat("\x00", 20)))},
	{"more than announced", script(says(0, wantEnd, "\x00\x02zax"), says(0, wantEnd, "\x00\x02zazzzzzzzzzz"))},
	{"length 0", script(says(0, wantEnd, "\x00\x00"), says(0, wantEnd, "\x00\x00z"))},
	{"longest request", script(asks(0, "z"+strings.Repeat("a", 3056)), asks(0, "z"+strings.Repeat("a", 3057)))},
	{"header of too long a request alone", script(says(0, wantEnd, "\x0b\xf2"), says(0, wantOpen, "\x0b\xf1"))},
	{"half-closed at once", script(says(0, wantNothing, "\x00"), step{op: opHalf, slot: 0, want: wantEnd})},
	{"reset before the answer", script(
		step{op: opSend, slot: 0, data: framed(plainNode(racyName).body())}, step{op: opReset, slot: 0}, asks(1, "z"+racyName), registers(2, plainNode("b")))},
	{"empty name", script(registers(0, plainNode("")), asks(1, "z"), asks(1, "z\x00"))},
	{"KILL refused", script(registers(0, plainNode("a")), asks(1, "k"), asks(1, "za"))},
	{"KILL", script(asks(0, "k"))},
	{"STOP", script(registers(0, plainNode("a")), asks(1, "sa"), asks(1, "sb"), step{op: opCheck, slot: 0}, asks(1, "s"))},
	{"unknown requests", script(asks(0, "a"), asks(0, "\x00"), asks(0, "\xff"), asks(0, "Z"))},
	{"old nodes and hidden ones", script(registers(0, aliveFields{port: 1, kind: 72, high: 5, low: 5, name: "old"}),
		registers(1, aliveFields{port: 65535, kind: 77, proto: 1, high: 65535, name: "new", extra: "x"}), asks(2, "zold"), asks(2, "znew"))},
}

func TestDifferentialScripts(t *testing.T) {
	for _, mode := range differentialModes {
		r := startRivals(t, new(sync.RWMutex), mode.args...)
		stayOnCore(t, 0)
		for _, tt := range differentialScripts {
			t.Run(mode.name+"/"+tt.name, func(t *testing.T) {
				difference, err := r.play(tt.steps)
				if difference != "" || err != nil {
					t.Errorf("%s (error %v)", difference, err)
				}
			})
		}
		for _, name := range oddNames {
			t.Run(fmt.Sprintf("%s/name %.20q of %d bytes", mode.name, name, len(name)), func(t *testing.T) {
				difference, err := r.play(script(registers(0, plainNode(name)), asks(1, "z"+name), registers(2, plainNode("a"))))
				if difference != "" || err != nil {
					t.Errorf("%s (error %v)", difference, err)
				}
			})
		}
	}
}

// TestDifferentialCuts cuts requests at every place and puts something behind their end. The daemon
// has handled the first piece when the second comes.
func TestDifferentialCuts(t *testing.T) {
	for _, mode := range differentialModes {
		t.Run(mode.name, func(t *testing.T) {
			r := startRivals(t, new(sync.RWMutex), mode.args...)
			stayOnCore(t, 0)
			bodies := []string{
				aliveFields{port: 41233, kind: 77, high: 6, low: 5, name: "cut", extra: "xyz"}.body(),
				plainNode("a").body(), // is taken
				aliveFields{name: "long", moreExtra: 9}.body(), "za", "zb\x00", "n", "d", "sa", "?",
			}
			if mode.args == nil { // the others would be killed
				bodies = append(bodies, "k")
			}
			for _, body := range bodies {
				for at := range 2 + len(body) {
					difference, err := r.play(cuts(framed(body), at))
					if difference != "" || err != nil {
						t.Fatalf("cut at %d: %s (error %v)", at, difference, err)
					}
				}
			}
		})
	}
}

// cuts sends a request in two pieces, with all that can follow it. Of a node that is in the way of
// KILL_REQ nothing is left at last.
func cuts(frame []byte, at int) []step {
	steps := script(registers(0, plainNode("a")))
	for _, surplus := range []string{"", "\x00", "\x00\x01n", strings.Repeat("\xff", 4000)} {
		for _, last := range []opKind{opSend, opLast} {
			if at > 0 {
				steps = append(steps, says(1, wantOpen, string(frame[:at])))
			}
			steps = append(steps, step{op: last, slot: 1, data: append(slices.Clone(frame[at:]), surplus...), want: wantOpen},
				step{op: opClose, slot: 1}, step{op: opBarrier})
		}
	}
	return append(steps, step{op: opDump})
}

var differentialModes = []struct {
	name string
	args []string
}{
	{"strict", nil},
	{"relaxed", []string{"-relaxed_command_check"}},
}

// oddNames are at the limits of what a name can be.
var oddNames = slices.Concat(
	[]string{"", " ", "a b", "a@b", "a\nb", "%s%n", "a\x00b", "\x00", "a\x00", "\x7f", "é", "日本", "\U0001f600",
		"\xff", "\xc3", "a\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xed\x9f\xbf", "\xef\xbf\xbf", "\xf4\x8f\xbf\xbf",
		"\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "\x80", "a\x80", "\xe2\x82"},
	repeated("n", 253, 254, 255, 256, 1020, 1021),
	repeated("é", 254, 255, 256),
	repeated("日", 254, 255, 256),
	repeated("\U0001f600", 253, 254, 255, 256),
)

func repeated(s string, counts ...int) []string {
	names := make([]string, len(counts))
	for i, n := range counts {
		names[i] = strings.Repeat(s, n)
	}
	return names
}

// TestDifferentialRandom plays random sequences, half of them with daemons that grant all requests.
func TestDifferentialRandom(t *testing.T) {
	seed := *firstSeed
	if seed == 0 {
		seed = rand.Uint64() >> 16
	}
	t.Logf("%d sequences from seed %d on", *sequences, seed)
	var forks sync.RWMutex
	for m, mode := range differentialModes {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			r := startRivals(t, &forks, mode.args...)
			stayOnCore(t, m)
			playRandom(t, r, seed+uint64(m), uint64(len(differentialModes)))
			t.Logf("the stock died %d times; %d plays were repeated", r.crashes, r.again)
		})
	}
}

// playRandom plays this mode's share of the sequences. After a few differences no more are looked
// for.
func playRandom(t *testing.T, r *rivals, seed, stride uint64) {
	differences := 0
	for range *sequences / int(stride) {
		difference, err := r.play(randomSteps(seed))
		switch {
		case errors.Is(err, errStockDied):
			t.Logf("seed %d: %v", seed, err)
		case err != nil:
			t.Fatalf("seed %d: %v", seed, err)
		case difference != "":
			t.Errorf("seed %d:\n%s", seed, difference)
			if differences++; differences == 5 {
				t.Fatal("no more are looked for")
			}
		}
		seed += stride
	}
}

// stayOnCore binds the test to one core, the n-th. Packets to the loopback interface are queued for
// each core. So what is sent from one core arrives in order over all connections, as barrier needs
// it.
func stayOnCore(t *testing.T, n int) {
	t.Helper()
	runtime.LockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	one.Set(n % runtime.NumCPU())
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.SchedSetaffinity(0, &before)
		runtime.UnlockOSThread()
	})
}

// randomSteps returns the sequence that belongs to a seed.
func randomSteps(seed uint64) []step {
	g := &generator{rand.New(rand.NewPCG(seed, 0))}
	var steps []step
	for range 3 + g.IntN(14) {
		steps = append(steps, g.next()...)
	}
	if g.IntN(50) == 0 {
		slot := g.slot() // on a new connection: whether an old one is answered is not known here
		steps = append(steps, step{op: opClose, slot: slot}, asks(slot, "k"))
	}
	return steps
}

// generator makes up steps.
type generator struct{ *rand.Rand }

// maxSlots is how many connections a random sequence has open at most.
const maxSlots = 6

func (g *generator) slot() int { return g.IntN(maxSlots) }

// next returns a step, or a few that belong together.
func (g *generator) next() []step {
	slot := g.slot()
	switch p := g.IntN(100); {
	case p < 30:
		return g.deliver(slot, framed(g.alive().body()), wantAnswer)
	case p < 34:
		return g.deliver(slot, framed(g.malformedAlive()), wantEnd)
	case p < 52:
		return g.deliver(slot, framed("z"+g.name()+g.pick("", "", "\x00", "\x00\x00")), wantEnd)
	case p < 56:
		return []step{{op: opBarrier}}
	case p < 60:
		return []step{{op: opDump}}
	case p < 64:
		return g.deliver(slot, framed("s"+g.name()+g.pick("", "\x00")), wantEnd)
	case p < 68:
		return g.deliver(slot, framed(g.unknown()), wantEnd)
	case p < 74:
		return []step{{op: opSend, slot: slot, data: g.garbage(), want: wantOpen}}
	case p < 77:
		return []step{{op: opSend, slot: slot, data: append(framed("z"+g.name()), g.surplus()...), want: wantOpen}}
	case p < 80:
		return []step{{op: opHalf, slot: slot, want: wantOpen}}
	case p < 92:
		return []step{{op: opClose, slot: slot}}
	case p < 96:
		return []step{{op: opReset, slot: slot}}
	case p < 97:
		return []step{{op: opClose, slot: slot}, {op: opSend, slot: slot, data: framed(plainNode(racyName).body())}, {op: opReset, slot: slot}}
	}
	return []step{{op: opCheck, slot: slot}}
}

// deliver returns the steps that send data, at once or in pieces. Mostly they use a new connection.
// Sometimes something is behind the data, and sometimes a FIN. What was said on an old one may make
// anything of it. So each piece is waited for then. So it is with something behind the end, which
// counts for what it comes with.
func (g *generator) deliver(slot int, data []byte, w want) []step {
	var steps []step
	fresh, surplus := g.IntN(4) > 0, g.IntN(6) == 0
	if fresh {
		steps = append(steps, step{op: opClose, slot: slot})
	}
	if surplus {
		data = append(data, g.surplus()...)
	}
	last := step{op: opSend, slot: slot, want: w}
	if g.IntN(8) == 0 {
		last.op = opLast
	}
	if !fresh || surplus || last.op == opLast {
		last.want = wantOpen
	}
	for g.IntN(2) == 0 && len(data) > 1 {
		n := 1 + g.IntN(len(data)-1)
		piece := step{op: opSend, slot: slot, data: data[:n]}
		if !fresh || surplus || g.IntN(2) == 0 {
			piece.want = wantOpen
		}
		steps = append(steps, piece)
		data = data[n:]
	}
	last.data = data
	return append(steps, last)
}

// surplus returns what may stand behind a request: bytes, or another request.
func (g *generator) surplus() []byte {
	if g.IntN(2) == 0 {
		return g.bytes([]int{1, 2, 20, 5000}[g.IntN(4)])
	}
	return framed(g.pick("n", "d", "za", plainNode("b").body()))
}

func (g *generator) pick(choices ...string) string { return choices[g.IntN(len(choices))] }

// name returns one of few names, so that they meet each other, and sometimes an odd one.
func (g *generator) name() string {
	if g.IntN(6) == 0 {
		return g.pick(oddNames...)
	}
	return g.pick("a", "b", "c", "node", "日本")
}

func (g *generator) alive() aliveFields {
	return aliveFields{
		port:     uint16(g.Uint32()),
		kind:     []byte{77, 77, 72, 0, byte(g.Uint32())}[g.IntN(5)],
		proto:    []byte{0, 0, 1, 255}[g.IntN(4)],
		high:     []uint16{6, 6, 5, 0, 7, 65535}[g.IntN(6)],
		low:      []uint16{5, 6, 0, uint16(g.Uint32())}[g.IntN(4)],
		name:     g.name(),
		extra:    string(g.bytes([]int{0, 0, 0, 1, 10, 255, 1020, 1021, 1500}[g.IntN(9)])),
		trailing: string(g.bytes([]int{0, 0, 0, 1, 5, 300}[g.IntN(6)])),
	}
}

// malformedAlive returns an ALIVE2_REQ with lengths that don't fit, or cut off.
func (g *generator) malformedAlive() string {
	a := g.alive()
	switch g.IntN(3) {
	case 0:
		a.moreName = 1 + g.IntN(60000)
	case 1:
		a.moreExtra = len(a.trailing) + 1 + g.IntN(60000)
	default:
		return a.body()[:1+g.IntN(13)]
	}
	return a.body()
}

// unknown returns a request that neither knows, or one with more than belongs to it.
func (g *generator) unknown() string {
	tag := byte(g.Uint32())
	if bytes.IndexByte([]byte("xzskNW"), tag) >= 0 {
		tag = 'n'
	}
	return string(tag) + string(g.bytes(g.IntN(30)))
}

// garbage returns bytes that are hardly a request, their announced length next to a limit.
func (g *generator) garbage() []byte {
	length := []int{0, 1, 2, 13, 3056, 3057, 3058, 65535, g.IntN(65536)}[g.IntN(9)]
	b := binary.BigEndian.AppendUint16(nil, uint16(length))
	return append(b, g.bytes([]int{0, 1, 2, length, length + 1, g.IntN(3000)}[g.IntN(6)])...)[:1+g.IntN(len(b))]
}

// bytes returns n random bytes of which the first is no tag.
func (g *generator) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(g.Uint32())
	}
	if n > 0 {
		b[0] = 0
	}
	return b
}

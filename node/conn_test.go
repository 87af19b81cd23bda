package node

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/node/etf"
)

func TestCookieIsHidden(t *testing.T) {
	const c = Cookie("secret")
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("msg", "cookie", c, "in", struct{ C Cookie }{c})
	js, err := json.Marshal([]Cookie{c})
	if err != nil {
		t.Fatal(err)
	}
	shown := fmt.Sprintf("%v %+v %#v %s %q %x %d %v", c, c, c, c, c, c, []any{c}, &Dialer{Cookie: c}) + log.String() + string(js)
	if strings.Contains(shown, "secret") || strings.Contains(shown, fmt.Sprintf("%x", "secret")) {
		t.Errorf("the cookie is in %s", shown)
	}
}

// TestDigest has digests that erlang:md5/1 made.
func TestDigest(t *testing.T) {
	for _, tt := range []struct {
		cookie    Cookie
		challenge uint32
		want      string
	}{
		{"secret", 0, "175ec77a7f63082590987d0d8b051aff"},
		{"", 4294967295, "7ba34a7c9344df2acabdb0146b9e15e3"},
	} {
		if got := fmt.Sprintf("%x", tt.cookie.digest(tt.challenge)); got != tt.want {
			t.Errorf("%s, %d: got %s; want %s", string(tt.cookie), tt.challenge, got, tt.want)
		}
	}
}

var proofTests = []struct {
	name, hex string
	ok        bool
}{
	{"reply", "72 01020304 000102030405060708090a0b0c0d0e0f", true},
	{"reply and more", "72 01020304 000102030405060708090a0b0c0d0e0f 00", true},
	{"short reply", "72 01020304 000102030405060708090a0b0c0d0e", false},
	{"ack", "61 000102030405060708090a0b0c0d0e0f", true},
	{"short ack", "61 000102030405060708090a0b0c0d0e", false},
	{"nothing", "", false},
	{"status", "73 6f6b 000102030405060708090a0b0c0d0e0f0001020304", false},
}

func TestParseProofs(t *testing.T) {
	for _, tt := range proofTests {
		b := unhex(t, tt.hex)
		reply, replyErr := ParseChallengeReply(b)
		ack, ackErr := ParseChallengeAck(b)
		if got := replyErr == nil || ackErr == nil; got != tt.ok {
			t.Errorf("%s: parsed: %v; want %v", tt.name, got, tt.ok)
		}
		if replyErr == nil && (reply.Challenge != 0x01020304 || reply.Digest[15] != 15) || ackErr == nil && ack.Digest[15] != 15 {
			t.Errorf("%s: got %x, %x", tt.name, reply, ack)
		}
	}
}

func FuzzParseProofs(f *testing.F) {
	for _, tt := range proofTests {
		f.Add(unhex(f, tt.hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := ParseChallengeReply(b); err == nil && string(m.Append(nil)) != string(b[:21]) {
			t.Errorf("%x: parsed as %x", b, m)
		}
		if m, err := ParseChallengeAck(b); err == nil && string(m.Append(nil)) != string(b[:17]) {
			t.Errorf("%x: parsed as %x", b, m)
		}
	})
}

// testConn returns both ends of a connection. The goroutines of the first have not been started.
func testConn(t testing.TB, o Options) (*Conn, net.Conn) {
	t.Helper()
	us, err := newSelf("us@here", "secret", o)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	t.Cleanup(func() {
		ours.Close()
		theirs.Close()
	})
	return newConn(ours, us, them{"them@there", connected, 1}), theirs
}

func (c *Conn) waits() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)
}

// controlSeeds are a peer's messages, right and wrong ones of each kind.
func controlSeeds(t testing.TB, c *Conn) [][]byte {
	far := etf.Pid{Node: "them@there", ID: 7, Creation: 1}
	ref := etf.Ref{Node: "them@there", Creation: 1, Len: 3}
	var all [][]byte
	add := func(control etf.Tuple, payload ...any) {
		b, err := encodeMessage(control, payload...)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b[messageLenSize:])
	}
	call := etf.Tuple{genCall, etf.Tuple{far, []any{etf.Atom("alias"), ref}}, etf.Tuple{isAuth, etf.Atom("them@there")}}
	for op := range 40 {
		add(etf.Tuple{op})
		add(etf.Tuple{op, far, c.pid, ref, etf.Atom("reason"), 1}, call)
		add(etf.Tuple{op, c.pid, far, 1, []any{}}, 1)
	}
	add(etf.Tuple{opSend, etf.Atom(""), c.pid}, etf.Tuple{ref, 1})
	add(etf.Tuple{opSend, etf.Atom(""), c.pid}, etf.Tuple{etf.Atom("io_request"), far, ref, etf.Atom("getopts")})
	add(etf.Tuple{opRegSend, far, etf.Atom(""), netKernel}, call)
	add(etf.Tuple{opRegSend, far, etf.Atom(""), etf.Atom("box")}, call)
	add(etf.Tuple{opMonitor, far, etf.Atom("nobody"), ref})
	add(etf.Tuple{opSpawnRequest, ref, far, far, etf.Tuple{etf.Atom("erlang"), etf.Atom("halt"), 0}, []any{}}, []any{})
	add(etf.Tuple{opSpawnReply, ref, c.pid, 0, etf.Atom("notsup")})
	add(etf.Tuple{opLink, far, etf.Pid{Node: "us@here"}})
	add(etf.Tuple{opExit, far, c.pid, etf.Atom("kill")})
	add(etf.Tuple{opUnlinkID, int64(1 << 40), far, c.pid})
	return append(all, []byte{passThrough}, []byte{131, 68}, []byte("p\x83h"), []byte("p\x83h\x00"), []byte("p\x83l\xff\xff\xff\xff"),
		[]byte("p\x83h\x01a\x02\x83"))
}

// FuzzDispatch has a peer say anything. Nothing panics, and every answer is a whole message.
func FuzzDispatch(f *testing.F) {
	c, _ := testConn(f, Options{Processes: map[etf.Atom]Handler{"box": nil}})
	for _, m := range controlSeeds(f, c) {
		f.Add(m)
	}
	f.Fuzz(func(t *testing.T, m []byte) {
		ref, err := c.wait(nil, func(outcome) {})
		if err != nil {
			t.Fatal(err)
		}
		defer c.take(ref)
		if _, _, err := c.linked(etf.Pid{Node: "them@there", ID: 7, Creation: 1}); err != nil {
			t.Fatal(err)
		}
		c.dispatch(m)
		for len(c.answers) > 0 {
			if b := <-c.answers; len(b) != int(binary.BigEndian.Uint32(b))+messageLenSize {
				t.Errorf("%x: answered %x", m, b)
			}
		}
	})
}

// answers are the control messages, as terms, that c would send now.
func answers(t *testing.T, c *Conn) []any {
	t.Helper()
	var all []any
	for len(c.answers) > 0 {
		b := <-c.answers
		var v any
		if _, err := etf.Cut(b[messageLenSize+1:], &v); err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		all = append(all, v)
	}
	return all
}

func TestDispatchAnswers(t *testing.T) {
	c, _ := testConn(t, Options{Processes: map[etf.Atom]Handler{"box": func(*Conn, Message) {}}})
	far := etf.Pid{Node: "them@there", ID: 7, Creation: 1}
	ref := etf.Ref{Node: "them@there", Creation: 1, Len: 3}
	gone := c.pid
	gone.Creation++
	for _, tt := range []struct {
		name string
		in   etf.Tuple
		want any // nil: nothing
	}{
		{"monitor of nobody", etf.Tuple{opMonitor, far, etf.Atom("nobody"), ref}, etf.Tuple{int64(opMonitorExit), etf.Atom("nobody"), far, ref, atomNoProc}},
		{"monitor of an earlier us", etf.Tuple{opMonitor, far, gone, ref}, etf.Tuple{int64(opMonitorExit), gone, far, ref, atomNoProc}},
		{"monitor of a process", etf.Tuple{opMonitor, far, etf.Atom("box"), ref}, nil},
		{"monitor of us", etf.Tuple{opMonitor, far, c.pid, ref}, nil},
		{"demonitor", etf.Tuple{opDemonitor, far, c.pid, ref}, nil},
		{"link to us", etf.Tuple{opLink, far, c.pid}, nil},
		{"link to an earlier us", etf.Tuple{opLink, far, gone}, etf.Tuple{int64(opExit), gone, far, atomNoProc}},
		{"unlink", etf.Tuple{opUnlinkID, 5, far, c.pid}, etf.Tuple{int64(opUnlinkIDAck), int64(5), c.pid, far}},
		{"spawn", etf.Tuple{opSpawnRequest, ref, far, far, etf.Tuple{etf.Atom("erlang"), etf.Atom("halt"), 0}, []any{}},
			etf.Tuple{int64(opSpawnReply), ref, far, int64(0), atomNotSup}},
		{"exit", etf.Tuple{opExit, far, c.pid, etf.Atom("kill")}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := encodeMessage(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.dispatch(m[messageLenSize:]); err != nil {
				t.Fatal(err)
			}
			if got := answers(t, c); fmt.Sprint(got) != fmt.Sprint(slices.DeleteFunc([]any{tt.want}, func(v any) bool { return v == nil })) {
				t.Errorf("got %v; want %v", got, tt.want)
			}
		})
	}
}

// TestTicks has two idle ends keep each other alive with few ticks, though each answers the
// other's.
func TestTicks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, theirs := testConn(t, Options{})
		b, _ := testConn(t, Options{})
		counter := &countingConn{Conn: theirs}
		b.conn = counter
		a.start()
		b.start()
		time.Sleep(time.Hour) // of the bubble's own time
		if a.Err() != nil || b.Err() != nil {
			t.Errorf("ended: %v, %v", a.Err(), b.Err())
		}
		if n := counter.writes.Load(); n < 3600/60 || n > 2*3600/15 {
			t.Errorf("%d ticks in an hour", n)
		}
		a.Close()
		synctest.Wait()
		if a.Err() != net.ErrClosed || b.Err() == nil || errors.Is(b.Err(), ErrSilent) {
			t.Errorf("ended with %v and %v", a.Err(), b.Err())
		}
		b.Close()
	})
}

type countingConn struct {
	net.Conn
	writes atomic.Int64
}

func (c *countingConn) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

func TestSilence(t *testing.T) {
	for _, tt := range []struct {
		name string
		peer func(net.Conn)
		want error
	}{
		{"reads and is silent", func(c net.Conn) { io.Copy(io.Discard, c) }, ErrSilent},
		{"neither reads nor speaks", func(net.Conn) {}, ErrSilent},
		{"speaks and does not read", func(c net.Conn) { // each tick is to be answered
			for _, err := c.Write(make([]byte, 4)); err == nil; _, err = c.Write(make([]byte, 4)) {
				time.Sleep(time.Second)
			}
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, theirs := testConn(t, Options{})
				var peer sync.WaitGroup
				peer.Go(func() { tt.peer(theirs) })
				start := time.Now()
				c.start()
				<-c.Closed()
				if took := time.Since(start); took > 2*defaultTickTime || tt.want != nil && !errors.Is(c.Err(), tt.want) {
					t.Errorf("ended after %v with %v; want %v", took, c.Err(), tt.want)
				}
				c.Close()
				theirs.Close()
				peer.Wait()
			})
		})
	}
}

// TestHostilePeer has a peer say anything after the handshake. It may end the connection, but
// never hangs it.
func TestHostilePeer(t *testing.T) {
	flood := func(c net.Conn, m []byte) {
		b := append(binary.BigEndian.AppendUint32(nil, uint32(len(m))), m...)
		for range 1_000_000 {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}
	seeds, _ := testConn(t, Options{})
	monitor, err := encodeMessage(etf.Tuple{opMonitor, etf.Pid{Node: "a@b"}, etf.Atom("nobody"), etf.Ref{Node: "a@b", Len: 1}})
	if err != nil {
		t.Fatal(err)
	}
	toBox, err := encodeMessage(etf.Tuple{opRegSend, etf.Pid{Node: "a@b"}, etf.Atom(""), etf.Atom("box")}, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		peer func(net.Conn)
		err  string
	}{
		{"huge message", func(c net.Conn) { c.Write([]byte{255, 255, 255, 255}) }, "4294967295 bytes"},
		{"big message that ends early", func(c net.Conn) { c.Write([]byte{0, 255, 255, 255, 'p'}); c.Close() }, "unexpected EOF"},
		{"no pass through", func(c net.Conn) { flood(c, []byte{131, 68, 0}) }, "begins with"},
		{"closed", func(c net.Conn) { c.Close() }, "EOF"},
		{"asks and does not read", func(c net.Conn) { flood(c, monitor[4:]) }, errNoReads.Error()},
		{"more than a handler handles", func(c net.Conn) { flood(c, toBox[4:]) }, errBehind.Error()},
		{"control term", func(c net.Conn) { flood(c, []byte("p\x83l\xff\xff\xff\xff")) }, "decode term"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			slow := make(chan struct{})
			defer close(slow)
			c, theirs := testConn(t, Options{Processes: map[etf.Atom]Handler{"box": func(*Conn, Message) { <-slow }}})
			go tt.peer(theirs)
			c.start()
			ended(t, c, nil)
			if !names(c.Err(), tt.err) {
				t.Errorf("ended with %v; want %q", c.Err(), tt.err)
			}
			if err := c.Ping(t.Context()); err == nil {
				t.Error("pong over an ended connection")
			}
			c.Close()
		})
	}
	for i, m := range controlSeeds(t, seeds) {
		t.Run(fmt.Sprint("message ", i), func(t *testing.T) {
			c, theirs := testConn(t, Options{})
			go io.Copy(io.Discard, theirs)
			c.start()
			theirs.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(m))), m...))
			theirs.Close()
			ended(t, c, nil)
			c.Close()
		})
	}
}

// TestDialHostile has each stage of the connecting side's handshake meet what no node would say.
func TestDialHostile(t *testing.T) {
	const (
		name = "a@b"
		able = "0016 4e 0000001d07050bb4 00000002 00000003 0003 614062" // a challenge, all flags
	)
	flags := fmt.Sprintf("%016x", uint64(connected))
	good := strings.Replace(able, "0000001d07050bb4", flags, 1)
	for _, tt := range []struct {
		name, answer string
		step         Step
		err          string
	}{
		{"closed", "", StepHandshake, "read status"},
		{"TLS alert", "15 0303 0002 0228", StepHandshake, ErrWantsTLS.Error()},
		{"not allowed", "000c 736e6f745f616c6c6f776564", StepHandshake, "not_allowed"},
		{"huge", "ffff", StepHandshake, "65535"},
		{"another name", okFrame + strings.Replace(good, "614062", "614063", 1), StepHandshake, `"a@c"`},
		{"few flags", okFrame + challengeFrame, StepHandshake, "lacks distribution flags"},
		{"closed after the proof", okFrame + good, StepCookie, "cookies differ"},
		{"wrong proof", okFrame + good + "0011 61 00000000000000000000000000000000", StepCookie, "cookies differ"},
		{"short proof", okFrame + good + "0001 61", StepCookie, "challenge_ack"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			addr := listen(t, plainNode(func(c net.Conn) { c.Write(unhex(t, tt.answer)) }))
			c, err := (&Dialer{Name: prober, Cookie: "secret"}).DialAddr(t.Context(), name, addr)
			staged := (*DialError)(nil)
			if c != nil || !errors.As(err, &staged) || staged.Step != tt.step || !names(err, tt.err) {
				t.Errorf("got %v, %v; want step %s, %q", c, err, tt.step, tt.err)
			}
		})
	}
	t.Run("silent", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		addr := listen(t, plainNode(func(c net.Conn) { io.Copy(io.Discard, c) }))
		if _, err := (&Dialer{Name: prober}).DialAddr(ctx, name, addr); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// TestServeHostile has each stage of the accepting side's handshake meet what no node would say.
func TestServeHostile(t *testing.T) {
	refused := make(chan error, 100)
	s := &Server{Name: "us@here", Cookie: "secret", Refused: func(_ net.Addr, err error) { refused <- err }}
	addr := served(t, s)
	good := SendName{connected, 1, "a@b"}
	for _, tt := range []struct {
		name string
		send [][]byte
		err  string
	}{
		{"closed", nil, "read name"},
		{"huge", [][]byte{make([]byte, 5000)}, "5000 bytes"},
		{"other message", [][]byte{[]byte("sok")}, "no send_name"},
		{"few flags", [][]byte{SendName{Published, 1, "a@b"}.Append(nil)}, "lacks distribution flags"},
		{"own name", [][]byte{SendName{connected, 1, "us@here"}.Append(nil)}, "our own name"},
		{"escape in the name", [][]byte{SendName{connected, 1, "a@\x1b"}.Append(nil)}, "printable"},
		{"closed after the name", [][]byte{good.Append(nil)}, "read proof"},
		{"other proof", [][]byte{good.Append(nil), []byte("sok")}, "no challenge_reply"},
		{"wrong proof", [][]byte{good.Append(nil), ChallengeReply{}.Append(nil)}, "cookies differ"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := net.Dial("tcp", addr.String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for _, m := range tt.send {
				if err := (frames{c, plainLenSize}).write(m); err != nil {
					t.Fatal(err)
				}
			}
			c.(*net.TCPConn).CloseWrite()
			if err := <-refused; !names(err, tt.err) {
				t.Errorf("refused with %v; want %q", err, tt.err)
			}
		})
	}
}

// TestDialSimultaneously has two nodes dial each other at the same time. They agree on one
// connection.
func TestDialSimultaneously(t *testing.T) {
	a, b := &Server{Name: "a@here", Cookie: "secret"}, &Server{Name: "b@here", Cookie: "secret"}
	addrs := map[*Server]netip.AddrPort{a: served(t, a), b: served(t, b)}
	for round := range 50 {
		var both sync.WaitGroup
		for _, pair := range [][2]*Server{{a, b}, {b, a}} {
			both.Go(func() {
				c, err := (&Dialer{Server: pair[0]}).DialAddr(t.Context(), pair[1].Name, addrs[pair[1]])
				if err == nil {
					err = c.Ping(t.Context())
				}
				if err != nil {
					t.Errorf("round %d: %s to %s: %v", round, pair[0].Name, pair[1].Name, err)
				}
			})
		}
		both.Wait()
		if na, nb := len(a.Conns()), len(b.Conns()); na != 1 || nb != 1 {
			t.Fatalf("round %d: %d and %d connections", round, na, nb)
		}
		a.Conns()[0].Close()
		await(t, "both to notice", func() bool { return len(a.Conns()) == 0 && len(b.Conns()) == 0 })
	}
}

// TestReadMessageTakesNoMemory has a length cost nothing until the bytes come.
func TestReadMessageTakesNoMemory(t *testing.T) {
	const rounds, most = 100, 16 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range rounds {
		if _, err := readMessage(strings.NewReader("\x00\xff\xff\xffp"), most); err != io.ErrUnexpectedEOF {
			t.Fatalf("got %v", err)
		}
	}
	runtime.ReadMemStats(&after)
	if got := (after.TotalAlloc - before.TotalAlloc) / rounds; got > 64<<10 {
		t.Errorf("%d bytes taken for a message of one byte", got)
	}
}

// TestCallsConcurrently has many callers share a connection. A slow one is in nobody's way.
func TestCallsConcurrently(t *testing.T) {
	s := &Server{Name: "us@here", Cookie: "secret"}
	s.Processes = map[etf.Atom]Handler{"echo": func(c *Conn, m Message) {
		if call, ok := m.Call(); ok {
			c.Reply(call, call.Request)
		}
	}, "deaf": func(*Conn, Message) {}}
	c, err := (&Dialer{Name: prober, Cookie: "secret"}).DialAddr(t.Context(), "", served(t, s))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := c.CallServer(ctx, "deaf", 1); !errors.Is(err, context.Canceled) {
			t.Errorf("a call without an answer: %v", err)
		}
	})
	var callers sync.WaitGroup
	for i := range 500 {
		callers.Go(func() {
			var got int
			reply, err := c.CallServer(t.Context(), "echo", i)
			if err == nil {
				err = reply.Unmarshal(&got)
			}
			if err != nil || got != i {
				t.Errorf("got %d, %v; want %d", got, err, i)
			}
		})
		if i%100 == 0 {
			callers.Wait() // a handler may have 256 messages wait
		}
	}
	callers.Wait()
	if _, err := c.CallServer(t.Context(), "nobody", 1); !names(err, "noproc") {
		t.Errorf("call of nobody: %v", err)
	}
	if _, err := c.Call(t.Context(), "erlang", "halt"); !names(err, `"rex" at "us@here"`) && !names(err, "noproc") {
		t.Errorf("call of a function: %v", err)
	}
	cancel()
	all.Wait()
	if n := c.waits(); n != 0 {
		t.Errorf("%d still wait", n)
	}
}

// TestDispatchPayloads has a peer send what it does for the flags that a Conn announces.
func TestDispatchPayloads(t *testing.T) {
	c, _ := testConn(t, Options{Processes: map[etf.Atom]Handler{"": func(*Conn, Message) {}}})
	far := etf.Pid{Node: "them@there", ID: 7, Creation: 1}
	token := etf.Tuple{0, etf.Atom("label"), 0, far, 0}
	dispatch := func(control etf.Tuple, payload ...any) {
		t.Helper()
		m, err := encodeMessage(control, payload...)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.dispatch(m[messageLenSize:]); err != nil {
			t.Errorf("%v: %v", control, err)
		}
	}
	wait := func() (etf.Ref, chan outcome) {
		done := make(chan outcome, 1)
		ref, err := c.wait(nil, func(o outcome) { done <- o })
		if err != nil {
			t.Fatal(err)
		}
		return ref, done
	}
	want := func(what string, got etf.Raw, value any) {
		t.Helper()
		if v := decoded(t, got); v != value {
			t.Errorf("%s: got %v, want %v", what, v, value)
		}
	}
	for _, op := range []int{opSendSender, opSendSenderTT} {
		dispatch(etf.Tuple{op, far, c.pid, token}[:op-opSendSender+3], etf.Atom("hello"))
		m := <-c.in
		if want("message", m.Term, etf.Atom("hello")); m.From != far || m.To != "" {
			t.Errorf("message %+v; want it from %v", m, far)
		}
	}
	ref, done := wait()
	dispatch(etf.Tuple{opSendSender, far, c.pid}, etf.Tuple{ref, 1})
	want("answer", (<-done).term, int64(1))
	for _, op := range []int{opAliasSend, opAliasSendTT} {
		ref, done = wait()
		dispatch(etf.Tuple{op, far, ref, token}[:op-opAliasSend+3], etf.Tuple{ref, 2})
		want("answer to an alias", (<-done).term, int64(2))
	}
	dispatch(etf.Tuple{opAliasSend, far, ref}, etf.Atom("late"))
	if len(c.in) != 0 {
		t.Errorf("a message to an alias that has gone: %+v", <-c.in)
	}
	ref, done = wait()
	dispatch(etf.Tuple{opPayloadDown, far, c.pid, ref}, etf.Atom("badarg"))
	want("reason", (<-done).term, etf.Atom("badarg"))
	for _, op := range []int{opPayloadExit, opPayloadExitTT} {
		l, _, err := c.linked(far)
		if err != nil {
			t.Fatal(err)
		}
		dispatch(etf.Tuple{op, far, c.pid, token}[:op-opPayloadExit+3], etf.Atom("badarg"))
		want("exit", (<-l.Down()).Reason, etf.Atom("badarg"))
	}
	dispatch(etf.Tuple{opRegSendTT, far, etf.Atom(""), netKernel, etf.Tuple{0, etf.Tuple{etf.Atom("any"), 1.5}, 0, far, 0}}, etf.Atom("a label of any kind"))
	if len(c.answers) != 0 {
		t.Error("answered what asks for nothing")
	}
}

// TestFirstMessage has a peer close when the first message comes, and when it is not the first.
func TestFirstMessage(t *testing.T) {
	for _, tt := range []struct {
		name string
		peer func(net.Conn, []byte)
		want bool
	}{
		{"first", func(c net.Conn, _ []byte) {}, true},
		{"after a tick", func(c net.Conn, _ []byte) { c.Write(make([]byte, messageLenSize)) }, true},
		{"after a message", func(c net.Conn, m []byte) { c.Write(m) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, theirs := testConn(t, Options{})
			go func() {
				m, _ := readMessage(theirs, 1<<20)
				tt.peer(theirs, append(binary.BigEndian.AppendUint32(nil, uint32(len(m))), m...))
				theirs.Close()
			}()
			c.start()
			err := c.SendName("a", etf.Atom("hello"))
			ended(t, c, nil)
			if got := errors.Is(c.Err(), ErrFirstMessage); err != nil || got != tt.want {
				t.Errorf("sent: %v, ended with %v; want ErrFirstMessage: %v", err, c.Err(), tt.want)
			}
			c.Close()
		})
	}
	c, theirs := testConn(t, Options{})
	c.start()
	theirs.Close()
	ended(t, c, nil)
	if errors.Is(c.Err(), ErrFirstMessage) {
		t.Errorf("nothing sent, ended with %v", c.Err())
	}
}

// TestServeNames gives a node that asks for a name one of its host. It has names of its own, by
// who asks.
func TestServeNames(t *testing.T) {
	s := &Server{Name: "us@here", Cookie: "secret", NameFor: func(peer string, local net.Addr) string {
		if _, host, _ := strings.Cut(peer, "@"); host == "short" && local != nil {
			return "us@short"
		}
		return "us@here.example"
	}}
	addr := served(t, s)
	for _, tt := range []struct {
		sent   SendName
		status StatusCode
		want   string
	}{
		{SendName{connected, 1, "a@short"}, OK, "us@short"},
		{SendName{connected, 1, "a@long.example"}, OK, "us@here.example"},
		{SendName{connected | NameMe, 0, "short"}, Named, "us@short"},
		{SendName{connected | NameMe, 0, "long.example"}, Named, "us@here.example"},
		{SendName{connected, 1, "us@short"}, NotAllowed, ""},
		{SendName{connected | NameMe, 0, "a@b"}, NotAllowed, ""},
	} {
		t.Run(tt.sent.Name, func(t *testing.T) {
			c, err := net.Dial("tcp", addr.String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			f := frames{c, plainLenSize}
			if err := f.write(tt.sent.Append(nil)); err != nil {
				t.Fatal(err)
			}
			b, err := f.read()
			if err != nil {
				t.Fatal(err)
			}
			got, err := ParseStatus(b)
			if err != nil || got.Code != tt.status {
				t.Fatalf("got %+v, %v; want %q", got, err, tt.status)
			}
			if tt.status == Named && (CheckName(got.Name) != nil || !strings.HasSuffix(got.Name, "@"+tt.sent.Name) || got.Creation < 4) {
				t.Errorf("named %q, creation %d", got.Name, got.Creation)
			}
			if tt.want == "" {
				return
			}
			m, err := readChallenge(f)
			if err != nil || m.Name != tt.want || m.Flags != tt.sent.Flags {
				t.Errorf("challenge of %q with flags %#x, %v; want %q, %#x", m.Name, m.Flags, err, tt.want, tt.sent.Flags)
			}
		})
	}
}

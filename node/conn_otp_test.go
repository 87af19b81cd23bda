package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/node/etf"
	"github.com/goerlang/eclus/test/wait"
)

// finder finds nodes of any host at this one, by the epmd of that port.
func finder(port uint16) *epmd.Finder {
	return &epmd.Finder{Port: port, Resolve: func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}}
}

// dialer returns a Dialer for the nodes that startNode starts.
func (e epmdPort) dialer(t *testing.T) *Dialer {
	t.Helper()
	port, err := strconv.ParseUint(string(e), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return &Dialer{Name: prober, Cookie: "secret", Lookup: finder(uint16(port)).Find}
}

// dialed returns a connection that ends with the test.
func dialed(t *testing.T, d *Dialer, name string) *Conn {
	t.Helper()
	c, err := d.Dial(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestConnOTP(t *testing.T) {
	epmd := startEPMD(t)
	n := startNode(t, epmd, "info", []string{"-name", "conn@conn.host"})
	c := dialed(t, epmd.dialer(t), "conn@conn.host")
	t.Run("who", func(t *testing.T) {
		creation := uint32(n.number("erts_internal:get_creation()"))
		if c.PeerName() != "conn@conn.host" || c.PeerFlags()&Published == 0 || c.PeerCreation() != creation {
			t.Errorf("got %s, %x, %d; want creation %d", c.PeerName(), c.PeerFlags(), c.PeerCreation(), creation)
		}
		if got := n.eval("[nodes(), nodes(hidden)]"); got != "[[],['"+prober+"']]" {
			t.Errorf("nodes and hidden nodes: %s", got)
		}
	})
	t.Run("ping", func(t *testing.T) {
		if err := c.Ping(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("calls", func(t *testing.T) { testCalls(t, c) })
	t.Run("throw", func(t *testing.T) { // rex does not tell it from a result
		raised := (*CallError)(nil)
		if _, err := c.Call(t.Context(), "erlang", "throw", 1); !errors.As(err, &raised) || raised.Class != "throw" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("calls by rex", func(t *testing.T) {
		d := epmd.dialer(t)
		d.Name = "rex@probing.host"
		old := dialed(t, d, "conn@conn.host")
		old.them.flags &^= Spawn
		testCalls(t, old)
	})
	t.Run("send", func(t *testing.T) { testSend(t, n, c) })
	t.Run("monitor", func(t *testing.T) { testMonitor(t, n, c) })
	t.Run("link", func(t *testing.T) { testLink(t, n, c) })
	t.Run("exit", func(t *testing.T) { testExit(t, n, c) })
	t.Run("links of a connection that ends", func(t *testing.T) {
		d := epmd.dialer(t)
		d.Name = "brief@probing.host"
		testLinkEnds(t, n, dialed(t, d, "conn@conn.host"))
	})
}

// testCalls calls functions that return, raise, and take too long.
func testCalls(t *testing.T, c *Conn) {
	for _, tt := range []struct {
		module, function string
		args             []any
		want             any
		class, reason    string
	}{
		{module: "erlang", function: "node", want: etf.Atom("conn@conn.host")},
		{module: "lists", function: "seq", args: []any{1, 1000, 333}, want: []any{int64(1), int64(334), int64(667), int64(1000)}},
		{module: "erlang", function: "error", args: []any{etf.Tuple{etf.Atom("badarg"), 1}}, class: "error", reason: "badarg"},
		{module: "erlang", function: "exit", args: []any{etf.Atom("normal")}, class: "exit", reason: "normal"},
		{module: "erlang", function: "nodes", args: []any{1, 2, 3}, class: "error", reason: "undef"},
		{module: "io", function: "format", args: []any{etf.Charlist("hello")}, class: "error", reason: "badarg"},
	} {
		t.Run(tt.module+":"+tt.function, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
			defer cancel()
			got, err := c.Call(ctx, tt.module, tt.function, tt.args...)
			if tt.class == "" {
				if err != nil || !reflect.DeepEqual(decoded(t, got), tt.want) {
					t.Errorf("got %x, %v; want %v", got, err, tt.want)
				}
				return
			}
			raised := (*CallError)(nil)
			if c.PeerFlags()&Spawn == 0 { // rex tells less
				tt.class, tt.reason = "badrpc", "EXIT"
			}
			if !errors.As(err, &raised) || raised.Class != tt.class || !names(err, strconv.Quote(tt.reason)) {
				t.Errorf("got %x, %v; want %s of %s", got, err, tt.class, tt.reason)
			}
		})
	}
	t.Run("too long", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := c.Call(ctx, "timer", "sleep", 100_000); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if n := c.waits(); n != 0 {
			t.Errorf("%d still wait", n)
		}
	})
}

func decoded(t *testing.T, term etf.Raw) any {
	t.Helper()
	var v any
	if err := term.Unmarshal(&v); err != nil {
		t.Fatalf("%x: %v", term, err)
	}
	return v
}

func testSend(t *testing.T, n *erl, c *Conn) {
	n.eval("register(mailbox, self())")
	if err := c.SendName("mailbox", etf.Tuple{etf.Atom("hello"), c.Self()}); err != nil {
		t.Fatal(err)
	}
	want := "ok"
	if got := n.eval("receive {hello, P} when node(P) =:= '" + prober + "' -> ok after 10000 -> nothing end"); got != want {
		t.Errorf("by name: got %s", got)
	}
	raw, err := c.Call(t.Context(), "erlang", "whereis", etf.Atom("mailbox"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Send(decoded(t, raw).(etf.Pid), 42); err != nil {
		t.Fatal(err)
	}
	if got := n.eval("receive 42 -> ok after 10000 -> nothing end"); got != want {
		t.Errorf("by pid: got %s", got)
	}
	n.eval("unregister(mailbox)")
}

func testMonitor(t *testing.T, n *erl, c *Conn) {
	n.eval("register(mortal, spawn(fun() -> receive R -> exit(R) end end))")
	mortal, err := c.MonitorName("mortal")
	if err != nil {
		t.Fatal(err)
	}
	nobody, err := c.MonitorName("mailbox")
	if err != nil {
		t.Fatal(err)
	}
	stopped, err := c.MonitorName("mortal")
	if err != nil {
		t.Fatal(err)
	}
	stopped.Stop()
	if err := c.SendName("mortal", etf.Atom("badarg")); err != nil {
		t.Fatal(err)
	}
	wantDown(t, nobody, etf.Atom("noproc"))
	wantDown(t, mortal, etf.Atom("badarg"))
	if err := c.Ping(t.Context()); err != nil { // what was sent before is here by now
		t.Fatal(err)
	}
	select {
	case d := <-stopped.Down():
		t.Errorf("a stopped monitor said %v", d)
	default:
	}
}

// spawned makes the node run a process and returns it.
func spawned(t *testing.T, n *erl, c *Conn, fun string) etf.Pid {
	t.Helper()
	n.eval("register(spawned, spawn(" + fun + "))")
	raw, err := c.Call(t.Context(), "erlang", "whereis", etf.Atom("spawned"))
	if err != nil {
		t.Fatal(err)
	}
	n.eval("unregister(spawned)")
	pid, ok := decoded(t, raw).(etf.Pid)
	if !ok {
		t.Fatalf("%s: no process %x", fun, raw)
	}
	return pid
}

// obedient exits with the first message, or ends its link with the sender of one.
const obedient = "fun F() -> receive {unlink, P} -> unlink(P), F(); R -> exit(R) end end"

func linkTo(t *testing.T, c *Conn, pid etf.Pid) *Link {
	t.Helper()
	l, err := c.Link(pid)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func testLink(t *testing.T, n *erl, c *Conn) {
	pid := spawned(t, n, c, obedient)
	mortal := linkTo(t, c, pid)
	if again := linkTo(t, c, pid); again != mortal {
		t.Error("two links with one process")
	}
	if err := c.Send(pid, etf.Atom("badarg")); err != nil {
		t.Fatal(err)
	}
	wantDown(t, mortal, etf.Atom("badarg"))
	wantDown(t, linkTo(t, c, pid), atomNoProc)

	pid = spawned(t, n, c, obedient)
	left := linkTo(t, c, pid)
	if err := c.Send(pid, etf.Tuple{etf.Atom("unlink"), c.Self()}); err != nil {
		t.Fatal(err)
	}
	wantLost(t, left, ErrUnlinked)
	again := linkTo(t, c, pid)
	if err := again.Unlink(); err != nil {
		t.Fatal(err)
	}
	watch, err := c.Monitor(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Send(pid, etf.Atom("bye")); err != nil {
		t.Fatal(err)
	}
	wantDown(t, watch, etf.Atom("bye"))
	select {
	case d := <-again.Down():
		t.Errorf("a link that was ended said %+v", d)
	default:
	}
}

func testExit(t *testing.T, n *erl, c *Conn) {
	pid := spawned(t, n, c, "fun() -> process_flag(trap_exit, true), receive {'EXIT', P, polite} when node(P) =:= '"+prober+"' -> "+
		"receive never -> ok end end end")
	watch, err := c.Monitor(pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, reason := range []etf.Atom{"polite", "kill"} {
		if err := c.Exit(pid, reason); err != nil {
			t.Fatal(err)
		}
	}
	wantDown(t, watch, etf.Atom("killed"))
}

// testLinkEnds ends c, which takes along the process that is still linked to it.
func testLinkEnds(t *testing.T, n *erl, c *Conn) {
	linked, free := spawned(t, n, c, obedient), spawned(t, n, c, obedient)
	kept := linkTo(t, c, linked)
	if err := linkTo(t, c, free).Unlink(); err != nil {
		t.Fatal(err)
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	watch := "put(watched, [monitor(process, P) || P <- processes(), {links, L} <- [process_info(P, links)], Far <- L, node(Far) =:= 'brief@probing.host'])"
	n.eval(watch)
	if got := n.eval("length(get(watched))"); got != "1" {
		t.Errorf("%s processes are linked to us, want 1", got)
	}
	c.Close()
	wantLost(t, kept, net.ErrClosed)
	if got := n.eval("receive {'DOWN', M, process, _, R} -> {get(watched) =:= [M], R} after 10000 -> nothing end"); got != "{true,noconnection}" {
		t.Errorf("the linked process: %s", got)
	}
	if _, err := c.Link(free); !errors.Is(err, net.ErrClosed) {
		t.Errorf("link over a connection that was closed: %v", err)
	}
}

// awaitDown waits for what a Monitor or a Link says.
func awaitDown(t *testing.T, m interface{ Down() <-chan Down }) Down {
	t.Helper()
	select {
	case d := <-m.Down():
		return d
	case <-time.After(wait.Patience):
		t.Fatalf("no Down after %v", wait.Patience)
		return Down{}
	}
}

func wantDown(t *testing.T, m interface{ Down() <-chan Down }, reason any) {
	t.Helper()
	if d := awaitDown(t, m); d.Err != nil || decoded(t, d.Reason) != reason {
		t.Errorf("got %x, %v; want %v", d.Reason, d.Err, reason)
	}
}

func wantLost(t *testing.T, m interface{ Down() <-chan Down }, err error) {
	t.Helper()
	if d := awaitDown(t, m); !errors.Is(d.Err, err) {
		t.Errorf("got %+v; want %v", d, err)
	}
}

// TestConnEndsOTP stops a node and ends another. The first is noticed by its silence, the second
// by the end of the connection.
func TestConnEndsOTP(t *testing.T) {
	epmd := startEPMD(t)
	n := startNode(t, epmd, "info", []string{"-name", "mute@mute.host", "-kernel", "net_ticktime", "4"})
	d := epmd.dialer(t)
	d.TickTime = 4 * time.Second
	c := dialed(t, d, "mute@mute.host")
	watch, err := c.MonitorName("kernel_sup")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	select {
	case <-c.Closed():
		t.Fatalf("closed after %v: %v", time.Since(start), c.Err())
	case <-time.After(8 * time.Second): // twice what either side puts up with
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(n.eval("os:getpid()"))
	if err != nil {
		t.Fatal(err)
	}
	wait.Freeze(t, pid)
	ended(t, c, ErrSilent)
	wantLost(t, watch, ErrSilent)
	syscall.Kill(pid, syscall.SIGCONT)
	c = dialed(t, d, "mute@mute.host")
	go c.Call(t.Context(), "timer", "sleep", 100_000)
	syscall.Kill(pid, syscall.SIGKILL)
	ended(t, c, nil)
	if _, err := c.Call(t.Context(), "erlang", "node"); err == nil || c.Send(c.Self(), 1) == nil {
		t.Errorf("call over an ended connection: %v", err)
	}
}

// ended waits for the end of c and wants to hear why; nil stands for any reason.
func ended(t *testing.T, c *Conn, want error) {
	t.Helper()
	select {
	case <-c.Closed():
		if c.Err() == nil || want != nil && !errors.Is(c.Err(), want) {
			t.Errorf("ended with %v; want %v", c.Err(), want)
		}
	case <-time.After(wait.Patience):
		t.Fatalf("still there after %v; want %v", wait.Patience, want)
	}
}

func TestDialOTP(t *testing.T) {
	epmd := startEPMD(t)
	startNode(t, epmd, "info", []string{"-name", "dial@dial.host"})
	addr := epmd.find(t, "dial")
	nobody := netip.AddrPortFrom(addr.Addr(), 1)
	for _, tt := range []struct {
		name string
		dial func(*Dialer) (*Conn, error)
		step Step
		err  string
	}{
		{"no full name", func(d *Dialer) (*Conn, error) { return d.Dial(t.Context(), "dial") }, StepName, "NAME@HOST"},
		{"no epmd", func(d *Dialer) (*Conn, error) {
			d.Lookup = finder(1).Find
			return d.Dial(t.Context(), "a@b")
		}, StepLookup, "refused"},
		{"no lookup", func(d *Dialer) (*Conn, error) { return (&Dialer{}).Dial(t.Context(), "a@b") }, StepLookup, "no Lookup"},
		{"no address", func(d *Dialer) (*Conn, error) { return d.DialAddr(t.Context(), "a@b") }, StepConnect, "no address"},
		{"not registered", func(d *Dialer) (*Conn, error) { return d.Dial(t.Context(), "a@b") }, StepLookup, "1 other"},
		{"port closed", func(d *Dialer) (*Conn, error) { return d.DialAddr(t.Context(), "a@b", nobody) }, StepConnect, "refused"},
		{"no TLS", func(d *Dialer) (*Conn, error) {
			d.TLS = &tls.Config{InsecureSkipVerify: true}
			return d.Dial(t.Context(), "dial@dial.host")
		}, StepTLS, "TLS greeting"},
		{"other name", func(d *Dialer) (*Conn, error) { return d.Dial(t.Context(), "dial@other.host") },
			StepHandshake, `"dial@dial.host"`},
		{"cookie", func(d *Dialer) (*Conn, error) {
			d.Cookie = "wrong"
			return d.Dial(t.Context(), "dial@dial.host")
		}, StepCookie, "cookies differ"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := tt.dial(epmd.dialer(t))
			staged := (*DialError)(nil)
			if c != nil || !errors.As(err, &staged) || staged.Step != tt.step || !names(err, tt.err) {
				t.Errorf("got %v, %v; want step %s, %q", c, err, tt.step, tt.err)
			}
		})
	}
}

func TestDialTLSOTP(t *testing.T) {
	epmd := startEPMD(t)
	startNode(t, epmd, "notice", withOptions(t, append(secure, "-name", "safe@safe.host"), ""))
	d := epmd.dialer(t)
	_, err := d.Dial(t.Context(), "safe@safe.host")
	if !errors.Is(err, ErrWantsTLS) && !errors.Is(err, io.EOF) { // OTP 23 closes
		t.Errorf("without TLS: %v", err)
	}
	d.TLS = &tls.Config{InsecureSkipVerify: true}
	d.Cookie = "wrong"
	if _, err := d.Dial(t.Context(), "safe@safe.host"); !errors.Is(err, ErrCookie) {
		t.Errorf("with a wrong cookie: %v", err)
	}
	d.Cookie = "secret"
	c := dialed(t, d, "safe@safe.host")
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if got, err := c.Call(t.Context(), "erlang", "byte_size", bytes.Repeat([]byte("x"), 1<<20)); err != nil || decoded(t, got) != any(int64(1<<20)) {
		t.Errorf("a megabyte: got %x, %v", got, err)
	}
}

// TestDialOftenOTP dials a hundred times with the right cookie, and identifies a thousand times.
// The node's log stays empty. No atom is new but the prober's name.
func TestDialOftenOTP(t *testing.T) {
	epmd := startEPMD(t)
	n := startNode(t, epmd, "info", []string{"-name", "often@often.host"})
	d := epmd.dialer(t)
	n.eval("net_kernel:monitor_nodes(true)")
	visit := func() time.Duration {
		start := time.Now()
		c := dialed(t, d, "often@often.host")
		err := c.Ping(t.Context())
		took := time.Since(start)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Call(t.Context(), "erlang", "system_info", etf.Atom("otp_release")); err != nil {
			t.Fatal(err)
		}
		c.Close()
		return took
	}
	idle := n.busy()
	visit()
	n.settle(idle)
	n.trace()
	before := n.trace()
	var took []time.Duration
	for range 100 {
		took = append(took, visit())
	}
	n.settle(idle)
	slices.Sort(took)
	t.Logf("dial and ping: median %v, longest %v", took[len(took)/2], took[len(took)-1])
	for range 1000 {
		if _, err := Identify(t.Context(), epmd.find(t, "often"), prober); err != nil {
			t.Fatal(err)
		}
		n.settle(idle)
	}
	after := n.trace()
	if after.log != before.log || after.atoms > before.atoms+1 || after.news != "[[],{messages,[]}]" {
		t.Errorf("left behind: %d atoms, news %s, log %s", after.atoms-before.atoms, after.news,
			strings.TrimPrefix(after.log, before.log))
	}
}

// served runs s on loopback until the test ends and returns its port.
func served(t *testing.T, s *Server) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("serve: %v", err)
		}
	})
	return netip.MustParseAddrPort(ln.Addr().String())
}

// register registers a node of this process at the epmd until the test ends: ALIVE2_REQ.
func (e epmdPort) register(t *testing.T, name string, port uint16) {
	t.Helper()
	c, err := net.Dial("tcp", "127.0.0.1:"+string(e))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	b := binary.BigEndian.AppendUint16([]byte{120}, port)
	b = appendString(append(b, 72, 0, 0, 6, 0, 5), name)
	b = append(b, 0, 0)
	if err := (frames{c, plainLenSize}).write(b); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 6)
	if _, err := io.ReadFull(c, answer); err != nil || answer[1] != 0 {
		t.Fatalf("register: %x, %v", answer, err)
	}
}

// TestServeTLSOTP has a node connect to us over TLS.
func TestServeTLSOTP(t *testing.T) {
	epmd := startEPMD(t)
	s := &Server{Name: "us@127.0.0.1", Cookie: "secret", TLS: &tls.Config{Certificates: []tls.Certificate{newCertificate(t)}}}
	epmd.register(t, "us", served(t, s).Port())
	args := withOptions(t, append(secure, "-name", "them@127.0.0.1"), "]},{client,[{verify,verify_none}")
	n := startNode(t, epmd, "error", args)
	if got := n.eval("net_adm:ping('us@127.0.0.1')"); got != "pong" {
		t.Errorf("got %s", got)
	}
}

func TestServeOTP(t *testing.T) {
	epmd := startEPMD(t)
	got := make(chan Message, 10)
	s := &Server{Name: "us@127.0.0.1", Cookie: "secret"}
	s.Processes = map[etf.Atom]Handler{"box": func(c *Conn, m Message) {
		if call, ok := m.Call(); ok {
			c.Reply(call, etf.Tuple{etf.Atom("you_said"), call.Request})
			return
		}
		got <- m
	}}
	refused := make(chan error, 10)
	s.Refused = func(_ net.Addr, err error) { refused <- err }
	addr := served(t, s)
	epmd.register(t, "us", addr.Port())
	n := startNode(t, epmd, "info", []string{"-name", "them@127.0.0.1"})
	for _, tt := range []struct{ expr, want string }{
		{"net_adm:ping('us@127.0.0.1')", "pong"},
		{"nodes(connected)", "['us@127.0.0.1']"},
		{"gen_server:call({box, 'us@127.0.0.1'}, hello)", "{you_said,hello}"},
		{"element(1, element(2, catch gen_server:call({nobody, 'us@127.0.0.1'}, hello)))", "noproc"},
		{"rpc:call('us@127.0.0.1', erlang, halt, [])", "{badrpc,"}, // before OTP 25 it asks rex
		{"catch erpc:call('us@127.0.0.1', erlang, halt, [])", "{'EXIT',{{erpc,notsup},"},
		{"net_kernel:connect_node('us@127.0.0.1')", "true"},
		{"{box, 'us@127.0.0.1'} ! a_message", "a_message"},
		{"net_adm:ping('us@127.0.0.1')", "pong"},
	} {
		if got := n.eval(tt.expr); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: got %s; want %s", tt.expr, got, tt.want)
		}
	}
	select {
	case m := <-got:
		if m.From.Node != "them@127.0.0.1" || decoded(t, m.Term) != any(etf.Atom("a_message")) {
			t.Errorf("got %+v", m)
		}
	case <-time.After(wait.Patience):
		t.Error("no message")
	}
	if conns := s.Conns(); len(conns) != 1 || conns[0].PeerName() != "them@127.0.0.1" {
		t.Errorf("connections %v", conns)
	}
	n.eval("erlang:disconnect_node('us@127.0.0.1')")
	await(t, "the connection to end", func() bool { return len(s.Conns()) == 0 })
	n.eval("erlang:set_cookie(node(), wrong)")
	if got := n.eval("net_adm:ping('us@127.0.0.1')"); got != "pang" {
		t.Errorf("with a wrong cookie: %s", got)
	}
	if err := <-refused; !errors.Is(err, ErrCookie) {
		t.Errorf("refused for %v", err)
	}
}

// TestDialSimultaneouslyOTP has a node dial us while we dial it. Our name is once greater than
// its own, and once lesser.
func TestDialSimultaneouslyOTP(t *testing.T) {
	epmd := startEPMD(t)
	n := startNode(t, epmd, "info", []string{"-name", "m@127.0.0.1"})
	there := epmd.find(t, "m")
	for _, alive := range []string{"a", "z"} {
		t.Run(alive, func(t *testing.T) {
			s := &Server{Name: alive + "@127.0.0.1", Cookie: "secret"}
			epmd.register(t, alive, served(t, s).Port())
			for round := range 30 {
				theirs := make(chan string, 1)
				go func() { theirs <- n.eval("net_kernel:connect_node('" + s.Name + "')") }()
				c, err := (&Dialer{Server: s}).DialAddr(t.Context(), "m@127.0.0.1", there)
				if err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
				if err := c.Ping(t.Context()); err != nil {
					t.Errorf("round %d: %v", round, err)
				}
				if got := <-theirs; got != "true" || len(s.Conns()) != 1 {
					t.Fatalf("round %d: node connected: %s; here %d connections", round, got, len(s.Conns()))
				}
				c.Close()
				await(t, "the node to notice", func() bool { return n.eval("nodes(connected)") == "[]" })
			}
			if log := n.log(); log != "" && strings.Contains(log, s.Name) {
				t.Errorf("log: %s", log)
			}
		})
	}
}

// TestDialAddressesOTP dials a node whose host has several addresses. All but the last refuse.
func TestDialAddressesOTP(t *testing.T) {
	epmd := startEPMD(t)
	startNode(t, epmd, "info", []string{"-name", "some@some.host", "-kernel", "inet_dist_use_interface", "{127,0,0,7}"})
	d := epmd.dialer(t)
	there := epmd.find(t, "some")
	var addrs []netip.AddrPort
	for _, a := range []string{"127.0.0.1", "::1", "127.0.0.7"} {
		addrs = append(addrs, netip.AddrPortFrom(netip.MustParseAddr(a), there.Port()))
	}
	d.Lookup = func(context.Context, string) ([]netip.AddrPort, error) { return addrs, nil }
	dialed(t, d, "some@some.host")
	addrs = addrs[:2]
	if _, err := d.Dial(t.Context(), "some@some.host"); !names(err, addrs[0].String()) || !names(err, addrs[1].String()) {
		t.Errorf("no address works: %v; want an error that names each", err)
	}
}

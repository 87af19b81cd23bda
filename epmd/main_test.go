package epmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/registry"

	"github.com/goerlang/eclus/test/need"

	"github.com/goerlang/eclus/test/wait"
)

// The test binary is a server or a client of its own where a test needs one in another process:
// with a limit on open files, or in another network namespace.
const (
	serverEnv  = "EPMD_TEST_SERVER"  // address to listen on
	allowEnv   = "EPMD_TEST_ALLOW"   // its Access
	nofileEnv  = "EPMD_TEST_NOFILE"  // its limit on open files
	spareEnv   = "EPMD_TEST_SPARE"   // how many of these are left to it; the rest is taken up
	clientsEnv = "EPMD_TEST_CLIENTS" // connections to make: LOCAL/REMOTE:PORT, with spaces between
)

// atOnce lets a process with the race detector end at once instead of after a second.
const atOnce = "GORACE=atexit_sleep_ms=0"

func TestMain(m *testing.M) {
	var err error
	switch {
	case os.Getenv(serverEnv) != "":
		err = serverProcess()
	case os.Getenv(clientsEnv) != "":
		err = clientProcess(strings.Fields(os.Getenv(clientsEnv)))
	default:
		// The runtime's poller opens files of its own, once.
		if r, w, err := os.Pipe(); err == nil {
			r.Close()
			w.Close()
		}
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serverProcess serves until standard input ends. It prints the address that it listens on.
func serverProcess() error {
	access, err := ParseAccess(os.Getenv(allowEnv))
	if err != nil {
		return err
	}
	l, err := listen(os.Getenv(serverEnv))
	if err != nil {
		return err
	}
	reg := registry.New("test.local", registry.OldNames)
	here, err := reg.Register(registry.Node{Name: "here", Port: 1})
	if err != nil {
		return err
	}
	reg.SetListens(reg.Node(here), []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("fd00:51::1")})
	if err := reg.SetNeighbour(lanNode); err != nil {
		return err
	}
	var asked atomic.Pointer[string]
	asked.Store(new(string))
	server := NewServer(Config{
		Registry: reg,
		Access:   access,
		Log:      slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Asked: func(a PeerAsk) {
			text := fmt.Sprintf("%v@%v/%v", a.Hello.Host, a.From.Addr(), a.Local)
			asked.Store(&text)
		},
		Hello: func() PeerHello { return PeerHello{Version: *asked.Swap(new(string)), ID: testID} },
	})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, l) }()
	if os.Getenv(nofileEnv) != "" {
		if _, err := NewClient(l.Addr().(*net.TCPAddr).AddrPort()).Names(ctx); err != nil {
			return err // it has not begun
		}
		if err := takeFiles(); err != nil {
			return err
		}
	}
	fmt.Println(l.Addr())
	_, err = io.Copy(io.Discard, os.Stdin)
	cancel()
	return errors.Join(err, <-ended)
}

// takeFiles opens files until only the spare ones are left to be opened.
func takeFiles() error {
	var limit uint64
	var spare int
	if _, err := fmt.Sscan(os.Getenv(nofileEnv)+" "+os.Getenv(spareEnv), &limit, &spare); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
		return err
	}
	var taken []int
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == unix.EMFILE {
			break
		}
		if err != nil {
			return err
		}
		taken = append(taken, fd)
	}
	for _, fd := range taken[len(taken)-spare:] {
		unix.Close(fd)
	}
	return nil
}

// startServerProcess starts a server in a process of its own, run by the command in prefix. stop
// ends it and returns its error.
func startServerProcess(t *testing.T, prefix []string, env ...string) (addr netip.AddrPort, stop func() error) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	if len(prefix) > 0 {
		cmd = exec.Command(prefix[0], append(prefix[1:], os.Args[0])...)
	}
	cmd.Env = append(os.Environ(), append(env, atOnce)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killer := time.AfterFunc(2*wait.Patience, func() { cmd.Process.Kill() })
	ended := false
	stop = func() error {
		if ended {
			return nil
		}
		ended = true
		stdin.Close()
		defer killer.Stop()
		killer.Reset(wait.Patience)
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%w: %s", err, stderr.String())
		}
		return nil
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("server process: %v", err)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("server process: %v, %v", err, stop())
	}
	return netip.MustParseAddrPort(strings.TrimSpace(line)), stop
}

// clientProcess looks a name up and registers one over each of the connections. It prints a line
// for each that says what came of the two.
func clientProcess(connections []string) error {
	for i, c := range connections {
		local, remote, _ := strings.Cut(c, "/")
		lookup, err := exchange(local, remote, PortReq{"nobody"})
		if err != nil {
			return err
		}
		register, err := exchange(local, remote, AliveReq{Port: 1, High: 6, Low: 5, Name: fmt.Sprint("n", i)})
		if err != nil {
			return err
		}
		nodes, err := askNodes(local, remote)
		if err != nil {
			return err
		}
		asked, err := askWatch(local, remote)
		if err != nil {
			return err
		}
		fmt.Printf("%s lookup=%t register=%t nodes=%s asked=%s\n", c, lookup, register, nodes, asked)
	}
	return nil
}

// askNodes returns what a NodesReq is answered with: the nodes "all" know, those of the server's
// "own" host, or "none".
func askNodes(local, remote string) (string, error) {
	answer, err := nodesAnswer(local, remote, NodesReq{})
	if err != nil {
		return "", err
	}
	found, err := nodesAnswer(local, remote, NodesReq{"here@test.local"})
	if err != nil {
		return "", err
	}
	other, err := nodesAnswer(local, remote, NodesReq{"a"})
	if err != nil {
		return "", err
	}
	switch {
	case answer == "" && found == "" && other == "":
		return "none", nil
	case strings.Contains(answer, "\n+ node=here@test.local name=here host=test.local port=1 type=normal sure=no ip=46\n") &&
		strings.Count(answer, "\n") == 2 && found == answer && strings.Count(other, "\n") == 1:
		return "own", nil
	case strings.Contains(answer, " name=here ") && strings.Contains(answer, " name=a ") && !strings.Contains(answer, "*") &&
		strings.Contains(found, " name=here ") && strings.Count(found, "\n") == 1 && strings.Contains(other, " name=a "):
		return "all", nil
	}
	return fmt.Sprintf("%q %q %q", answer, found, other), nil
}

// nodesAnswer returns the answer to a NodesReq, or nothing if there is none.
func nodesAnswer(local, remote string, req NodesReq) (string, error) {
	conn, err := send(local, remote, req)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	// As nc -N does.
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
		return "", err
	}
	b, err := io.ReadAll(conn)
	if err != nil && !isReset(err) {
		return "", err
	}
	return strings.ReplaceAll(string(b), "\n- ", "\n+ "), nil
}

// askWatch watches as an epmd. It returns what Config.Asked was told, "-" for nothing, or "none" if
// there is no answer.
func askWatch(local, remote string) (string, error) {
	conn, err := send(local, remote, WatchReq{&testHello})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	s := newPeerStream(conn.(*net.TCPConn), netip.MustParseAddrPort(remote))
	switch err := s.begin(); {
	case errors.Is(noAnswer(err), ErrNoAnswer):
		return "none", nil
	case err == nil && s.Hello.Version == "":
		return "-", nil
	default:
		return s.Hello.Version, err
	}
}

// send sends a request and returns the connection.
func send(local, remote string, req Request) (net.Conn, error) {
	addr, err := netip.ParseAddr(local)
	if err != nil {
		return nil, err
	}
	frame, err := AppendFrame(nil, req)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)), Timeout: wait.Patience}
	conn, err := dialer.Dial("tcp", remote)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(frame); err != nil && !isReset(err) {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(wait.Patience))
}

// exchange reports whether a request is answered.
func exchange(local, remote string, req Request) (bool, error) {
	conn, err := send(local, remote, req)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	n, err := conn.Read(make([]byte, 1))
	if err != nil && err != io.EOF && !isReset(err) {
		return false, err
	}
	return n > 0, nil
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// listen listens as the command does, without Multipath TCP. Connections can buffer little of an
// answer that is not read.
func listen(addr string) (*net.TCPListener, error) {
	config := net.ListenConfig{Control: setBuffer(unix.SO_SNDBUF)}
	config.SetMultipathTCP(false)
	l, err := config.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// checkLeaks fails the test if more goroutines or descriptors are there at its end than now. It
// looks when all else has been cleaned up.
func checkLeaks(tb testing.TB) {
	tb.Helper()
	goroutines, files := runtime.NumGoroutine(), openFiles(tb)
	tb.Cleanup(func() {
		for deadline := time.Now().Add(wait.Patience); ; time.Sleep(time.Millisecond) {
			g, f := runtime.NumGoroutine(), openFiles(tb)
			if g <= goroutines && f <= files {
				return
			}
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<20)
				stacks = stacks[:runtime.Stack(stacks, true)]
				tb.Errorf("%d goroutines and %d open files; before the test %d and %d\n%s", g, f, goroutines, files, stacks)
				return
			}
		}
	})
}

func openFiles(tb testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(entries)
}

// testServer is a Server on loopback.
type testServer struct {
	*Server
	tb     testing.TB
	addr   netip.AddrPort
	addr6  netip.AddrPort
	reg    *registry.Registry
	client *Client
	ended  chan error         // what Serve returned
	cancel context.CancelFunc // ends Serve
}

// serve starts a server, which ends with the test.
func serve(tb testing.TB, cfg Config) *testServer {
	tb.Helper()
	return serveAt(tb, cfg, "127.0.0.1:0")
}

// serveAt is serve at an address, and at the same port of ::1.
func serveAt(tb testing.TB, cfg Config, at string) *testServer {
	tb.Helper()
	if cfg.Registry == nil {
		cfg.Registry = registry.New("test.local", registry.OldNames)
	}
	l, err := listen(at)
	if err != nil {
		tb.Fatal(err)
	}
	listeners := []*net.TCPListener{l}
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	addr6 := netip.AddrPortFrom(netip.IPv6Loopback(), addr.Port())
	if l, err := listen(addr6.String()); err == nil {
		listeners = append(listeners, l)
	} else {
		addr6 = netip.AddrPort{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &testServer{
		Server: NewServer(cfg), tb: tb, addr: addr, addr6: addr6, reg: cfg.Registry,
		client: NewClient(addr), ended: make(chan error, 1), cancel: cancel,
	}
	go func() {
		s.ended <- s.Serve(ctx, listeners...)
		close(s.ended)
	}()
	tb.Cleanup(func() {
		cancel()
		if err := s.wait(); err != nil && !errors.Is(err, ErrKilled) {
			tb.Errorf("Serve returned %v", err)
		}
	})
	s.stillAnswers() // which it does once it has begun
	return s
}

// wait returns what Serve returned.
func (s *testServer) wait() error {
	s.tb.Helper()
	select {
	case err := <-s.ended:
		return err
	case <-time.After(wait.Patience):
		s.tb.Fatalf("Serve has not returned after %v", wait.Patience)
		return nil
	}
}

// state is what an engine has in its table.
type state struct{ conns, nodes, waiting, unsent, withheld int }

func (s *testServer) state() state { return s.engine.state() }

func (e *engine) state() state {
	e.mu.Lock()
	defer e.mu.Unlock()
	st := state{nodes: e.registered, waiting: e.waiting.list.Len(), unsent: e.waiting.unsent, withheld: len(e.withheld)}
	for _, c := range e.conns {
		if c != nil {
			st.conns++
		}
	}
	return st
}

// addNodes registers nodes without connections, and returns the answer to NamesReq.
func (s *testServer) addNodes(n int, name string) (answer []byte) {
	s.tb.Helper()
	for i := range n {
		if _, err := s.reg.Register(registry.Node{Name: fmt.Sprint(name, i), Port: 41233, High: 6}); err != nil {
			s.tb.Fatal(err)
		}
	}
	names := Names{EPMDPort: DefaultPort}
	for _, n := range s.reg.Local() {
		names.Nodes = append(names.Nodes, NamedPort{n.Name, n.Port})
	}
	return names.Append(nil)
}

// stillAnswers looks up a name that is not registered, which must be answered at once.
func (s *testServer) stillAnswers() {
	s.tb.Helper()
	p := dial(s.tb, s.addr)
	defer p.Close()
	p.ask(PortReq{"nobody"})
	p.wantAll("7701")
}

// peer is a client that may do anything.
type peer struct {
	*net.TCPConn
	tb testing.TB
}

func dial(tb testing.TB, addr netip.AddrPort) *peer {
	tb.Helper()
	return dialWith(tb, addr, net.Dialer{})
}

// dialSlow returns a peer whose receive buffer is as small as can be.
func dialSlow(tb testing.TB, addr netip.AddrPort) *peer {
	tb.Helper()
	return dialWith(tb, addr, net.Dialer{Control: setBuffer(unix.SO_RCVBUF)})
}

// setBuffer makes one of a socket's buffers as small as can be.
func setBuffer(which int) func(_, _ string, raw syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) error {
		var err error
		control := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, which, 1) })
		return errors.Join(control, err)
	}
}

func dialWith(tb testing.TB, addr netip.AddrPort, dialer net.Dialer) *peer {
	tb.Helper()
	dialer.Timeout = wait.Patience
	conn, err := dialer.Dial("tcp", addr.String())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(wait.Patience)); err != nil {
		tb.Fatal(err)
	}
	return &peer{conn.(*net.TCPConn), tb}
}

// send sends bytes in one segment. The server may have closed.
func (p *peer) send(b []byte) {
	p.tb.Helper()
	if _, err := p.Write(b); err != nil && !isReset(err) {
		p.tb.Fatal(err)
	}
}

// sendEnd sends bytes and a FIN in one segment.
func (p *peer) sendEnd(b []byte) {
	p.tb.Helper()
	raw, err := p.SyscallConn()
	if err != nil {
		p.tb.Fatal(err)
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendto(int(fd), b, unix.MSG_MORE|unix.MSG_NOSIGNAL, nil)
		return true
	})
	if err := errors.Join(err, sent, p.CloseWrite()); err != nil {
		p.tb.Fatal(err)
	}
}

func (p *peer) sendHex(hex string) {
	p.tb.Helper()
	p.send(unhex(p.tb, hex))
}

func (p *peer) ask(req Request) {
	p.tb.Helper()
	frame, err := AppendFrame(nil, req)
	if err != nil {
		p.tb.Fatal(err)
	}
	p.send(frame)
}

// all returns what comes until the server closes.
func (p *peer) all() []byte {
	p.tb.Helper()
	b, err := io.ReadAll(p)
	if err != nil && !isReset(err) {
		p.tb.Fatalf("after %d bytes: %v", len(b), err)
	}
	return b
}

// wantAll reads until the server closes.
func (p *peer) wantAll(hex string) {
	p.tb.Helper()
	if got, want := p.all(), unhex(p.tb, hex); string(got) != string(want) {
		p.tb.Errorf("got %x (%q), then a close; want %x", got, got, want)
	}
}

// read reads n bytes.
func (p *peer) read(n int) []byte {
	p.tb.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(p, b); err != nil {
		p.tb.Fatalf("read %d bytes: %v", n, err)
	}
	return b
}

// wantOpen reports an error if the server closes or says anything within 20 ms.
func (p *peer) wantOpen() {
	p.tb.Helper()
	p.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	n, err := p.Read(make([]byte, 1))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		p.tb.Errorf("read %d bytes, %v; want an open connection", n, err)
	}
	p.SetReadDeadline(time.Now().Add(wait.Patience))
}

// register registers a node and returns the creation it is given, in hex.
func (p *peer) register(name string, high uint16) string {
	p.tb.Helper()
	p.ask(AliveReq{Port: 41233, Type: registry.Normal, High: high, Low: 5, Name: name})
	b := p.read(2)
	if b[1] != 0 {
		p.tb.Fatalf("register %q: answer %x", name, b)
	}
	if b[0] == byte(TagAliveResp) {
		return fmt.Sprintf("%x", p.read(2))
	}
	return fmt.Sprintf("%x", p.read(4))
}

// reset closes with a RST.
func (p *peer) reset() {
	p.tb.Helper()
	if err := p.SetLinger(0); err != nil {
		p.tb.Fatal(err)
	}
	p.Close()
}

// stockEPMD starts the epmd of OTP on a port of its own. It ends with the test.
func stockEPMD(t *testing.T, args ...string) netip.AddrPort {
	t.Helper()
	path := need.Program(t, "/usr/bin/epmd")
	l, err := listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	l.Close()
	cmd := exec.Command(path, append([]string{"-address", "127.0.0.1", "-port", fmt.Sprint(addr.Port())}, args...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	wait.True(t, "the epmd of OTP answers", func() bool {
		_, err := NewClient(addr).Names(t.Context())
		return err == nil
	})
	return addr
}

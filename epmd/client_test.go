package epmd

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/registry"

	"github.com/goerlang/eclus/test/wait"

	"github.com/goerlang/eclus/test/need"
)

// fakeEPMD returns a Client of something that reads one request and gives that answer.
func fakeEPMD(t *testing.T, answer string) *Client {
	t.Helper()
	l, err := listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.Read(make([]byte, MaxRequest+2))
		io.WriteString(conn, answer)
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return NewClient(l.Addr().(*net.TCPAddr).AddrPort())
}

// TestClient asks ours and OTP's alike.
func TestClient(t *testing.T) {
	t.Run("ours", func(t *testing.T) {
		checkLeaks(t)
		strict, relaxed := serve(t, Config{}), serve(t, Config{Relaxed: true})
		testClient(t, strict.addr, relaxed.addr)
		for _, s := range []*testServer{strict, relaxed} {
			if err := s.wait(); !errors.Is(err, ErrKilled) {
				t.Errorf("Serve returned %v; want ErrKilled", err)
			}
		}
	})
	t.Run("stock", func(t *testing.T) {
		testClient(t, stockEPMD(t), stockEPMD(t, "-relaxed_command_check"))
	})
}

func testClient(t *testing.T, strict, relaxed netip.AddrPort) {
	c := NewClient(strict)
	req := AliveReq{Port: 41233, Type: registry.Hidden, High: 6, Low: 5, Name: "Björn", Extra: "x\x00"}
	reg, err := c.Register(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if reg.Creation < 4 {
		t.Errorf("creation %d; want at least 4", reg.Creation)
	}
	want := PortResp{Port: 41233, Type: registry.Hidden, High: 6, Low: 5, Name: "Björn", Extra: "x\x00"}
	if got, err := c.Lookup(t.Context(), "Björn"); err != nil || got != want {
		t.Errorf("looked up %+v, %v; want %+v", got, err, want)
	}
	old, err := c.Register(t.Context(), AliveReq{Port: 1, High: 5, Low: 5, Name: "old"})
	if err != nil || old.Creation < 1 || old.Creation > 3 {
		t.Fatalf("old node: %+v, %v; want a creation of 1 to 3", old, err)
	}
	defer old.Close()
	got, err := c.Names(t.Context())
	if want := []NamedPort{{"old", 1}, {"Björn", 41233}}; err != nil || !slices.Equal(got.Nodes, want) {
		t.Errorf("names %+v, %v; want %+v", got, err, want)
	}
	testClientErrors(t, c)

	if err := reg.Close(); err != nil {
		t.Error(err)
	}
	old.Close()
	wait.True(t, "both are unregistered", func() bool {
		names, err := c.Names(t.Context())
		return err == nil && len(names.Nodes) == 0
	})
	if err := c.Kill(t.Context()); err != nil {
		t.Errorf("kill: %v", err)
	}
	testClientRelaxed(t, NewClient(relaxed))
}

// testClientErrors asks for what an epmd does not grant unless told to.
func testClientErrors(t *testing.T, c *Client) {
	ctx := t.Context()
	_, taken := c.Register(ctx, AliveReq{High: 6, Name: "old"})
	_, malformed := c.Register(ctx, AliveReq{High: 6, Name: "a\x00"})
	_, unknown := c.Lookup(ctx, "nobody")
	_, badName := c.Lookup(ctx, "a\x00b")
	_, long := c.Lookup(ctx, strings.Repeat("x", MaxRequest))
	for _, tt := range []struct {
		name   string
		err    error
		is     error
		naming string
	}{
		{"name taken", taken, ErrRefused, `register "old": result 1`},
		{"malformed registration", malformed, ErrNoAnswer, `register "a\x00"`},
		{"unknown name", unknown, ErrNotRegistered, `look up "nobody"`},
		{"bad name", badName, ErrNoAnswer, `look up "a\x00b"`},
		{"name that fits no request", long, nil, "3058 bytes"},
		{"kill", c.Kill(ctx), ErrRefused, ""},
		{"stop", c.Stop(ctx, "old"), ErrNoAnswer, ""},
	} {
		if tt.err == nil || tt.is != nil && !errors.Is(tt.err, tt.is) || !strings.Contains(tt.err.Error(), tt.naming) {
			t.Errorf("%s: %v; want %v, naming %s", tt.name, tt.err, tt.is, tt.naming)
		}
	}
}

func testClientRelaxed(t *testing.T, c *Client) {
	reg, err := c.Register(t.Context(), AliveReq{High: 6, Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	if err := c.Stop(t.Context(), "nobody"); !errors.Is(err, ErrNotRegistered) {
		t.Errorf("stop of an unknown name: %v; want ErrNotRegistered", err)
	}
	if err := c.Stop(t.Context(), "a"); err != nil {
		t.Errorf("stop: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- reg.Done() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("registration ended with %v", err)
		}
	case <-time.After(wait.Patience):
		t.Error("the registration has not ended")
	}
	if _, err := c.Lookup(t.Context(), "a"); !errors.Is(err, ErrNotRegistered) {
		t.Errorf("looked up after its stop: %v; want ErrNotRegistered", err)
	}
	if err := c.Kill(t.Context()); err != nil {
		t.Errorf("kill: %v", err)
	}
}

// TestClientStrangeAnswers answers a Client as no epmd does.
func TestClientStrangeAnswers(t *testing.T) {
	for _, tt := range []struct {
		answer string
		ask    func(*Client, context.Context) error
		naming string
	}{
		{"\x76\x00\x00", register, "without an answer"},
		{"\x77\x00\x00\x01", register, "tag 119"},
		{"\x77\x00\x00", lookup, "3 bytes"},
		{"x", lookup, "without its tag"},
		{"", lookup, "without an answer"},
		{"HTTP/1.1 400 Bad Request\r\n", (*Client).Kill, `"HTTP/1.1 400 Bad"`},
		{"NOEXIST", stop, "not registered"},
		{"", func(c *Client, ctx context.Context) error { _, err := c.Names(ctx); return err }, "port: closed without an answer"},
		{"220 mail.example ready\r\n", func(c *Client, ctx context.Context) error { _, err := c.Names(ctx); return err }, "no epmd has port"},
	} {
		if err := tt.ask(fakeEPMD(t, tt.answer), t.Context()); !names(err, tt.naming) {
			t.Errorf("%q: %v; want an error naming %q", tt.answer, err, tt.naming)
		}
	}
}

func register(c *Client, ctx context.Context) error {
	_, err := c.Register(ctx, AliveReq{High: 6, Name: "a"})
	return err
}

func lookup(c *Client, ctx context.Context) error {
	_, err := c.Lookup(ctx, "a")
	return err
}

func stop(c *Client, ctx context.Context) error { return c.Stop(ctx, "a") }

// TestClientContext ends a question to something that never answers. A registration outlasts its
// context.
func TestClientContext(t *testing.T) {
	checkLeaks(t)
	l, err := listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := NewClient(l.Addr().(*net.TCPAddr).AddrPort())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Lookup(ctx, "a"); err == nil {
		t.Error("a lookup without an answer returned no error")
	}
	if _, err := c.Lookup(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a lookup after the end of its context: %v; want DeadlineExceeded", err)
	}

	s := serve(t, Config{})
	ctx, cancel = context.WithCancel(t.Context())
	reg, err := s.client.Register(ctx, AliveReq{High: 6, Name: "a"})
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	s.stillAnswers()
	if s.reg.Lookup("a") == nil {
		t.Error("the registration ended with the context it was made in")
	}
	reg.Close()
	if err := reg.Done(); err != nil {
		t.Errorf("after Close, Done returned %v", err)
	}
}

func TestLocalClient(t *testing.T) {
	s := serve(t, Config{})
	s.addNodes(1, "a")
	if _, err := NewLocalClient(s.addr.Port()).Lookup(t.Context(), "a0"); err != nil {
		t.Errorf("over IPv4: %v", err)
	}
	l, err := listen("[::1]:0")
	need.Possible(t, err)
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- NewServer(Config{Registry: s.reg}).Serve(ctx, l) }()
	if _, err := NewLocalClient(l.Addr().(*net.TCPAddr).AddrPort().Port()).Lookup(t.Context(), "a0"); err != nil {
		t.Errorf("over IPv6: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Serve returned %v", err)
	}
	if _, err := NewLocalClient(1).Names(t.Context()); !names(err, "ask epmd: 127.0.0.1:1: ") || !names(err, "; [::1]:1: ") {
		t.Errorf("no epmd at all: %v", err)
	}
}

package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/goerlang/eclus/node/etf"
	"github.com/goerlang/eclus/test/wait"
)

// TestGuests has handshakes begin that never end. One of whoever has most gives way.
func TestGuests(t *testing.T) {
	var g guests
	var gone []string
	enter := func(from string) {
		addr := net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 4711))
		g.enter(addr, func(error) { gone = append(gone, from) })
	}
	enter("192.0.2.1") // as many as its neighbour has in the end, and older
	for range maxGuests/2 - 1 {
		enter("198.51.100.1")
	}
	for i := range maxGuests / 2 {
		enter(fmt.Sprintf("2001:db8::%x", i+1)) // one host, for all we know
	}
	var want []string
	check := func(from, oldest string) {
		t.Helper()
		enter(from)
		want = append(want, oldest)
		if !slices.Equal(gone, want) {
			t.Errorf("after %s: %v gave way; want %v", from, gone, want)
		}
	}
	check("203.0.113.1", "2001:db8::1")   // 64 of that subnet, 63 of 198.51.100.0/24
	check("198.51.100.2", "198.51.100.1") // 63 of each: the oldest, of the address with most
	check("198.51.100.2", "198.51.100.1")
	check("2001:db8:1::1", "198.51.100.1")
	check("192.0.2.1", "2001:db8::2") // 62 are left of 198.51.100.0/24
	all := slices.Clone(g.all)
	for _, one := range all {
		g.leave(one)
		g.leave(one) // did so when it gave way
	}
	if len(g.all) != 0 {
		t.Errorf("%d are left", len(g.all))
	}
}

// join connects as a node called name does, from an address of this machine.
func join(ctx context.Context, addr netip.AddrPort, name, from string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	us, err := newSelf(name, "secret", Options{})
	if err == nil {
		_, err = us.connect(frames{c, plainLenSize}, "us@here", func() error { return nil })
	}
	if err != nil {
		c.Close()
	}
	return c, err
}

// begin begins a handshake and says no more than a name, or not even that.
func begin(t *testing.T, addr netip.AddrPort, name, from string) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.DialContext(t.Context(), "tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if name == "" {
		return
	}
	f := frames{c, plainLenSize}
	if err := f.write(SendName{connected, 1, name}.Append(nil)); err != nil {
		t.Fatal(err)
	}
	if b, err := f.read(); err != nil || string(b) != "sok" {
		t.Fatalf("%s is told %q, %v", name, b, err)
	}
}

// TestServeSilent has five addresses begin many handshakes and say nothing. Their neighbours and
// others connect all the same.
func TestServeSilent(t *testing.T) {
	addr := served(t, &Server{Name: "us@here", Cookie: "secret"})
	for i := range 30 {
		for j := range 10 * 5 {
			begin(t, addr, "", fmt.Sprint("127.0.0.", 10+j%5))
		}
		from := []string{"127.0.0.2", "127.0.1.2"}[i%2]
		c, err := join(t.Context(), addr, fmt.Sprintf("a%d@b", i), from)
		if err != nil {
			t.Errorf("%d: from %s: %v", i, from, err)
			continue
		}
		c.Close()
	}
}

// TestServeSquatted has somebody without the cookie begin handshakes under the name of a node. The
// node connects all the same, and so does this node to it.
func TestServeSquatted(t *testing.T) {
	s := &Server{Name: "us@here", Cookie: "secret"}
	addr := served(t, s)
	for i := range 18 {
		begin(t, addr, "a@b", "127.0.0.3")
		c, err := join(t.Context(), addr, "a@b", "127.0.0.2")
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		wait.True(t, "connection with a@b", func() bool { return len(s.Conns()) == 1 })
		s.Conns()[0].Close() // or the next one would be told of it
		c.Close()
	}
	begin(t, addr, "other@here", "127.0.0.3")
	other := &Server{Name: "other@here", Cookie: "secret"}
	c, err := (&Dialer{Server: s}).DialAddr(t.Context(), other.Name, served(t, other))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestServeHeld has nodes that know the cookie ask for much and read nothing. What waits for them
// is bounded, and others are served.
func TestServeHeld(t *testing.T) {
	const size = 1 << 20
	greedy := make(chan *Conn, 10)
	s := &Server{
		Name: "us@here", Cookie: "secret",
		Options: Options{Processes: map[etf.Atom]Handler{"big": func(c *Conn, m Message) {
			if call, ok := m.Call(); ok {
				c.Reply(call, make([]byte, size))
			}
		}}},
		Connected: func(c *Conn) { greedy <- c },
	}
	addr := served(t, s)
	good, err := (&Dialer{Name: "good@b", Cookie: "secret"}).DialAddr(t.Context(), "us@here", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer good.Close()
	<-greedy
	from := etf.Pid{Node: "a@b", ID: 1, Creation: 4}
	call := etf.Tuple{etf.Atom("$gen_call"), etf.Tuple{from, 1}, etf.Atom("nodes")}
	m, err := encodeMessage(etf.Tuple{opRegSend, from, etf.Atom(""), etf.Atom("big")}, call)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		c, err := join(t.Context(), addr, fmt.Sprintf("a%d@b", i), "127.0.0.2")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range outLen + 8 {
			if _, err := c.Write(m); err != nil {
				break // the Server has closed it
			}
		}
		conn := <-greedy
		<-conn.Closed()
		if err := conn.Err(); err != errHeld {
			t.Errorf("%s: %v", conn.PeerName(), err)
		}
		if err := good.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		if raw, err := good.CallServer(t.Context(), "big", etf.Atom("nodes")); err != nil || len(raw) < size {
			t.Errorf("%d bytes, %v", len(raw), err)
		}
	}
	wait.True(t, "nothing held", func() bool {
		s.account.mu.Lock()
		defer s.account.mu.Unlock()
		return s.account.sum == 0 && len(s.account.held) <= 1
	})
}

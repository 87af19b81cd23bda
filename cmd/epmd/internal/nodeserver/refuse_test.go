package nodeserver

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

// fakeConn has addresses alone.
type fakeConn struct {
	net.Conn
	local, remote string
	closed        bool
}

func (c *fakeConn) LocalAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.local))
}
func (c *fakeConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.remote))
}

func (c *fakeConn) Close() error {
	c.closed = true
	return nil
}

// queue is a listener to which peers have connected.
type queue struct {
	net.Listener
	conns []*fakeConn
}

func (q *queue) Accept() (net.Conn, error) {
	if len(q.conns) == 0 {
		return nil, net.ErrClosed
	}
	c := q.conns[0]
	q.conns = q.conns[1:]
	return c, nil
}

// TestAdmitted closes connections of whom -allow refuses, and takes the next.
func TestAdmitted(t *testing.T) {
	access, err := epmd.ParseAccess("192.0.2.0/24")
	wait.Must(t, err)
	stranger := &fakeConn{local: "198.51.100.1:1", remote: "198.51.100.9:1"}
	friend := &fakeConn{local: "198.51.100.1:1", remote: "192.0.2.9:1"}
	ln := admitted{&queue{conns: []*fakeConn{stranger, stranger, friend, stranger}}, access}
	if c, err := ln.Accept(); c != friend || err != nil || !stranger.closed || friend.closed {
		t.Errorf("took %v, %v; closed: stranger %v, friend %v", c, err, stranger.closed, friend.closed)
	}
	if c, err := ln.Accept(); c != nil || err != net.ErrClosed {
		t.Errorf("took %v, %v", c, err)
	}
}

// TestIntroduce enters this node alone, not another that has taken its name.
func TestIntroduce(t *testing.T) {
	reg := registry.New("hosta.local", registry.OldNames)
	var told []*registry.Node
	s := New(Options{Registry: reg, Known: func(n *registry.Node) { told = append(told, n) }, Log: slog.New(slog.DiscardHandler)})
	req := epmd.AliveReq{Name: "epmd", Port: 41000}
	id := registry.Identity{Node: "epmd@hosta.local", Dist: registry.TCP, Hidden: true}
	s.introduce(req, id) // it has gone already
	r, err := reg.Register(registry.Node{Name: "epmd", Port: 41001, Type: registry.Normal})
	wait.Must(t, err)
	s.introduce(req, id)
	if n := reg.Node(r); n.Sure || len(told) != 0 {
		t.Errorf("another node is %+v, told of %v", n, told)
	}
	reg.Unregister(r)
	r, err = reg.Register(registry.Node{Name: "epmd", Port: 41000, Type: registry.Normal})
	wait.Must(t, err)
	s.introduce(req, id)
	if n := reg.Node(r); !n.Sure || n.Type != registry.Hidden || len(told) != 1 {
		t.Errorf("this node is %+v, told of %v", n, told)
	}
}

// warnings are when a log was written to.
type warnings struct {
	slog.Handler
	times chan time.Time
}

func (w warnings) Enabled(context.Context, slog.Level) bool { return true }

func (w warnings) Handle(_ context.Context, r slog.Record) error {
	w.times <- r.Time
	return nil
}

// TestRunRetries has no address to listen on. The pauses between tries double up to a minute.
func TestRunRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := warnings{slog.DiscardHandler, make(chan time.Time, 20)}
		s := New(Options{Registry: registry.New("hosta.local", registry.OldNames), Address: netip.MustParseAddr("192.0.2.1"), Log: slog.New(log)})
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
		defer cancel()
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run returned %v", err)
		}
		close(log.times)
		last := <-log.times
		for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
			now := <-log.times
			if got := now.Sub(last); got != want*time.Second {
				t.Errorf("tried after %v, want %v", got, want*time.Second)
			}
			last = now
		}
		if more := len(log.times); more > 0 {
			t.Errorf("%d tries more", more)
		}
	})
}

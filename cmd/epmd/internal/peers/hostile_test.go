package peers

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/cmd/epmd/internal/stream"
	"github.com/goerlang/eclus/cmd/epmd/internal/stream/streamtest"
	"github.com/goerlang/eclus/cmd/epmd/internal/told"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

// answer returns what an epmd answers to W, up to the end of its nodes.
func answer(host string, id int, lines ...string) []byte {
	out := append([]byte{0, 0, 0x11, 0x11}, fmt.Sprintf("* eclus=1.2 id=%032x host=%s new=x\n", id, host)...)
	for _, l := range lines {
		out = append(out, strings.ReplaceAll(l, "HOST", host)+"\n"...)
	}
	return out
}

const nodeLine = "+ node=a@HOST name=a host=HOST port=41233 type=normal ip=4 new=x"

// play has a program listen on a loopback address that does what it wants with each connection. n
// counts them from 0.
func play(t *testing.T, ip string, do func(conn *net.TCPConn, n int)) netip.AddrPort {
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 0)))
	wait.Must(t, err)
	var all sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	all.Go(func() {
		for n := 0; ; n++ {
			conn, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
			all.Go(func() {
				defer conn.Close()
				readRequest(conn)
				do(conn, n)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// readRequest reads a request with its length before it.
func readRequest(conn net.Conn) {
	size := make([]byte, 2)
	if _, err := io.ReadFull(conn, size); err == nil {
		io.CopyN(io.Discard, conn, int64(size[0])<<8+int64(size[1]))
	}
}

// untilClosed waits until the other end closes.
func untilClosed(conn net.Conn) { io.Copy(io.Discard, conn) }

// TestHostile has peers that do what no epmd does. Another peer doesn't suffer, nothing that they
// say harms the log, and what they do is bounded.
func TestHostile(t *testing.T) {
	endless := bytes.Repeat([]byte(strings.ReplaceAll(nodeLine, "HOST", "x.local")+"\n"), 100)
	tests := []struct {
		name string
		do   func(conn *net.TCPConn, n int)
		want string // its nodes
	}{
		{"slow", func(conn *net.TCPConn, _ int) {
			for _, b := range answer("x.local", 7, nodeLine, "= nodes=1") {
				conn.Write([]byte{b})
			}
			untilClosed(conn)
		}, "a@x.local yes"},
		{"newer", func(conn *net.TCPConn, _ int) {
			conn.Write(answer("x.local", 7, "! what=ever", "? x", nodeLine, "= nodes=1 new=x", "~ more"))
			untilClosed(conn)
		}, "a@x.local yes"},
		{"silent", func(conn *net.TCPConn, _ int) { untilClosed(conn) }, ""},
		{"silent in the midst", func(conn *net.TCPConn, _ int) {
			conn.Write(answer("x.local", 7, nodeLine))
			untilClosed(conn)
		}, ""},
		{"resets", func(conn *net.TCPConn, _ int) {
			conn.Write(answer("x.local", 7, nodeLine))
			conn.SetLinger(0)
		}, ""},
		{"endless line", func(conn *net.TCPConn, _ int) {
			conn.Write(answer("x.local", 7, nodeLine))
			for err := error(nil); err == nil; {
				_, err = conn.Write(bytes.Repeat([]byte("x"), 1<<16))
			}
		}, ""},
		{"endless nodes", func(conn *net.TCPConn, _ int) {
			conn.Write(answer("x.local", 7))
			for err := error(nil); err == nil; {
				_, err = conn.Write(endless)
			}
		}, ""},
		{"another protocol", func(conn *net.TCPConn, _ int) {
			conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		}, ""},
		{"lies", func(conn *net.TCPConn, _ int) {
			conn.Write(answer("x.local", 7, nodeLine,
				"+ node=b@victim.local name=b host=victim.local port=1 type=normal ip=4",
				"+ node=c@HOST name=d host=HOST port=1 type=normal ip=4",
				"+ node=e%1b[2J@HOST name=e%1b[2J host=HOST port=1 type=normal ip=4",
				"+ node=f@HOST name=f host=HOST port=0 type=normal ip=4",
				"- node=a@victim.local name=a host=victim.local",
				"+ node=g@HOST name=g host=HOST port=1 type=normal ip=6 address=192.0.2.66",
				"= nodes=99999999999999999999"))
			untilClosed(conn)
		}, "a@x.local yes"},
		{"takes a name", func(conn *net.TCPConn, _ int) {
			conn.Write(answer("victim.local", 7, nodeLine, "= nodes=1"))
			untilClosed(conn)
		}, ""},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hostile(t, tt.do, tt.want, fmt.Sprintf("127.3.0.%d", i+1), fmt.Sprintf("127.3.1.%d", i+1))
		})
	}
}

func hostile(t *testing.T, do func(*net.TCPConn, int), want, ip, victimIP string) {
	victim := newHost(t, "victim", victimIP, 1)
	victim.register("v")
	victim.start()
	var tried atomic.Int32
	evil := play(t, ip, func(conn *net.TCPConn, n int) {
		tried.Add(1)
		do(conn, n)
	})
	var log wait.Output
	ps := newPeers(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	ps.Configure([]netip.AddrPort{victim.addr}, nil)
	run(t, ps)
	wantNodes(t, ps.Registry, "v@victim.local yes")
	ps.Configure([]netip.AddrPort{victim.addr, evil}, nil)
	all := "v@victim.local yes"
	if want != "" {
		all = want + ", " + all
	}
	wait.Until(t, "a try", func() error {
		if tried.Load() == 0 {
			return io.EOF
		}
		return nil
	})
	wantNodes(t, ps.Registry, all)
	victim.register("w")
	wantNodes(t, ps.Registry, all+", w@victim.local yes")
	if n := tried.Load(); n > 20 {
		t.Errorf("tried %d times", n)
	}
	if text := log.String(); strings.ContainsAny(text, "\x1b\x00") || strings.Count(text, "\n") > 10 {
		t.Errorf("in the log: %q", text)
	}
}

// TestNoStream has real epmds that give no stream. The registry says why, until they are no longer
// wanted.
func TestNoStream(t *testing.T) {
	closes := play(t, "127.6.0.1", func(*net.TCPConn, int) {})
	refuses := netip.MustParseAddrPort("127.6.0.2:1")
	ps := newPeers(t, nil)
	ps.Configure([]netip.AddrPort{refuses}, nil)
	run(t, ps)
	ps.Found(avahi.Place{Interface: 1, Label: "old"}, avahi.EPMD{
		Host: "old.local", Interface: "lo", Addrs: []netip.AddrPort{closes}, Announces: true,
	})
	want := []string{refuses.String() + " refused", "old.local " + closes.String() + " gives no streams"}
	wait.Until(t, "reasons", func() error {
		list := ps.Registry.NoStreams()
		for i, n := range list {
			at, why, _ := strings.Cut(want[i], " "+n.EPMD.String()+" ")
			if n.Host == "" {
				at, why, _ = strings.Cut(want[i], n.EPMD.String()+" ")
			}
			if at != n.Host || !strings.Contains(n.Why, why) {
				return fmt.Errorf("got %+v", n)
			}
		}
		if len(list) != len(want) {
			return fmt.Errorf("got %v", list)
		}
		return nil
	})
	ps.Configure(nil, nil)
	ps.Gone(avahi.Place{Interface: 1, Label: "old"})
	wait.Until(t, "no reasons", func() error {
		if list := ps.Registry.NoStreams(); len(list) != 0 {
			return fmt.Errorf("got %v", list)
		}
		return nil
	})
}

// TestCut cuts a first stream at each byte. The second one is whole. Nothing is entered of the
// first unless it got to the end.
func TestCut(t *testing.T) {
	size := len(answer("h999.local", 1, nodeLine, "= nodes=1"))
	ps := newPeers(t, nil)
	changes := ps.Registry.Subscribe()
	var addrs []netip.AddrPort
	for k := range size {
		whole := answer(fmt.Sprintf("h%03d.local", k), k+1, nodeLine, "= nodes=1")
		addrs = append(addrs, play(t, fmt.Sprintf("127.4.%d.%d", k/100, k%100+1), func(conn *net.TCPConn, n int) {
			if n == 0 {
				conn.Write(whole[:k])
				return
			}
			conn.Write(whole)
			untilClosed(conn)
		}))
	}
	ps.Configure(addrs, nil)
	run(t, ps)
	wait.Until(t, "all nodes", func() error {
		if _, n := ps.Registry.Counts(); n != size {
			return fmt.Errorf("%d of %d nodes", n, size)
		}
		return nil
	})
	for _, e := range changes.Take().Events {
		if e.Kind != registry.Up || e.Node.Reach != registry.Reachable {
			t.Errorf("%v of %s: %v", e.Kind, e.Node.Node, e.Node.Reach)
		}
	}
}

// TestFlood has a peer change one node as fast as it can. Little of it reaches the registry.
func TestFlood(t *testing.T) {
	at := play(t, "127.5.0.1", func(conn *net.TCPConn, _ int) {
		conn.Write(answer("x.local", 7, nodeLine, "= nodes=1"))
		flood := bytes.Repeat([]byte(strings.ReplaceAll("- node=a@HOST name=a host=HOST\n"+nodeLine+"\n", "HOST", "x.local")), 500)
		for err := error(nil); err == nil; {
			_, err = conn.Write(flood)
		}
	})
	ps := newPeers(t, nil)
	ps.Configure([]netip.AddrPort{at}, nil)
	run(t, ps)
	wantNodes(t, ps.Registry, "a@x.local yes")
	changes := ps.Registry.Subscribe()
	changes.Take()
	n, began := 0, time.Now()
	for over := time.After(time.Second); over != nil; { // a rate is measured
		select {
		case <-changes.Ready():
			n += len(changes.Take().Events)
		case <-over:
			over = nil
		}
	}
	// Who is silent for a second, as on a machine that stops, begins anew.
	if took := time.Since(began); n > (told.MaxAtOnce+2)*(int(took/time.Second)+1) {
		t.Errorf("%d changes in %v", n, took)
	}
}

// TestUnnamed names other epmds over and over, all of which live. Those that are no longer named
// stay for as long as there is room. They take the place of none on the LAN.
func TestUnnamed(t *testing.T) {
	inBubble(t, func(w *world) {
		log := new(wait.Output)
		w.ps.Log = slog.New(slog.NewTextHandler(log, nil))
		var addrs []netip.AddrPort
		for i := range maxConfigured + 1 {
			at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 4369)
			w.net.Offer(at, streamtest.New(fmt.Sprintf("h%d.local", i), 1, "+a", "=").WithID(epmd.PeerID{1, 14: byte(i >> 8), 15: byte(i)}))
			addrs = append(addrs, at)
		}
		want := func(what string, nodes, warned int) {
			t.Helper()
			time.Sleep(time.Minute)
			synctest.Wait()
			_, known := w.ps.Registry.Counts()
			if said := strings.Count(log.String(), "no longer named"); known != nodes || said != warned || strings.Count(log.String(), "\n") != said {
				t.Errorf("%s: %d nodes; want %d, and %d lines in the log: %.300s", what, known, nodes, warned, log)
			}
			w.ps.mu.Lock()
			defer w.ps.mu.Unlock()
			if n := w.ps.counted((*peer).isFound); n != 0 {
				t.Errorf("%s: %d have places of those that were found", what, n)
			}
		}
		const half = maxConfigured / 2
		w.ps.Configure(addrs[:half], nil)
		want("half", half, 0)
		w.ps.Configure(nil, addrs[half:2*half])
		want("the other half", 2*half, 0)
		w.ps.Configure(nil, addrs[half:])
		want("one more", 2*half, 1)
		w.ps.Configure(nil, nil)
		want("none", 2*half, 1)
		for _, s := range w.net.Streams() {
			s.Fail(io.EOF)
		}
		want("all have ended", 0, 1)
		if n := len(w.ps.configured) + len(w.ps.all); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
}

// TestOffLink has an epmd announced at addresses that are on no link of this host. Nobody connects
// there, until it is configured.
func TestOffLink(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	at := play(t, "127.0.9.1", func(conn *net.TCPConn, _ int) {
		asked.Add(1)
		conn.Write(answer("hostx.local", 7, nodeLine, "= nodes=1"))
		untilClosed(conn)
	})
	ps := newPeers(t, func(o *Options) { o.OnLink = func(a netip.Addr) bool { return a.String() == "127.0.9.2" } })
	run(t, ps)
	b := newHost(t, "hostb", "127.0.9.2", 2)
	b.start()
	b.register("b")
	(&host{name: "hostx.local", addr: at}).announce(ps)
	b.announce(ps)
	wait.True(t, "the host on the link is streamed", func() bool { return len(ps.Registry.Nodes()) == 1 })
	wait.True(t, "the other one gives no stream", func() bool { return !ps.Streamed("hostx") })
	if n := asked.Load(); n != 0 {
		t.Errorf("%d connections to an address that is not on a link", n)
	}
	ps.Configure([]netip.AddrPort{at}, nil)
	wait.True(t, "both are streamed", func() bool { return len(ps.Registry.Nodes()) == 2 })
}

// TestTriesAMinute has a host announced anew ten times a second, at a port that refuses. It is
// tried so many times a minute.
func TestTriesAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int32
		ps := newPeers(t, func(o *Options) {
			o.Watch = func(_ context.Context, addrs []netip.AddrPort, _ epmd.PeerHello, _ epmd.KeepAlive) (stream.Stream, error) {
				tries.Add(int32(min(len(addrs), 1)))
				return nil, syscall.ECONNREFUSED
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { ps.Run(ctx); close(ended) }()
		h := &host{name: "hostx.local", addr: netip.MustParseAddrPort("198.51.100.66:4369")}
		for began := time.Now(); time.Since(began) < 59*time.Second; time.Sleep(100 * time.Millisecond) {
			h.announce(ps)
		}
		if n := tries.Load(); n != maxTriesAMinute {
			t.Errorf("%d tries in a minute; want %d", n, maxTriesAMinute)
		}
		cancel()
		<-ended
	})
}

// TestImpostor has an epmd say that it is a host which is announced elsewhere, or this host itself.
func TestImpostor(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"hostb.local", "us.local"} {
		at := play(t, "127.0.9.4", func(conn *net.TCPConn, _ int) {
			conn.Write(answer(name, 7, nodeLine, "= nodes=1"))
			untilClosed(conn)
		})
		ps := newPeers(t, nil)
		run(t, ps)
		evil := &host{name: "evil.local", addr: at}
		if name == "hostb.local" {
			evil.announce(ps)
			wait.True(t, "it is believed while nobody else is known", func() bool { return len(ps.Registry.Nodes()) == 1 })
		}
		genuine := avahi.EPMD{Host: "hostb.local", Interface: "lo", Addrs: []netip.AddrPort{netip.MustParseAddrPort("127.0.9.5:4369")}}
		ps.Found(avahi.Place{Interface: 1, Label: "hostb"}, genuine)
		evil.announce(ps)
		wait.True(t, "it gives no stream", func() bool { return !ps.Streamed("evil") })
		wait.True(t, "its nodes have gone", func() bool { return len(ps.Registry.Nodes()) == 0 })
		ps.Configure([]netip.AddrPort{at}, nil)
		wait.True(t, "it is believed where it is configured", func() bool { return len(ps.Registry.Nodes()) == 1 })
	}
}

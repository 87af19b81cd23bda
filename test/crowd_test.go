package test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

const (
	crowdSize  = 300 // addresses of one host, all at its MAC address
	crowdNodes = 60  // that it tells of at each: more than there is place for
)

func crowdAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 66, byte(i / 200), byte(i%200 + 1)})
}

// TestLANCrowd has a host with 300 addresses be an epmd at each, which asks for a stream, gives
// one, and tells of nodes. It takes half of the places at most. A host that was there before keeps
// its nodes. Those of one that comes later are known within 2 s, on a busy machine within 4 times
// as long as those of the first.
func TestLANCrowd(t *testing.T) {
	t.Parallel()
	hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{}, "hosta", "hostb", "evil", "hostc")
	a, b, evil, c := hosts[0], hosts[1], hosts[2], hosts[3]
	a.start(t)
	alone := a.untilFound(t, b, "early")
	wait.Must(t, a.AddAddress(t.Context(), "eth0", netip.MustParsePrefix("10.66.255.1/16")))
	given := crowdIn(t, evil)
	wait.True(t, "the crowd has as many streams as it gets", func() bool { return given.Load() >= crowdSize/2 })
	took := a.untilFound(t, c, "late")
	t.Logf("listed %v after the epmd had started, beside %d streams of the crowd; before the crowd %v", took, given.Load(), alone)
	if most := raced(max(2*time.Second, 4*alone)); took > most {
		t.Errorf("want %v at most", most)
	}
	a.awaitTable(t, `(?m)^early@hostb\.local .* lan +yes `)
	known := a.nodes(t)
	if n := len(known) - 2; n > 8192 || n < 1000 {
		t.Errorf("%d nodes of the crowd are known; want many, and 8,192 at most", n)
	}
}

// untilFound starts an epmd with a node on another host. It returns how long it then takes until
// this host's knows the node, and that its epmd answers.
func (h *host) untilFound(t *testing.T, on *host, name string) time.Duration {
	t.Helper()
	began := time.Now()
	on.start(t)
	on.register(t, name, 4000)
	wait.Until(t, name+" is found", func() error {
		return h.inside(func() error {
			lines, err := h.client().Find(wait.Soon(t), name)
			if err != nil {
				return err
			}
			defer lines.Close()
			for {
				line, err := lines.Next()
				if err != nil {
					return err // also at the end
				}
				if n, err := line.Node(); err == nil && n.Host == on.Name()+".local" && n.Reach == registry.Reachable {
					return nil
				}
			}
		})
	})
	return since(began)
}

// crowdIn has a host be many epmds. It returns how many streams they give.
func crowdIn(t *testing.T, evil *host) (given *atomic.Int32) {
	_, err := evil.Output(wait.Soon(t), "sh", "-c", fmt.Sprintf(
		"for i in $(seq 0 %d); do echo addr add 10.66.$((i/200)).$((i%%200+1))/16 dev eth0; done | ip -batch -", crowdSize-1))
	wait.Must(t, err)
	given = new(atomic.Int32)
	wait.Must(t, evil.inside(func() error {
		ln, err := net.Listen("tcp4", "0.0.0.0:4369")
		if err != nil {
			return err
		}
		t.Cleanup(func() { ln.Close() })
		go acceptCrowd(ln, given)
		for i := range crowdSize {
			if err := askAs(t, i); err != nil {
				return err
			}
		}
		return nil
	}))
	return given
}

// acceptCrowd is the epmd at each address. It tells of nodes, and keeps the stream.
func acceptCrowd(ln net.Listener, given *atomic.Int32) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			if _, err := io.ReadFull(conn, make([]byte, 3)); err != nil {
				return
			}
			at := conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().As4()
			host := fmt.Sprintf("crowd%d-%d.local", at[2], at[3])
			text := append([]byte{0, 0, 0x11, 0x11}, fmt.Sprintf("* eclus=1 id=%030x%02x host=%s\n", at[2], at[3], host)...)
			for n := range crowdNodes {
				text = fmt.Appendf(text, "+ node=x%d@%s name=x%d host=%s port=4000 type=normal ip=4\n", n, host, n, host)
			}
			conn.Write(fmt.Appendf(text, "= nodes=%d\n", crowdNodes))
			given.Add(1)
			io.Copy(io.Discard, conn)
			given.Add(-1)
		}()
	}
}

// askAs asks the epmd of host A for a stream, from one of the crowd's addresses.
func askAs(t *testing.T, i int) error {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: crowdAddr(i).AsSlice()}}
	conn, err := d.DialContext(wait.Soon(t), "tcp4", fmt.Sprintf("10.66.255.1:%d", epmd.DefaultPort))
	if err != nil {
		return err
	}
	t.Cleanup(func() { conn.Close() })
	at := crowdAddr(i).As4()
	request := fmt.Sprintf("Weclus=1 id=%030x%02x host=crowd%d-%d.local port=4369", at[2], at[3], at[2], at[3])
	_, err = conn.Write(append([]byte{byte(len(request) >> 8), byte(len(request))}, request...))
	return err
}

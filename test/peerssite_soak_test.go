//go:build soak

package test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// site is many hosts, simulated by one listener: each address of a subnet is one.
type site struct {
	each     int // nodes of a host
	listener net.Listener
}

// siteSubnet has the site's hosts, siteAddress(0) and on.
const siteSubnet = "198.18.0.0/16"

func siteAddress(i int) string { return fmt.Sprintf("198.18.%d.%d", i/250, i%250+1) }

// newSite has a host answer as all epmds of a site, each with as many nodes.
func newSite(t *testing.T, h *host, each int) {
	t.Helper()
	h.sh(t, "ip route add local "+siteSubnet+" dev lo")
	s := &site{each: each}
	wait.Must(t, h.inside(func() (err error) {
		s.listener, err = new(net.ListenConfig).Listen(t.Context(), "tcp4", fmt.Sprint(":", epmd.DefaultPort))
		return err
	}))
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(func() {
		cancel()
		s.listener.Close()
	})
	go func() {
		for {
			c, err := s.listener.Accept()
			if err != nil {
				return
			}
			go func() {
				context.AfterFunc(ctx, func() { c.Close() })
				if err := s.answer(c); err != nil && ctx.Err() == nil {
					t.Errorf("%v asks %v: %v", c.RemoteAddr(), c.LocalAddr(), err)
				}
			}()
		}
	}()
}

// answer answers a W as the epmd at an address would, and stays until the other end goes.
func (s *site) answer(c net.Conn) error {
	defer c.Close()
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return err
	}
	request := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, request); err != nil {
		return err
	}
	if request[0] != 'W' {
		return fmt.Errorf("request %q", request)
	}
	at := c.LocalAddr().(*net.TCPAddr).IP.To4()
	host := fmt.Sprintf("h%d-%d.local", at[2], at[3])
	id := epmd.PeerID{0: 1, 14: at[2], 15: at[3]}
	out := binary.BigEndian.AppendUint32(nil, epmd.DefaultPort)
	out = fmt.Appendf(out, "* eclus=1.2 id=%v host=%s\n", id, host)
	for i := range s.each {
		out = fmt.Appendf(out, "+ node=n%d@%s name=n%[1]d host=%[2]s port=%d type=normal proto=0 high=6 low=5 ip=4\n", i, host, 5000+i)
	}
	out = fmt.Appendf(out, "= nodes=%d\n", s.each)
	if _, err := c.Write(out); err != nil {
		return err
	}
	_, err := c.Read(length[:]) // nothing more is asked
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return err
}

// siteFigures are what an epmd needs for a site.
type siteFigures struct {
	complete time.Duration // from its start to the last node
	memory   int           // RssAnon in KB
	idle     float64       // CPU in percent
}

// TestSoakSite has an epmd follow 10, 100 and 1,000 hosts that a nodes file names, each with 10
// nodes. It shows how time, memory and CPU at rest grow.
func TestSoakSite(t *testing.T) {
	all := make(map[int]siteFigures)
	for _, hosts := range []int{10, 100, 1000} {
		t.Run(fmt.Sprint(hosts, " hosts"), func(t *testing.T) {
			all[hosts] = measureSite(t, hosts, 10)
			t.Logf("complete after %v; at rest RssAnon %d KB, %.2f %% CPU",
				all[hosts].complete.Round(time.Millisecond), all[hosts].memory, all[hosts].idle)
		})
	}
	if f := all[1000]; f.complete > 5*time.Second || f.memory > 40<<10 || f.idle > 1 {
		t.Error("want 5 s, 40 MB and 1 % at most")
	}
}

func measureSite(t *testing.T, hosts, each int) (f siteFigures) {
	both := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{NoBus: true}, "hosta", "hostb")
	a, b := both[0], both[1]
	newSite(t, a, each)
	b.sh(t, "ip route add "+siteSubnet+" via "+a.Address().String())
	var lines strings.Builder
	for i := range hosts {
		fmt.Fprintf(&lines, "@%s\n", siteAddress(i))
	}
	b.writeNodes(t, "/run/epmd/nodes.d/site.nodes", lines.String())
	started := time.Now()
	b.run(t, shippedBinary(t), "-lan", "off")
	t.Run("complete", func(t *testing.T) { // whoever watches ends with it: its lines are memory too
		f.complete = untilAll(t, []*counter{b.count(t)}, hosts*each, time.Minute).Sub(started)
	})
	const measured = 30 * time.Second
	time.Sleep(15 * time.Second) // what follows the burst is not rest
	before := cpuOf(t, b.epmd.Pid())
	time.Sleep(measured)
	f.idle = 100 * (cpuOf(t, b.epmd.Pid()) - before).Seconds() / measured.Seconds()
	f.memory = anonymousKB(t, b.epmd.Pid())
	return f
}

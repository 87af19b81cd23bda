package peers

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/stream"
	"github.com/goerlang/eclus/cmd/epmd/internal/stream/streamtest"
	"github.com/goerlang/eclus/test/need"
)

// knownMACs has all addresses of 198.51.0.0/16 at one MAC address.
type knownMACs struct{}

func (knownMACs) Of(a netip.Addr) string {
	if netip.MustParsePrefix("198.51.0.0/16").Contains(a) {
		return "02:00:00:00:00:66"
	}
	return a.String()
}

func (m knownMACs) Now(a netip.Addr, _ bool) string { return m.Of(a) }

// askedMACs notes who is on a link.
type askedMACs struct {
	knownMACs
	onLink map[netip.Addr]bool
}

func (m askedMACs) Now(a netip.Addr, onLink bool) string {
	m.onLink[a] = onLink
	return m.Of(a)
}

// TestOwnersOnLink has a peer on the link and a peer beyond a router.
func TestOwnersOnLink(t *testing.T) {
	inBubble(t, func(w *world) {
		near, far := addrA, netip.MustParseAddrPort("203.0.113.7:4369")
		m := askedMACs{onLink: make(map[netip.Addr]bool)}
		w.ps.Owners = m
		w.ps.Link = func(_, other netip.Addr) (string, bool) { return "eth0", other == near.Addr() }
		w.net.Offer(near, streamtest.New("hosta.local", 1, "+a", "="))
		w.net.Offer(far, streamtest.New("hostb.local", 2, "+b", "="))
		w.found("hosta.local", near)
		w.ps.Configure([]netip.AddrPort{far}, nil)
		w.after(stream.Patience, "a@hosta.local yes, b@hostb.local yes")
		if want := map[netip.Addr]bool{near.Addr(): true, far.Addr(): false}; !maps.Equal(m.onLink, want) {
			t.Errorf("on the link: %v; want %v", m.onLink, want)
		}
	})
}

// crowds are what a host does that has 600 addresses, or announces them. offer prepares one, whose
// host name is to be announced if that is true.
var crowds = []struct {
	name     string
	prefix   string
	offer    func(w *world, host string, at netip.AddrPort)
	announce bool
	most     int           // streams that it may have
	within   time.Duration // that another host has a stream
}{
	{"announces what is not there", "203.0", func(w *world, _ string, at netip.AddrPort) { w.net.Hang(at) }, true, 0, 10 * time.Second},
	{"refuses at one MAC address", "198.51", func(w *world, _ string, at netip.AddrPort) { w.net.Fail(at, syscall.ECONNREFUSED) }, true, 0, stream.Patience},
	{"streams at one MAC address", "198.51", offer, true, maxFound / 2, stream.Patience},
	{"asks from one MAC address", "198.51", func(w *world, host string, at netip.AddrPort) {
		offer(w, host, at)
		w.ask(host, 77, at)
	}, false, maxFound / 2, stream.Patience},
}

func offer(w *world, host string, at netip.AddrPort) {
	s := streamtest.New(host, 77, "+x", "=")
	w.net.Offer(at, s.WithID([16]byte{7, 0, byte(at.Addr().As4()[2]), byte(at.Addr().As4()[3])}))
}

// TestCrowd has one host take as many places as it can get, in each way. A host that was there
// before keeps its stream, and one that comes later gets one.
func TestCrowd(t *testing.T) {
	need.Time(t)
	for _, tt := range crowds {
		for _, asks := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, asks %t", tt.name, asks), func(t *testing.T) {
				inBubble(t, func(w *world) {
					w.ps.Owners = knownMACs{}
					early := netip.MustParseAddrPort("192.0.2.9:4369")
					w.net.Offer(early, streamtest.New("early.local", 9, "+a", "="))
					w.found("early.local", early)
					w.after(stream.Patience, "a@early.local yes")
					for i := range 600 {
						host, at := fmt.Sprintf("crowd%d.local", i), netip.MustParseAddrPort(fmt.Sprintf("%s.%d.%d:4369", tt.prefix, i/200, i%200+1))
						if tt.offer(w, host, at); tt.announce {
							w.found(host, at)
						}
					}
					time.Sleep(time.Second)
					w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a", "="))
					w.found("hosta.local", addrA)
					within := tt.within
					if asks {
						w.ask("hosta.local", 1, addrA)
						within = stream.Patience
					}
					time.Sleep(within)
					synctest.Wait()
					got := streamtest.Neighbours(w.ps.Registry)
					if !strings.Contains(got, "a@hosta.local yes") || !strings.Contains(got, "a@early.local yes") {
						t.Errorf("after %v among %d nodes: hosta %t, early %t", within, strings.Count(got, "yes"),
							strings.Contains(got, "a@hosta.local"), strings.Contains(got, "a@early.local"))
					}
					time.Sleep(10 * time.Second)
					if n := len(w.net.Streams()); n > tt.most+2 {
						t.Errorf("%d streams, %d of which may be the crowd's", n, tt.most)
					}
				})
			})
		}
	}
}

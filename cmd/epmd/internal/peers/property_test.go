package peers

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/cmd/epmd/internal/stream/streamtest"
	"github.com/goerlang/eclus/epmd"
)

// model is a host as it really is.
type model struct {
	w     *world
	name  string
	addr  netip.AddrPort
	id    byte
	nodes map[string]bool
	mode  mode
	rand  *rand.Rand

	mu   sync.Mutex // guards all but w, name and addr
	open []*streamtest.Stream
}

// mode says what becomes of those who connect to a host.
type mode int

const (
	answers mode = iota
	refuses
	drops  // packets
	closes // on W
	cuts   // in the midst of the snapshot
	modes
)

// connect answers those who connect.
func (m *model) connect(ctx context.Context) (*streamtest.Stream, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch m.mode {
	case refuses:
		return nil, syscall.ECONNREFUSED
	case closes:
		return nil, epmd.ErrNoAnswer
	case drops:
		m.mu.Unlock()
		<-ctx.Done()
		m.mu.Lock()
		return nil, ctx.Err()
	}
	s := streamtest.New(m.name, m.id)
	for _, n := range slices.Sorted(maps.Keys(m.nodes)) {
		s.Say("+" + n)
	}
	if m.mode == cuts {
		s.Fail(io.EOF)
	} else {
		s.Say("=")
	}
	m.open = append(m.open, s)
	return s, nil
}

// fail ends all streams.
func (m *model) fail(err error) {
	for _, s := range m.open {
		s.Fail(err)
	}
	m.open = nil
}

// say tells of a change.
func (m *model) say(word string) {
	for _, s := range m.open {
		s.Say(word)
	}
}

// step does something at random.
func (m *model) step() {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := string(rune('a' + m.rand.IntN(6)))
	switch m.rand.IntN(10) {
	case 0, 1, 2:
		m.nodes[name] = true
		m.say("+" + name)
	case 3, 4:
		delete(m.nodes, name)
		m.say("-" + name)
	case 5:
		m.fail([]error{io.EOF, syscall.ECONNRESET, syscall.ETIMEDOUT, syscall.EHOSTUNREACH}[m.rand.IntN(4)])
	case 6: // the program restarts, and some nodes don't register again
		m.id += 16
		delete(m.nodes, name)
		m.fail(io.EOF)
	case 7:
		m.mode = mode(m.rand.IntN(int(modes)))
	case 8: // ends in order
		for n := range m.nodes {
			m.say("-" + n)
		}
		m.fail(io.EOF)
		m.mode = refuses
	case 9:
		m.mu.Unlock()
		m.announce(m.rand.IntN(2) == 0)
		m.mu.Lock()
	}
}

func (m *model) epmd() avahi.EPMD {
	return avahi.EPMD{Host: m.name, Interface: "eth0", Addrs: []netip.AddrPort{m.addr}, Announces: true}
}

// announce has the host announced, or no longer, or asking us, or the links change.
func (m *model) announce(is bool) {
	switch {
	case m.rand.IntN(8) == 0:
		m.w.ps.LinksChanged()
	case m.rand.IntN(3) == 0:
		m.w.ask(m.name, m.id, m.addr)
	case is:
		m.w.ps.Found(place(m.name, 1), m.epmd())
	default:
		m.w.ps.Gone(place(m.name, 1))
	}
}

// quiet ends all trouble. The host is there, or has gone for good.
func (m *model) quiet(there bool) {
	m.mu.Lock()
	m.mode = answers
	if !there {
		clear(m.nodes)
		m.mode = refuses
		m.fail(io.EOF)
	}
	m.mu.Unlock()
	if there {
		m.w.ps.Found(place(m.name, 1), m.epmd())
	} else {
		m.w.ps.Gone(place(m.name, 1))
	}
}

// truth returns what there is to know of all hosts.
func truth(hosts []*model) string {
	var lines []string
	for _, m := range hosts {
		for n := range m.nodes {
			lines = append(lines, fmt.Sprintf("%s@%s yes", n, m.name))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, ", ")
}

// TestProperty holds that all is right once all is quiet, whatever has happened before.
func TestProperty(t *testing.T) {
	seeds := uint64(200)
	if testing.Short() {
		seeds = 20
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(w *world) { property(w, rand.New(rand.NewPCG(seed, 13))) })
		})
		if t.Failed() {
			return
		}
	}
}

func property(w *world, r *rand.Rand) {
	var hosts []*model
	for i := range 4 {
		m := &model{
			w: w, name: fmt.Sprintf("host%d.local", i), addr: netip.MustParseAddrPort(fmt.Sprintf("192.0.2.%d:4369", 10+i)),
			id: byte(i + 1), nodes: make(map[string]bool), rand: r,
		}
		hosts = append(hosts, m)
		w.net.At(m.addr, m.connect)
	}
	for range 150 {
		hosts[r.IntN(len(hosts))].step()
		time.Sleep(time.Duration(r.Int64N(int64([]time.Duration{0, 100 * time.Millisecond, 3 * time.Second, time.Minute}[r.IntN(4)] + 1))))
	}
	for i, m := range hosts {
		m.quiet(i > 0)
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	living := slices.DeleteFunc(strings.Split(streamtest.Neighbours(w.ps.Registry), ", "), func(s string) bool { return strings.Contains(s, "@host0.") })
	if got, want := strings.Join(living, ", "), truth(hosts); got != want {
		w.Errorf("a minute later: got %q, want %q", got, want)
	}
	w.after(2*time.Hour, truth(hosts)) // one that has asked us is forgotten later
	synctest.Wait()
	if n := len(w.net.Streams()); n != len(hosts)-1 {
		w.Errorf("%d streams to %d hosts", n, len(hosts)-1)
	}
}

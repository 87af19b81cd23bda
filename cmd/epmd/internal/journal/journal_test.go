package journal

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/holders"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

// eventLog is a log without times. It may be read while it is written.
type eventLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *eventLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *eventLog) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(strings.Lines(l.buf.String()))
}

func (l *eventLog) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Reset()
}

func (l *eventLog) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: level,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
				return slog.Attr{}
			}
			return a
		}}))
}

// newJournal returns a Journal that finds holders.
func newJournal(o Options) *Journal {
	o.Holders = holders.New(o.Registry, slog.New(slog.DiscardHandler))
	return New(o)
}

// patient returns a Journal that finds holders on however busy a machine.
func patient(o Options) *Journal {
	j := newJournal(o)
	j.maxTook = wait.Patience
	return j
}

// runEvents runs j until the test ends or the function that it returns is called. That returns
// when Run has ended.
func runEvents(t *testing.T, j *Journal) (end func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = j.Run(ctx)
	}()
	end = func() {
		cancel()
		<-ended
	}
	t.Cleanup(end)
	return end
}

// awaitLines waits for so many lines in the log, and compares them.
func awaitLines(t *testing.T, log *eventLog, want ...string) {
	t.Helper()
	deadline := time.After(wait.Patience)
	for len(log.lines()) < len(want) {
		select {
		case <-deadline:
			t.Fatalf("after %v the log is\n%q; want\n%q", wait.Patience, log.lines(), want)
		case <-time.After(time.Millisecond):
		}
	}
	if got := log.lines(); !slices.Equal(got, want) {
		t.Errorf("the log is\n%q; want\n%q", got, want)
	}
}

// enter registers a node. Its connection is one of this process with itself.
func enter(t *testing.T, reg *registry.Registry, name string) *registry.Registration {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	node, err := net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	conn, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	peer := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	n := registry.Node{Name: name, Port: 41233, Addresses: []netip.Addr{peer.Addr()}, PeerPort: peer.Port()}
	if err := raw.Control(func(fd uintptr) { n.FD = int32(fd) }); err != nil {
		t.Fatal(err)
	}
	r, err := reg.Register(n)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// line returns the line about a node that this process holds. name is the full name. If it is
// empty, the line has none.
func line(text, name string, n *registry.Node) string {
	names := "name=" + n.Name
	if name != "" {
		names = "node=" + name + " " + names
	}
	s := fmt.Sprintf("msg=%q %s port=41233 peer=%v pid=%d uid=%d", text, names, n.Peer(), os.Getpid(), os.Geteuid())
	if n.Holder != nil && n.Holder.Unit != "" {
		s += " unit=" + n.Holder.Unit
	}
	return s + "\n"
}

func TestJournalNode(t *testing.T) {
	reg := registry.New("hosta.local", 0)
	var log eventLog
	end := runEvents(t, patient(Options{Registry: reg, Log: log.logger(slog.LevelInfo)}))
	r := enter(t, reg, "a")
	awaitLines(t, &log, line("node up", "", reg.Node(r)))
	n := reg.Node(r)
	if n.Holder == nil || int(n.Holder.PID) != os.Getpid() || int(n.Holder.UID) != os.Geteuid() {
		t.Errorf("held by %v; want PID %d, UID %d", n.Holder, os.Getpid(), os.Geteuid())
	}
	if err := reg.Identify(n, registry.Identity{Node: "a@real.example"}); err != nil {
		t.Fatal(err)
	}
	awaitLines(t, &log, line("node up", "", n), line("node named", "a@real.example", n))
	reg.SetHolder(n, &registry.Holder{PID: 1})
	reg.SetHolder(n, n.Holder)
	reg.Unregister(r)
	end()
	awaitLines(t, &log, line("node up", "", n), line("node named", "a@real.example", n), line("node down", "a@real.example", n))
}

// TestJournalNamed has nodes whose full names change, or are known before they are in the log.
func TestJournalNamed(t *testing.T) {
	reg := registry.New("hosta.local", 0)
	var log eventLog
	register := func(name string) *registry.Registration {
		r, err := reg.Register(registry.Node{Name: name, Port: 1, Addresses: []netip.Addr{netip.IPv6Loopback()}, PeerPort: 9, FD: -1})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	old := register("old")
	j := patient(Options{Registry: reg, Log: log.logger(slog.LevelInfo)})
	r := register("a")
	for _, r := range []*registry.Registration{old, r} {
		n := reg.Node(r)
		if err := reg.Identify(n, registry.Identity{Node: n.Name + "@real.example"}); err != nil {
			t.Fatal(err)
		}
	}
	see := func(full string, sure bool) {
		n := registry.Node{Node: full, Name: "b", Host: "hostb.local", EPMDPort: 4369, Port: 3, Sure: sure}
		if err := reg.SetNeighbour(n); err != nil {
			t.Fatal(err)
		}
	}
	see("b@hostb.local", false)
	run := func() {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = j.Run(ctx)
		j.changes = reg.Subscribe()
		j.changes.Take()
	}
	run()
	awaitLines(t, &log,
		"msg=\"node up\" node=a@real.example name=a port=1 peer=[::1]:9\n",
		"msg=\"node named\" node=old@real.example name=old port=1 peer=[::1]:9\n",
		"msg=\"neighbour up\" name=b host=hostb.local port=3\n")
	log.clear()

	for _, full := range []string{"b@hostb", "b@elsewhere", "b@hostb"} {
		see(full, true)
	}
	see("b@hostb.local", false)
	run()
	awaitLines(t, &log)
	see("b@hostb", true)
	run()
	see("b@elsewhere", true)
	run()
	awaitLines(t, &log,
		"msg=\"neighbour named\" node=b@hostb name=b host=hostb.local port=3\n",
		"msg=\"neighbour named\" node=b@elsewhere name=b host=hostb.local port=3\n")
}

// TestJournalInOrder has nodes come and go at once, one name twice.
func TestJournalInOrder(t *testing.T) {
	reg := registry.New("hosta.local", 0)
	var log eventLog
	j := patient(Options{Registry: reg, Log: log.logger(slog.LevelInfo)})
	register := func(name string, port uint16) *registry.Registration {
		r, err := reg.Register(registry.Node{Name: name, Port: port, Addresses: []netip.Addr{netip.IPv6Loopback()}, PeerPort: 9, FD: -1})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	reg.Unregister(register("a", 1))
	register("a", 2)
	neighbour := registry.Node{Node: "b@hostb.local", Name: "b", Host: "hostb.local", Port: 3,
		Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.2")}}
	if err := reg.SetNeighbour(neighbour); err != nil {
		t.Fatal(err)
	}
	neighbour.Port, neighbour.Addresses = 4, nil
	if err := reg.SetNeighbour(neighbour); err != nil {
		t.Fatal(err)
	}
	reg.RemoveNeighbour(neighbour.NeighbourKey())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = j.Run(ctx)
	awaitLines(t, &log,
		"msg=\"node up\" name=a port=1 peer=[::1]:9\n",
		"msg=\"node down\" name=a port=1 peer=[::1]:9\n",
		"msg=\"node up\" name=a port=2 peer=[::1]:9\n",
		"msg=\"neighbour up\" name=b host=hostb.local port=4\n",
		"msg=\"neighbour down\" name=b host=hostb.local port=4\n",
	)
}

// TestArrived looks for holders of those alone that are still there.
func TestArrived(t *testing.T) {
	node := func(id uint64) *registry.Node { return &registry.Node{ID: id} }
	got := arrived([]registry.Event{
		{Kind: registry.Up, Node: node(1)},
		{Kind: registry.Down, Node: node(7)},
		{Kind: registry.Up, Node: node(2)},
		{Kind: registry.Up, Node: node(3)},
		{Kind: registry.Down, Node: node(1)},
	}, []registry.Event{
		{Kind: registry.Down, Node: node(3)},
	})
	if len(got) != 1 || got[0].ID != 2 {
		t.Errorf("got %v; want node 2 alone", got)
	}
}

// TestJournalShortLived has nodes come and go without pause, each for a moment. Nobody looks for
// their holders, or asks them for their names. The log has them all, and whoever stays.
func TestJournalShortLived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := registry.New("hosta.local", 0)
		var log eventLog
		var mu sync.Mutex
		var came []string
		end := runEvents(t, newJournal(Options{Registry: reg, Log: log.logger(slog.LevelInfo), Arrived: func(n *registry.Node, _ bool) {
			mu.Lock()
			defer mu.Unlock()
			came = append(came, n.Name)
		}}))
		const count = 500
		register := func(name string) *registry.Registration {
			r, err := reg.Register(registry.Node{Name: name, FD: -1})
			wait.Must(t, err)
			return r
		}
		for i := range count {
			r := register("short")
			if i == count/2 {
				register("stays")
			}
			time.Sleep(eventSettle / 4)
			reg.Unregister(r)
		}
		time.Sleep(2 * maxEventSettle)
		mu.Lock()
		if !slices.Equal(came, []string{"stays"}) {
			t.Errorf("looked for the holders of %q; want that of the node alone that stays", came)
		}
		mu.Unlock()
		if got, want := len(log.lines()), 2*count+1; got != want {
			t.Errorf("%d entries; want %d", got, want)
		}
		end()
	})
}

// TestJournalRestored finds the holder of a node that was there before, silently.
func TestJournalRestored(t *testing.T) {
	reg := registry.New("hosta.local", 0)
	var log eventLog
	r := enter(t, reg, "a")
	runEvents(t, patient(Options{Registry: reg, Log: log.logger(slog.LevelInfo)}))
	second := enter(t, reg, "b")
	awaitLines(t, &log, line("node up", "", reg.Node(second)))
	if h := reg.Node(r).Holder; h == nil || int(h.PID) != os.Getpid() {
		t.Errorf("held by %v; want PID %d", h, os.Getpid())
	}
}

// TestJournalUnlogged finds holders where nobody reads the log.
func TestJournalUnlogged(t *testing.T) {
	reg := registry.New("hosta.local", 0)
	var log eventLog
	runEvents(t, patient(Options{Registry: reg, Log: log.logger(slog.LevelWarn)}))
	changes := reg.Subscribe()
	defer changes.Close()
	r := enter(t, reg, "a")
	ctx := wait.Soon(t)
	for reg.Node(r).Holder == nil {
		if _, err := changes.Next(ctx); err != nil {
			t.Fatalf("holder not found: %v", err)
		}
	}
	awaitLines(t, &log)
}

// TestJournalBehind has more happen at once than is kept.
func TestJournalBehind(t *testing.T) {
	const many = 20000
	reg := registry.New("hosta.local", 0)
	var log eventLog
	if _, err := reg.Register(registry.Node{Name: "before", FD: -1}); err != nil {
		t.Fatal(err)
	}
	j := patient(Options{Registry: reg, Log: log.logger(slog.LevelInfo)})
	var last *registry.Registration
	for i := range many {
		if last != nil {
			reg.Unregister(last)
		}
		var err error
		if last, err = reg.Register(registry.Node{Name: "a", Port: uint16(i), FD: -1}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = j.Run(ctx)
	awaitLines(t, &log,
		"msg=\"changes of nodes not logged: too many at once\"\n",
		"msg=\"node up\" name=a port=19999 peer=\"\"\n")
}

// TestJournalFlood has a host change for ever. The log has what a host with a thousand nodes needs,
// then a line a second, and how many it lacks. Another host has all its entries.
func TestJournalFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const flood, calm = 100 * time.Second, time.Hour
		reg := registry.New("hosta.local", 0)
		var log eventLog
		end := runEvents(t, newJournal(Options{Registry: reg, Log: log.logger(slog.LevelInfo)}))
		n := registry.Node{Node: "a@hostb.local", Name: "a", Host: "hostb.local", EPMDPort: 4369, Port: 1, Sure: true}
		count := func(text string) int {
			return len(slices.DeleteFunc(log.lines(), func(l string) bool { return !strings.Contains(l, text) }))
		}
		changes := 0
		for begin := time.Now(); time.Since(begin) < flood; time.Sleep(10 * time.Millisecond) {
			for range 50 {
				if err := reg.SetNeighbour(n); err != nil {
					t.Fatal(err)
				}
				reg.RemoveNeighbour(n.NeighbourKey())
				changes += 2
			}
		}
		other := n
		other.Host = "hostc.local"
		if err := reg.SetNeighbour(other); err != nil {
			t.Fatal(err)
		}
		time.Sleep(calm)
		logged, summaries := count("host=hostb.local port"), count("not logged")
		if least, most := hostBurst, hostBurst+int(flood/hostInterval)+1; logged < least || logged > most {
			t.Errorf("%d entries of %d changes; want %d to %d", logged, changes, least, most)
		}
		if most := int(flood/hostSummary) + 1; summaries == 0 || summaries > most {
			t.Errorf("%d times told of what is missing; want at most %d", summaries, most)
		}
		withheld := 0
		for _, l := range log.lines() {
			if _, rest, found := strings.Cut(l, "withheld="); found {
				var some int
				if _, err := fmt.Sscan(rest, &some); err != nil || !strings.HasSuffix(l, "hosts=1 host=hostb.local\n") {
					t.Errorf("%q: %v", l, err)
				}
				withheld += some
			}
		}
		if logged+withheld != changes {
			t.Errorf("%d entries and %d withheld; want %d in all", logged, withheld, changes)
		}
		if got := count("host=hostc.local"); got != 1 {
			t.Errorf("%d entries of another host; want 1", got)
		}
		end()
	})
}

// TestLimitsHosts has more hosts than are told apart.
func TestLimitsHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limits
		for i := range 3 * maxHosts {
			l.may(fmt.Sprint(i))
		}
		if len(l.hosts) > maxHosts+1 {
			t.Errorf("%d hosts are told apart; want at most %d and the others", len(l.hosts), maxHosts)
		}
		for range 2 * hostBurst {
			l.may("late")
		}
		if missing, hosts, host := l.take(); missing == 0 || hosts != 1 || host != "" {
			t.Errorf("%d missing of %d hosts, %q; want some of those that are not told apart", missing, hosts, host)
		}
		time.Sleep(2 * hostBurst * hostInterval)
		if l.may("later"); len(l.hosts) > 2 {
			t.Errorf("%d hosts are remembered for nothing", len(l.hosts))
		}
	})
}

package named

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/internal/netif"
)

// world is a Finder with what it asks, in a bubble. Maps and errors may be changed under mu.
type world struct {
	*Finder

	mu       sync.Mutex
	records  map[string]string // addresses by network and name
	fails    map[string]error  // by network
	hangs    bool
	gateways string
	lookups  int
	most     int // lookups at a time
	now      int
	told     []string
	log      strings.Builder
}

// Write is the log's.
func (w *world) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(b)
}

func newWorld(t *testing.T) *world {
	w := &world{records: make(map[string]string), fails: make(map[string]error)}
	w.Finder = New(Options{
		Port: 4369,
		Configure: func(named, written []netip.AddrPort) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.told = nil
			for _, a := range named {
				w.told = append(w.told, a.String())
			}
			for _, a := range written {
				w.told = append(w.told, a.String()+" written")
			}
		},
		Lookup:   w.lookup,
		Gateways: func() ([]netip.Addr, error) { w.mu.Lock(); defer w.mu.Unlock(); return addrsOf(w.gateways), nil },
		Watch:    func() (*netif.Watcher, error) { return nil, errors.New("not here") },
		Log:      slog.New(slog.NewTextHandler(w, nil)),
	})
	return w
}

// run runs the Finder until the test ends.
func (w *world) run(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func addrsOf(list string) []netip.Addr {
	var addrs []netip.Addr
	for a := range strings.FieldsSeq(list) {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	return addrs
}

func (w *world) lookup(ctx context.Context, network, name string) ([]netip.Addr, error) {
	w.mu.Lock()
	w.lookups++
	w.now++
	w.most = max(w.most, w.now)
	hangs, err, list := w.hangs, w.fails[network], w.records[network+" "+name]
	w.mu.Unlock()
	defer func() { w.mu.Lock(); w.now--; w.mu.Unlock() }()
	switch {
	case hangs:
		<-ctx.Done()
		return nil, ctx.Err()
	case err != nil:
		return nil, err
	case list == "":
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return addrsOf(list), nil
}

// set changes what is asked.
func (w *world) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// want waits until nothing moves, and holds what was told last.
func (w *world) want(t *testing.T, what string, want ...string) {
	t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.told, want) {
		t.Errorf("%s: got %q; want %q\nlog: %s", what, w.told, want, &w.log)
	}
}

// TestNames has a name whose addresses change, fail, hang, and go.
func TestNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.records["ip4 web"] = "192.0.2.2 192.0.2.1 0.0.0.0 192.0.2.1"
		w.records["ip6 web"] = "2001:db8::1 fe80::1 ff02::1"
		w.Set("-peer", false, []Who{{Name: "web"}, {Addr: netip.MustParseAddr("192.0.2.1"), Port: 4369}, {Name: "web", Port: 1}})
		w.want(t, "before Run", "192.0.2.1:4369")
		w.run(t)
		both := []string{"192.0.2.1:4369", "192.0.2.2:4369", "[2001:db8::1]:4369", "192.0.2.1:1", "192.0.2.2:1", "[2001:db8::1]:1"}
		w.want(t, "at once", both...)

		w.set(func() { w.records["ip4 web"] = "192.0.2.3"; w.fails["ip6"] = errors.New("refused") })
		time.Sleep(26 * time.Second)
		w.want(t, "before 27 s", both...)
		time.Sleep(8 * time.Second)
		w.want(t, "one family fails", "192.0.2.3:4369", "[2001:db8::1]:4369", "192.0.2.1:4369", "192.0.2.3:1", "[2001:db8::1]:1")

		w.set(func() { delete(w.fails, "ip6"); delete(w.records, "ip6 web"); w.hangs = true })
		time.Sleep(time.Hour)
		w.want(t, "hangs", "192.0.2.3:4369", "[2001:db8::1]:4369", "192.0.2.1:4369", "192.0.2.3:1", "[2001:db8::1]:1")
		if n := strings.Count(w.log.String(), "not looked up"); n != 1 {
			t.Errorf("the log has it %d times that lookups fail; want once: %s", n, &w.log)
		}
		w.set(func() { w.hangs = false })
		w.LinksChanged()
		w.want(t, "at once when links change", "192.0.2.3:4369", "192.0.2.1:4369", "192.0.2.3:1")

		w.set(func() { clear(w.records) })
		time.Sleep(34 * time.Second)
		w.want(t, "no such name", "192.0.2.1:4369")
		w.Set("-peer", false, nil)
		w.want(t, "nobody")
		lookups := w.lookups // nobody looks up: want has waited
		time.Sleep(time.Hour)
		synctest.Wait()
		if w.lookups != lookups {
			t.Errorf("a name is looked up that nobody names")
		}
	})
}

// TestRetry has the first lookups fail, as when a network comes up.
func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fails["ip4"], w.fails["ip6"] = errors.New("away"), errors.New("away")
		w.Set("-peer", false, []Who{{Name: "web"}})
		w.run(t)
		time.Sleep(10 * time.Second)
		w.set(func() { clear(w.fails); w.records["ip4 web"] = "192.0.2.1" })
		w.set(func() {
			if w.lookups < 2*4 || w.lookups > 2*6 {
				t.Errorf("%d lookups in 10 s of failures; want 8 to 12", w.lookups)
			}
		})
		time.Sleep(9 * time.Second)
		w.want(t, "after a failure", "192.0.2.1:4369")
	})
}

// TestManyNames has more names than are looked up at a time, none of which is answered. An address
// is there at once.
func TestManyNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.hangs = true
		w.Set("-peer", false, names(5*atOnce))
		w.run(t)
		w.Set("file", true, []Who{{Addr: netip.MustParseAddr("192.0.2.1")}})
		w.want(t, "while names hang", "192.0.2.1:4369 written")
		time.Sleep(lookUpTime + time.Second)
		synctest.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.most != 2*atOnce {
			t.Errorf("%d lookups at a time; want %d", w.most, 2*atOnce)
		}
	})
}

// TestTooManyNames names one more than is followed.
func TestTooManyNames(t *testing.T) {
	w := newWorld(t)
	w.Set("-peer", false, names(maxNames+1))
	if n := len(w.followed); n != maxNames || strings.Count(w.log.String(), "too many names") != 1 {
		t.Errorf("%d names are followed; log %s", n, &w.log)
	}
}

// names are so many names.
func names(n int) (whos []Who) {
	for i := range n {
		whos = append(whos, Who{Name: fmt.Sprintf("h%d", i)})
	}
	return whos
}

// TestGateways has gateways change, with no news of routes.
func TestGateways(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.gateways = "192.0.2.1 fe80::1%eth0"
		w.Set("-peer", false, []Who{{Gateway: true}, {Addr: netip.MustParseAddr("192.0.2.1")}})
		w.run(t)
		w.want(t, "at once", "192.0.2.1:4369", "[fe80::1%eth0]:4369")
		w.set(func() { w.gateways = "192.0.2.9" })
		w.LinksChanged()
		w.want(t, "changed", "192.0.2.9:4369", "192.0.2.1:4369")
		w.Set("file", true, []Who{{Addr: netip.MustParseAddr("192.0.2.2")}, {Gateway: true}})
		w.want(t, "written too", "192.0.2.9:4369", "192.0.2.1:4369", "192.0.2.2:4369 written")
		w.Set("-peer", false, nil)
		w.want(t, "written alone", "192.0.2.2:4369 written", "192.0.2.9:4369 written")
		w.Set("file", true, nil)
		w.want(t, "nobody")
	})
}

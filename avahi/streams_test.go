package avahi_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// peers stands for the part that keeps streams. A test says which hosts give one.
type peers struct {
	mu     sync.Mutex
	epmds  map[avahi.Place]avahi.EPMD
	finds  int
	labels []string // of the hosts that stream
	all    bool     // whoever is found streams from then on
	tell   func()   // that there is another stream, or nil
}

func (p *peers) Found(at avahi.Place, e avahi.EPMD) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.epmds[at] = e
	p.finds++
	if label, _, _ := strings.Cut(e.Host, "."); p.all {
		p.labels = append(p.labels, label)
		if p.tell != nil {
			p.tell()
		}
	}
}

func (p *peers) Gone(at avahi.Place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.epmds, at)
}

func (p *peers) Streamed(host string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.labels, host)
}

func (p *peers) stream(hosts ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.labels, p.all = hosts, false
}

// count returns how often an epmd was found.
func (p *peers) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.finds
}

// until waits until cond holds of what is announced.
func (p *peers) until(t *testing.T, what string, cond func(map[avahi.Place]avahi.EPMD) bool) {
	t.Helper()
	wait.Until(t, what, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !cond(p.epmds) {
			return fmt.Errorf("there are %+v", p.epmds)
		}
		return nil
	})
}

// with returns a condition: epmds are announced, and all have these IPv4 addresses, in that
// order, then link-local ones.
func with(addrs ...string) func(map[avahi.Place]avahi.EPMD) bool {
	return func(epmds map[avahi.Place]avahi.EPMD) bool {
		for _, e := range epmds {
			var got []string
			for _, a := range e.Addrs {
				if a.Addr().Is4() {
					got = append(got, a.String())
				} else if a.Addr().Zone() != "eth0" {
					return false
				}
			}
			if !slices.Equal(got, addrs) || !e.Addrs[0].Addr().Is4() || len(e.Addrs) != len(addrs)+1 || !e.Announces {
				return false
			}
		}
		return len(epmds) > 0
	}
}

// TestStreams has a host with a stream, whose nodes are not resolved. Then it has none, and a
// stream again.
func TestStreams(t *testing.T) {
	a, b := pair(t)
	a.publish()
	for i := range 20 {
		a.register(fmt.Sprint("n", i), uint16(5000+i))
	}
	seen := start(t, b, "avahi-browse", "-p", avahi.ServiceType)
	for i := range 20 {
		expect(t, seen, fmt.Sprintf(`(?m)^\+;eth0;IPv4;n%d\\064hosta;`, i))
	}
	p := &peers{epmds: make(map[avahi.Place]avahi.EPMD), all: true}
	events := b.record()
	began := time.Now()
	browser, _ := b.browse(func(o *avahi.Options) { o.EPMDs, o.Streams = p, p })
	p.until(t, "the epmd is found", with(a.Address().String()+":4369"))
	inTime := time.Since(began) < 2*time.Second // for longer, nothing waits for a stream
	browser.StreamsChanged()
	const few = 2 + 2 + 2 // service browsers, resolvers of the host's instance, its addresses
	wait.Until(t, "Avahi resolves nothing", func() error { return atMost(browser.Objects(), few-2) })
	a.register("late", 4711)
	expect(t, seen, `(?m)^\+;eth0;IPv4;late\\064hosta;`)
	b.until("no node is resolved", count(0))
	if got := events.String(); inTime && got != "" {
		t.Errorf("nodes were resolved that come over a stream:\n%s", got)
	}

	p.stream()
	browser.StreamsChanged()
	b.until("the nodes are resolved without a stream", count(21))
	finds := p.count()
	p.stream("hosta")
	browser.StreamsChanged()
	b.until("they are not with one", count(0))
	wait.Until(t, "their resolvers are freed", func() error { return atMost(browser.Objects(), few-2) })
	if p.count() != finds {
		t.Errorf("the same epmd was found again")
	}
}

func atMost(got, want int) error {
	if got > want {
		return fmt.Errorf("%d objects, want at most %d", got, want)
	}
	return nil
}

// otherAddress is one more on the subnet of the hosts. It comes after those that they have.
const otherAddress = "198.51.100.77"

// TestAddresses has a host get another address and lose it. One that is on no subnet of the other
// host, which it gets too, counts for nothing.
func TestAddresses(t *testing.T) {
	a, b := pair(t)
	a.publish()
	p := &peers{epmds: make(map[avahi.Place]avahi.EPMD)}
	b.browse(func(o *avahi.Options) { o.EPMDs = p })
	a.register("a", 4711)
	first := a.Address().String()
	p.until(t, "the epmd is found", with(first+":4369"))
	_, err := a.Output(wait.Soon(t), "ip", "addr", "add", "1.2.3.4/24", "dev", "eth0")
	wait.Must(t, err)
	for range 3 {
		_, err := a.Output(wait.Soon(t), "ip", "addr", "add", otherAddress+"/24", "dev", "eth0")
		wait.Must(t, err)
		p.until(t, "the other address is found", with(first+":4369", otherAddress+":4369"))
		b.until("the node has both", node("a@hosta.example", func(n *registry.Node) bool {
			return len(n.Addresses) == 3 && n.Addresses[0].String() == first
		}))
		_, err = a.Output(wait.Soon(t), "ip", "addr", "del", otherAddress+"/24", "dev", "eth0")
		wait.Must(t, err)
		p.until(t, "it has gone", with(first+":4369"))
	}
	wait.Must(t, a.Avahi.Stop(wait.Soon(t)))
	p.until(t, "the epmd goes", func(epmds map[avahi.Place]avahi.EPMD) bool { return len(epmds) == 0 })
}

// TestAddressesStreamed has the addresses of a host change that streams. They are looked for from
// time to time.
func TestAddressesStreamed(t *testing.T) {
	a, b := pair(t)
	a.publish()
	p := &peers{epmds: make(map[avahi.Place]avahi.EPMD), all: true}
	browser := avahi.NewBrowser(b.reg, b.options([]func(*avahi.Options){
		func(o *avahi.Options) { o.EPMDs, o.Streams = p, p },
	}), b.log())
	browser.Search(time.Second, time.Second)
	b.start(browser.Run)
	first := a.Address().String()
	p.until(t, "the epmd is found", with(first+":4369"))
	wait.Until(t, "the first search ends", func() error { return atMost(browser.Objects(), 2) })
	for range 3 {
		_, err := a.Output(wait.Soon(t), "ip", "addr", "add", otherAddress+"/24", "dev", "eth0")
		wait.Must(t, err)
		p.until(t, "the other address is found", with(first+":4369", otherAddress+":4369"))
		_, err = a.Output(wait.Soon(t), "ip", "addr", "del", otherAddress+"/24", "dev", "eth0")
		wait.Must(t, err)
		p.until(t, "it has gone", with(first+":4369"))
	}
	wait.Until(t, "hosts are no longer looked for by their subtype", func() error { return atMost(browser.Objects(), 1) })
	p.stream()
	browser.StreamsChanged()
	wait.Until(t, "the host is resolved again", func() error { return atLeast(browser.Objects(), 1+2+2) })
	wait.Must(t, a.Avahi.Stop(wait.Soon(t)))
	p.until(t, "the epmd goes", func(epmds map[avahi.Place]avahi.EPMD) bool { return len(epmds) == 0 })
	wait.Must(t, a.Avahi.Start(wait.Soon(t)))
	p.until(t, "the epmd is found without its subtype", with(first+":4369"))
}

func atLeast(got, want int) error {
	if got < want {
		return fmt.Errorf("%d objects, want at least %d", got, want)
	}
	return nil
}

// TestStreamsLater has a host come that will stream, while the other browses. Nodes that were
// found before the host are resolved until the stream begins.
func TestStreamsLater(t *testing.T) {
	a, b := pair(t, lan.HostOptions{NoAvahi: true}, lan.HostOptions{})
	a.publish()
	p := &peers{epmds: make(map[avahi.Place]avahi.EPMD), all: true}
	browser := avahi.NewBrowser(b.reg, b.options([]func(*avahi.Options){
		func(o *avahi.Options) { o.EPMDs, o.Streams = p, p },
	}), b.log())
	p.tell = browser.StreamsChanged
	b.start(browser.Run)
	for i := range 20 {
		a.register(fmt.Sprint("n", i), uint16(5000+i))
	}
	waitState(t, "browses", browser.State, "LAN discovery on")
	wait.Must(t, a.Avahi.Start(wait.Soon(t)))
	p.until(t, "the epmd is found", with(a.Address().String()+":4369"))
	seen := start(t, b, "avahi-browse", "-p", avahi.ServiceType)
	for i := range 20 {
		expect(t, seen, fmt.Sprintf(`(?m)^\+;eth0;IPv4;n%d\\064hosta;`, i))
	}
	b.until("no node is resolved", count(0))
	wait.Until(t, "Avahi resolves nothing", func() error { return atMost(browser.Objects(), 2+2) })
}

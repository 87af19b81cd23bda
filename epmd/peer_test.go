package epmd

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goerlang/eclus/registry"

	"github.com/goerlang/eclus/test/wait"
)

var (
	testID    = PeerID{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0, 0, 0, 0, 0, 0, 0, 0xff}
	testHello = PeerHello{"1.2", testID, "b.local", 4369}
	everyIP   = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
)

const testIDHex = "0123456789abcdef00000000000000ff"

// watchTests are WatchReqs as they are sent, without the length.
var watchTests = []struct {
	name, hex string
	want      WatchReq
	err       string // what the message must name; empty: must parse
}{
	{"any program", "57", WatchReq{}, ""},
	{"an epmd", "57" + text("eclus=1.2 id="+testIDHex+" host=b.local port=4369"), WatchReq{&testHello}, ""},
	{"a newer epmd", "57" + text("new=x eclus=1.2 id="+testIDHex+" host=b.local port=4369 newer=%20 word"), WatchReq{&testHello}, ""},
	{"a host beyond ASCII", "57" + text("eclus=1.2 id="+testIDHex+" host=bücher.local port=1"),
		WatchReq{&PeerHello{"1.2", testID, "bücher.local", 1}}, ""},
	{"something else", "57" + text("id=x host=y"), WatchReq{}, ""},
	{"no id", "57" + text("eclus=1 host=b.local port=4369"), WatchReq{}, "no id"},
	{"short id", "57" + text("eclus=1 id=00ff host=b.local port=4369"), WatchReq{}, `id "00ff"`},
	{"id of zeroes", "57" + text("eclus=1 id="+strings.Repeat("0", 32)+" host=b.local port=4369"), WatchReq{}, "all are 0"},
	{"id that is none", "57" + text("eclus=1 id="+strings.Repeat("x", 32)+" host=b.local port=4369"), WatchReq{}, "id"},
	{"no host", "57" + text("eclus=1 id="+testIDHex+" port=4369"), WatchReq{}, `host name ""`},
	{"host with an escape", "57" + text("eclus=1 id="+testIDHex+" host=b%1B[2J.local port=4369"), WatchReq{}, `\x1b`},
	{"no port", "57" + text("eclus=1 id="+testIDHex+" host=b.local"), WatchReq{}, `port ""`},
	{"port 0", "57" + text("eclus=1 id="+testIDHex+" host=b.local port=0"), WatchReq{}, `port "0"`},
	{"port too large", "57" + text("eclus=1 id="+testIDHex+" host=b.local port=65536"), WatchReq{}, `port "65536"`},
	{"version with a line end", "57" + text("eclus=1%0A id="+testIDHex+" host=b.local port=1"), WatchReq{}, `"1\n"`},
	{"long version", "57" + text("eclus="+strings.Repeat("1", 65)+" id="+testIDHex+" host=b.local port=1"), WatchReq{}, "version"},
	{"broken encoding", "57" + text("eclus=%zz"), WatchReq{}, "%zz"},
}

// text returns the hex of a text.
func text(s string) string { return hex.EncodeToString([]byte(s)) }

func TestParseHello(t *testing.T) {
	for _, tt := range watchTests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseHello(string(unhex(t, tt.hex)[1:]))
			if !reflect.DeepEqual(got, tt.want.Hello) || !names(err, tt.err) {
				t.Errorf("got %+v, %v; want %+v, error naming %q", got, err, tt.want.Hello, tt.err)
			}
		})
	}
	for _, tt := range watchTests[:2] {
		if got := tt.want.Append(nil); !bytes.Equal(got, unhex(t, tt.hex)) {
			t.Errorf("%s: appended as %q; want %q", tt.name, got, unhex(t, tt.hex))
		}
	}
}

func FuzzParseHello(f *testing.F) {
	for _, tt := range watchTests {
		f.Add(unhex(f, tt.hex)[1:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHello(string(b))
		if err != nil || h == nil {
			return
		}
		out := h.appendRequest(nil)
		if again, err := parseHello(string(out)); err != nil || !reflect.DeepEqual(again, h) {
			t.Errorf("%q: appended as %q, reparsed as %+v, %v", b, out, again, err)
		}
		if len(h.Version) > maxVersion || h.Port == 0 || h.ID == (PeerID{}) || strings.ContainsAny(string(out), "\n\x1b\x00") {
			t.Errorf("%q: got %+v", b, h)
		}
	})
}

func TestPeerID(t *testing.T) {
	id, err := ParsePeerID(strings.ToUpper(testIDHex))
	if err != nil || id != testID || id.String() != testIDHex {
		t.Errorf("got %v, %v", id, err)
	}
}

// peerNodeTests are lines about nodes, and what they say.
var peerNodeTests = []struct {
	line string
	want registry.Node
	ips  IPs
	err  string
}{
	{"+ node=a@a.local name=a host=a.local port=41237 type=normal dist=tls high=6 low=5 proto=0 ip=46",
		registry.Node{Node: "a@a.local", Name: "a", Host: "a.local", Port: 41237, Type: registry.Normal, Dist: registry.TLS,
			High: 6, Low: 5, Origin: registry.LAN, Sure: true}, IP4 | IP6, ""},
	{"+ node=a@x name=a host=a.local port=1 type=hidden sure=no ip=6 new=1 address=192.0.2.1 origin=local pid=1 uid=0",
		registry.Node{Node: "a@x", Name: "a", Host: "a.local", Port: 1, Type: registry.Hidden, Origin: registry.LAN}, IP6, ""},
	{"+ node=a@x name=a host=a.local port=1 type=M dist=quic ip=4",
		registry.Node{Node: "a@x", Name: "a", Host: "a.local", Port: 1, Type: registry.Normal, Origin: registry.LAN, Sure: true}, IP4, ""},
	{"- node=a@x name=a host=a.local", registry.Node{Node: "a@x", Name: "a", Host: "a.local", Type: registry.Normal,
		Origin: registry.LAN, Sure: true}, 0, ""},

	{"+ name=a host=a.local port=1 ip=4", registry.Node{}, 0, `node name ""`},
	{"+ node=a@x host=a.local port=1 ip=4", registry.Node{}, 0, `node "a@x" with name ""`},
	{"+ node=a@x name=b host=a.local port=1 ip=4", registry.Node{}, 0, `name "b"`},
	{"+ node=a@x name=a port=1 ip=4", registry.Node{}, 0, `host name ""`},
	{"+ node=a@x name=a host=local port=1 ip=4", registry.Node{}, 0, `host name "local"`},
	{"+ node=a@x name=a host=a.local ip=4", registry.Node{}, 0, `port ""`},
	{"+ node=a@x name=a host=a.local port=0 ip=4", registry.Node{}, 0, `port "0"`},
	{"+ node=a@x name=a host=a.local port=65536 ip=4", registry.Node{}, 0, `port "65536"`},
	{"+ node=a@x name=a host=a.local port=1", registry.Node{}, 0, `ip ""`},
	{"+ node=a@x name=a host=a.local port=1 ip=64", registry.Node{}, 0, `ip "64"`},
	{"+ node=a@x name=a host=a.local port=1 ip=4 high=65536 low=5 proto=0", registry.Node{}, 0, `high "65536"`},
	{"+ node=a@x name=a host=a.local port=1 ip=4 high=6 proto=0", registry.Node{}, 0, `low ""`},
	{"+ node=a@x name=a host=a.local port=1 ip=4 high=6 low=5 proto=256", registry.Node{}, 0, `proto "256"`},
	{"+ node=a%1B[2J@x name=a%1B[2J host=a.local port=1 ip=4", registry.Node{}, 0, `\x1b`},
	{"+ node=a@x%E2%80%AEy name=a host=a.local port=1 ip=4", registry.Node{}, 0, `\u202e`},
	{"+ node=a@x%FF name=a host=a.local port=1 ip=4", registry.Node{}, 0, `\xff`},
	{"+ node=a@b@c name=a host=a.local port=1 ip=4", registry.Node{}, 0, `"a@b@c"`},
	{"+ node=b.c@x name=b.c host=a.local port=1 ip=4", registry.Node{}, 0, `"b.c@x"`},
	{"- node=a@x name=b host=a.local", registry.Node{}, 0, `name "b"`},
	{"- node=a@" + strings.Repeat("x", 254) + " name=a host=a.local", registry.Node{}, 0, "node name"},
	{"+ node=a@x name=a host=" + strings.Repeat("x", 64) + ".local port=1 ip=4", registry.Node{}, 0, "host name"},
}

func TestPeerNode(t *testing.T) {
	for _, tt := range peerNodeTests {
		l, err := ParseLine(tt.line)
		if err != nil {
			t.Fatal(err)
		}
		n, ips, err := PeerNode(l)
		if !reflect.DeepEqual(n, tt.want) || ips != tt.ips || !names(err, tt.err) {
			t.Errorf("%q:\ngot  %+v, %q, %v\nwant %+v, %q, error naming %q", tt.line, n, ips, err, tt.want, tt.ips, tt.err)
		}
	}
}

func FuzzPeerNode(f *testing.F) {
	for _, tt := range peerNodeTests {
		f.Add(tt.line)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLine(s)
		if err != nil {
			return
		}
		n, ips, err := PeerNode(l)
		if err != nil {
			if !reflect.DeepEqual(n, registry.Node{}) || ips != 0 {
				t.Errorf("%q: got %+v, %v with %v", s, n, ips, err)
			}
			return
		}
		if !registry.ValidNode(n.Node) || !registry.ValidHost(n.Host) || !strings.HasPrefix(n.Node, n.Name+"@") || n.Origin != registry.LAN {
			t.Errorf("%q: got %+v", s, n)
		}
		if l.Kind == NodeGone {
			return
		}
		// A node of that kind, told to others, is the same.
		local := n
		local.Origin, local.Listens = registry.Local, everyIP
		link := map[IPs][]netip.Addr{IP4: everyIP[:1], IP6: everyIP[1:], IP4 | IP6: everyIP}[ips]
		line := appendPeerNode(nil, &local, link)
		if len(line) > MaxPeerLine {
			t.Errorf("%q: line of %d bytes", s, len(line))
		}
		again, err := ParseLine(string(line))
		if err != nil {
			t.Fatalf("%q: %q: %v", s, line, err)
		}
		if n.High == 0 { // then nothing is said of these
			n.Low, n.Protocol = 0, 0
		}
		if got, gotIPs, err := PeerNode(again); err != nil || !reflect.DeepEqual(got, n) || gotIPs != ips {
			t.Errorf("%q: told as %q, read as %+v, %v, %v; want %+v, %v", s, line, got, gotIPs, err, n, ips)
		}
	})
}

// loLink has one interface with all loopback addresses.
func loLink(netip.Addr) (string, []netip.Addr) {
	return "lo", []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
}

// register enters a node that listens at these addresses.
func (s *testServer) register(name string, listens ...netip.Addr) *registry.Registration {
	s.tb.Helper()
	reg, err := s.reg.Register(registry.Node{Name: name, Port: 41233, Type: registry.Normal, High: 6, Low: 5})
	if err != nil {
		s.tb.Fatal(err)
	}
	if listens != nil {
		s.reg.SetListens(s.reg.Node(reg), listens)
	}
	return reg
}

// watchPeer watches the server as another host's epmd.
func (s *testServer) watchPeer() *PeerStream {
	s.tb.Helper()
	p, err := s.client.WatchPeer(wait.Soon(s.tb), testHello, KeepAlive{})
	if err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(func() { p.Close() })
	p.conn.SetReadDeadline(time.Now().Add(wait.Patience))
	return p
}

// wantLine reads a line of a stream.
func wantLine(t *testing.T, p *PeerStream, want string) {
	t.Helper()
	l, err := p.Next()
	if got := strings.TrimSuffix(string(l.Append(nil)), "\n"); err != nil || got != want {
		t.Fatalf("got  %q, %v\nwant %q", got, err, want)
	}
}

const (
	plusA  = "+ node=a@test.local name=a host=test.local port=41233 type=normal sure=no high=6 low=5 proto=0 ip=46"
	minusA = "- node=a@test.local name=a host=test.local"
)

// TestPeerBytes reads what peers read, byte for byte.
func TestPeerBytes(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{LinkOf: loLink, Hello: func() PeerHello { return PeerHello{Version: "1.3 beta", ID: testID} }})
	s.register("a", everyIP...)
	s.register("unknown")
	s.register("closed", []netip.Addr{}...)
	s.register("Björn", everyIP...)
	s.register("elsewhere", netip.MustParseAddr("192.0.2.1"))
	six := s.register("six", netip.IPv6Loopback())
	wait.Must(t, s.reg.Identify(s.reg.Node(six), registry.Identity{Node: "six@example.com", Dist: registry.TLS, Hidden: true}))
	loop := s.register("loop", everyIP...)
	wait.Must(t, s.reg.Identify(s.reg.Node(loop), registry.Identity{Node: "loop@localhost"}))
	wait.Must(t, s.reg.SetNeighbour(lanNode))
	p := dial(t, s.addr)
	p.ask(WatchReq{&testHello})
	want := "\x00\x00\x11\x11* eclus=1.3%20beta id=" + testIDHex + " host=test.local\n" +
		plusA + "\n" +
		"+ node=six@example.com name=six host=test.local port=41233 type=hidden dist=tls high=6 low=5 proto=0 ip=6\n" +
		"= nodes=2\n"
	if got := string(p.read(len(want))); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	s.reg.Unregister(six)
	want = "- node=six@example.com name=six host=test.local\n"
	if got := string(p.read(len(want))); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	p.wantOpen()
	p.send([]byte{0}) // a peer has nothing more to say
	p.wantAll("")
}

// TestPeerWithoutID gets its nodes without an id if the server has none.
func TestPeerWithoutID(t *testing.T) {
	s := serve(t, Config{LinkOf: loLink, Port: 14399})
	p := s.watchPeer()
	if want := (PeerHello{Host: "test.local", Port: 14399}); p.Hello != want {
		t.Errorf("got %+v, want %+v", p.Hello, want)
	}
	if p.Addr != s.addr || p.Local != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("addresses %v and %v", p.Addr, p.Local)
	}
	wantLine(t, p, "= nodes=0")
}

// TestPeerChanges follows a node from its registration on.
func TestPeerChanges(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{LinkOf: loLink})
	p := s.watchPeer()
	wantLine(t, p, "= nodes=0")
	a := s.register("a")
	s.reg.SetHolder(s.reg.Node(a), &registry.Holder{PID: 1}) // is nobody else's business
	s.reg.SetListens(s.reg.Node(a), everyIP)
	wantLine(t, p, plusA)
	s.reg.SetHolder(s.reg.Node(a), &registry.Holder{PID: 2})
	s.reg.SetMute(s.reg.Node(a))
	wait.Must(t, s.reg.Identify(s.reg.Node(a), registry.Identity{Node: "a@x.example", Dist: registry.TCP}))
	wantLine(t, p, "+ node=a@x.example name=a host=test.local port=41233 type=normal dist=tcp high=6 low=5 proto=0 ip=46")
	wait.Must(t, s.reg.Identify(s.reg.Node(a), registry.Identity{Node: "a@localhost", Dist: registry.TCP}))
	wantLine(t, p, "- node=a@x.example name=a host=test.local")
	wait.Must(t, s.reg.Identify(s.reg.Node(a), registry.Identity{Node: "a@x.example", Dist: registry.TCP}))
	wantLine(t, p, "+ node=a@x.example name=a host=test.local port=41233 type=normal dist=tcp high=6 low=5 proto=0 ip=46")
	s.reg.SetListens(s.reg.Node(a), []netip.Addr{netip.MustParseAddr("192.0.2.1")})
	wantLine(t, p, "- node=a@x.example name=a host=test.local")
	s.reg.SetListens(s.reg.Node(a), everyIP[:1])
	wantLine(t, p, "+ node=a@x.example name=a host=test.local port=41233 type=normal dist=tcp high=6 low=5 proto=0 ip=4")
	s.reg.Unregister(a)
	wantLine(t, p, "- node=a@x.example name=a host=test.local")
	a = s.register("a")
	s.reg.Unregister(a) // nobody has heard of it
	s.register("a", everyIP...)
	wantLine(t, p, plusA)
}

// TestPeerRename gives the host another name during a stream.
func TestPeerRename(t *testing.T) {
	s := serve(t, Config{LinkOf: loLink, Hello: func() PeerHello { return PeerHello{Version: "1", ID: testID} }})
	s.register("a", everyIP...)
	p := s.watchPeer()
	wantLine(t, p, plusA)
	wantLine(t, p, "= nodes=1")
	s.reg.SetHost("test-2.local")
	wantLine(t, p, minusA)
	wantLine(t, p, "* eclus=1 id="+testIDHex+" host=test-2.local")
	if p.Hello.Host != "test-2.local" || p.Hello.Port != DefaultPort {
		t.Errorf("hello is %+v", p.Hello)
	}
	wantLine(t, p, "+ node=a@test-2.local name=a host=test-2.local port=41233 type=normal sure=no high=6 low=5 proto=0 ip=46")
	again := s.watchPeer()
	wantLine(t, again, "+ node=a@test-2.local name=a host=test-2.local port=41233 type=normal sure=no high=6 low=5 proto=0 ip=46")
	wantLine(t, again, "= nodes=1")
}

// TestPeerLinks tells peers what they can reach on their link, while addresses come and go.
func TestPeerLinks(t *testing.T) {
	checkLeaks(t)
	var mu sync.Mutex
	addrs := map[string][]netip.Addr{
		"eth0": {netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("fe80::1")},
		"eth1": {netip.MustParseAddr("203.0.113.1")},
	}
	owner := map[string]string{"127.0.0.2": "eth0", "127.0.0.3": "eth1"}
	s := serveAt(t, Config{LinkOf: func(local netip.Addr) (string, []netip.Addr) {
		mu.Lock()
		defer mu.Unlock()
		link := owner[local.String()]
		return link, addrs[link]
	}}, "0.0.0.0:0")
	watch := func(local string) *PeerStream {
		s.client = NewClient(netip.AddrPortFrom(netip.MustParseAddr(local), s.addr.Port()))
		return s.watchPeer()
	}
	a := s.register("a", netip.MustParseAddr("203.0.113.1"), netip.IPv6Unspecified())
	zero, one, none := watch("127.0.0.2"), watch("127.0.0.3"), watch("127.0.0.4")
	wantLine(t, zero, strings.Replace(plusA, "ip=46", "ip=6", 1))
	wantLine(t, zero, "= nodes=1")
	wantLine(t, one, strings.Replace(plusA, "ip=46", "ip=4", 1))
	wantLine(t, one, "= nodes=1")
	wantLine(t, none, "= nodes=0")

	mu.Lock()
	addrs["eth0"] = []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("203.0.113.1")}
	mu.Unlock()
	s.LinksChanged()
	wantLine(t, zero, strings.Replace(plusA, "ip=46", "ip=4", 1))
	mu.Lock()
	addrs["eth0"] = addrs["eth0"][:1]
	mu.Unlock()
	s.register("b", everyIP...) // then the link is looked at as well
	wantLine(t, zero, minusA)
	plusB := strings.Replace(strings.ReplaceAll(plusA, "=a", "=b"), "ip=46", "ip=4", 1)
	wantLine(t, zero, plusB)
	wantLine(t, one, plusB)
	wantLine(t, none, plusB)

	mu.Lock()
	owner["127.0.0.2"] = "" // unplugged: its nodes stay as they were
	owner["127.0.0.3"] = "eth0"
	mu.Unlock()
	s.LinksChanged()
	if _, err := one.Next(); err != io.EOF {
		t.Errorf("the address has moved to another link: %v; want the end", err)
	}
	s.reg.Unregister(a)
	s.register("a", everyIP...)
	wantLine(t, zero, strings.Replace(plusA, "ip=46", "ip=4", 1))
	again := snapshotOf(t, watch("127.0.0.3"))
	want := map[string]string{"a": strings.Replace(plusA, "ip=46", "ip=4", 1) + "\n", "b": plusB + "\n"}
	if !maps.Equal(again, want) {
		t.Errorf("snapshot %q; want %q", again, want)
	}
}

// TestPeerLinkLeft takes from a link the address of its only stream, at which a node listens. The
// peer comes back at another address before it has closed that stream.
func TestPeerLinkLeft(t *testing.T) {
	checkLeaks(t)
	var mu sync.Mutex
	addrs := []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")}
	s := serveAt(t, Config{LinkOf: func(local netip.Addr) (string, []netip.Addr) {
		mu.Lock()
		defer mu.Unlock()
		if !slices.Contains(addrs, local) {
			return "", nil
		}
		return "eth0", addrs
	}}, "0.0.0.0:0")
	watch := func(local string) *PeerStream {
		s.client = NewClient(netip.AddrPortFrom(netip.MustParseAddr(local), s.addr.Port()))
		return s.watchPeer()
	}
	s.register("a", addrs[0])
	s.register("b", everyIP...)
	if nodes := snapshotOf(t, watch("127.0.0.2")); len(nodes) != 2 {
		t.Errorf("snapshot %q; want both nodes", nodes)
	}
	mu.Lock()
	addrs = addrs[1:]
	mu.Unlock()
	s.LinksChanged()
	p := watch("127.0.0.3")
	for nodes := snapshotOf(t, p); nodes["a"] != ""; delete(nodes, "a") {
		wantLine(t, p, minusA)
	}
	s.register("c", everyIP...)
	wantLine(t, p, strings.Replace(strings.ReplaceAll(plusA, "=a", "=c"), "ip=46", "ip=4", 1))
}

// drawn returns how often the snapshot of a link was rendered.
func (s *testServer) drawn(link string) int {
	s.feeds.mu.Lock()
	defer s.feeds.mu.Unlock()
	if f := s.feeds.byLink[link]; f != nil {
		return f.drawn
	}
	return 0
}

// TestPeerShares has many streams of a link share one rendering.
func TestPeerShares(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{LinkOf: loLink})
	const nodes, streams = 500, 100
	for i := range nodes {
		s.register(fmt.Sprint("n", i), everyIP...)
	}
	var peers []*PeerStream
	for i := range streams {
		peers = append(peers, s.watchFrom(i))
	}
	for _, p := range peers {
		if got := snapshotOf(t, p); len(got) != nodes {
			t.Fatalf("%d nodes; want %d", len(got), nodes)
		}
	}
	if got := s.drawn("lo"); got != 1 {
		t.Errorf("%d renderings of a snapshot for %d streams; want 1", got, streams)
	}
	s.register("a", everyIP...)
	for _, p := range peers {
		wantLine(t, p, plusA)
	}
	s.feeds.mu.Lock()
	last := s.feeds.byLink["lo"].last
	s.feeds.mu.Unlock()
	if want := plusA + "\n"; string(last.lines) != want {
		t.Errorf("the last chunk is %q; want %q", last.lines, want)
	}
}

// watchFrom watches the server from the n-th address.
func (s *testServer) watchFrom(n int) *PeerStream {
	s.tb.Helper()
	local := netip.AddrFrom4([4]byte{127, 1, byte(n >> 8), byte(n)})
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))}
	conn := dialWith(s.tb, s.addr, dialer)
	conn.ask(WatchReq{&testHello})
	p := newPeerStream(conn.TCPConn, s.addr)
	if err := p.begin(); err != nil {
		s.tb.Fatal(err)
	}
	return p
}

// TestPeerAwaitsLook has peers watch before it is known where a node listens, as after a restart.
// They are told of nothing until then. Nobody else waits, and the server's end does not either.
func TestPeerAwaitsLook(t *testing.T) {
	checkLeaks(t)
	for _, known := range []bool{true, false} {
		looked := make(chan struct{})
		s := serve(t, Config{Looked: looked, LinkOf: func(local netip.Addr) (string, []netip.Addr) {
			if !isClosed(looked) {
				t.Error("a stream has begun too early")
			}
			return loLink(local)
		}})
		a := s.register("a")
		p := dial(t, s.addr)
		p.ask(WatchReq{&testHello})
		s.stillAnswers()
		if known {
			s.reg.SetListens(s.reg.Node(a), everyIP)
			close(looked)
			if nodes := snapshotOf(t, s.watchPeer()); len(nodes) != 1 {
				t.Errorf("nodes %q, want one", nodes)
			}
		}
		s.cancel()
		wait.Must(t, s.wait())
		if got := string(p.all()); !known && got != "" {
			t.Errorf("got %q", got)
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// snapshotOf reads up to the end of the snapshot. It returns the lines by name.
func snapshotOf(t *testing.T, p *PeerStream) map[string]string {
	t.Helper()
	nodes := make(map[string]string)
	for {
		l, err := p.Next()
		if err != nil {
			t.Fatal(err)
		}
		switch name := l.Get("name"); l.Kind {
		case SnapshotEnd:
			return nodes
		case NodeGone:
			delete(nodes, name)
		default:
			nodes[name] = string(l.Append(nil))
		}
	}
}

package epmd

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/registry"

	"github.com/goerlang/eclus/test/need"

	"github.com/goerlang/eclus/test/wait"
)

// next returns the next line of an answer.
func next(t *testing.T, lines *Lines) Line {
	t.Helper()
	l, err := lines.Next()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestNoStreams tells subscribers of this host who gives no stream, before the end of the snapshot.
func TestNoStreams(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{})
	want := registry.NoStream{Host: "hostb.local", EPMD: netip.MustParseAddrPort("192.0.2.1:4369"), Why: "refused"}
	s.reg.SetNoStream("", want)
	lines, err := s.client.Watch(wait.Soon(t))
	wait.Must(t, err)
	defer lines.Close()
	if got, err := next(t, lines).NoStream(); got != want || err != nil {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if l := next(t, lines); l.Kind != SnapshotEnd || l.Get("nodes") != "0" {
		t.Errorf("then %+v", l)
	}
}

func TestNodes(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{Port: 14399})
	dial(t, s.addr).register("Björn", 6)
	if err := s.reg.SetNeighbour(lanNode); err != nil {
		t.Fatal(err)
	}
	lines, err := s.client.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	if lines.EPMDPort != 14399 {
		t.Errorf("port of the epmd %d", lines.EPMDPort)
	}
	local, err := next(t, lines).Node()
	want := registry.Node{
		Node: "Björn@test.local", Name: "Björn", Host: "test.local", Port: 41233, Type: registry.Normal,
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})},
		Creation:  s.reg.Lookup("Björn").Creation, Since: local.Since,
		High: 6, Low: 5, Reach: registry.Reachable, Why: registry.WhyName,
	}
	if err != nil || !reflect.DeepEqual(local, want) || time.Since(local.Since) > time.Hour {
		t.Errorf("local node %+v, %v; want %+v", local, err, want)
	}
	lan, err := next(t, lines).Node()
	wantLAN := lanNode
	wantLAN.Since, wantLAN.Reach = lan.Since, registry.Unchecked
	if err != nil || !reflect.DeepEqual(lan, wantLAN) {
		t.Errorf("neighbour %+v, %v; want %+v", lan, err, wantLAN)
	}
	if l, err := lines.Next(); err != io.EOF {
		t.Errorf("after the last node: %+v, %v; want the end", l, err)
	}
}

// TestNodesBytes reads what a program reads that has no library.
func TestNodesBytes(t *testing.T) {
	s := serve(t, Config{})
	gone := lanNode
	gone.Node, gone.Name, gone.Addresses = "b@hosta.local", "b", nil
	if err := s.reg.SetNeighbour(gone); err != nil {
		t.Fatal(err)
	}
	p := dial(t, s.addr)
	p.ask(NodesReq{})
	if err := p.CloseWrite(); err != nil { // as nc -N does
		t.Fatal(err)
	}
	since := neighbours(s.reg)[0].Since.UTC().Format(time.RFC3339)
	want := "\x00\x00\x11\x11+ node=b@hosta.local name=b host=hosta.local port=41237 type=normal origin=lan" +
		" creation=1795367590 dist=tls since=" + since + " high=6 low=5 proto=1 epmd=4370\n"
	if got := string(p.all()); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestFind asks for the nodes of one name.
func TestFind(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{})
	dial(t, s.addr).register("b", 6)
	dial(t, s.addr).register("c", 6)
	other := lanNode
	other.Name, other.Node = "b", "b@hosta.local"
	wait.Must(t, s.reg.SetNeighbour(other))
	other.Node, other.Host = "b@hostc.local", "hostc.local"
	wait.Must(t, s.reg.SetNeighbour(other))
	for name, want := range map[string]string{
		"b": "b@test.local b@hosta.local b@hostc.local", "b@hostc.local": "b@hostc.local", "b@test.local": "b@test.local",
		"b@hostb": "", "d": "", "b@": "", strings.Repeat("x", MaxRequest-1): "",
	} {
		if got := strings.Join(s.find(name), " "); got != want {
			t.Errorf("%.40q: found %q, want %q", name, got, want)
		}
	}
}

// TestFindMany asks for a name that very many nodes have.
func TestFindMany(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{})
	for _, many := range []int{maxFound, maxFound + 1, 4000} {
		for i := range many {
			n := lanNode
			n.EPMDPort, n.Rank = uint16(1+i), registry.Told
			wait.Must(t, s.reg.SetNeighbour(n))
		}
		if got := s.find(lanNode.Node); len(got) != many {
			t.Errorf("found %d nodes, want %d", len(got), many)
		}
	}
	wait.True(t, "nothing is left", func() bool { return s.streaming() == 0 })
}

// find returns the full names of the nodes that are found by a name.
func (s *testServer) find(name string) (nodes []string) {
	s.tb.Helper()
	lines, err := s.client.Find(s.tb.Context(), name)
	wait.Must(s.tb, err)
	defer lines.Close()
	for {
		l, err := lines.Next()
		if err == io.EOF {
			return nodes
		}
		wait.Must(s.tb, err)
		if l.Kind != NodeKnown {
			s.tb.Fatalf("line %+v", l)
		}
		nodes = append(nodes, l.Get("node"))
	}
}

func neighbours(r *registry.Registry) []*registry.Node {
	return r.Nodes()
}

// TestNodesSlow asks for very many nodes and reads them late.
func TestNodesSlow(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{})
	s.addNodes(5000, "x")
	p := dialSlow(t, s.addr)
	p.ask(NodesReq{})
	wait.True(t, "it is being answered", func() bool { return s.streaming() == 1 })
	for range 100 {
		s.stillAnswers()
	}
	if got := strings.Count(string(p.all()), "\n+ ") + 1; got != 5000 {
		t.Errorf("%d nodes; want 5000", got)
	}
	wait.True(t, "nothing is left", func() bool { return s.streaming() == 0 })
}

func TestWatch(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{})
	s.reg.SetLAN(registry.LANState{Publishing: registry.Discovery{Wanted: true, Off: "no bus"}})
	first := dial(t, s.addr)
	first.register("a", 6)
	lines, err := s.client.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	if l := next(t, lines); l.Kind != NodeKnown || l.Get("node") != "a@test.local" {
		t.Errorf("snapshot line %+v; want node a@test.local", l)
	}
	want := Line{SnapshotEnd, []Field{{"nodes", "1"}, {"lan", "off"}, {"reason", "no bus"}}}
	if l := next(t, lines); !reflect.DeepEqual(l, want) {
		t.Errorf("end of the snapshot %+v; want %+v", l, want)
	}

	dial(t, s.addr).register("b", 6)
	first.Close()
	wantLine := func(kind LineKind, node string) {
		t.Helper()
		if l := next(t, lines); l.Kind != kind || l.Get("node") != node {
			t.Errorf("got %c %s; want %c %s", l.Kind, l.Get("node"), kind, node)
		}
	}
	wantLine(NodeKnown, "b@test.local")
	wantLine(NodeGone, "a@test.local")
	if err := s.reg.Identify(s.reg.Lookup("b"), registry.Identity{Node: "b@real.example"}); err != nil {
		t.Fatal(err)
	}
	wantLine(NodeKnown, "b@real.example")
	for i := range 2000 { // all, and in order
		reg, err := s.reg.Register(registry.Node{Name: fmt.Sprint("n", i)})
		if err != nil {
			t.Fatal(err)
		}
		s.reg.Unregister(reg)
	}
	for i := range 2000 {
		wantLine(NodeKnown, fmt.Sprintf("n%d@test.local", i))
		wantLine(NodeGone, fmt.Sprintf("n%d@test.local", i))
	}
	if err := lines.Close(); err != nil {
		t.Error(err)
	}
	wait.True(t, "the subscription has ended", func() bool { return s.streaming() == 0 })
}

// TestWatchInPieces subscribes with a request that comes in two parts.
func TestWatchInPieces(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{})
	p := dial(t, s.addr)
	p.send([]byte{0})
	wait.True(t, "the first part has come", func() bool { return s.state().waiting == 1 })
	p.sendHex("01 57")
	if got, want := string(p.read(4+17)), "\x00\x00\x11\x11= nodes=0 lan=on\n"; got != want {
		t.Errorf("got %q; want %q", got, want)
	}
	if got := s.state(); got != (state{}) {
		t.Errorf("a subscriber is in the table: %+v", got)
	}
	p.send([]byte{0}) // a subscriber has nothing more to say
	p.wantAll("")
}

// TestStreamLimit subscribes as often as is allowed, and once more.
func TestStreamLimit(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{UserOf: manyUsers})
	peers := make([]*peer, maxStreams)
	for i := range peers {
		peers[i] = dial(t, s.addr)
		peers[i].ask(WatchReq{})
		peers[i].read(4)
	}
	more := dial(t, s.addr)
	more.ask(WatchReq{})
	more.wantAll("")
	nodes := dial(t, s.addr)
	nodes.ask(NodesReq{})
	nodes.wantAll("00001111")
	peers[0].reset()
	wait.True(t, "a subscriber has gone", func() bool { return s.streaming() == maxStreams-1 })
	again := dial(t, s.addr)
	again.ask(WatchReq{})
	again.read(4)
}

// TestSubscriberCutOff has a subscriber that reads nothing while much happens.
func TestSubscriberCutOff(t *testing.T) {
	need.Time(t)
	t.Parallel() // it takes as long as the time limit of a subscriber
	s := serve(t, Config{})
	p := dialSlow(t, s.addr)
	p.ask(WatchReq{})
	wait.True(t, "it has subscribed", func() bool { return s.streaming() == 1 })
	for range 32768 { // twice as many changes, with long lines
		reg, err := s.reg.Register(registry.Node{Name: strings.Repeat("x", 255)})
		if err != nil {
			t.Fatal(err)
		}
		s.reg.Unregister(reg)
	}
	wait.True(t, "it has been cut off", func() bool {
		s.stillAnswers()
		return s.streaming() == 0
	})
	if _, err := io.Copy(io.Discard, p); err != nil && !isReset(err) {
		t.Errorf("the subscriber's connection: %v; want it closed", err)
	}
}

// TestLinesErrors answers a Client as no epmd does.
func TestLinesErrors(t *testing.T) {
	for _, tt := range []struct{ answer, err string }{
		{"", "without an answer"},
		{"\x00\x00", "without an answer"},
		{"\x00\x00\x11\x11+node=a\n", `line "+node=a"`},
		{"\x00\x00\x11\x11" + strings.Repeat("x", 1<<17), "too long"},
	} {
		lines, err := fakeEPMD(t, tt.answer).Watch(t.Context())
		if err == nil {
			_, err = lines.Next()
			lines.Close()
		}
		if !names(err, tt.err) || tt.answer == "" && !errors.Is(err, ErrNoAnswer) {
			t.Errorf("%.20q: %v; want an error naming %q", tt.answer, err, tt.err)
		}
	}
}

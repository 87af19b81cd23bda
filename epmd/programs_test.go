package epmd

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/goerlang/eclus/registry"

	"github.com/goerlang/eclus/test/wait"
)

// worstName is a name none of whose characters can be printed.
var worstName = strings.Repeat("\U000E0001", 250)

// TestProgramsShare has as many programs watch as may. What they are told is rendered once.
func TestProgramsShare(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{UserOf: manyUsers})
	s.addNodes(1000, "n")
	var streams []*Lines
	for range maxStreams {
		lines, err := s.client.Watch(t.Context())
		wait.Must(t, err)
		defer lines.Close()
		streams = append(streams, lines)
	}
	for _, lines := range streams {
		for range 1000 {
			if l := next(t, lines); l.Kind != NodeKnown {
				t.Fatalf("got %+v", l)
			}
		}
		if l := next(t, lines); l.Kind != SnapshotEnd || l.Get("nodes") != "1000" {
			t.Fatalf("got %+v", l)
		}
	}
	if got := s.drawn(programs); got != 1 {
		t.Errorf("%d snapshots for %d streams; want 1", got, maxStreams)
	}
	s.addNodes(1, "new")
	for _, lines := range streams {
		if l := next(t, lines); l.Get("name") != "new0" {
			t.Fatalf("got %+v", l)
		}
	}
	s.feeds.mu.Lock()
	defer s.feeds.mu.Unlock()
	if last := s.feeds.byLink[programs].last; strings.Count(string(last.lines), "\n") != 1 || last.end.events != 1001 {
		t.Errorf("the last chunk ends at %+v: %q", last.end, last.lines)
	}
}

// TestNodesAtOnce asks for all nodes while they come and go. The answer has each once, as at one
// time, and nothing of what happens meanwhile.
func TestNodesAtOnce(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{})
	s.addNodes(500, "n")
	watcher, err := s.client.Watch(t.Context())
	wait.Must(t, err)
	defer watcher.Close()
	for i := range 50 {
		name := fmt.Sprint("churn", i)
		dial(t, s.addr).register(name, 6)
		s.reg.Unregister(s.register("gone"))
		lines, err := s.client.Nodes(t.Context())
		wait.Must(t, err)
		var last Line
		count := 0
		for l, err := lines.Next(); err != io.EOF; l, err = lines.Next() {
			wait.Must(t, err)
			if l.Kind != NodeKnown {
				t.Fatalf("got %+v", l)
			}
			last = l
			count++
		}
		lines.Close()
		if want := 501 + i; count != want || last.Get("name") != name {
			t.Fatalf("%d nodes, the last is %q; want %d and %q", count, last.Get("name"), want, name)
		}
	}
}

// TestWatchHalf closes its half behind the request, as nc -N does. It is told what there is.
func TestWatchHalf(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{})
	s.addNodes(5000, "n")
	p := dialSlow(t, s.addr)
	p.sendEnd(unhex(t, "0001 57"))
	if got := string(p.all()); !strings.HasSuffix(got, "\n= nodes=5000 lan=on\n") {
		t.Errorf("got %d bytes, which end in %q", len(got), got[max(0, len(got)-100):])
	}
}

// TestBehindInBytes has a subscriber that reads nothing of few, but very long lines. It is cut off
// before they take too much memory. Another reads all.
func TestBehindInBytes(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{})
	slow := dialSlow(t, s.addr)
	slow.ask(WatchReq{})
	slow.read(4)
	lines, err := s.client.Watch(t.Context())
	wait.Must(t, err)
	defer lines.Close()
	next(t, lines)
	length := len(appendNode(nil, NodeKnown, &registry.Node{Name: worstName, Node: worstName}))
	events := 0
	for ; events*length < 2*maxBehindBytes && s.streaming() == 2; events += 2 {
		s.reg.Unregister(s.register(worstName))
		if l := next(t, lines); l.Kind != NodeKnown || l.Get("name") != worstName {
			t.Fatalf("got %+v", l)
		}
		if l := next(t, lines); l.Kind != NodeGone {
			t.Fatalf("got %+v", l)
		}
	}
	if events >= maxBehind {
		t.Fatalf("%d events", events)
	}
	wait.True(t, "it has been cut off", func() bool { return s.streaming() == 1 })
	if _, err := io.Copy(io.Discard, slow); err != nil && !isReset(err) {
		t.Errorf("the slow one's connection: %v; want it closed", err)
	}
}

// TestEscapes encodes every byte and some characters as fmt would.
func TestEscapes(t *testing.T) {
	for c := range 256 {
		want := fmt.Sprintf(" k=%%%02X", c)
		if c > ' ' && c < 0x7f && c != '%' {
			want = " k=" + string(rune(c))
		}
		if got := string(appendField(nil, "k", string([]byte{byte(c)}))); got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
	if got, want := string(appendField(nil, "k", "ö😀\u00a0\uffff\u202e")), " k=ö😀%C2%A0%EF%BF%BF%E2%80%AE"; got != want {
		t.Errorf("got %q; want %q", got, want)
	}
}

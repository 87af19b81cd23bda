package systemd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/registry"
)

// names tells whether an error says that; none does if s is empty.
func names(err error, s string) bool {
	if s == "" {
		return err == nil
	}
	return err != nil && strings.Contains(err.Error(), s)
}

// stateBytes returns a state with such lines, which begin where a new state's do.
func stateBytes(lines ...string) []byte {
	b := binary.BigEndian.AppendUint64([]byte(stateMagic), uint64(stateHeader))
	return append(b, strings.Join(lines, "")...)
}

// Lines of states as they are written.
const (
	lineA     = `{"id":1,"name":"a","port":41233,"type":77,"high":6,"low":5,"creation":9,"counter":9,"fd":11}` + "\n"
	lineB     = `{"id":2,"name":"b","port":41234,"type":77,"high":5,"low":5,"creation":2,"counter":7,"fd":12}` + "\n"
	lineAGone = `{"id":1,"name":"a","port":41233,"creation":9,"counter":9,"fd":11,"gone":true}` + "\n"
	lineLast  = `{"id":77,"name":"","port":0,"counter":0,"fd":0,"gone":true}` + "\n"
	linePeer  = `{"id":77,"name":"","port":0,"counter":0,"fd":0,"gone":true,"peer_id":"000102030405060708090a0b0c0d0e0f"}` + "\n"
	linePeers = `{"id":77,"name":"","port":0,"counter":0,"fd":0,"gone":true,"peer_id":"0001"}` + "\n"
	lineOld   = `{"name":"old","port":5,"counter":4,"fd":6,"gone":true}` + "\n"
)

var (
	recordA = record{ID: 1, Name: "a", Port: 41233, Type: registry.Normal, High: 6, Low: 5, Creation: 9, Counter: 9, FD: 11}
	recordB = record{ID: 2, Name: "b", Port: 41234, Type: registry.Normal, High: 5, Low: 5, Creation: 2, Counter: 7, FD: 12}
	oldA    = registry.Old{Name: "a", Port: 41233, FD: 11, Counter: 9}
	peerID  = [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	old     = registry.Old{Name: "old", Port: 5, FD: 6, Counter: 4}
)

var stateTests = []struct {
	name  string
	state []byte
	want  past
	err   string // what the message must name; empty: must be read to the end
}{
	{"no records", stateBytes(), past{}, ""},
	{"nodes", stateBytes(lineA, lineB), past{nodes: []record{recordA, recordB}, lastID: 2}, ""},
	{"last ID", stateBytes(lineLast, lineA), past{nodes: []record{recordA}, lastID: 77}, ""},
	{"id of the epmd", stateBytes(linePeer, lineA), past{nodes: []record{recordA}, lastID: 77, peerID: peerID}, ""},
	{"half an id", stateBytes(linePeers, lineA), past{nodes: []record{recordA}, lastID: 77}, ""},
	{"old names", stateBytes(lineLast, lineOld, lineB), past{nodes: []record{recordB}, old: []registry.Old{old}, lastID: 77}, ""},
	{"gone", stateBytes(lineOld, lineA, lineB, lineAGone),
		past{nodes: []record{recordB}, old: []registry.Old{old, oldA}, lastID: 2}, ""},
	{"gone, its beginning lost", stateBytes(lineAGone), past{old: []registry.Old{oldA}, lastID: 1}, ""},
	{"told again", stateBytes(`{"id":1,"name":"a"}`+"\n", lineB, lineA), past{nodes: []record{recordA, recordB}, lastID: 2}, ""},
	{"of a later epmd", stateBytes(strings.Replace(lineA, "{", `{"colour":["blue",{}],`, 1)),
		past{nodes: []record{recordA}, lastID: 1}, ""},
	{"torn line", stateBytes(lineA, lineB[:len(lineB)-1]), past{nodes: []record{recordA}, lastID: 1}, ""},
	{"torn line of one that goes", stateBytes(lineA, lineAGone[:20]), past{nodes: []record{recordA}, lastID: 1}, ""},
	{"garbage line", stateBytes(lineA, "\x00\xff garbage\n", lineB),
		past{nodes: []record{recordA}, lastID: 1}, `line "\x00\xff garbage\n"`},
	{"garbage after one that went", stateBytes(lineA, lineAGone, "[]\n"), past{nodes: []record{}, old: []registry.Old{oldA}, lastID: 1},
		`line "[]\n"`},
	{"port out of range", stateBytes(lineA, `{"id":2,"port":65536}`+"\n"), past{nodes: []record{recordA}, lastID: 1}, "65536"},
	{"nothing", nil, past{}, "state begins with"},
	{"half a header", stateBytes()[:12], past{}, `state begins with "eclus 1\n`},
	{"other file", []byte("#!/bin/sh\nexit 1\n"), past{}, `state begins with "#!/bin/sh\n`},
	{"begins beyond the end", []byte(stateMagic + "\x7f\xff\xff\xff\xff\xff\xff\xff"), past{}, ""},
	{"begins before the beginning", []byte(stateMagic + "\xff\xff\xff\xff\xff\xff\xff\xff" + lineA), past{}, ""},
}

func TestReadState(t *testing.T) {
	for _, tt := range stateTests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readState(bytes.NewReader(tt.state))
			if len(got.nodes) == 0 && len(tt.want.nodes) == 0 {
				got.nodes = tt.want.nodes
			}
			if !reflect.DeepEqual(got, tt.want) || !names(err, tt.err) {
				t.Errorf("got %+v, %v\nwant %+v, error naming %q", got, err, tt.want, tt.err)
			}
		})
	}
}

// FuzzReadState reads anything. What was read can be written, and is the same when it is read
// again.
func FuzzReadState(f *testing.F) {
	for _, tt := range stateTests {
		f.Add(tt.state)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, _ := readState(bytes.NewReader(b))
		if got := len(p.nodes) + len(p.old); got > len(b) {
			t.Fatalf("%d records of %d bytes", got, len(b))
		}
		reg := registry.New("hosta.local", registry.OldNames)
		enter(reg, p)
		s, err := newState(reg, unkept)
		if err != nil {
			t.Fatal(err)
		}
		defer s.file.Close()
		again, err := readState(s.file)
		if err != nil {
			t.Fatalf("%q: written anew: %v", b, err)
		}
		reg2 := registry.New("hosta.local", registry.OldNames)
		enter(reg2, again)
		if got, want := describe(reg2), describe(reg); got != want {
			t.Errorf("%q: got %s\nwant %s", b, got, want)
		}
	})
}

// enter restores a registry as a new epmd does, nodes of one name but for the first left out.
func enter(reg *registry.Registry, p past) {
	reg.SkipIDs(p.lastID)
	if p.peerID != [16]byte{} {
		reg.SetPeerID(p.peerID)
	}
	for _, o := range p.old {
		reg.RestoreOld(o)
	}
	for _, r := range p.nodes {
		_, _ = reg.Restore(r.node(int(r.FD))) // a name that is taken
	}
}

// describe returns all that a state keeps of a registry.
func describe(reg *registry.Registry) string {
	var b strings.Builder
	fmt.Fprintf(&b, "peer ID %x, last ID %d, old %+v", reg.PeerID(), reg.LastID(), reg.Old())
	for _, n := range slices.Backward(reg.Local()) {
		m := *n
		m.Since, m.Host = time.Time{}, ""
		if !m.Sure {
			m.Node = ""
		}
		fmt.Fprintf(&b, "\n%+v since %d", m, n.Since.UnixNano())
	}
	return b.String()
}

// fullRegistry has nodes of every kind, and a name that has gone.
func fullRegistry(t *testing.T) *registry.Registry {
	t.Helper()
	reg := registry.New("hosta.local", registry.OldNames)
	var regs []*registry.Registration
	for i, n := range []registry.Node{
		{Name: "gone", Port: 1, Type: registry.Normal, High: 6, FD: 10},
		{Name: "plain", Port: 41233, Type: registry.Normal, High: 6, Low: 5},
		{Name: "old", Port: 2, Type: registry.Hidden, Protocol: 1, High: 5, Low: 4, Extra: "\x00\xff\n\"<"},
		{Name: "Björn \u2028\n\"", Port: 65535, Type: 99, High: 6,
			Addresses: []netip.Addr{netip.MustParseAddr("fe80::1%eth0")}, PeerPort: 65535},
		{Name: "hidden", Type: registry.Normal, High: 6, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, PeerPort: 7},
		{Name: "sure", Type: registry.Hidden, High: 6},
	} {
		n.FD = int32(10 + i)
		r, err := reg.Register(n)
		if err != nil {
			t.Fatal(err)
		}
		regs = append(regs, r)
	}
	reg.Unregister(regs[0])
	hidden := registry.Identity{Node: "hidden@hosta.example", Dist: registry.TLS, Hidden: true, Creation: 12}
	sure := registry.Identity{Node: "sure@10.1.1.1", Dist: registry.TCP}
	for i, id := range map[int]registry.Identity{4: hidden, 5: sure} {
		if err := reg.Identify(reg.Node(regs[i]), id); err != nil {
			t.Fatal(err)
		}
	}
	return reg
}

// TestStateRoundTrip writes all that there is of nodes and reads it back.
func TestStateRoundTrip(t *testing.T) {
	reg := fullRegistry(t)
	s, err := newState(reg, unkept)
	if err != nil {
		t.Fatal(err)
	}
	defer s.file.Close()
	p, err := readState(s.file)
	if err != nil {
		t.Fatal(err)
	}
	restored := registry.New("hosta.local", registry.OldNames)
	enter(restored, p)
	if got, want := describe(restored), describe(reg); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestNodeRecord sees to it that a field that the registry gets is not forgotten here: all but
// those that are found out anew are kept.
func TestNodeRecord(t *testing.T) {
	n := registry.Node{
		ID: 3, Node: "a@h", Name: "a", Extra: "x", Dist: registry.TLS, Addresses: []netip.Addr{netip.IPv6Loopback()},
		Since: time.Unix(1, 5).UTC(), Creation: 6, Counter: 5, FD: 7, Port: 8, PeerPort: 9, High: 6, Low: 5,
		Type: registry.Hidden, Told: registry.Normal, Protocol: 1, Sure: true, Mute: true,
	}
	anew := []string{"Claims", "Host", "Holder", "Listens", "Why", "Origin", "EPMDPort", "Reach", "Via", "Rank", "Named"}
	for i, v := 0, reflect.ValueOf(n); i < v.NumField(); i++ {
		if name := v.Type().Field(i).Name; v.Field(i).IsZero() != slices.Contains(anew, name) {
			t.Errorf("field %s is set: %t", name, !v.Field(i).IsZero())
		}
	}
	if got := recordOf(&n, false).node(7); !reflect.DeepEqual(got, n) {
		t.Errorf("got  %+v\nwant %+v", got, n)
	}
	want := registry.Old{Name: "a", Port: 8, FD: 7, Counter: 5}
	if got := recordOf(&n, true); got.old() != want || !got.Gone {
		t.Errorf("got %+v, gone: %t; want %+v", got.old(), got.Gone, want)
	}
}

// blocks returns how many bytes of memory a file takes.
func blocks(t *testing.T, f *os.File) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := control(f, func(fd int) error { return unix.Fstat(fd, &st) }); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// TestStateRenewed records so much that the state is written anew again and again. It remains the
// same file, takes little memory, and whoever reads it at any moment finds all.
func TestStateRenewed(t *testing.T) {
	startManager(t)
	s := openStore(t, Inherited{})
	r, err := s.reg.Register(registry.Node{Name: "a", Port: 1, High: 6, Extra: strings.Repeat("x", 1000)})
	if err != nil {
		t.Fatal(err)
	}
	file, n := s.state.file, s.reg.Node(r)
	was := inode(t, int(file.Fd()))
	for i := range 5000 {
		s.Update(n)
		if i%250 != 0 {
			continue
		}
		if used := blocks(t, file); used > minFull+minFull/4 {
			t.Fatalf("%d bytes are used after %d changes", used, i)
		}
		if p, err := readState(file); err != nil || len(p.nodes) != 1 || p.nodes[0].Name != "a" || p.lastID != 1 {
			t.Fatalf("after %d changes: %d nodes, %v; want a", i, len(p.nodes), err)
		}
	}
	if s.state.size < 3*minFull {
		t.Errorf("only %d bytes were written", s.state.size)
	}
	if s.state.file != file || inode(t, int(file.Fd())) != was {
		t.Error("it is another file")
	}
}

// TestContinueState takes over a state that its writer left in the middle of a line.
func TestContinueState(t *testing.T) {
	reg := fullRegistry(t)
	s, err := newState(reg, unkept)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.write([]byte(lineA[:30])); err != nil {
		t.Fatal(err)
	}
	size := s.size
	restored := registry.New("hosta.local", registry.OldNames)
	p, err := readState(s.file)
	if err != nil {
		t.Fatal(err)
	}
	enter(restored, p)
	continued, err := continueState(s.file, restored, unkept)
	if err != nil {
		t.Fatal(err)
	}
	defer continued.file.Close()
	if continued.file != s.file || continued.size <= size {
		t.Errorf("continued at %d, not behind %d", continued.size, size)
	}
	if err := continued.append(record{ID: 99, Name: "new", Counter: 4}); err != nil {
		t.Fatal(err)
	}
	again := registry.New("hosta.local", registry.OldNames)
	if p, err = readState(continued.file); err != nil || p.lastID != 99 {
		t.Fatalf("last ID %d, %v; want 99", p.lastID, err)
	}
	p.nodes, p.lastID = p.nodes[:len(p.nodes)-1], reg.LastID()
	enter(again, p)
	if got, want := describe(again), describe(reg); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if _, err := continueState(continued.file, again, unkept); err != nil {
		t.Error(err)
	}
	if _, err := continueState(os.NewFile(^uintptr(0), "none"), again, unkept); err == nil {
		t.Error("no file: want an error")
	}
}

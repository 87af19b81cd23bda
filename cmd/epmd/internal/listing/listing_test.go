package listing

import (
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/screen"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
)

// known is a network of three nodes, one of which has a hostile name.
func known() *knownNodes {
	k := &knownNodes{epmdPort: 4369, nodes: make(map[nodeKey]registry.Node)}
	since := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, n := range []registry.Node{
		{Node: "b@hostb.local", Name: "b", Host: "hostb.local", Port: 41237, Origin: registry.LAN, Type: registry.Hidden,
			Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.12"), netip.MustParseAddr("fe80::1")}, Since: since, Sure: true,
			High: 6, Low: 5, EPMDPort: 4369, Reach: registry.Unreachable},
		{Node: "å\x1b[31m\U000e0001@hosta.local", Name: "å\x1b[31m\U000e0001", Host: "hosta.local", Port: 5, Type: registry.Normal,
			Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Since: since, Creation: 7,
			High: 6, Protocol: 1, Reach: registry.Reachable, Why: registry.WhyName},
		{Node: "c@hostc.local", Name: "c", Host: "hostc.local", Port: 65535, Origin: registry.LAN, Since: since, Sure: true},
	} {
		k.nodes[keyOf(n)] = n
	}
	return k
}

const wantTable = `epmd on port 4369: 3 nodes, 2 on the LAN
LAN discovery off: avahi-daemon is not running

NODE                   ADDRESS        PORT   TYPE    ORIGIN  REACHABLE  SINCE
å?[31m?@hosta.local ?  127.0.0.1      5      normal  local   name       2026-03-01 12:00:00
b@hostb.local          198.51.100.12  41237  hidden  lan     no         2026-03-01 12:00:00
c@hostc.local          -              65535  normal  lan     -          2026-03-01 12:00:00

?: full name not confirmed by the node

kept from the LAN:
name: OTP takes no such name
- c@hostc.local  -  65535  normal  lan  -  2026-03-01 12:00:00
`

func TestTable(t *testing.T) {
	k := known()
	k.lanOff = "avahi-daemon is not running"
	var out strings.Builder
	p := tablePrinter{&out, screen.Screen{}, time.UTC, nil, 4369}
	p.snapshot(k)
	p.change(registry.Down, k.listed()[2])
	if got := out.String(); got != wantTable {
		t.Errorf("got\n%s\nwant\n%s", got, wantTable)
	}
}

const wantEPMDs = `epmd on port 4369: 3 nodes, 3 on the LAN

NODE           ADDRESS  PORT  TYPE    ORIGIN  REACHABLE  SINCE                EPMD
b@hostb.local  -        1     normal  lan     -          2026-03-01 12:00:00  -
b@hostb.local  -        3     normal  lan     -          2026-03-01 12:00:00  1111
b@hostb.local  -        2     normal  lan     -          2026-03-01 12:00:00  5555
- b@hostb.local  -  2  normal  lan  -  2026-03-01 12:00:00  5555
- b@hostb.local  -  1  normal  lan  -  2026-03-01 12:00:00
`

// TestTableEPMDs lists nodes of one name at several epmds of a host. The usual port leads.
func TestTableEPMDs(t *testing.T) {
	k := &knownNodes{epmdPort: 4369, nodes: make(map[nodeKey]registry.Node)}
	for i, port := range []uint16{4369, 5555, 1111} {
		n := registry.Node{Node: "b@hostb.local", Name: "b", Host: "hostb.local", Port: uint16(1 + i), EPMDPort: port,
			Origin: registry.LAN, Sure: true, Since: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
		k.nodes[keyOf(n)] = n
	}
	var out strings.Builder
	p := tablePrinter{&out, screen.Screen{}, time.UTC, nil, 4369}
	p.snapshot(k)
	p.change(registry.Down, k.listed()[2])
	p.change(registry.Down, k.listed()[0])
	if got := out.String(); got != wantEPMDs {
		t.Errorf("got\n%s\nwant\n%s", got, wantEPMDs)
	}
}

// held is a network with processes known behind some nodes of this host.
func held() *knownNodes {
	k := &knownNodes{epmdPort: 4369, nodes: make(map[nodeKey]registry.Node)}
	since := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, h := range map[string]*registry.Holder{
		"a": {PID: 812, UID: 107, Unit: "rabbitmq-server.service"},
		"b": {UID: 0},
		"c": {PID: 9, UID: 4242},
		"d": nil,
	} {
		n := registry.Node{Node: name + "@hosta.local", Name: name, Host: "hosta.local", Port: 1, Since: since, Sure: true, Holder: h,
			Reach: registry.Reachable}
		k.nodes[keyOf(n)] = n
	}
	return k
}

// testUsers are the users of held, of whom one has no name.
func testUsers() userNames { return userNames{0: "root", 107: "rabbit\x1b", 4242: ""} }

const wantHeld = `epmd on port 4369: 4 nodes, 0 on the LAN

NODE           ADDRESS  PORT  TYPE    ORIGIN  REACHABLE  SINCE                PID  USER     UNIT
a@hosta.local  -        1     normal  local   yes        2026-03-01 12:00:00  812  rabbit?  rabbitmq-server.service
b@hosta.local  -        1     normal  local   yes        2026-03-01 12:00:00  -    root     -
c@hosta.local  -        1     normal  local   yes        2026-03-01 12:00:00  9    4242     -
d@hosta.local  -        1     normal  local   yes        2026-03-01 12:00:00  -    -        -
~ a@hosta.local  -  1  normal  local  yes  2026-03-01 12:00:00  812  rabbit?  rabbitmq-server.service
- d@hosta.local  -  1  normal  local  yes  2026-03-01 12:00:00
epmd on port 4369: 1 node, 0 on the LAN

NODE           ADDRESS  PORT  TYPE    ORIGIN  REACHABLE  SINCE                USER
b@hosta.local  -        1     normal  local   yes        2026-03-01 12:00:00  root
`

func TestTableHolders(t *testing.T) {
	var out strings.Builder
	p := tablePrinter{&out, screen.Screen{}, time.UTC, testUsers(), 4369}
	k := held()
	p.snapshot(k)
	p.change(registry.Changed, k.listed()[0])
	p.change(registry.Down, k.listed()[3])
	maps.DeleteFunc(k.nodes, func(key nodeKey, _ registry.Node) bool { return key.Name != "b" })
	p.snapshot(k)
	if got := out.String(); got != wantHeld {
		t.Errorf("got\n%s\nwant\n%s", got, wantHeld)
	}
}

const wantHeldJSON = `"sure":true,"reachable":true,"pid":812,"uid":107,"user":"rabbit\u001b","unit":"rabbitmq-server.service"}
"sure":true,"reachable":true,"uid":0,"user":"root"}
"sure":true,"reachable":true,"pid":9,"uid":4242}
"sure":true,"reachable":true}
`

func TestJSONHolders(t *testing.T) {
	var out, got strings.Builder
	jsonPrinter{&out, false, testUsers()}.snapshot(held())
	for line := range strings.Lines(out.String()) {
		got.WriteString(line[strings.Index(line, `"sure"`):])
	}
	if got.String() != wantHeldJSON {
		t.Errorf("lines end in\n%s\nwant\n%s", got.String(), wantHeldJSON)
	}
}

func TestUserNames(t *testing.T) {
	names := make(userNames)
	for range 2 {
		if got := names.of(0); got != "root" {
			t.Errorf("user 0 is %q, want root", got)
		}
		if got := names.of(4294967294); got != "" {
			t.Errorf("a user nobody is has name %q", got)
		}
	}
}

func TestEmptyTable(t *testing.T) {
	var out strings.Builder
	tablePrinter{&out, screen.Screen{}, time.UTC, nil, 4369}.snapshot(&knownNodes{epmdPort: 4369})
	if got, want := out.String(), "epmd on port 4369: 0 nodes, 0 on the LAN\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

const wantJSON = `{"v":1,"event":"up","node":"å\u001b[31m\udb40\udc01@hosta.local","name":"å\u001b[31m\udb40\udc01","host":"hosta.local","address":"127.0.0.1","port":5,"type":"normal","origin":"local","creation":7,"since":"2026-03-01T12:00:00Z","sure":false,"high":6,"low":0,"proto":1,"reachable":true,"lan":false,"why":"name"}
{"v":1,"event":"up","node":"b@hostb.local","name":"b","host":"hostb.local","address":"198.51.100.12","addresses":["198.51.100.12","fe80::1"],"port":41237,"type":"hidden","origin":"lan","since":"2026-03-01T12:00:00Z","sure":true,"high":6,"low":5,"proto":0,"epmd":4369,"reachable":false}
{"v":1,"event":"up","node":"c@hostc.local","name":"c","host":"hostc.local","port":65535,"type":"normal","origin":"lan","since":"2026-03-01T12:00:00Z","sure":true}
{"v":1,"event":"snapshot","port":4369,"nodes":3,"lan":"on"}
`

func TestJSON(t *testing.T) {
	var out strings.Builder
	jsonPrinter{&out, true, nil}.snapshot(known())
	if got := out.String(); got != wantJSON {
		t.Errorf("got\n%s\nwant\n%s", got, wantJSON)
	}
}

// changes are lines after a snapshot with a@hosta, not sure of its name. With each comes what is
// printed then.
var changes = []struct{ line, all, onlyReal, onlyLAN string }{
	{"+ node=a@hosta name=a port=1 origin=local sure=no", "", "", ""},
	{"+ node=a@real name=a port=1 origin=local", "changed a@real", "up a@real", ""},
	{"+ node=b@hostb name=b host=hostb port=2 origin=lan", "up b@hostb", "", "up b@hostb"},
	{"+ node=b@hostb name=b host=hostb port=2 origin=lan", "", "", ""},
	{"+ node=b@hostb name=b host=hostb port=2 origin=lan reachable=no", "changed b@hostb", "", "changed b@hostb"},
	{"+ node=a@other name=a port=1 origin=local", "changed a@other", "down a@real", ""},
	{"+ node=b@hostb name=b host=hostb port=3 origin=lan epmd=5555", "up b@hostb", "", "up b@hostb"},
	{"+ node=b@real name=b host=hostb port=2 origin=lan", "changed b@real", "up b@real", "changed b@real"},
	{"- node=b@real name=b host=hostb port=2 origin=lan", "down b@real", "down b@real", "down b@real"},
	{"- node=b@real name=b host=hostb port=2 origin=lan", "", "", ""},
	{"- node=b@hostb name=b host=hostb port=3 origin=lan epmd=5555", "down b@hostb", "", "down b@hostb"},
	{"- node=a@other name=a port=1 origin=local", "down a@other", "", ""},
	{"? node=c@new", "", "", ""},
}

// recorder is a nodePrinter that keeps the last change.
type recorder struct{ last string }

func (*recorder) snapshot(*knownNodes) {}

func (r *recorder) change(kind registry.EventKind, n registry.Node) {
	r.last = kind.String() + " " + n.Node
}

func TestChanges(t *testing.T) {
	for i, filter := range []Filter{{}, {Pattern: "*@real"}, {LANOnly: true}} {
		a := registry.Node{Node: "a@hosta", Name: "a", Port: 1, Type: registry.Normal}
		k := &knownNodes{nodes: map[nodeKey]registry.Node{keyOf(a): a}, filter: filter}
		for _, c := range changes {
			line, err := epmd.ParseLine(c.line)
			if err != nil {
				t.Fatal(err)
			}
			var r recorder
			w := watcher{known: k, printer: &r}
			if err := w.apply(line); err != nil {
				t.Errorf("%s: %v", c.line, err)
			}
			if want := []string{c.all, c.onlyReal, c.onlyLAN}[i]; r.last != want {
				t.Errorf("%+v: %s: printed %q, want %q", filter, c.line, r.last, want)
			}
		}
	}
}

// TestCatchUp has an epmd succeed one that knew a, b and c.
func TestCatchUp(t *testing.T) {
	since := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	a := registry.Node{Node: "a@hosta", Name: "a", Port: 1, Creation: 7, Holder: &registry.Holder{PID: 1}}
	b := registry.Node{Node: "b@hostb", Name: "b", Host: "hostb", Port: 2, Origin: registry.LAN, Since: since, Reach: registry.Reachable}
	c := registry.Node{Node: "c@hostb", Name: "c", Host: "hostb", Port: 3, Origin: registry.LAN}
	of := func(nodes ...registry.Node) *knownNodes {
		k := &knownNodes{nodes: make(map[nodeKey]registry.Node)}
		for _, n := range nodes {
			k.nodes[keyOf(n)] = n
		}
		return k
	}
	var r recorder
	w := watcher{known: of(a, b, c), missing: make(map[nodeKey]bool), printer: &r}
	restored, found, moved := a, b, a
	restored.Holder = nil                                                 // is yet to be looked for
	found.Since, found.Reach = since.Add(time.Minute), registry.Unchecked // to its epmd b is new
	moved.Port, moved.Creation, moved.Holder = 9, 8, nil
	for _, step := range []struct {
		what string
		do   func()
		want string
	}{
		{"a restored, b and c not found yet", func() { w.catchUp(of(restored)) }, ""},
		{"b found", func() { w.set(found) }, ""},
		{"a registered anew", func() { w.set(moved) }, "changed a@hosta"},
		{"time over", func() { w.dropMissing() }, "down c@hostb"},
	} {
		r.last = ""
		if step.do(); r.last != step.want {
			t.Errorf("%s: printed %q, want %q", step.what, r.last, step.want)
		}
	}
	if len(w.missing) != 0 || len(w.known.nodes) != 2 {
		t.Errorf("%d missing, %d known; want 0, 2", len(w.missing), len(w.known.nodes))
	}
}

func TestCount(t *testing.T) {
	k := known()
	k.filter.Pattern = "[bc]"
	var out strings.Builder
	tablePrinter{&out, screen.Screen{}, time.UTC, nil, 4369}.snapshot(k)
	if got, want := out.String(), "epmd on port 4369: 2 of 3 nodes, 2 on the LAN\n"; !strings.HasPrefix(got, want) {
		t.Errorf("got\n%s\nwant it to begin with %s", got, want)
	}
}

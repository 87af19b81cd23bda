package dbus

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/godbus/dbus/v5"

	"github.com/goerlang/eclus/registry"
)

// Script has a registry do what bytes say. What follows the end of the bytes is zero.
type Script struct {
	Reg   *registry.Registry
	rest  []byte
	here  []*registry.Registration
	there []registry.NeighbourKey
}

// NewScript returns a script that begins with an empty registry.
func NewScript(b []byte) *Script { return &Script{Reg: registry.New("hosta.local", 4), rest: b} }

// RandomScript returns a script of many steps.
func RandomScript(seed uint64) []byte {
	script := make([]byte, 400)
	rand.NewChaCha8([32]byte{byte(seed)}).Read(script)
	return script
}

// More reports whether there is another step.
func (s *Script) More() bool { return len(s.rest) > 0 }

func (s *Script) next() byte {
	if len(s.rest) == 0 {
		return 0
	}
	b := s.rest[0]
	s.rest = s.rest[1:]
	return b
}

// text returns one of a few names, or any bytes.
func (s *Script) text() string {
	switch n := s.next(); {
	case n < 64:
		return []string{"a", "b", "", "a@b", "hosta.local", "\uffff", "%41", "\xff\x00"}[n%8]
	default:
		size := min(int(n%32), len(s.rest))
		text := string(s.rest[:size])
		s.rest = s.rest[size:]
		return text
	}
}

// local returns one of the local nodes, or a stale one.
func (s *Script) local() *registry.Node {
	if len(s.here) == 0 {
		return &registry.Node{Name: "a"}
	}
	return s.Reg.Node(s.here[int(s.next())%len(s.here)])
}

// neighbour returns a node of another host.
func (s *Script) neighbour() registry.Node {
	b := s.next()
	n := registry.Node{
		Name: s.text(), Host: s.text(), EPMDPort: []uint16{0, 4369, 5555}[b%3], Port: uint16(b), Origin: registry.Origin(1 + b>>2&1),
		Rank: registry.Rank(b >> 3 & 1), Reach: registry.Reach(b >> 4 % 3), Sure: b>>6&1 == 1, Named: b>>7 == 1, Via: s.text(),
	}
	n.Node = n.Name + "@" + s.text()
	for i := range b >> 5 & 3 {
		n.Addresses = append(n.Addresses, netip.AddrFrom16([16]byte{0xfe, 0x80, 15: i}).WithZone(s.text()))
	}
	return n
}

// Step has the registry do one thing. It returns whether that is one of the registry: otherwise the
// caller may do something with the number that it returns.
func (s *Script) Step() (n byte, ours bool) {
	switch n = s.next(); n % 16 {
	case 0, 1, 2:
		reg, err := s.Reg.Register(registry.Node{Name: s.text(), Port: uint16(n), Type: registry.Normal, High: 6, Low: 5})
		if err == nil {
			s.here = append(s.here, reg)
		}
	case 3, 4:
		if len(s.here) > 0 {
			i := int(s.next()) % len(s.here)
			s.Reg.Unregister(s.here[i])
			s.here = slices.Delete(s.here, i, i+1)
		}
	case 5:
		node := s.local()
		_ = s.Reg.Identify(node, registry.Identity{Node: node.Name + "@" + s.text(), Dist: registry.Dist(n % 3), Hidden: n > 128, Creation: uint32(n)})
	case 6:
		s.Reg.SetHolder(s.local(), &registry.Holder{Unit: s.text(), PID: int32(int8(s.next())), UID: uint32(n)})
	case 7:
		s.Reg.SetHost(s.text())
	case 8, 9:
		neighbour := s.neighbour()
		if s.Reg.SetNeighbour(neighbour) == nil {
			s.there = append(s.there, neighbour.NeighbourKey())
		}
	case 10:
		if len(s.there) > 0 {
			s.Reg.RemoveNeighbour(s.there[int(s.next())%len(s.there)])
		}
	case 11:
		s.Reg.SetListens(s.local(), make([]netip.Addr, s.next()%3))
	case 12:
		s.Reg.SetLAN(registry.LANState{Publishing: registry.Discovery{Wanted: true, Off: s.text()}})
	default:
		return n, false
	}
	return n, true
}

// Differs returns what is wrong with the objects that somebody sees, by their paths. It is "" if
// they are what the registry has.
func Differs(reg *registry.Registry, objects map[dbus.ObjectPath]map[string]dbus.Variant) string {
	nodes := reg.Nodes()
	if len(objects) != len(nodes) {
		return fmt.Sprintf("%d objects for %d nodes", len(objects), len(nodes))
	}
	var want, got []string
	for _, n := range nodes {
		want = append(want, fmt.Sprintf("%q", modelOf(n)))
	}
	for path, properties := range objects {
		plain := make(map[string]any)
		for name, v := range properties {
			text, is := v.Value().(string)
			if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
				return fmt.Sprintf("%s: %s is %q", path, name, text)
			}
			plain[name] = v.Value()
			if is && name != "Why" {
				plain[name], _ = url.PathUnescape(text)
			}
		}
		if called := unescape(path); !strings.HasPrefix(called, plain["Name"].(string)+"@") {
			return fmt.Sprintf("%s stands for %q", path, plain["Name"])
		}
		got = append(got, fmt.Sprintf("%q", plain))
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		return fmt.Sprintf("objects are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	return ""
}

// modelOf returns the properties of a node by their names. Texts are as the registry has them.
func modelOf(n *registry.Node) map[string]any {
	addrs := []string{}
	for _, a := range n.Addresses {
		addrs = append(addrs, strings.ReplaceAll(a.String(), "%"+a.Zone(), "%"+nameText(a.Zone())))
	}
	h := registry.Holder{UID: 4294967295}
	if n.Holder != nil {
		h = *n.Holder
	}
	return map[string]any{
		"Node": n.Node, "Name": n.Name, "Host": n.Host, "Addresses": addrs, "Port": n.Port, "Type": n.Type.String(),
		"Origin": n.Origin.String(), "Via": n.Via, "Named": n.Named, "Creation": n.Creation, "Since": uint64(n.Since.UnixMicro()), "Sure": n.Sure,
		"Reachable": n.Reach.String(), "Why": string(n.Why), "Dist": n.Dist.String(), "EPMDPort": n.EPMDPort, "High": n.High, "Low": n.Low,
		"Protocol": n.Protocol, "PID": uint32(max(0, h.PID)), "UID": h.UID, "Unit": h.Unit,
	}
}

// unescape returns NAME@HOST of an object's path. The host is that of when the object came.
func unescape(path dbus.ObjectPath) string {
	escaped, _, _ := strings.Cut(strings.TrimPrefix(string(path), Root+"/"), "__")
	var b []byte
	for escaped != "" {
		if escaped[0] != '_' {
			b, escaped = append(b, escaped[0]), escaped[1:]
			continue
		}
		c, err := hex.DecodeString(escaped[1:3])
		if err != nil {
			return err.Error()
		}
		b, escaped = append(b, c...), escaped[3:]
	}
	return string(b)
}

// wire is the end of a connection that keeps what was sent.
type wire struct{ bytes.Buffer }

func (w *wire) Read([]byte) (int, error) { return 0, io.EOF }
func (w *wire) Close() error             { return nil }

// messages returns the messages that were sent.
func (w *wire) messages(t *testing.T) (list []*dbus.Message) {
	t.Helper()
	for w.Len() > 0 {
		msg, err := dbus.DecodeMessage(&w.Buffer)
		if err != nil {
			t.Fatal(err)
		}
		if err := msg.IsValid(); err != nil {
			t.Errorf("%v: %v", msg, err)
		}
		list = append(list, msg)
	}
	return list
}

// watched is a session, and what a program sees of it that was there from the beginning.
type watched struct {
	*session
	t    *testing.T
	wire *wire
	seen map[dbus.ObjectPath]map[string]dbus.Variant // by signals
	root map[string]dbus.Variant                     // the manager's properties, by signals
}

func newWatched(t *testing.T, reg *registry.Registry) *watched {
	w := &watched{t: t, wire: &wire{}, seen: make(map[dbus.ObjectPath]map[string]dbus.Variant), root: make(map[string]dbus.Variant)}
	numbers := &serials{}
	conn, err := dbus.NewConn(w.wire, dbus.WithSerialGenerator(numbers))
	if err != nil {
		t.Fatal(err)
	}
	w.session = &session{
		Service: New(reg, Options{Port: 4369}, slog.New(slog.DiscardHandler)),
		ctx:     context.Background(), raw: w.wire, conn: conn, serials: numbers, inbox: newTurns(), objects: newObjects(4369), changes: reg.Subscribe(), owner: true,
	}
	return w
}

// some sends at most so many signals, and has the program see them.
func (w *watched) some(signals int) {
	w.t.Helper()
	w.unread = signalsAtOnce - signals
	if err := w.tellAll(); err != nil {
		w.t.Fatal(err)
	}
	for _, msg := range w.wire.messages(w.t) {
		w.see(msg)
	}
}

// see adds a signal to what the program knows.
func (w *watched) see(msg *dbus.Message) {
	w.t.Helper()
	path := msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	switch member := msg.Headers[dbus.FieldMember].Value(); member {
	case "InterfacesAdded":
		at := msg.Body[0].(dbus.ObjectPath)
		if w.seen[at] != nil || !at.IsValid() {
			w.t.Fatalf("%s is added", at)
		}
		w.seen[at] = msg.Body[1].(map[string]map[string]dbus.Variant)[ifaceNode]
	case "InterfacesRemoved":
		at := msg.Body[0].(dbus.ObjectPath)
		if w.seen[at] == nil {
			w.t.Fatalf("%s is removed, which is not there", at)
		}
		delete(w.seen, at)
	case "PropertiesChanged":
		of := w.seen[path]
		if path == Root {
			of = w.root
		}
		if of == nil {
			w.t.Fatalf("%s has changed, which is not there", path)
		}
		maps.Copy(of, msg.Body[1].(map[string]dbus.Variant))
	default:
		w.t.Fatalf("signal %v", member)
	}
}

// call calls a method and returns what the reply has.
func (w *watched) call(path dbus.ObjectPath, iface, member string, args ...any) []any {
	w.t.Helper()
	w.handle(&dbus.Message{Type: dbus.TypeMethodCall, Body: args, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath: dbus.MakeVariant(path), dbus.FieldInterface: dbus.MakeVariant(iface), dbus.FieldMember: dbus.MakeVariant(member),
		dbus.FieldSender: dbus.MakeVariant(":1.1"), dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(args...)),
	}})
	replies := w.wire.messages(w.t)
	if len(replies) != 1 || replies[0].Type != dbus.TypeMethodReply {
		w.t.Fatalf("%s.%s of %s: %v", iface, member, path, replies)
	}
	return replies[0].Body
}

// managed returns all objects as GetManagedObjects has them.
func (w *watched) managed() map[dbus.ObjectPath]map[string]dbus.Variant {
	objects := make(map[dbus.ObjectPath]map[string]dbus.Variant)
	for path, of := range w.call(Root, ifaceObjectManager, "GetManagedObjects")[0].(map[dbus.ObjectPath]map[string]map[string]dbus.Variant) {
		objects[path] = of[ifaceNode]
	}
	return objects
}

// listed returns all objects as ListNodes has them, in pages of count.
func (w *watched) listed(count uint32) map[dbus.ObjectPath]map[string]dbus.Variant {
	objects := make(map[dbus.ObjectPath]map[string]dbus.Variant)
	for after := dbus.ObjectPath("/"); ; {
		page := w.call(Root, ifaceManager, "ListNodes", after, count)[0].([][]any)
		if len(page) == 0 {
			return objects
		}
		for _, n := range page {
			after = n[0].(dbus.ObjectPath)
			objects[after] = n[1].(map[string]dbus.Variant)
		}
	}
}

// agree holds that whatever a program asks or has seen is what is known.
func (w *watched) agree(what string) {
	w.t.Helper()
	managed := w.managed()
	for how, objects := range map[string]map[dbus.ObjectPath]map[string]dbus.Variant{"signals": w.seen, "ListNodes": w.listed(3)} {
		if !reflect.DeepEqual(objects, managed) {
			w.t.Errorf("%s: by %s there are %v; GetManagedObjects has %v", what, how, objects, managed)
		}
	}
	for path, of := range managed {
		if all := w.call(path, ifaceProperties, "GetAll", ifaceNode)[0]; !reflect.DeepEqual(all, of) {
			w.t.Errorf("%s: %s is %v; GetManagedObjects has %v", what, path, all, of)
		}
	}
	of := w.call(Root, ifaceProperties, "GetAll", ifaceManager)[0].(map[string]dbus.Variant)
	for name, v := range w.root {
		if of[name] != v {
			w.t.Errorf("%s: %s is %v; %v was signalled", what, name, of[name], v)
		}
	}
}

// FuzzObjects holds that what programs see on the bus is what the registry has, whatever has
// happened. In between it is the sum of what they were told.
func FuzzObjects(f *testing.F) {
	f.Add([]byte{0, 0, 13, 3, 0, 0, 0, 13, 0, 3, 0, 13})
	f.Add([]byte{0, 0, 8, 1, 0, 8, 0, 13, 8, 2, 0, 8, 0, 13, 10, 0, 13, 8, 1, 0, 8, 0, 13})
	f.Add([]byte{0, 7, 5, 7, 0, 13, 5, 0, 5, 6, 7, 7, 6, 14, 11, 0, 2, 12, 5, 15, 7, 7})
	f.Add([]byte("0A\x1f\xed\xa0\x80%\x00\xff8Aabcdefg_/.AxyzBtuv=M]m}"))
	for seed := range uint64(50) {
		f.Add(RandomScript(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := NewScript(b)
		w := newWatched(t, s.Reg)
		defer w.conn.Close()
		defer func() { w.changes.Close() }()
		for s.More() && !t.Failed() {
			switch n, ours := s.Step(); {
			case ours:
			case n%16 == 13:
				w.take()
				w.some(int(n / 16 % (signalsAtOnce + 1)))
			case n%16 == 14: // as when too much has happened
				w.changes.Close()
				w.changes = s.Reg.Subscribe()
			default:
				w.agree("meanwhile")
			}
		}
		w.take()
		for len(w.objects.queue) > 0 {
			w.some(signalsAtOnce)
		}
		w.some(1)
		w.agree("in the end")
		if differs := Differs(s.Reg, w.managed()); differs != "" {
			t.Error(differs)
		}
		for _, n := range s.Reg.Nodes() {
			path := w.call(Root, ifaceManager, "Lookup", nameText(n.Node))[0].(dbus.ObjectPath)
			if found := w.objects.at(path); found == nil || found.Node != n.Node && found.Name != n.Node {
				t.Errorf("%q is looked up as %s", n.Node, path)
			}
		}
	})
}

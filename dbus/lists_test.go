package dbus

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/goerlang/eclus/registry"
)

// encoded returns the size of a reply, in bytes.
func encoded(t *testing.T, body any) int {
	t.Helper()
	var b bytes.Buffer
	reply := &dbus.Message{Type: dbus.TypeMethodReply, Body: []any{body}, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldReplySerial: dbus.MakeVariant(uint32(1)),
		dbus.FieldSignature:   dbus.MakeVariant(dbus.SignatureOf(body)),
	}}
	if err := reply.EncodeTo(&b, binary.LittleEndian); err != nil {
		t.Fatal(err)
	}
	return b.Len()
}

// TestSizeOf holds that a node takes no more of a message than sizeOf says, and not much less.
func TestSizeOf(t *testing.T) {
	for i, n := range []*registry.Node{
		{},
		{Node: "a@hosta.local", Name: "a", Host: "hosta.local", Port: 41233, Addresses: []netip.Addr{netip.MustParseAddr("::1")}},
		{Name: strings.Repeat("\uffff", 255), Addresses: make([]netip.Addr, 100)},
	} {
		path := pathOf(n, func(dbus.ObjectPath) bool { return false })
		of := nodeInterfaces(n)
		for _, answer := range []any{
			map[dbus.ObjectPath]map[string]map[string]dbus.Variant{path: of},
			[]listed{{path, of[ifaceNode]}},
		} {
			size := encoded(t, answer) - encoded(t, reflect.Zero(reflect.TypeOf(answer)).Interface())
			if most := sizeOf(path, of[ifaceNode]); size > most || size < most/2 {
				t.Errorf("node %d takes %d bytes; at most %d are expected", i, size, most)
			}
		}
	}
}

// TestAfter has objects found after a path, whether it is there or not.
func TestAfter(t *testing.T) {
	o := newObjects(4369)
	set := func(id uint64, n *registry.Node) {
		o.set(id, n)
		o.tell()
	}
	for i, name := range []string{"c", "a", "b"} {
		set(uint64(i), &registry.Node{ID: uint64(i), Name: name, Host: "h"})
	}
	check := func(after dbus.ObjectPath, want string) {
		t.Helper()
		if got := strings.ReplaceAll(fmt.Sprint(o.after(after)), Root+"/", ""); got != want {
			t.Errorf("%s follow %s; want %s", got, after, want)
		}
	}
	check("/", "[a_40h b_40h c_40h]")
	check(Root+"/a_40h", "[b_40h c_40h]")
	check(Root+"/b", "[b_40h c_40h]")
	check(Root+"/c_40h", "[]")
	set(2, nil)
	check(Root+"/a_40h", "[c_40h]")
	set(3, &registry.Node{ID: 3, Name: "d", Host: "h"})
	check(Root+"/a_40h", "[c_40h d_40h]")
}

// TestChildrenXML lists children while they fit in a message.
func TestChildrenXML(t *testing.T) {
	const want = "  <node name=\"a\"/>\n  <node name=\"b\"/>\n"
	if got := childrenXML(Root, []dbus.ObjectPath{Root + "/a", Root + "/b"}); got != want {
		t.Errorf("got %q; want %q", got, want)
	}
	long := dbus.ObjectPath(Root + "/" + strings.Repeat("a", maxAnswer/10))
	got := childrenXML(Root, slices.Repeat([]dbus.ObjectPath{long}, 10))
	if len(got) > 200 || !strings.Contains(got, "10 nodes are too many") {
		t.Errorf("got %.200q", got)
	}
}

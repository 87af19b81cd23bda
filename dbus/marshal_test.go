package dbus

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/goerlang/eclus/registry"
)

// marshaled returns a signal's bytes as the library has them, and its body's alone.
func marshaled(t *testing.T, path dbus.ObjectPath, iface, member string, body ...any) (all, of []byte) {
	t.Helper()
	msg := &dbus.Message{Type: dbus.TypeSignal, Body: body, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath: dbus.MakeVariant(path), dbus.FieldInterface: dbus.MakeVariant(iface), dbus.FieldMember: dbus.MakeVariant(member),
		dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(body...)),
	}}
	var b bytes.Buffer
	if err := msg.EncodeTo(&b, binary.LittleEndian); err != nil {
		t.Fatal(err)
	}
	size := int(binary.LittleEndian.Uint32(b.Bytes()[4:]))
	return b.Bytes(), b.Bytes()[b.Len()-size:]
}

// manyKinds are nodes whose properties have every type, and texts of every length modulo 8.
func manyKinds() []*registry.Node {
	nodes := []*registry.Node{{}, {
		Node: "a@hosta.local", Name: "a", Host: "hosta.local", Port: 41237, Creation: 1 << 31, Since: time.Unix(1795367590, 0),
		Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.11"), netip.MustParseAddr("fe80::1%eth0")}, Sure: true, Protocol: 1,
		Holder: &registry.Holder{PID: 7, UID: 1000, Unit: "a.service"},
	}}
	for size := range 8 {
		nodes = append(nodes, &registry.Node{Name: "\u00e4bcdefgh"[:2+size]})
	}
	return nodes
}

// TestMarshalAsLibrary compares bodies of one property with those of the library, byte for byte.
// The library puts several properties in no order.
func TestMarshalAsLibrary(t *testing.T) {
	for _, n := range manyKinds() {
		for _, p := range nodeProperties {
			one := map[string]dbus.Variant{p.name: dbus.MakeVariant(p.of(n))}
			_, want := marshaled(t, "/a", ifaceProperties, "PropertiesChanged", ifaceNode, one, []string{})
			if got := appendChanged(nil, ifaceNode, []property[*registry.Node]{p}, n); !bytes.Equal(got, want) {
				t.Errorf("%s of %+v:\n%x\nwant\n%x", p.name, n, got, want)
			}
		}
	}
	_, want := marshaled(t, Root, ifaceObjectManager, "InterfacesRemoved", dbus.ObjectPath("/a"), []string{ifaceNode})
	if got := appendRemoved(nil, "/a"); !bytes.Equal(got, want) {
		t.Errorf("InterfacesRemoved is\n%x\nwant\n%x", got, want)
	}
}

// TestMarshalAdded has the library read what InterfacesAdded says, as it reads its own.
func TestMarshalAdded(t *testing.T) {
	for _, n := range manyKinds() {
		path := pathOf(n, func(dbus.ObjectPath) bool { return false })
		body := appendAdded(nil, path, n)
		got := append(appendHeader(nil, 7, Root, ifaceObjectManager, "InterfacesAdded", addedSignature, len(body)), body...)
		library, _ := marshaled(t, Root, ifaceObjectManager, "InterfacesAdded", path, nodeInterfaces(n))
		msg, err := dbus.DecodeMessage(bytes.NewReader(got))
		if err != nil {
			t.Fatal(err)
		}
		want, err := dbus.DecodeMessage(bytes.NewReader(library))
		if err != nil {
			t.Fatal(err)
		}
		if msg.Serial() != 7 {
			t.Errorf("serial %d; want 7", msg.Serial())
		}
		if !reflect.DeepEqual(msg.Headers, want.Headers) || !reflect.DeepEqual(msg.Body, want.Body) || msg.Flags != want.Flags {
			t.Errorf("%+v is read as\n%v\nwant\n%v", n, msg, want)
		}
	}
}

// TestSerials holds that no message has the number zero.
func TestSerials(t *testing.T) {
	var s serials
	s.last.Store(1<<32 - 2)
	for _, want := range []uint32{1<<32 - 1, 1, 2} {
		if got := s.GetSerial(); got != want {
			t.Errorf("serial %d; want %d", got, want)
		}
	}
}

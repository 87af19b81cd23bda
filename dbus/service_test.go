package dbus_test

import (
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/introspect"

	"github.com/goerlang/eclus/dbus"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"

	"github.com/goerlang/eclus/test/need"
)

const (
	properties    = "org.freedesktop.DBus.Properties"
	objectManager = "org.freedesktop.DBus.ObjectManager"
	nodeInterface = "org.erlang.Epmd.Node"
	manager       = "org.erlang.Epmd.Manager"
)

// neighbour is a node of another host of which everything is known that can be.
var neighbour = registry.Node{
	Node: "b@hostb.local", Name: "b", Host: "hostb.local", Dist: registry.TCP, Port: 41237, EPMDPort: 4370,
	Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.12"), netip.MustParseAddr("fe80::1%eth0")},
	High:      6, Low: 5, Type: registry.Hidden, Sure: true, Creation: 1795367590, Via: registry.ViaMDNS,
}

// getAll returns all properties of an interface.
func getAll(t *testing.T, obj godbus.BusObject, iface string) map[string]any {
	t.Helper()
	var all map[string]godbus.Variant
	if err := obj.Call(properties+".GetAll", 0, iface).Store(&all); err != nil {
		t.Fatalf("GetAll of %s: %v", obj.Path(), err)
	}
	plain := make(map[string]any, len(all))
	for name, v := range all {
		plain[name] = v.Value()
	}
	return plain
}

func TestNodeProperties(t *testing.T) {
	b := startBus(t)
	reg, _ := b.serve(t, dbus.Options{})
	conn := b.client(t)
	root(t, conn)
	began := uint64(time.Now().UnixMicro())
	if err := reg.SetNeighbour(neighbour); err != nil {
		t.Fatal(err)
	}
	r := register(t, reg, "a")
	reg.SetHolder(reg.Node(r), &registry.Holder{Unit: "a.service", PID: 812, UID: 107})

	obj := lookup(t, conn, "b@hostb.local")
	if want := dbus.Root + "/b_40hostb_2elocal"; string(obj.Path()) != want {
		t.Errorf("path %s; want %s", obj.Path(), want)
	}
	got := getAll(t, obj, nodeInterface)
	if since, _ := got["Since"].(uint64); since < began || since > uint64(time.Now().UnixMicro()) {
		t.Errorf("Since = %v; want microseconds since 1970, from %d on", got["Since"], began)
	}
	delete(got, "Since")
	want := map[string]any{
		"Node": "b@hostb.local", "Name": "b", "Host": "hostb.local", "Dist": "tcp", "Port": uint16(41237), "EPMDPort": uint16(4370),
		"Addresses": []string{"198.51.100.12", "fe80::1%eth0"}, "High": uint16(6), "Low": uint16(5), "Type": "hidden",
		"Sure": true, "Creation": uint32(1795367590), "Origin": "lan", "Via": "mdns", "Named": false, "Reachable": "unknown", "Protocol": uint8(0),
		"PID": uint32(0), "UID": uint32(1<<32 - 1), "Unit": "", "Why": "",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("neighbour has properties\n%v; want\n%v", got, want)
	}

	wait.Until(t, "holder of a", func() error {
		local := getAll(t, lookup(t, conn, "a"), nodeInterface)
		if local["PID"] != uint32(812) || local["UID"] != uint32(107) || local["Unit"] != "a.service" || local["Reachable"] != "yes" {
			return fmt.Errorf("local node has properties %v", local)
		}
		return nil
	})
}

func TestManagerProperties(t *testing.T) {
	b := startBus(t)
	reg, _ := b.serve(t, dbus.Options{Port: 4369, Version: "1.2.3", Allow: "lan"})
	reg.SetLAN(registry.LANState{Browsing: registry.Discovery{Wanted: true, Off: "avahi-daemon is not running"}})
	register(t, reg, "a")
	elsewhere := neighbour
	elsewhere.Host, elsewhere.Origin = "hostc.local", registry.Peer
	moving := neighbour // found on the LAN after it was told of
	moving.Origin = registry.Peer
	for _, n := range []registry.Node{moving, elsewhere, neighbour} {
		if err := reg.SetNeighbour(n); err != nil {
			t.Fatal(err)
		}
	}
	conn := b.client(t)
	signals := subscribe(t, conn)
	obj := root(t, conn)
	want := map[string]any{
		"HostName": "hosta.local", "Port": uint16(4369), "Version": "1.2.3", "Allow": "lan", "LAN": false,
		"LANState": "LAN discovery off: avahi-daemon is not running", "LocalNodes": uint32(1), "LANNodes": uint32(1), "PeerNodes": uint32(1),
	}
	wait.Until(t, "properties of the manager", func() error {
		if got := getAll(t, obj, manager); !reflect.DeepEqual(got, want) {
			return fmt.Errorf("got %v; want %v", got, want)
		}
		return nil
	})

	reg.SetLAN(registry.LANState{Browsing: registry.Discovery{Wanted: true}})
	told := make(map[string]any)
	for deadline := time.After(wait.Patience); told["LANState"] != "LAN discovery on"; {
		select {
		case sig := <-signals:
			if sig.Name == properties+".PropertiesChanged" && sig.Path == dbus.Root {
				for name, v := range sig.Body[1].(map[string]godbus.Variant) {
					told[name] = v.Value()
				}
			}
		case <-deadline:
			t.Fatalf("PropertiesChanged so far: %v", told)
		}
	}
	if told["LAN"] != true {
		t.Errorf("LAN = %v; want true", told["LAN"])
	}
}

// errorName returns the name of a D-Bus error, or "" for none.
func errorName(err error) string {
	var e godbus.Error
	if errors.As(err, &e) {
		return e.Name
	}
	return ""
}

func TestCalls(t *testing.T) {
	b := startBus(t)
	reg, _ := b.serve(t, dbus.Options{})
	register(t, reg, "a")
	conn := b.client(t)
	root(t, conn)
	node := string(lookup(t, conn, "a").Path())
	const bus = "org.freedesktop.DBus."
	for _, tt := range []struct {
		path, method string
		args         []any
		want         string // error
	}{
		{dbus.Root, manager + ".Lookup", []any{"a"}, ""},
		{dbus.Root, manager + ".Lookup", []any{"a@hosta.local"}, ""},
		{dbus.Root, manager + ".Lookup", []any{"b"}, "org.erlang.Epmd.Error.NoSuchNode"},
		{dbus.Root, manager + ".Lookup", []any{""}, "org.erlang.Epmd.Error.NoSuchNode"},
		{dbus.Root, manager + ".Lookup", nil, bus + "Error.InvalidArgs"},
		{dbus.Root, manager + ".Lookup", []any{uint32(1)}, bus + "Error.InvalidArgs"},
		{dbus.Root, manager + ".Lookup", []any{"a", "b"}, bus + "Error.InvalidArgs"},
		{dbus.Root, manager + ".Kill", nil, bus + "Error.UnknownMethod"},
		{dbus.Root, manager + ".Get", []any{manager, "Port"}, bus + "Error.UnknownMethod"},
		{node, manager + ".Lookup", []any{"a"}, bus + "Error.UnknownInterface"},
		{dbus.Root + "/b", properties + ".GetAll", []any{nodeInterface}, bus + "Error.UnknownObject"},
		{"/org/erlan", bus + "Introspectable.Introspect", nil, bus + "Error.UnknownObject"},
		{node, properties + ".Get", []any{nodeInterface, "Port"}, ""},
		{node, properties + ".Get", []any{nodeInterface, "Cookie"}, bus + "Error.UnknownProperty"},
		{node, properties + ".Get", []any{manager, "Port"}, bus + "Error.UnknownInterface"},
		{node, properties + ".GetAll", []any{bus + "Peer"}, ""},
		{node, properties + ".Set", []any{nodeInterface, "Port", godbus.MakeVariant(uint16(1))}, bus + "Error.PropertyReadOnly"},
		{node, properties + ".Set", []any{nodeInterface, "Cookie", godbus.MakeVariant("")}, bus + "Error.UnknownProperty"},
		{dbus.Root, properties + ".Set", []any{manager, "Allow", godbus.MakeVariant("any")}, bus + "Error.PropertyReadOnly"},
		{node, objectManager + ".GetManagedObjects", nil, bus + "Error.UnknownInterface"},
		{node, bus + "Peer.Ping", nil, ""},
		{"/nowhere", bus + "Peer.Ping", nil, ""},
		{"/nowhere", bus + "Peer.Pong", nil, bus + "Error.UnknownMethod"},
		{"/", bus + "Introspectable.Introspect", nil, ""},
		{"/org/erlang", bus + "Introspectable.Introspect", nil, ""},
	} {
		err := conn.Object(dbus.Name, godbus.ObjectPath(tt.path)).Call(tt.method, 0, tt.args...).Err
		if got := errorName(err); got != tt.want {
			t.Errorf("%s of %s with %v: error %q (%v); want %q", tt.method, tt.path, tt.args, got, err, tt.want)
		}
	}
}

func TestMachineID(t *testing.T) {
	want, err := os.ReadFile("/etc/machine-id")
	need.Possible(t, err)
	b := startBus(t)
	b.serve(t, dbus.Options{})
	var got string
	err = root(t, b.client(t)).Call("org.freedesktop.DBus.Peer.GetMachineId", 0).Store(&got)
	if err != nil || got != strings.TrimSpace(string(want)) {
		t.Errorf("machine ID %q, %v; want %q", got, err, want)
	}
}

func introspected(t *testing.T, obj godbus.BusObject) introspect.Node {
	t.Helper()
	n, err := introspect.Call(obj)
	if err != nil {
		t.Fatalf("introspect %s: %v", obj.Path(), err)
	}
	return *n
}

// described returns the interface that a file describes.
func described(t *testing.T, file string) introspect.Interface {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var n introspect.Node
	if err := xml.Unmarshal(text, &n); err != nil || len(n.Interfaces) != 1 {
		t.Fatalf("%s: %d interfaces, %v; want one", file, len(n.Interfaces), err)
	}
	return n.Interfaces[0]
}

// TestIntrospection holds that objects have the interfaces that the files describe, and these the
// properties.
func TestIntrospection(t *testing.T) {
	b := startBus(t)
	reg, _ := b.serve(t, dbus.Options{})
	register(t, reg, "a")
	conn := b.client(t)
	rootObject := root(t, conn)
	for _, tt := range []struct {
		iface string
		obj   godbus.BusObject
	}{{manager, rootObject}, {nodeInterface, lookup(t, conn, "a")}} {
		want := described(t, tt.iface+".xml")
		live := introspected(t, tt.obj)
		i := slices.IndexFunc(live.Interfaces, func(i introspect.Interface) bool { return i.Name == tt.iface })
		if i < 0 || !reflect.DeepEqual(live.Interfaces[i], want) {
			t.Errorf("%s is introspected as %+v; want %+v", tt.iface, live.Interfaces, want)
		}
		types := make(map[string]string)
		for _, p := range want.Properties {
			types[p.Name] = p.Type
			if p.Access != "read" {
				t.Errorf("%s.%s has access %q; want read", tt.iface, p.Name, p.Access)
			}
		}
		got := make(map[string]string)
		for name, v := range getAll(t, tt.obj, tt.iface) {
			got[name] = godbus.SignatureOf(v).String()
		}
		if !maps.Equal(got, types) {
			t.Errorf("%s has properties %v; want %v", tt.iface, got, types)
		}
	}
	for path, want := range map[godbus.ObjectPath]string{"/": "org", "/org": "erlang", "/org/erlang": "Epmd", dbus.Root: "a_40hosta_2elocal"} {
		n := introspected(t, conn.Object(dbus.Name, path))
		if len(n.Children) != 1 || n.Children[0].Name != want {
			t.Errorf("children of %s: %+v; want %s", path, n.Children, want)
		}
	}
}

// TestHostileText registers what the bus would not stand: it drops whoever sends it.
func TestHostileText(t *testing.T) {
	b := startBus(t)
	reg, l := b.serve(t, dbus.Options{Version: "1\xff", Allow: "\x00"})
	conn := b.client(t)
	signals := subscribe(t, conn)
	root(t, conn)
	for i, s := range []string{"\xff", "a\x00b", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\ufffe", "\U0010ffff", "é\xc3", "", "a/b", "</node>"} {
		n := neighbour
		n.Node, n.Name, n.Host = fmt.Sprintf("%s@%d", s, i), s, s
		if err := reg.SetNeighbour(n); err != nil {
			t.Fatal(err)
		}
	}
	register(t, reg, "last")
	sum := newSum(t, root(t, conn))
	sum.until(t, signals, func() bool { return sum.has("last") && len(sum.nodes) == 11 })
	sum.compare(t, root(t, conn))
	for _, call := range [][]string{{objectManager, "GetManagedObjects"}, {manager, "ListNodes", "ou", "/", "0"}} {
		if out, err := b.busctl(t, call...); err != nil || strings.Count(out, `"Sure"`) != 11 {
			t.Errorf("busctl %v: %v, %s", call, err, out)
		}
	}
	hostile := getAll(t, lookup(t, conn, "%EF%BF%BE@4"), nodeInterface)
	if hostile["Name"] != "%EF%BF%BE" || hostile["Node"] != "%EF%BF%BE@4" {
		t.Errorf("got %q, %q", hostile["Name"], hostile["Node"])
	}
	if got := len(introspected(t, root(t, conn)).Children); got != 11 {
		t.Errorf("%d children; want 11", got)
	}
	if strings.Contains(l.String(), "off") {
		t.Errorf("log:\n%s", l)
	}
}

// TestSamePath holds that nodes of one name at several epmds of a host are objects of their own.
// That at the usual port is the one that is looked up.
func TestSamePath(t *testing.T) {
	b := startBus(t)
	reg, _ := b.serve(t, dbus.Options{Port: 4369})
	for _, port := range []uint16{5555, 4369, 1111} {
		n := neighbour
		n.EPMDPort = port
		if err := reg.SetNeighbour(n); err != nil {
			t.Fatal(err)
		}
	}
	conn := b.client(t)
	signals := subscribe(t, conn)
	sum := newSum(t, root(t, conn))
	sum.until(t, signals, func() bool { return len(sum.nodes) == 3 })
	paths := make(map[godbus.ObjectPath]bool)
	for path := range sum.nodes {
		paths[path] = true
	}
	if got := getAll(t, lookup(t, conn, neighbour.Node), nodeInterface)["EPMDPort"]; got != uint16(4369) {
		t.Errorf("looked up is the node at the epmd on port %v; want 4369", got)
	}
	base := godbus.ObjectPath(dbus.Root + "/b_40hostb_2elocal")
	if want := map[godbus.ObjectPath]bool{base: true, base + "__2": true, base + "__3": true}; !maps.Equal(paths, want) {
		t.Errorf("paths %v; want %v", paths, want)
	}
}

package dbus_test

import (
	"context"
	"fmt"
	"os/exec"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	godbus "github.com/godbus/dbus/v5"

	"github.com/goerlang/eclus/dbus"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// busctl calls a method of the root object as an administrator does, by sd-bus.
func (b *testBus) busctl(t *testing.T, call ...string) (string, error) {
	t.Helper()
	need.Program(t, "busctl")
	args := append([]string{"--address=" + b.address(), "--json=short", "call", dbus.Name, dbus.Root}, call...)
	out, err := exec.CommandContext(wait.Soon(t), "busctl", args...).CombinedOutput()
	return string(out), err
}

// listNodes returns all nodes, in pages of count, and how many pages there are.
func listNodes(t *testing.T, root godbus.BusObject, count uint32) (nodes map[godbus.ObjectPath]nodeProperties, pages int) {
	t.Helper()
	nodes = make(map[godbus.ObjectPath]nodeProperties)
	for after := godbus.ObjectPath("/"); ; pages++ {
		var page []struct {
			Path       godbus.ObjectPath
			Properties nodeProperties
		}
		if err := root.Call(manager+".ListNodes", 0, after, count).Store(&page); err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			return nodes, pages
		}
		if count > 0 && len(page) > int(count) {
			t.Errorf("%d nodes in a page of %d", len(page), count)
		}
		for _, n := range page {
			if n.Path <= after {
				t.Errorf("%s follows %s", n.Path, after)
			}
			after, nodes[n.Path] = n.Path, n.Properties
		}
	}
}

// TestListNodes holds that pages of any size add up to all objects.
func TestListNodes(t *testing.T) {
	b := startBus(t)
	reg := registry.New("hosta.local", registry.OldNames)
	for i := range 100 {
		register(t, reg, fmt.Sprintf("n%d", i))
	}
	b.serveRegistry(t, reg, dbus.Options{})
	root := root(t, b.client(t))
	want, _ := managed(t, root)
	for count, pages := range map[uint32]int{0: 1, 1: 100, 7: 15, 100: 1, 1<<32 - 1: 1} {
		if got, n := listNodes(t, root, count); !reflect.DeepEqual(got, want) || n != pages {
			t.Errorf("%d nodes in %d pages of %d; want %d in %d", len(got), n, count, len(want), pages)
		}
	}
}

// TestTooManyForAMessage has nodes whose properties exceed what the bus takes of one message. Their
// names are as long as can be, and sd-bus would not take them as they are.
func TestTooManyForAMessage(t *testing.T) {
	const nodes = 4000
	b := startBus(t)
	reg := registry.New("hosta.local", registry.OldNames)
	for i := range nodes {
		register(t, reg, strings.Repeat("\U0010ffff", 250)+fmt.Sprint(1000+i))
	}
	l, _ := b.serveRegistry(t, reg, dbus.Options{})
	conn := b.client(t)
	root := root(t, conn)
	err := root.Call(objectManager+".GetManagedObjects", 0).Err
	if errorName(err) != "org.freedesktop.DBus.Error.LimitsExceeded" || !strings.Contains(err.Error(), "ListNodes") {
		t.Errorf("GetManagedObjects: %v; want a refusal that names ListNodes", err)
	}
	if out, err := b.busctl(t, manager, "ListNodes", "ou", "/", "0"); err != nil || strings.Count(out, `"Sure"`) < 50 || len(out) > 2<<20 {
		t.Errorf("busctl: %v, %.200s", err, out)
	}
	if out, err := b.busctl(t, manager, "ListNodes", "ou", "/", "3"); err != nil || strings.Count(out, `"Sure"`) != 3 {
		t.Errorf("busctl: %v, %.200s", err, out)
	}
	if strings.Contains(l.String(), "off") {
		t.Errorf("log:\n%s", l)
	}
}

// TestFlood calls the slowest method many times over one connection. Who calls over another one
// waits for one of these calls, not for all.
func TestFlood(t *testing.T) {
	const calls = 40
	b := startBus(t)
	reg := registry.New("hosta.local", registry.OldNames)
	for i := range 500 {
		register(t, reg, fmt.Sprintf("n%d", i))
	}
	b.serveRegistry(t, reg, dbus.Options{})
	root, flood := root(t, b.client(t)), b.client(t).Object(dbus.Name, dbus.Root)
	done := make(chan *godbus.Call, calls)
	for range calls {
		flood.Go(objectManager+".GetManagedObjects", 0, done)
	}
	<-done // the service has begun
	lookup(t, b.client(t), "n7")
	if err := root.Call(manager+".Lookup", 0, "n8").Err; err != nil {
		t.Fatal(err)
	}
	meanwhile := len(done)
	for range calls - 1 {
		if call := <-done; call.Err != nil {
			t.Fatal(call.Err)
		}
	}
	t.Logf("%d of a flood's %d calls were answered before two lookups", meanwhile, calls)
	if meanwhile > calls/2 {
		t.Errorf("%d of a flood's %d calls were answered before two lookups", meanwhile, calls)
	}
}

// keepCalling has so many calls of the slowest method wait over each connection, until ctx ends. It
// returns how many were answered so far.
func keepCalling(ctx context.Context, t *testing.T, conns []*godbus.Conn, waiting int) *atomic.Int64 {
	var answered atomic.Int64
	var all sync.WaitGroup
	for _, conn := range conns {
		for range waiting {
			all.Go(func() {
				root := conn.Object(dbus.Name, dbus.Root)
				for ctx.Err() == nil {
					if err := root.CallWithContext(ctx, objectManager+".GetManagedObjects", 0).Err; err == nil {
						answered.Add(1)
					} else if ctx.Err() == nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	t.Cleanup(all.Wait)
	return &answered
}

// TestFloodOfUser has a user call over 200 connections, and another one over one. Each gets as many
// answers as the other.
func TestFloodOfUser(t *testing.T) {
	const answers = 60
	b := startBus(t)
	reg := registry.New("hosta.local", registry.OldNames)
	for i := range 20 {
		register(t, reg, fmt.Sprintf("n%d", i))
	}
	b.serveRegistry(t, reg, dbus.Options{})
	awaitName(t, b.client(t))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var conns []*godbus.Conn
	for range 200 {
		conns = append(conns, b.clientOf(t, daemonUser))
	}
	theirs := keepCalling(ctx, t, conns, 2)
	wait.True(t, "the flood has begun", func() bool { return theirs.Load() > 400 })
	his := keepCalling(ctx, t, []*godbus.Conn{b.clientOf(t, binUser)}, 8)
	wait.True(t, "the bus has told whose the new connection is", func() bool { return his.Load() > 20 })
	were, was := theirs.Load(), his.Load()
	wait.True(t, "the user of one connection has answers", func() bool { return his.Load() >= was+answers })
	got, gotTheirs := his.Load()-was, theirs.Load()-were
	t.Logf("%d answers over one connection, %d over 200", got, gotTheirs)
	if gotTheirs > 2*got {
		t.Errorf("%d answers over one connection, %d over 200", got, gotTheirs)
	}
}

// TestLargeCall calls with an argument that no name has.
func TestLargeCall(t *testing.T) {
	b := startBus(t)
	b.serve(t, dbus.Options{})
	root := root(t, b.client(t))
	err := root.Call(manager+".Lookup", 0, strings.Repeat("a", 1<<20)).Err
	if errorName(err) != "org.freedesktop.DBus.Error.LimitsExceeded" {
		t.Errorf("got %v", err)
	}
}

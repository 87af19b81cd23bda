package dbus_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/goerlang/eclus/dbus"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

// subscribe has all signals of the service sent to a channel.
func subscribe(t *testing.T, conn *godbus.Conn) <-chan *godbus.Signal {
	t.Helper()
	signals := make(chan *godbus.Signal, 100)
	conn.Signal(signals)
	err := conn.AddMatchSignal(godbus.WithMatchSender(dbus.Name), godbus.WithMatchPathNamespace(dbus.Root))
	if err != nil {
		t.Fatal(err)
	}
	return signals
}

// nodeProperties are what is known of a node by the values of its properties.
type nodeProperties map[string]godbus.Variant

// sum is what a client knows that has asked for all objects once and added up the signals since
// then.
type sum struct {
	nodes   map[godbus.ObjectPath]nodeProperties
	since   godbus.Sequence // of the reply
	signals int
}

// managed returns the objects that are there.
func managed(t *testing.T, root godbus.BusObject) (map[godbus.ObjectPath]nodeProperties, godbus.Sequence) {
	t.Helper()
	var all map[godbus.ObjectPath]map[string]map[string]godbus.Variant
	call := root.Call(objectManager+".GetManagedObjects", 0)
	if err := call.Store(&all); err != nil {
		t.Fatal(err)
	}
	nodes := make(map[godbus.ObjectPath]nodeProperties)
	for path, interfaces := range all {
		nodes[path] = interfaces[nodeInterface]
	}
	return nodes, call.ResponseSequence
}

func newSum(t *testing.T, root godbus.BusObject) *sum {
	t.Helper()
	nodes, since := managed(t, root)
	return &sum{nodes: nodes, since: since}
}

// add adds a signal. One that does not fit what is known is an error.
func (s *sum) add(sig *godbus.Signal) error {
	if sig.Sequence < s.since {
		return nil
	}
	s.signals++
	switch sig.Name {
	case objectManager + ".InterfacesAdded":
		path := sig.Body[0].(godbus.ObjectPath)
		if s.nodes[path] != nil {
			return fmt.Errorf("%s added twice", path)
		}
		s.nodes[path] = sig.Body[1].(map[string]map[string]godbus.Variant)[nodeInterface]
	case objectManager + ".InterfacesRemoved":
		path := sig.Body[0].(godbus.ObjectPath)
		if s.nodes[path] == nil {
			return fmt.Errorf("%s removed, which is not there", path)
		}
		delete(s.nodes, path)
	case properties + ".PropertiesChanged":
		if sig.Path == dbus.Root {
			return nil
		}
		if s.nodes[sig.Path] == nil {
			return fmt.Errorf("%s changed, which is not there", sig.Path)
		}
		maps.Copy(s.nodes[sig.Path], sig.Body[1].(map[string]godbus.Variant))
	default:
		return fmt.Errorf("signal %s", sig.Name)
	}
	return nil
}

// until adds up signals until done says so.
func (s *sum) until(t *testing.T, signals <-chan *godbus.Signal, done func() bool) {
	t.Helper()
	for deadline := time.After(wait.Patience); !done(); {
		select {
		case sig := <-signals:
			if err := s.add(sig); err != nil {
				t.Fatal(err)
			}
		case <-deadline:
			t.Fatalf("waited %v; %d signals, %d nodes", wait.Patience, s.signals, len(s.nodes))
		}
	}
}

// compare holds that the sum is what a client sees that asks for all objects now.
func (s *sum) compare(t *testing.T, root godbus.BusObject) {
	t.Helper()
	now, _ := managed(t, root)
	if len(now) != len(s.nodes) {
		t.Errorf("%d objects; the signals add up to %d", len(now), len(s.nodes))
	}
	for path, want := range now {
		if got := s.nodes[path]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %v; the signals add up to %v", path, want, got)
		}
	}
}

// has tells whether there is a node of that alive name.
func (s *sum) has(name string) bool {
	for _, n := range s.nodes {
		if n["Name"].Value() == name {
			return true
		}
	}
	return false
}

func TestSignalsOfOneNode(t *testing.T) {
	b := startBus(t)
	reg, _ := b.serve(t, dbus.Options{})
	conn := b.client(t)
	signals := subscribe(t, conn)
	sum := newSum(t, root(t, conn))

	r := register(t, reg, "a")
	sum.until(t, signals, func() bool { return sum.has("a") })
	path := lookup(t, conn, "a").Path()
	if err := reg.Identify(reg.Node(r), registry.Identity{Node: "a@198.51.100.11", Dist: registry.TLS, Hidden: true}); err != nil {
		t.Fatal(err)
	}
	var changed map[string]godbus.Variant
	for deadline := time.After(wait.Patience); changed == nil; {
		select {
		case sig := <-signals:
			if sig.Path == path {
				changed = sig.Body[1].(map[string]godbus.Variant)
			}
		case <-deadline:
			t.Fatal("no PropertiesChanged")
		}
	}
	want := map[string]godbus.Variant{
		"Node": godbus.MakeVariant("a@198.51.100.11"), "Sure": godbus.MakeVariant(true),
		"Dist": godbus.MakeVariant("tls"), "Type": godbus.MakeVariant("hidden"),
	}
	if !reflect.DeepEqual(changed, want) {
		t.Errorf("PropertiesChanged has %v; want %v", changed, want)
	}
	if now := lookup(t, conn, "a@198.51.100.11").Path(); now != path {
		t.Errorf("its object is now %s; want %s, as it was", now, path)
	}
	reg.Unregister(r)
	sum.until(t, signals, func() bool { return len(sum.nodes) == 0 })
}

// churn has nodes come, go, register anew and change, and ends with some of them and one of the
// name last.
func churn(t *testing.T, reg *registry.Registry, rounds int) {
	t.Helper()
	there := make(map[string]*registry.Registration)
	for i := range rounds {
		name := fmt.Sprintf("n%d", rand.IntN(1000))
		r := there[name]
		switch {
		case r == nil:
			there[name] = register(t, reg, name)
		case i%3 == 0:
			reg.Unregister(r)
			delete(there, name)
		case i%3 == 1:
			reg.SetHolder(reg.Node(r), &registry.Holder{PID: int32(i), UID: 1})
		default:
			reg.Unregister(r)
			there[name] = register(t, reg, name)
		}
	}
	register(t, reg, "last")
}

func TestSignalsOfManyNodes(t *testing.T) {
	b := startBus(t)
	reg, l := b.serve(t, dbus.Options{})
	conn := b.client(t)
	signals := subscribe(t, conn)
	root := root(t, conn)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		churn(t, reg, 5000)
	}()
	sum := newSum(t, root) // in the middle of it
	sum.until(t, signals, func() bool { return sum.has("last") })
	<-ended
	sum.until(t, signals, func() bool { local, _ := reg.Counts(); return len(sum.nodes) == local })
	sum.compare(t, root)
	if strings.Contains(l.String(), "off") {
		t.Errorf("log:\n%s", l)
	}
	t.Logf("%d signals", sum.signals)
}

// TestScripts plays scripts at random. In the end a program that adds up the signals of a real bus
// knows what the registry has.
func TestScripts(t *testing.T) {
	b := startBus(t)
	for seed := range uint64(20) {
		s := dbus.NewScript(dbus.RandomScript(seed))
		_, stop := b.serveRegistry(t, s.Reg, dbus.Options{})
		conn := b.client(t)
		signals := subscribe(t, conn)
		root := root(t, conn)
		sum := newSum(t, root)
		for s.More() {
			s.Step()
		}
		differs := ""
		known := func() bool {
			objects := make(map[godbus.ObjectPath]map[string]godbus.Variant)
			for path, of := range sum.nodes {
				objects[path] = of
			}
			differs = dbus.Differs(s.Reg, objects)
			return differs == ""
		}
		sum.until(t, signals, known)
		sum.compare(t, root)
		stop()
		wait.True(t, "nobody owns the name", func() bool {
			var owned bool
			return conn.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, dbus.Name).Store(&owned) == nil && !owned
		})
		conn.Close()
	}
}

// TestSlowBus stops the bus for longer than the registry keeps changes for a subscriber.
func TestSlowBus(t *testing.T) {
	b := startBus(t)
	reg, _ := b.serve(t, dbus.Options{})
	conn := b.client(t)
	signals := subscribe(t, conn)
	root := root(t, conn)
	register(t, reg, "first")
	sum := newSum(t, root)
	sum.until(t, signals, func() bool { return sum.has("first") })

	wait.Freeze(t, b.daemon.Process.Pid)
	began := time.Now()
	churn(t, reg, 50_000)
	if took := time.Since(began); took > wait.Patience {
		t.Errorf("50,000 changes of the registry took %v", took)
	}
	if err := b.daemon.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	sum.until(t, signals, func() bool { return sum.has("last") })
	sum.until(t, signals, func() bool { local, _ := reg.Counts(); return len(sum.nodes) == local })
	sum.compare(t, root)
	if sum.signals > 5000 {
		t.Errorf("%d signals; want them put together", sum.signals)
	}
}

// TestEndWhileBusIsStopped ends a service that writes to a bus that takes nothing any more.
func TestEndWhileBusIsStopped(t *testing.T) {
	b := startBus(t)
	reg := registry.New("hosta.local", registry.OldNames)
	_, stop := b.serveRegistry(t, reg, dbus.Options{})
	awaitName(t, b.client(t))
	wait.Freeze(t, b.daemon.Process.Pid)
	defer b.daemon.Process.Signal(syscall.SIGCONT)
	for i := range 200 { // of which 64 signals are more than a socket's buffer holds
		register(t, reg, fmt.Sprintf("%d%s", i, strings.Repeat("\U0001f600", 250)))
	}
	stop()
}

package dbus_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/goerlang/eclus/dbus"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

// TestBusRestarts kills and starts the bus ten times.
func TestBusRestarts(t *testing.T) {
	b := startBus(t)
	reg, l := b.serve(t, dbus.Options{})
	register(t, reg, "a")
	awaitName(t, b.client(t))
	for i := range 10 {
		// The bus shows the name to others before it tells its owner.
		wait.Until(t, "the service knows that it has its name", func() error {
			if on := strings.Count(l.String(), "D-Bus service on"); on != i+1 {
				return fmt.Errorf("%d entries about the name; want %d", on, i+1)
			}
			return nil
		})
		b.kill()
		if i%2 == 0 {
			register(t, reg, "while-away-"+string(rune('0'+i)))
		}
		b.start(t)
		began := time.Now()
		conn := b.client(t)
		awaitName(t, conn)
		t.Logf("back after %v", time.Since(began))
		nodes, _ := managed(t, conn.Object(dbus.Name, dbus.Root))
		if local, _ := reg.Counts(); len(nodes) != local {
			t.Errorf("%d objects as soon as the name is there; want %d", len(nodes), local)
		}
	}
	if off := strings.Count(l.String(), "D-Bus service off"); off != 10 {
		t.Errorf("%d entries about the loss of the bus; want 10:\n%s", off, l)
	}
}

// TestBusComesLate starts a service before there is a bus, or a folder for its socket.
func TestBusComesLate(t *testing.T) {
	b := newBus(t, include(t))
	reg, l := b.serve(t, dbus.Options{})
	register(t, reg, "a")
	b.start(t)
	awaitName(t, b.client(t))
	if strings.Contains(l.String(), "off") {
		t.Errorf("log:\n%s", l)
	}
}

// TestNoNameBeforeObjects holds that whoever learns of the name finds all objects, as with
// Type=dbus of systemd.
func TestNoNameBeforeObjects(t *testing.T) {
	const nodes = 2000
	b := startBus(t)
	conn := b.client(t)
	if err := conn.AddMatchSignal(godbus.WithMatchSender("org.freedesktop.DBus"), godbus.WithMatchMember("NameOwnerChanged"),
		godbus.WithMatchArg(0, dbus.Name)); err != nil {
		t.Fatal(err)
	}
	came := make(chan *godbus.Signal, 10)
	conn.Signal(came)
	reg := registry.New("hosta.local", registry.OldNames)
	for i := range nodes {
		register(t, reg, strings.Repeat("n", 1+i%10)+string(rune('A'+i/10%26))+strings.Repeat("m", i/260))
	}
	b.serveRegistry(t, reg, dbus.Options{})
	select {
	case <-came:
	case <-time.After(wait.Patience):
		t.Fatal("no name")
	}
	if all, _ := managed(t, conn.Object(dbus.Name, dbus.Root)); len(all) != nodes {
		t.Errorf("%d objects; want %d", len(all), nodes)
	}
}

// TestNameForbidden runs a service on a bus whose policy knows nothing of it, until it does.
func TestNameForbidden(t *testing.T) {
	b := newBus(t, "")
	b.start(t)
	reg, l := b.serve(t, dbus.Options{})
	register(t, reg, "a")
	conn := b.client(t)
	refused := make(chan *godbus.Signal, 10)
	conn.Signal(refused)
	if err := conn.AddMatchSignal(godbus.WithMatchMember("NameOwnerChanged")); err != nil {
		t.Fatal(err)
	}
	for range 4 { // connections come and go
		select {
		case <-refused:
		case <-time.After(wait.Patience):
			t.Fatal("the service does not try")
		}
	}
	b.write(t, include(t))
	if err := conn.BusObject().Call("org.freedesktop.DBus.ReloadConfig", 0).Err; err != nil {
		t.Fatal(err)
	}
	awaitName(t, conn)
	if text := l.String(); strings.Count(text, "off") != 1 || strings.Count(text, "forbids") != 1 || strings.Contains(text, "WARN") {
		t.Errorf("log:\n%s\nwant one entry that says what to do", text)
	}
}

// TestNameTaken runs a service on a bus where another program has the name, and gives it back.
func TestNameTaken(t *testing.T) {
	b := startBus(t)
	other := b.client(t)
	if reply, err := other.RequestName(dbus.Name, 0); err != nil || reply != godbus.RequestNameReplyPrimaryOwner {
		t.Fatal(reply, err)
	}
	reg, l := b.serve(t, dbus.Options{})
	register(t, reg, "a")
	wait.Until(t, "entry in the log", func() error {
		if !strings.Contains(l.String(), "another program has the name") {
			return godbus.ErrMsgNoObject
		}
		return nil
	})
	if reply, err := other.ReleaseName(dbus.Name); err != nil || reply != godbus.ReleaseNameReplyReleased {
		t.Fatal(reply, err)
	}
	conn := b.client(t)
	lookup(t, conn, "a")
	if n := strings.Count(l.String(), "another program has the name"); n != 1 {
		t.Errorf("%d entries about it; want 1:\n%s", n, l)
	}
}

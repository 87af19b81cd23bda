package dbus_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/dbus"
	"github.com/goerlang/eclus/internal/bus"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"

	"github.com/goerlang/eclus/test/need"
)

type testBus struct {
	dir    string
	daemon *exec.Cmd // nil: does not run
}

// busConfig has the standard rules of the system bus, and %[2]s for those about us.
const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=%[1]s/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  %[2]s
  <limit name="max_replies_per_connection">50000</limit>
</busconfig>
`

// include is how our own rules are part of the bus's.
func include(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("org.erlang.Epmd.conf")
	if err != nil {
		t.Fatal(err)
	}
	return "<include>" + path + "</include>"
}

// newBus returns a bus that is not started yet, with these rules beside the standard ones.
func newBus(t *testing.T, rules string) *testBus {
	t.Helper()
	need.Program(t, "dbus-daemon")
	dir, err := os.MkdirTemp("", "bus") // of a short name, as a socket's has a limit
	if err != nil {
		t.Fatal(err)
	}
	b := &testBus{dir: dir}
	t.Cleanup(func() {
		b.kill()
		os.RemoveAll(dir)
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b.write(t, rules)
	return b
}

// startBus returns a bus that runs.
func startBus(t *testing.T) *testBus {
	t.Helper()
	b := newBus(t, include(t))
	b.start(t)
	return b
}

func (b *testBus) write(t *testing.T, rules string) {
	t.Helper()
	if err := os.WriteFile(b.dir+"/conf", fmt.Appendf(nil, busConfig, b.dir, rules), 0o644); err != nil {
		t.Fatal(err)
	}
}

// start starts the daemon and returns when it takes connections.
func (b *testBus) start(t *testing.T) {
	t.Helper()
	b.daemon = exec.Command("dbus-daemon", "--config-file="+b.dir+"/conf", "--nofork", "--nopidfile", "--nosyslog", "--print-address")
	out, err := b.daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.daemon.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("dbus-daemon: %v", err)
	}
}

func (b *testBus) kill() {
	if b.daemon != nil {
		b.daemon.Process.Kill()
		b.daemon.Wait()
		b.daemon = nil
	}
}

func (b *testBus) address() string { return "unix:path=" + b.dir + "/bus" }

// client connects to the bus.
func (b *testBus) client(t *testing.T) *godbus.Conn {
	t.Helper()
	conn, err := godbus.Connect(b.address(), godbus.WithSignalHandler(godbus.NewSequentialSignalHandler()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// Users without rights that every Debian has. dbus-daemon takes nobody whom it does not know.
const (
	daemonUser = 1
	binUser    = 2
)

// clientOf connects as another user.
func (b *testBus) clientOf(t *testing.T, uid int) *godbus.Conn {
	t.Helper()
	need.Root(t)
	var conn *godbus.Conn
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends, and whose it was
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			err = errno
			return
		}
		conn, err = godbus.Dial(b.address(), godbus.WithSignalHandler(godbus.NewSequentialSignalHandler()))
	}()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.Auth([]godbus.Auth{godbus.AuthExternal(strconv.Itoa(uid))}); err != nil {
		t.Fatal(err)
	}
	if err := conn.Hello(); err != nil {
		t.Fatal(err)
	}
	return conn
}

// serve runs a service on the bus until the test ends, and returns its registry and its log,
// without debug entries.
func (b *testBus) serve(t *testing.T, opts dbus.Options) (*registry.Registry, *wait.Output) {
	t.Helper()
	reg := registry.New("hosta.local", registry.OldNames)
	l, _ := b.serveRegistry(t, reg, opts)
	return reg, l
}

// serveRegistry is serve for a registry that is there. The function it returns ends the service.
func (b *testBus) serveRegistry(t *testing.T, reg *registry.Registry, opts dbus.Options) (*wait.Output, func()) {
	t.Helper()
	var err error
	if opts.Bus, err = bus.Parse(b.address()); err != nil {
		t.Fatal(err)
	}
	l := &wait.Output{}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		dbus.New(reg, opts, slog.New(slog.NewTextHandler(l, nil))).Run(ctx)
	}()
	stop := func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(wait.Patience):
			t.Errorf("the service does not end")
		}
	}
	t.Cleanup(stop)
	return l, stop
}

// awaitName returns when somebody owns the name.
func awaitName(t *testing.T, conn *godbus.Conn) {
	t.Helper()
	wait.Until(t, "the name is there", func() error {
		var owner string
		return conn.BusObject().Call("org.freedesktop.DBus.GetNameOwner", 0, dbus.Name).Store(&owner)
	})
}

// root returns the service's root object, once its name is there.
func root(t *testing.T, conn *godbus.Conn) godbus.BusObject {
	t.Helper()
	awaitName(t, conn)
	return conn.Object(dbus.Name, dbus.Root)
}

// lookup returns the object of a node.
func lookup(t *testing.T, conn *godbus.Conn, name string) godbus.BusObject {
	t.Helper()
	var path godbus.ObjectPath
	wait.Until(t, "lookup of "+name, func() error {
		return conn.Object(dbus.Name, dbus.Root).Call("org.erlang.Epmd.Manager.Lookup", 0, name).Store(&path)
	})
	return conn.Object(dbus.Name, path)
}

func register(t *testing.T, reg *registry.Registry, name string) *registry.Registration {
	t.Helper()
	r, err := reg.Register(registry.Node{Name: name, Port: 41233, Type: registry.Normal, High: 6, Low: 5})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

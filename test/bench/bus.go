package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// nodePath is what paths of nodes begin with; their alive names follow.
const nodePath = "/org/erlang/Epmd/"

// manyNodes is how many nodes come at once.
const manyNodes = 1000

// measureBus shows how soon the bus is told of nodes. It also shows what telling the bus of many
// does to somebody who looks a name up meanwhile. The daemon beside ours has no bus. It stands
// where the stock does elsewhere.
func measureBus(b *bench) error {
	bus, err := startBus(b.otherCore())
	if err != nil {
		fmt.Fprintln(os.Stderr, "D-Bus figures left out:", err)
		return nil
	}
	defer bus.stop()
	with, without := b.ours, b.ours
	with.args = []string{"-lan", "off", "-bus", bus.address}
	return errors.Join(b.busLatency(with, bus), b.busBurst(with, without, bus))
}

// busDaemon is a message bus of our own.
type busDaemon struct {
	dir, address string
	cmd          *exec.Cmd
}

// otherCore returns a core that load and daemon don't run on, if there is one.
func (b *bench) otherCore() int {
	if b.cpu < 0 || runtime.NumCPU() == 1 {
		return -1
	}
	return (b.cpu + 1) % runtime.NumCPU()
}

func startBus(cpu int) (*busDaemon, error) {
	dir, err := os.MkdirTemp("", "bus")
	if err != nil {
		return nil, err
	}
	b := &busDaemon{dir: dir, address: "unix:path=" + dir + "/bus"}
	b.cmd = exec.Command("dbus-daemon", "--session", "--address="+b.address, "--nofork", "--nopidfile", "--nosyslog", "--print-address")
	out, err := b.cmd.StdoutPipe()
	if err == nil {
		err = onCore(cpu, b.cmd.Start)
	}
	if err == nil {
		_, err = bufio.NewReader(out).ReadString('\n') // it takes connections now
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return b, nil
}

func (b *busDaemon) stop() {
	b.cmd.Process.Kill()
	b.cmd.Wait()
	os.RemoveAll(b.dir)
}

// subscriber is told when objects of nodes come.
type subscriber struct {
	*dbus.Conn
	signals chan *dbus.Signal
}

// subscribe returns a subscriber once that daemon has the name. It may be that of one that was
// ended a moment ago.
func (b *busDaemon) subscribe(d *daemon) (*subscriber, error) {
	conn, err := dbus.Connect(b.address, dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		return nil, err
	}
	s := &subscriber{conn, make(chan *dbus.Signal, 4*manyNodes)}
	conn.Signal(s.signals)
	err = errors.Join(conn.AddMatchSignal(dbus.WithMatchMember("InterfacesAdded")),
		conn.AddMatchSignal(dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, "org.erlang.Epmd")))
	for err == nil {
		var pid uint32
		if conn.BusObject().Call("org.freedesktop.DBus.GetConnectionUnixProcessID", 0, "org.erlang.Epmd").Store(&pid) == nil &&
			int(pid) == d.cmd.Process.Pid {
			// What it tells from its answer on is told to us.
			return s, conn.Object("org.erlang.Epmd", "/org/erlang/Epmd").Call("org.freedesktop.DBus.Peer.Ping", 0).Err
		}
		err = s.await("NameOwnerChanged", "org.erlang.Epmd", 1)
	}
	conn.Close()
	return nil, err
}

// await returns when count signals of that name have come whose first argument begins with that
// prefix.
func (s *subscriber) await(member, prefix string, count int) error {
	timeout := time.After(answerTimeout)
	for count > 0 {
		select {
		case <-timeout:
			return fmt.Errorf("%d signals %s missing after %v", count, member, answerTimeout)
		case sig, open := <-s.signals:
			if !open {
				return errors.New("the bus has gone")
			}
			if strings.HasSuffix(sig.Name, "."+member) && strings.HasPrefix(fmt.Sprint(sig.Body[0]), prefix) {
				count--
			}
		}
	}
	return nil
}

// busLatency shows how long it takes from a node's ALIVE2_REQ to the signal that its object has
// come.
func (b *bench) busLatency(p program, bus *busDaemon) error {
	return b.with(p, 0, func(d *daemon) error {
		s, err := bus.subscribe(d)
		if err != nil {
			return err
		}
		defer s.Close()
		var took []float64
		for i := range 10 * b.rounds {
			name := fmt.Sprintf("one%d", i)
			begin := time.Now()
			fd, err := d.register(name)
			if err != nil {
				return err
			}
			if err := s.await("InterfacesAdded", nodePath+name+"_40", 1); err != nil {
				return err
			}
			took = append(took, time.Since(begin).Seconds())
			closeAll([]int{fd})
		}
		b.table.atMost("ALIVE2 to InterfacesAdded on the bus, p50", median(took), "-", millis, 20e-3)
		return nil
	})
}

// busBurst has many nodes register at once. It shows how soon all objects are there, and the p99 of
// lookups meanwhile.
func (b *bench) busBurst(with, without program, bus *busDaemon) error {
	var told, loud, quiet, ratios []float64
	for range b.rounds {
		var took, telling, silent float64
		err := errors.Join(
			b.with(with, 0, func(d *daemon) (err error) { took, err = b.tell(d, bus); return err }),
			b.with(with, 0, func(d *daemon) (err error) { telling, err = b.lookMeanwhile(d, bus); return err }),
			b.with(without, 0, func(d *daemon) (err error) { silent, err = b.lookMeanwhile(d, nil); return err }))
		if err != nil {
			return err
		}
		told, loud, quiet, ratios = append(told, took), append(loud, telling), append(quiet, silent), append(ratios, telling/silent)
	}
	b.table.atMost(fmt.Sprintf("%d nodes at once: all objects on the bus", manyNodes), median(told), "-", millis, 2)
	b.table.row("lookup p99 meanwhile, beside that without a bus", micros(median(loud)), micros(median(quiet)),
		times(median(ratios)), "<= "+times(1.1), median(ratios) <= 1.1)
	return nil
}

// tell has many nodes register at once. It returns how many seconds later the bus was told of all.
func (b *bench) tell(d *daemon, bus *busDaemon) (float64, error) {
	s, err := bus.subscribe(d)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	begin := time.Now()
	held, err := d.registerMany(manyNodes)
	defer closeAll(held)
	if err != nil {
		return 0, err
	}
	err = s.await("InterfacesAdded", nodePath+"n", manyNodes)
	return time.Since(begin).Seconds(), err
}

// lookMeanwhile has many nodes register while another client looks one up. It returns the p99 of
// the lookups in seconds. The bus is told too, unless it is nil. Nobody listens there, as that
// would take time from this process. The nodes register on the core of the bus. Else they and the
// lookups were sometimes on one core, with the bus or without.
func (b *bench) lookMeanwhile(d *daemon, bus *busDaemon) (float64, error) {
	if bus != nil {
		s, err := bus.subscribe(d)
		if err != nil {
			return 0, err
		}
		s.Close()
	}
	looked, err := d.register("looked_up")
	if err != nil {
		return 0, err
	}
	defer closeAll([]int{looked})
	var l load
	look := func() (err error) {
		l, err = newClient(d.port, d.eager).run([]request{lookupRequest("looked_up")}, 1, b.round)
		return err
	}
	if err := onCore(b.cpu, look); err != nil { // until all that begins with a daemon has begun
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- onCore(b.cpu, look) }()
	var held []int
	err = onCore(b.otherCore(), func() (err error) { held, err = d.registerMany(manyNodes); return err })
	defer closeAll(held)
	if err := errors.Join(err, <-ended); err != nil {
		return 0, err
	}
	return percentile(l.latencies, 99), nil
}

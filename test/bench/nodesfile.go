package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	nodesFileLines = 10000
	nodesFileEvery = time.Second
)

// measureNodesFile shows what a nodes file of 10,000 lines does that is written anew every second
// to somebody who looks a name up. If all its nodes change each time, the daemon and the load have
// any core. Whatever the daemon does would keep the load from the one core that they share else.
func measureNodesFile(b *bench) error {
	anywhere := *b
	anywhere.cpu = -1
	return errors.Join(
		b.rewrite("lookup p99, nodes file of 10000 lines, one changes", 1),
		anywhere.rewrite("lookup p99, the same, all change, on any core", nodesFileLines))
}

// rewrite measures while that many lines of the file change every second. The file is written on
// another core than the load and the daemon have.
func (b *bench) rewrite(what string, changes int) error {
	dir, err := os.MkdirTemp("", "nodes")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	with, every := b.ours, nodesFileEvery
	with.args = append([]string{"-nodes_dir", dir}, with.args...)
	if b.quick {
		every /= 5
	}
	write := func(round int) error { return writeNodesFile(dir, 9000+round, changes) }
	if err := write(1); err != nil {
		return err
	}
	return b.with(with, 0, func(d *daemon) error {
		held, err := d.register("looked_up")
		if err != nil {
			return err
		}
		defer unix.Close(held)
		var busy, calm, ratios []float64
		for range b.rounds {
			time.Sleep(2 * every) // what was written has been read by then
			before, err := b.lookFor(d, 2*every)
			if err != nil {
				return err
			}
			meanwhile, err := b.lookWhileWritten(d, write, every)
			if err != nil {
				return err
			}
			busy, calm, ratios = append(busy, meanwhile), append(calm, before), append(ratios, meanwhile/before)
		}
		b.table.row(what, micros(median(busy)), micros(median(calm)), times(median(ratios)), "<= "+times(1.2), median(ratios) <= 1.2)
		return nil
	})
}

// lookFor looks a name up for a while. It returns the p99 in seconds.
func (b *bench) lookFor(d *daemon, while time.Duration) (float64, error) {
	var l load
	err := onCore(b.cpu, func() (err error) {
		l, err = newClient(d.port, d.eager).run([]request{lookupRequest("looked_up")}, 1, while)
		return err
	})
	if err != nil {
		return 0, err
	}
	return percentile(l.latencies, 99), nil
}

// lookWhileWritten is lookFor while the file is written twice.
func (b *bench) lookWhileWritten(d *daemon, write func(round int) error, every time.Duration) (p99 float64, err error) {
	ended := make(chan error, 1)
	go func() {
		ended <- onCore(b.otherCore(), func() error {
			for round := range 2 {
				if err := write(round); err != nil {
					return err
				}
				time.Sleep(every) // it is what is measured
			}
			return nil
		})
	}()
	p99, err = b.lookFor(d, 2*every)
	return p99, errors.Join(err, <-ended)
}

// writeNodesFile replaces the file by one in which the first nodes have another port.
func writeNodesFile(dir string, port, changes int) error {
	var text strings.Builder
	for i := range nodesFileLines {
		if i == changes {
			port = 9000
		}
		fmt.Fprintf(&text, "n%d@h%d 10.0.%d.%d:%d\n", i, i, i/250, i%250+1, port)
	}
	path := filepath.Join(dir, "many.nodes")
	if err := os.WriteFile(path+".new", []byte(text.String()), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

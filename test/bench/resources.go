package main

import (
	"fmt"
	"os"
	"time"
)

// settling is how long a daemon is left alone before it counts as idle. Runtimes have things to do
// after work.
const settling = 5 * time.Second

// measureMemory shows the anonymous memory of a daemon that has answered once. It also shows how
// much that grows when nodes register.
func measureMemory(b *bench) error {
	idle, grown, err := b.growth(b.ours, 9_000)
	if err != nil {
		return err
	}
	stockIdle, stockGrown, err := b.growth(b.stock, 1000)
	if err != nil {
		return err
	}
	b.table.atMost("memory, idle, LAN off", idle, megabytes(stockIdle), megabytes, 6)
	b.table.atMost("memory for each 1,000 nodes (ours: of 9,000)", grown, megabytes(stockGrown), megabytes, 0.5)
	return nil
}

// growth returns the memory of a daemon, and how much it grows for each 1,000 of so many nodes, in
// MB.
func (b *bench) growth(p program, nodes int) (idle, per1000 float64, err error) {
	err = b.with(p, 0, func(d *daemon) error {
		time.Sleep(settling)
		if idle, err = d.anonymousMB(); err != nil {
			return err
		}
		held, err := d.registerMany(nodes)
		defer closeAll(held)
		if err != nil {
			return err
		}
		time.Sleep(3 * settling) // until all have been asked for their names
		full, err := d.anonymousMB()
		per1000 = (full - idle) / float64(nodes) * 1000
		return err
	})
	return idle, per1000, err
}

// measureIdle shows how often threads of a daemon wake while nothing happens. Ten nodes are
// registered, at whose ports nobody listens. Ours looks at them again for a minute. It counts the
// context switches of all threads.
func measureIdle(b *bench) error {
	settled, watch := 70*time.Second, 10*time.Second
	if b.quick {
		settled, watch = settling, time.Second
	}
	return b.withPair(10, func(p pair) error {
		time.Sleep(settled)
		var woken [2]int
		daemons := []*daemon{p.ours, p.stock}
		for i, d := range daemons {
			n, err := d.switches()
			if err != nil {
				return err
			}
			woken[i] = -n
		}
		time.Sleep(watch)
		for i, d := range daemons {
			n, err := d.switches()
			if err != nil {
				return err
			}
			woken[i] += n
		}
		b.table.row(fmt.Sprintf("wake-ups in %v, nothing happening", watch), fmt.Sprint(woken[0]), fmt.Sprint(woken[1]),
			"", "0", woken[0] == 0)
		return nil
	})
}

// measureStart shows how long it takes from exec to the first answer. Load and daemon may use all
// cores, as they do when a node starts its epmd. Beside ours stands a Go program that does no more
// than listen and answer.
func measureStart(b *bench) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bare := program{name: "bare"}
	if bare.path, err = build(dir, "test/bench/bare"); err != nil {
		return err
	}
	var took [3][]float64
	for range b.rounds * 3 {
		for i, p := range []program{b.ours, b.stock, bare} {
			begin := time.Now()
			d, err := p.start(-1, 0)
			if err != nil {
				return err
			}
			took[i] = append(took[i], time.Since(begin).Seconds())
			d.stop()
		}
	}
	b.table.better("exec to first answer", cheaper(took[0], took[1]), millis, 0.75)
	c := cheaper(took[2], took[1])
	b.table.row("the same of a Go program that only answers", millis(c.ours), millis(c.stock), times(c.ratio), "", false)
	return nil
}

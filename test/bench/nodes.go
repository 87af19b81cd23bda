package main

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// measureRegistering shows what it costs the daemon to register a node and to see it go. First each
// node has a name of its own. The 1,001 names that the stock remembers have gone already by then,
// as for a daemon that has run for some time. Then the name is always the same, and it alone has
// gone.
func measureRegistering(b *bench) error {
	serial := 0
	newName := func() string {
		serial++
		return fmt.Sprintf("new%d", serial)
	}
	return errors.Join(
		b.compareRegistering("register and unregister, new names: CPU", 1100, newName, 1.5),
		b.compareRegistering("register and unregister, the same name: CPU", 1, func() string { return "same" }, 0.9),
	)
}

func (b *bench) compareRegistering(what string, gone int, name func() string, target float64) error {
	return b.withPair(0, func(p pair) error {
		for _, d := range []*daemon{p.ours, p.stock} {
			for range gone {
				if err := d.comeAndGo(name()); err != nil {
					return fmt.Errorf("%s: %w", d.name, err)
				}
			}
		}
		ours, stock, err := b.compare(p, b.registerFigures(name))
		if err != nil {
			return err
		}
		b.table.better(what, cheaper(ours[0], stock[0]), micros, target)
		return nil
	})
}

// registerFigures returns a measure that registers nodes, one after the other, each gone before the
// next comes. Its figure is the daemon's CPU time for each, in seconds.
func (b *bench) registerFigures(name func() string) measure {
	return func(d *daemon) ([]float64, error) {
		before, err := d.cpuTime()
		if err != nil {
			return nil, err
		}
		count := 0
		for begin := time.Now(); time.Since(begin) < b.round; count++ {
			if err := d.comeAndGo(name()); err != nil {
				return nil, err
			}
		}
		after, err := d.cpuTime()
		return []float64{(after - before).Seconds() / float64(count)}, err
	}
}

// comeAndGo registers a node and ends its side of the connection. It returns when the daemon has
// ended the other side. By then the node is unregistered.
func (c *client) comeAndGo(name string) error {
	fd, err := c.register(name)
	if err != nil {
		return err
	}
	unix.Shutdown(fd, unix.SHUT_WR)
	return c.finish(fd, 0)
}

// measureLimit shows how many nodes can be registered at once, and whether lookups are answered
// then.
func measureLimit(b *bench) error {
	files, err := filesToGive()
	if err != nil {
		return err
	}
	ours, oursAnswers, err := b.fill(b.ours, files)
	if err != nil {
		return err
	}
	stock, stockAnswers, err := b.fill(b.stock, files)
	if err != nil {
		return err
	}
	show := func(nodes int, answers bool) string {
		if answers {
			return fmt.Sprint(nodes)
		}
		return fmt.Sprintf("%d, dead", nodes)
	}
	b.table.row(fmt.Sprintf("nodes at once, limit of %d open files", files), show(ours, oursAnswers),
		show(stock, stockAnswers), "", fmt.Sprintf(">= %d", files-64), ours >= files-64 && oursAnswers)
	return nil
}

// fill registers nodes until one is refused, not answered or cut off. It returns how many there
// were and whether the first can still be looked up.
func (b *bench) fill(p program, files int) (nodes int, answers bool, err error) {
	d, err := p.start(b.cpu, files)
	if err != nil {
		return 0, false, err
	}
	defer d.stop()
	held, err := d.registerMany(files)
	defer closeAll(held)
	if err == nil {
		return 0, false, fmt.Errorf("%s: as many nodes as open files were allowed: %d", p.name, files)
	}
	answers = true
	for range 100 {
		answers = answers && d.exchange(lookupRequest("n0")) == nil
	}
	return len(held), answers, nil
}

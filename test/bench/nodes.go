package main

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// measureRegistering shows what it costs the daemon to register a node and to see it go. First each
// node has a name of its own. The 1,001 names that the stock remembers have gone already by then,
// as for a daemon that has run for some time. Then the same names come again, and they alone have
// gone.
func measureRegistering(b *bench) error {
	serial := 0
	newName := func() string {
		serial++
		return fmt.Sprintf("new%d", serial)
	}
	again := func() string {
		serial++
		return fmt.Sprintf("same%d", serial%16)
	}
	return errors.Join(
		b.compareRegistering("register and unregister, new names", 1100, 1, newName, 1.3),
		b.compareRegistering("register and unregister, new names", 1100, 8, newName, 1.3),
		b.compareRegistering("register and unregister, the same name", 1, 1, func() string { return "same" }, 0.95),
		b.compareRegistering("register and unregister, the same names", 16, 8, again, 0.95),
	)
}

func (b *bench) compareRegistering(what string, gone, atOnce int, name func() string, target float64) error {
	return b.withPair(0, func(p pair) error {
		for _, d := range []*daemon{p.ours, p.stock} {
			for range gone {
				if err := d.comeAndGo(name()); err != nil {
					return fmt.Errorf("%s: %w", d.name, err)
				}
			}
		}
		ours, stock, err := b.compare(p, b.registerFigures(name, atOnce))
		if err != nil {
			return err
		}
		what := fmt.Sprintf("%s, %d at once", what, atOnce)
		b.table.better(what+": CPU", cheaper(ours[0], stock[0]), micros, target)
		b.table.better(what+": p99", cheaper(ours[1], stock[1]), micros, 1)
		return nil
	})
}

// registerFigures returns a measure that registers nodes for a round. atOnce of them are under way
// all the time. Each is gone before the next comes. Its figures are the daemon's CPU time for each,
// and the p99 of the time from connect to the answer, in seconds.
func (b *bench) registerFigures(name func() string, atOnce int) measure {
	return func(d *daemon) ([]float64, error) {
		before, err := d.cpuTime()
		if err != nil {
			return nil, err
		}
		latencies, err := d.comeAndGoFor(b.round, name, atOnce)
		if err != nil {
			return nil, err
		}
		after, err := d.cpuTime()
		return []float64{(after - before).Seconds() / float64(len(latencies)), percentile(latencies, 99)}, err
	}
}

// comeAndGoFor registers nodes and has them go, for that long. It returns how long each waited for
// its answer, in seconds.
func (c *client) comeAndGoFor(d time.Duration, name func() string, atOnce int) (latencies []float64, err error) {
	type asked struct {
		fd   int
		when time.Time
	}
	var open []asked
	defer func() {
		for _, a := range open {
			unix.Close(a.fd)
		}
	}()
	for begin := time.Now(); ; {
		for now := time.Now(); len(open) < atOnce && now.Sub(begin) < d; now = time.Now() {
			fd, err := c.ask(aliveRequest(name()))
			if err != nil {
				return nil, err
			}
			open = append(open, asked{fd, now})
		}
		if len(open) == 0 {
			return latencies, nil
		}
		first := open[0]
		open = open[1:]
		if err := c.registered(first.fd); err != nil {
			return nil, err
		}
		latencies = append(latencies, time.Since(first.when).Seconds())
		unix.Shutdown(first.fd, unix.SHUT_WR)
		if err := c.finish(first.fd, 0); err != nil {
			return nil, err
		}
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

// measureStaying shows what a registration that stays costs the daemon: until it is answered, and
// in the five seconds after. It compares the first with the stock's cost for few nodes, as the
// stock's grows with the nodes.
func measureStaying(b *bench) error {
	for _, nodes := range []int{900, 4_000} {
		var ratios, answering, stock, after []float64
		for range min(b.rounds, 3) {
			cost, follows, err := b.stay(b.ours, nodes)
			if err != nil {
				return err
			}
			few, _, err := b.stay(b.stock, 100)
			if err != nil {
				return err
			}
			ratios, answering, stock = append(ratios, cost/few), append(answering, cost), append(stock, few)
			after = append(after, follows)
		}
		what := fmt.Sprintf("a registration that stays, of %d: ", nodes)
		b.table.row(what+"CPU (stock: of 100)", micros(median(answering)), micros(median(stock)), times(median(ratios)),
			"<= "+times(1), median(ratios) <= 1)
		b.table.atMost(what+"CPU in 5 s after", median(after), "-", micros, 100e-6)
	}
	return nil
}

// stay registers nodes one after the other. It returns the daemon's CPU time for each until then,
// and in the five seconds after.
func (b *bench) stay(p program, nodes int) (answering, after float64, err error) {
	err = b.with(p, 0, func(d *daemon) error {
		time.Sleep(settling / 5)
		begun, err := d.cpuTime()
		if err != nil {
			return err
		}
		var held []int
		err = onCore(b.cpu, func() (err error) { held, err = d.registerMany(nodes); return err })
		defer closeAll(held)
		if err != nil {
			return err
		}
		answered, err := d.cpuTime()
		if err != nil {
			return err
		}
		time.Sleep(5 * time.Second)
		ended, err := d.cpuTime()
		answering = (answered - begun).Seconds() / float64(nodes)
		after = (ended - answered).Seconds() / float64(nodes)
		return err
	})
	return answering, after, err
}

// measureLimit shows how many nodes one user can register at once, and whether lookups are answered
// then. Half of the places are left for other users.
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
	half := (files - 64) / 2
	b.table.row(fmt.Sprintf("nodes of a user at once, limit of %d open files", files), show(ours, oursAnswers),
		show(stock, stockAnswers), "", fmt.Sprintf(">= %d", half), ours >= half && oursAnswers)
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

package main

import (
	"fmt"
	"time"
)

// pair is both daemons.
type pair struct{ ours, stock *daemon }

// withPair runs f with both daemons, each with that many nodes registered.
func (b *bench) withPair(nodes int, f func(pair) error) error {
	return b.with(b.ours, nodes, func(ours *daemon) error {
		return b.with(b.stock, nodes, func(stock *daemon) error { return f(pair{ours, stock}) })
	})
}

// with runs f with one daemon that has that many nodes registered.
func (b *bench) with(p program, nodes int, f func(*daemon) error) error {
	d, err := p.start(b.cpu, 0)
	if err != nil {
		return err
	}
	defer d.stop()
	held, err := d.registerMany(nodes)
	defer closeAll(held)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return f(d)
}

// measure is one round with one daemon, of which it returns some figures.
type measure func(*daemon) ([]float64, error)

// compare measures both daemons in turn, for all rounds of the run. It returns the series of each
// figure.
func (b *bench) compare(p pair, m measure) (ours, stock [][]float64, err error) {
	of := map[*daemon]*[][]float64{p.ours: &ours, p.stock: &stock}
	order := []*daemon{p.ours, p.stock}
	for range b.rounds {
		for _, d := range order {
			var figures []float64
			err := onCore(b.cpu, func() (err error) {
				figures, err = m(d)
				return err
			})
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", d.name, err)
			}
			*of[d] = appendEach(*of[d], figures)
		}
		order[0], order[1] = order[1], order[0]
	}
	return ours, stock, nil
}

// appendEach appends each figure to its series.
func appendEach(series [][]float64, figures []float64) [][]float64 {
	if series == nil {
		series = make([][]float64, len(figures))
	}
	for i, v := range figures {
		series[i] = append(series[i], v)
	}
	return series
}

// loadFigures returns a measure that makes requests, atOnce at a time, for a round. Its figures are
// the daemon's CPU time for each, in seconds, and how many were answered a second. If atOnce is 1,
// they are also p50 and p99 of the latency, in seconds.
func (b *bench) loadFigures(requests []request, atOnce int) measure {
	return func(d *daemon) ([]float64, error) {
		before, err := d.cpuTime()
		if err != nil {
			return nil, err
		}
		l, err := d.run(requests, atOnce, b.round)
		if err != nil {
			return nil, err
		}
		after, err := d.cpuTime()
		if err != nil {
			return nil, err
		}
		n := float64(l.answered)
		figures := []float64{(after - before).Seconds() / n, n / l.took.Seconds()}
		if atOnce == 1 {
			figures = append(figures, percentile(l.latencies, 50), percentile(l.latencies, 99))
		}
		return figures, nil
	}
}

// lookupTargets are how many times less CPU than the stock a lookup is to take. They go by the
// number of registered nodes and of lookups under way.
var lookupTargets = []struct {
	nodes   int
	atOnce  []int
	targets []float64
}{
	{1, []int{1, 8, 64}, []float64{1.3, 1.3, 1.3}},
	{100, []int{1, 8, 64}, []float64{2.5, 2.5, 2.5}},
	{900, []int{1, 8, 64}, []float64{20, 10, 10}},
}

// measureLookups shows what a lookup costs the daemon: its CPU time over the number of lookups
// answered. Load and daemon are on one core.
func measureLookups(b *bench) error {
	for _, t := range lookupTargets {
		err := b.withPair(t.nodes, func(p pair) error {
			for i, atOnce := range t.atOnce {
				if err := b.compareLookups(p, t.nodes, atOnce, t.targets[i]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) compareLookups(p pair, nodes, atOnce int, target float64) error {
	ours, stock, err := b.compare(p, b.loadFigures(lookups(nodes), atOnce))
	if err != nil {
		return err
	}
	what := fmt.Sprintf("lookup, %d registered, %d at once", nodes, atOnce)
	b.table.better(what+": CPU", cheaper(ours[0], stock[0]), micros, target)
	b.table.better(what+": rate", faster(ours[1], stock[1]), perSecond, 1)
	return nil
}

// measureManyNodes shows what very many nodes do to the cost of our lookup.
func measureManyNodes(b *bench) error {
	const many = 9_000 // of one user, who has half of what 20,000 open files allow
	return b.with(b.ours, 1, func(one *daemon) error {
		return b.with(b.ours, many, func(full *daemon) error {
			for _, atOnce := range []int{1, 64} {
				// Both look up what both have.
				a, z, err := b.compare(pair{full, one}, b.loadFigures(lookups(1), atOnce))
				if err != nil {
					return err
				}
				b.table.atMost(fmt.Sprintf("lookup, %d registered, %d at once: CPU against 1", many, atOnce),
					1/cheaper(a[0], z[0]).ratio, "-", times, 1.25)
			}
			return b.lookUpAll(full, one, many)
		})
	})
}

// lookUpAll is the same with lookups spread over all names, which need not be in the cache any
// more.
func (b *bench) lookUpAll(full, one *daemon, many int) error {
	requests := map[*daemon][]request{full: lookups(many), one: lookups(1)}
	a, z, err := b.compare(pair{full, one}, func(d *daemon) ([]float64, error) {
		return b.loadFigures(requests[d], 1)(d)
	})
	if err != nil {
		return err
	}
	b.table.atMost(fmt.Sprintf("lookup, all of %d in turn: CPU against 1", many), 1/cheaper(a[0], z[0]).ratio, "-", times, 1.25)
	return nil
}

// measureNames shows how long NAMES_REQ takes from connect to the end of the answer. Each name is a
// part of that.
func measureNames(b *bench) error {
	const nodes = 900
	return b.withPair(nodes, func(p pair) error {
		all := request{namesRequest.frame, nodes * len("name n at port 1\n")}
		ours, stock, err := b.compare(p, b.loadFigures([]request{all}, 1))
		if err != nil {
			return err
		}
		b.table.better(fmt.Sprintf("NAMES_REQ, %d registered: p50", nodes), cheaper(ours[2], stock[2]), micros, 25)
		return nil
	})
}

// measureStalled shows what clients do that connect, send one byte of a request, and then nothing.
func measureStalled(b *bench) error {
	err := b.withPair(1, func(p pair) error {
		for _, d := range []*daemon{p.ours, p.stock} {
			held, err := stall(d, 500)
			defer closeAll(held)
			if err != nil {
				return err
			}
		}
		ours, stock, err := b.compare(p, b.loadFigures(lookups(1), 1))
		if err != nil {
			return err
		}
		b.table.better("lookup beside 500 stalled clients: CPU", cheaper(ours[0], stock[0]), micros, 10)
		return nil
	})
	if err != nil {
		return err
	}
	return b.with(b.ours, 1, func(free *daemon) error {
		return b.with(b.ours, 1, func(beset *daemon) error { return b.compareStalled(free, beset, 2000) })
	})
}

// compareStalled shows the slowest of 100 lookups beside stalled clients against that without them.
func (b *bench) compareStalled(free, beset *daemon, clients int) error {
	held, err := stall(beset, clients)
	defer closeAll(held)
	if err != nil {
		return err
	}
	with, without, err := b.compare(pair{beset, free}, b.loadFigures(lookups(1), 1))
	if err != nil {
		return fmt.Errorf("beside %d stalled clients: %w", clients, err)
	}
	b.table.atMost(fmt.Sprintf("lookup beside %d stalled clients: p99 against none", clients),
		1/cheaper(with[3], without[3]).ratio, "-", times, 1.5)
	return nil
}

// stall connects clients that send one byte. It returns when a client after them was answered, so
// that the daemon has accepted them.
func stall(d *daemon, clients int) ([]int, error) {
	var held []int
	for range clients {
		fd, err := d.ask([]byte{0})
		if err != nil {
			return held, err
		}
		held = append(held, fd)
	}
	deadline := time.Now().Add(answerTimeout)
	for time.Now().Before(deadline) {
		if err := d.exchange(namesRequest); err == nil {
			return held, nil
		}
	}
	return held, fmt.Errorf("%s: no answer beside %d stalled clients", d.name, clients)
}

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// size is how much a daemon knows: nodes of its host, and neighbours that a nodes file lists.
type size struct{ nodes, neighbours int }

// sizes are those for which requests are measured. The first is what the others are compared with.
// One user may have half of what 20,000 open files allow.
var sizes = []size{{1, 0}, {100, 0}, {9_000, 0}, {1, 1_000}, {1, 4_096}}

func (s size) String() string {
	if s.neighbours == 0 {
		return fmt.Sprintf("%d nodes", s.nodes)
	}
	return fmt.Sprintf("%d nodes, %d neighbours", s.nodes, s.neighbours)
}

// kinds are the requests that are measured. limit is how many times as much as the first size's the
// cost may be. 0: the answer grows, and the cost with it.
var kinds = []struct {
	name    string
	request request // zero: a registration that comes and goes
	limit   float64
}{
	{"lookup", lookupRequest("n0"), 1.25},
	{"register", request{}, 1.25},
	{"N NAME", findRequest("n0"), 1.25},
	{"n", request{framed([]byte("n")), 10}, 0},
	{"d", request{framed([]byte("d")), 10}, 0},
	{"N", request{framed([]byte("N")), 10}, 0},
}

// grown is a daemon of a size, and what its requests cost.
type grown struct {
	*daemon
	size
	held  []int
	dir   string      // of its nodes file
	costs [][]float64 // CPU time of each kind of request, a figure a round, in seconds
	added float64     // anonymous memory that the size has added, in MB
	idle  float64     // CPU time in a second of silence, in seconds
}

// measureGrowth shows what requests cost with many nodes and neighbours, beside what they cost with
// one node. It ends with a table of that.
func measureGrowth(b *bench) error {
	var all []*grown
	defer func() {
		for _, g := range all {
			g.end()
		}
	}()
	for _, s := range sizes {
		g, err := b.startSized(s)
		if err != nil {
			return fmt.Errorf("%v: %w", s, err)
		}
		all = append(all, g)
	}
	time.Sleep(settling)
	for _, g := range all {
		if err := g.fill(); err != nil {
			return fmt.Errorf("%v: %w", g.size, err)
		}
	}
	time.Sleep(3 * settling) // until all have been asked for their names
	for _, g := range all {
		if err := g.rest(); err != nil {
			return err
		}
	}
	for range b.rounds {
		for _, g := range all {
			if err := onCore(b.cpu, func() error { return g.measure(b.round / 2) }); err != nil {
				return fmt.Errorf("%v: %w", g.size, err)
			}
		}
	}
	b.showGrowth(all)
	return nil
}

// startSized starts a daemon that reads a nodes file.
func (b *bench) startSized(s size) (*grown, error) {
	g := &grown{size: s, costs: make([][]float64, len(kinds))}
	var err error
	if g.dir, err = os.MkdirTemp("", "nodes"); err != nil {
		return nil, err
	}
	p := b.ours
	p.args = append([]string{"-nodes_dir", g.dir}, p.args...)
	if g.daemon, err = p.start(b.cpu, 0); err != nil {
		os.RemoveAll(g.dir)
	}
	return g, err
}

// fill makes the daemon know as much as its size says. It returns when the daemon lists all.
func (g *grown) fill() error {
	before, err := g.anonymousMB()
	if err != nil {
		return err
	}
	g.added = -before
	var lines strings.Builder
	for i := range g.neighbours {
		fmt.Fprintf(&lines, "o%d@192.0.2.7 192.0.2.7:%d\n", i, 10_000+i)
	}
	if err := os.WriteFile(filepath.Join(g.dir, "many.nodes"), []byte(lines.String()), 0o644); err != nil {
		return err
	}
	if g.held, err = g.registerMany(g.nodes); err != nil {
		return err
	}
	least := 50 * (g.neighbours + g.nodes)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if err := g.exchange(request{framed([]byte("N")), least}); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func (g *grown) end() {
	closeAll(g.held)
	g.stop()
	os.RemoveAll(g.dir)
}

// rest measures what the daemon takes while nothing happens.
func (g *grown) rest() error {
	memory, err := g.anonymousMB()
	if err != nil {
		return err
	}
	g.added += memory
	before, err := g.cpuTime()
	if err != nil {
		return err
	}
	time.Sleep(time.Second)
	after, err := g.cpuTime()
	g.idle = (after - before).Seconds()
	return err
}

// measure makes each kind of request for a round.
func (g *grown) measure(round time.Duration) error {
	serial := 0
	name := func() string {
		serial++
		return fmt.Sprint("again", serial%16)
	}
	for i, k := range kinds {
		before, err := g.cpuTime()
		if err != nil {
			return err
		}
		var count int
		if k.request.frame == nil {
			latencies, askErr := g.comeAndGoFor(round, name, 1)
			count, err = len(latencies), askErr
		} else {
			l, askErr := g.run([]request{k.request}, 1, round)
			count, err = l.answered, askErr
		}
		after, clockErr := g.cpuTime()
		if err := errors.Join(err, clockErr); err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		g.costs[i] = append(g.costs[i], (after-before).Seconds()/float64(count))
	}
	return nil
}

// showGrowth prints what is aimed at, and the table of all.
func (b *bench) showGrowth(all []*grown) {
	first := all[0]
	for i, k := range kinds {
		for _, g := range all[1:] {
			if c := cheaper(g.costs[i], first.costs[i]); k.limit > 0 {
				b.table.atMost(fmt.Sprintf("%s, %v: CPU against 1", k.name, g.size), 1/c.ratio, "-", times, k.limit)
			}
		}
	}
	fmt.Fprintf(b.table.w, "\ncost as it grows: CPU time, as a multiple of that with one node\n%-26s", "")
	for _, k := range kinds {
		fmt.Fprintf(b.table.w, " %9s", k.name)
	}
	fmt.Fprintf(b.table.w, " %10s %10s\n", "memory", "idle")
	for _, g := range all {
		fmt.Fprintf(b.table.w, "%-26v", g.size)
		for i := range kinds {
			fmt.Fprintf(b.table.w, " %9s", times(1/cheaper(g.costs[i], first.costs[i]).ratio))
		}
		fmt.Fprintf(b.table.w, " %10s %10s\n", megabytes(g.added), fmt.Sprintf("%.1f ms/s", g.idle*1e3))
	}
}

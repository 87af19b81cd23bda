// Command bench measures this epmd against the one of Erlang/OTP, side by side in one run. It
// prints a line for each figure: ours, theirs, how many times better ours is, and the aim.
//
// Both daemons are started afresh on loopback ports of their own. A round measures one right after
// the other, in an order that changes from round to round. So whatever else the machine does
// disturbs both. A figure is the median of the rounds. A ratio is the median of their ratios. The
// load comes from this process: one thread, blocking sockets, no package net.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	ours, stock program
	rounds      int
	round       time.Duration // of load
	quick       bool
	cpu         int // where load and daemon run; -1: anywhere
	table       *table
}

// measurements in the order in which they run.
var measurements = []struct {
	name string
	run  func(*bench) error
}{
	{"lookup", measureLookups},
	{"many", measureManyNodes},
	{"names", measureNames},
	{"named", measureNamed},
	{"register", measureRegistering},
	{"floor", measureFloor},
	{"limit", measureLimit},
	{"memory", measureMemory},
	{"idle", measureIdle},
	{"lan", measureLAN},
	{"bus", measureBus},
	{"nodesfile", measureNodesFile},
	{"stalled", measureStalled},
	{"start", measureStart},
	{"stays", measureStaying},
	{"growth", measureGrowth},
}

func run(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	ours := flags.String("epmd", "", "`path` of our epmd; default: built from this module")
	stock := flags.String("stock", "/usr/bin/epmd", "`path` of the epmd of Erlang/OTP")
	only := flags.String("only", "", "measure these alone: "+measurementNames())
	quick := flags.Bool("quick", false, "short rounds and waits: shows that all works, not how well")
	rounds := flags.Int("rounds", 7, "rounds of each comparison")
	round := flags.Duration("round", 400*time.Millisecond, "`duration` of the load of a round")
	cpu := flags.Int("cpu", 0, "the `core` that load and daemon share; -1: any, which is less steady")
	eager := flags.Bool("eager", false, "send requests before the daemon can see the connection")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *rounds < 1 {
		return fmt.Errorf("-rounds %d: at least 1", *rounds)
	}
	if *quick {
		*rounds, *round = min(*rounds, 3), 60*time.Millisecond
	}
	if *ours == "" {
		dir, err := os.MkdirTemp("", "bench")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if *ours, err = build(dir, "cmd/epmd"); err != nil {
			return err
		}
	}
	b := &bench{
		ours:   program{"ours", *ours, []string{"-lan", "off", "-bus", "off"}, *eager},
		stock:  program{"stock", *stock, nil, *eager},
		rounds: *rounds,
		round:  *round,
		quick:  *quick,
		cpu:    *cpu,
		table:  &table{w: stdout},
	}
	return b.runAll(*only)
}

// build makes a command of this module in dir, as make does, and returns its path.
func build(dir, command string) (string, error) {
	path := filepath.Join(dir, filepath.Base(command))
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "github.com/goerlang/eclus/"+command)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", command, err, out)
	}
	return path, nil
}

func measurementNames() string {
	names := make([]string, len(measurements))
	for i, m := range measurements {
		names[i] = m.name
	}
	return strings.Join(names, ",")
}

// runAll runs the measurements named in only, or all. One that fails does not keep the others from
// being made.
func (b *bench) runAll(only string) error {
	b.table.head()
	var errs []error
	for _, m := range measurements {
		if only != "" && !strings.Contains(","+only+",", ","+m.name+",") {
			continue
		}
		if err := m.run(b); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.name, err))
		}
	}
	if b.table.rows == 0 && len(errs) == 0 {
		return fmt.Errorf("-only %q: none of %s", only, measurementNames())
	}
	return errors.Join(errs...)
}

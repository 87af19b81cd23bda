package main

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// floorSource is a server in C that makes the system calls of ours and does nothing else.
//
//go:embed floor/floor.c
var floorSource []byte

// floorTargets are how much of ours' processor time a lookup is to take in C, at least. They go by
// the lookups under way.
var floorTargets = []struct {
	atOnce int
	target float64
}{{1, 0.9}, {8, 0.93}, {64, 0.95}}

// measureFloor shows what no server can do without: the same system calls in C, with the same
// socket options, beside ours and the stock. It needs a C compiler.
func measureFloor(b *bench) error {
	cc, err := exec.LookPath("gcc")
	if err != nil {
		b.table.row("the same system calls in C: no gcc", "-", "-", "", "", true)
		return nil
	}
	dir, err := os.MkdirTemp("", "floor")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	source, path := filepath.Join(dir, "floor.c"), filepath.Join(dir, "floor")
	if err := os.WriteFile(source, floorSource, 0o644); err != nil {
		return err
	}
	if out, err := exec.Command(cc, "-O2", "-o", path, source).CombinedOutput(); err != nil {
		return fmt.Errorf("build the server in C: %w\n%s", err, out)
	}
	inC := program{"C", path, nil, b.ours.eager}
	return b.withPair(1, func(p pair) error {
		return b.with(inC, 1, func(floor *daemon) error { return b.compareFloor(p.ours, p.stock, floor) })
	})
}

// compareFloor compares lookups, and registrations whose names come again.
func (b *bench) compareFloor(ours, stock, floor *daemon) error {
	for _, t := range floorTargets {
		a, z, err := b.compare(pair{ours, floor}, b.loadFigures(lookups(1), t.atOnce))
		if err != nil {
			return err
		}
		b.table.better(fmt.Sprintf("lookup, %d at once: CPU, ours against C", t.atOnce), cheaper(a[0], z[0]), micros, t.target)
	}
	return errors.Join(
		b.compareFloorRegistering("ours against C", ours, floor),
		b.compareFloorRegistering("C against the stock", floor, stock),
	)
}

func (b *bench) compareFloorRegistering(what string, one, other *daemon) error {
	serial := 0
	name := func() string {
		serial++
		return fmt.Sprintf("same%d", serial%16)
	}
	for _, atOnce := range []int{1, 8} {
		a, z, err := b.compare(pair{one, other}, b.registerFigures(name, atOnce))
		if err != nil {
			return err
		}
		c := cheaper(a[0], z[0])
		b.table.row(fmt.Sprintf("register, %d at once: CPU, %s", atOnce, what), micros(c.ours), micros(c.stock), times(c.ratio), "", true)
	}
	return nil
}

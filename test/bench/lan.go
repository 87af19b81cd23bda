package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goerlang/eclus/test/lan"
)

// measureLAN shows the anonymous memory of our daemon with LAN discovery on, and how often its
// threads wake. The daemon has a host of its own on a virtual LAN, with one neighbour and one node.
// Nothing happens there any more.
func measureLAN(b *bench) error {
	if err := lan.Check(); err != nil {
		fmt.Fprintln(os.Stderr, "LAN figures left out:", err)
		return nil
	}
	epmd, err := filepath.Abs(b.ours.path)
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Minute)
	defer stop()
	network, err := lan.New(ctx, lan.DefaultSubnet)
	if err != nil {
		return err
	}
	defer network.Close()
	hosts, err := network.AddHosts(ctx, lan.HostOptions{}, "hosta", "hostb")
	if err != nil {
		return err
	}
	var daemons []*daemon
	for _, h := range hosts {
		cmd := h.Command(ctx, epmd)
		if err := cmd.Start(); err != nil {
			return err
		}
		defer cmd.Wait() // ends with the network
		daemons = append(daemons, &daemon{name: b.ours.name, cmd: cmd})
		if _, err := h.StartErl(ctx, "-name", "x@"+h.Name()+".local", "-start_epmd", "false"); err != nil {
			return err
		}
	}
	err = lan.Wait(ctx, "each host to list the other's node", func(ctx context.Context) (bool, error) {
		list, err := hosts[0].Output(ctx, epmd, "-nodes")
		return strings.Contains(list, "x@hostb.local"), err
	})
	if err != nil {
		return err
	}
	time.Sleep(3 * settling)
	return b.quietLAN(daemons[0])
}

func (b *bench) quietLAN(d *daemon) error {
	before, err := d.switches()
	if err != nil {
		return err
	}
	time.Sleep(10 * time.Second)
	after, err := d.switches()
	if err != nil {
		return err
	}
	memory, err := d.anonymousMB()
	if err != nil {
		return err
	}
	b.table.atMost("memory, idle, LAN on", memory, "-", megabytes, 12)
	b.table.row("wake-ups in 10s, LAN on, nothing happening", fmt.Sprint(after-before), "-", "", "0", after == before)
	return nil
}

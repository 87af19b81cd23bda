package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/test/lan"
)

// others is how many nodes of another host are known.
const others = 4096

// measureNamed shows what N with a name costs where many nodes of another host are known. It
// compares that with a lookup by PORT_PLEASE2_REQ, and with N where none is known.
func measureNamed(b *bench) error {
	if err := lan.Check(); err != nil {
		fmt.Fprintln(os.Stderr, "figures of N left out:", err)
		return nil
	}
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Minute)
	defer stop()
	network, err := lan.New(ctx, lan.DefaultSubnet)
	if err != nil {
		return err
	}
	defer network.Close()
	hosts, err := network.AddHosts(ctx, lan.HostOptions{NoBus: true}, "hosta", "hostb")
	if err != nil {
		return err
	}
	far, err := b.onHost(ctx, hosts[1])
	if err != nil {
		return err
	}
	var held []int
	defer func() { closeAll(held) }()
	err = lan.Inside(hosts[1].NetNS(), func() (err error) {
		held, err = far.listenAndRegister(others)
		return err
	})
	if err != nil {
		return err
	}
	return b.measureNear(ctx, hosts[0], hosts[1].Address().String())
}

// measureNear measures on a host that is told of the other one's epmd.
func (b *bench) measureNear(ctx context.Context, h *lan.Host, peer string) error {
	near, err := b.onHost(ctx, h, "-peer", peer)
	if err != nil {
		return err
	}
	node, err := b.awaitOthers(ctx, h)
	if err != nil {
		return err
	}
	return lan.Inside(h.NetNS(), func() error { return b.compareNamed(near, node) })
}

// onHost starts our epmd on a host. It asks no node for its name.
func (b *bench) onHost(ctx context.Context, h *lan.Host, args ...string) (*daemon, error) {
	path, err := filepath.Abs(b.ours.path)
	if err != nil {
		return nil, err
	}
	cmd := h.Command(ctx, path, append(args, b.ours.args...)...)
	cmd.Env = append(cmd.Env, "ECLUS_IDENTIFY=off")
	if err := onCore(b.cpu, cmd.Start); err != nil {
		return nil, err
	}
	go cmd.Wait() // ends with the network
	d := &daemon{newClient(4369, b.ours.eager), b.ours.name, 4369, cmd}
	return d, lan.Inside(h.NetNS(), d.awaitAnswer)
}

// listenAndRegister registers so many nodes, all of which listen at one port.
func (d *daemon) listenAndRegister(nodes int) ([]int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	if err = unix.Bind(fd, &unix.SockaddrInet4{Port: nodePort}); err == nil {
		err = unix.Listen(fd, 16)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen: %w", err)
	}
	held, err := d.registerMany(nodes)
	return append(held, fd), err
}

// awaitOthers waits until a host knows all nodes of the other one. It returns the full name of one.
func (b *bench) awaitOthers(ctx context.Context, h *lan.Host) (node string, err error) {
	path, err := filepath.Abs(b.ours.path)
	if err != nil {
		return "", err
	}
	var list string
	err = lan.Wait(ctx, fmt.Sprint(others, " nodes of the other host"), func(ctx context.Context) (bool, error) {
		list, err = h.Output(ctx, path, "-nodes", "-json") // fails while there is none
		return strings.Count(list, "\n") == others, nil
	})
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(list, "\n")
	var shown struct{ Node string }
	return shown.Node, json.Unmarshal([]byte(line), &shown)
}

// compareNamed compares N with PORT_PLEASE2_REQ at a daemon that knows many nodes of another host.
// node is one of them. It also compares N there with N at a daemon that knows none.
func (b *bench) compareNamed(near *daemon, node string) error {
	return b.with(b.ours, 0, func(alone *daemon) error {
		for _, d := range []*daemon{near, alone} {
			fd, err := d.register("own")
			if err != nil {
				return err
			}
			defer unix.Close(fd)
		}
		again := *near // for other requests
		what := fmt.Sprintf("N with a name, %d neighbours: CPU against ", others)
		return errors.Join(
			b.compareRequests(what+"a lookup", [2]asked{{near, findRequest(node)}, {&again, lookupRequest("own")}}, 1.5),
			b.compareRequests(what+"none", [2]asked{{near, findRequest("own")}, {alone, findRequest("own")}}, 1.25),
		)
	})
}

// asked is a request to a daemon.
type asked struct {
	of      *daemon
	request request
}

// compareRequests shows how much CPU a request costs, and how many times as much as another.
func (b *bench) compareRequests(what string, requests [2]asked, limit float64) error {
	p := pair{requests[0].of, requests[1].of}
	a, z, err := b.compare(p, func(d *daemon) ([]float64, error) {
		for _, r := range requests {
			if r.of == d {
				return b.loadFigures([]request{r.request}, 1)(d)
			}
		}
		return nil, fmt.Errorf("%s: nothing to ask", d.name)
	})
	if err != nil {
		return err
	}
	b.table.row(what, micros(median(a[0])), micros(median(z[0])), times(1/cheaper(a[0], z[0]).ratio),
		"<= "+times(limit), 1/cheaper(a[0], z[0]).ratio <= limit)
	return nil
}

// findRequest asks for the nodes of a name, of which there is one.
func findRequest(name string) request { return request{framed([]byte("N" + name)), 100} }

// Command demo shows what Eclus does, on one machine. It brings up two hosts on a virtual LAN and
// starts real Erlang nodes on them. Each host lists the other's, and a node reaches another whose
// host resolves nowhere. It needs root, and ends by itself.
//
//	demo EPMD APPLICATION
//
// EPMD is the epmd to show, APPLICATION the folder of the compiled Erlang application. Each command
// is printed as it is run; what follows is its own output.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goerlang/eclus/test/lan"
)

// patience is how long the whole may take.
const patience = 2 * time.Minute

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 3 {
		return errors.New("usage: demo EPMD APPLICATION")
	}
	epmd, err := filepath.Abs(os.Args[1])
	if err != nil {
		return err
	}
	application, err := filepath.Abs(os.Args[2])
	if err != nil {
		return err
	}
	_, err = os.Stat(filepath.Join(application, "ebin", "eclus_epmd.beam"))
	if err := errors.Join(err, lan.Check("erl", "avahi-browse", epmd)); err != nil {
		return fmt.Errorf("needed, but not here:\n%w", err)
	}
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	began := time.Now()
	network, err := lan.New(ctx, lan.DefaultSubnet)
	if err != nil {
		return err
	}
	defer network.Close()
	d := &demo{ctx: ctx, network: network, epmd: epmd, application: application}
	if err := d.show(); err != nil {
		return err
	}
	fmt.Printf("\nThat was it, in %.0f seconds. Nothing is left behind.\n", time.Since(began).Seconds())
	return nil
}

// demo is two hosts and what runs on them.
type demo struct {
	ctx               context.Context
	network           *lan.Network
	epmd, application string
	a, b              *lan.Host
	nodeA, nodeB      *lan.Erl
}

// show goes through the demonstration step by step.
func (d *demo) show() error {
	for _, step := range []func() error{d.hosts, d.nodes, d.list, d.browse, d.ping, d.kill} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func say(format string, args ...any) { fmt.Printf("\n# "+format+"\n", args...) }

func (d *demo) hosts() error {
	say("Two hosts on a virtual LAN, each with a D-Bus and an avahi-daemon of its own.")
	hosts, err := d.network.AddHosts(d.ctx, lan.HostOptions{}, "hosta", "hostb")
	if err != nil {
		return err
	}
	d.a, d.b = hosts[0], hosts[1]
	for _, h := range hosts {
		fmt.Printf("%s  %s\n", h.Name(), h.Address())
	}
	say("Neither can resolve the other's name: no DNS, no multicast DNS, nothing in /etc/hosts.")
	for _, h := range hosts {
		if err := h.WriteFile("/etc/nsswitch.conf", "hosts: files\n", 0o644); err != nil {
			return err
		}
	}
	if err := d.command(d.a, "cat", "/etc/nsswitch.conf"); err != nil {
		return err
	}
	say("Both run this epmd, as the stock one would be run.")
	for _, h := range hosts {
		if err := d.command(h, d.epmd, "-daemon"); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) nodes() (err error) {
	say("Erlang nodes start: plain erl, which knows nothing of all this.")
	if d.nodeA, err = d.erl(d.a, "-sname", "a"); err != nil {
		return err
	}
	if _, err = d.erl(d.a, "-sname", "web", "-hidden"); err != nil {
		return err
	}
	say("This one has epmd asked where others are. The package puts that module where erl finds it.")
	d.nodeB, err = d.erl(d.b, "-sname", "b", "-epmd_module", "eclus_epmd")
	return err
}

func (d *demo) list() error {
	say("Each host lists the other's nodes as soon as they are announced.")
	if err := d.await(d.a, "b@hostb", true); err != nil {
		return err
	}
	if err := d.await(d.b, "a@hosta", true); err != nil {
		return err
	}
	if err := d.await(d.b, "web@hosta", true); err != nil {
		return err
	}
	if err := d.command(d.a, d.epmd, "-nodes"); err != nil {
		return err
	}
	return d.command(d.b, d.epmd, "-nodes")
}

func (d *demo) browse() error {
	say("They are DNS-SD services: any machine of the network sees them, with any tool.")
	return d.command(d.b, "avahi-browse", "--terminate", "--parsable", "_epmd._tcp")
}

func (d *demo) ping() error {
	say("And so node b reaches node a, with nothing configured on either host.")
	const ping = "net_adm:ping('a@hosta')."
	fmt.Printf("(b@hostb)1> %s\n", ping)
	answer, err := d.nodeB.Eval(d.ctx, ping)
	if err != nil {
		return err
	}
	fmt.Println(answer)
	if answer != "pong" {
		return fmt.Errorf("node b did not reach node a: %s", answer)
	}
	return nil
}

func (d *demo) kill() error {
	say("Node a is killed, as by kill -9: a moment later nobody lists it any more.")
	if err := d.nodeA.Kill(d.ctx); err != nil {
		return err
	}
	if err := d.await(d.b, "a@hosta", false); err != nil {
		return err
	}
	return d.command(d.b, d.epmd, "-nodes")
}

// command runs a command on a host and shows it, as at a prompt.
func (d *demo) command(h *lan.Host, name string, args ...string) error {
	fmt.Printf("root@%s:~# %s\n", h.Name(), strings.Join(append([]string{filepath.Base(name)}, args...), " "))
	cmd := h.Command(d.ctx, name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s on %s: %w", filepath.Base(name), h.Name(), err)
	}
	return nil
}

func (d *demo) erl(h *lan.Host, args ...string) (*lan.Erl, error) {
	fmt.Printf("root@%s:~# erl %s\n", h.Name(), strings.Join(args, " "))
	return h.StartErl(d.ctx, append(args, "-start_epmd", "false", "-env", "ERL_LIBS", filepath.Dir(d.application))...)
}

// await waits until a host lists a node, or lists it no more. It says how long that took.
func (d *demo) await(h *lan.Host, node string, listed bool) error {
	began := time.Now()
	what := fmt.Sprintf("%s to list %s", h.Name(), node)
	if !listed {
		what = fmt.Sprintf("%s to list %s no more", h.Name(), node)
	}
	err := lan.Wait(d.ctx, what, func(ctx context.Context) (bool, error) {
		list, err := h.Output(ctx, d.epmd, "-nodes", "-json")
		return strings.Contains(list, node) == listed, err
	})
	if err == nil {
		fmt.Printf("(waited %.1f s for %s)\n", time.Since(began).Seconds(), what)
	}
	return err
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/etcd"
	"github.com/goerlang/eclus/test/wait"
)

// companion is an epmd-etcd of a host of its own, in this process.
type companion struct {
	t    *testing.T
	own  string // ADDRESS:PORT
	file string
	end  func()

	mu   sync.Mutex
	said string // STATUS=
	log  bytes.Buffer
}

// numbered is the host with that number, on a network that nobody has.
func numbered(n int) (id, address string) {
	return fmt.Sprintf("%032x", n), fmt.Sprintf("192.0.2.%d", n)
}

// start starts the companion of a host. More flags follow.
func start(t *testing.T, server *etcd.Server, n int, flags ...string) *companion {
	t.Helper()
	id, address := numbered(n)
	return startAs(t, id, address, filepath.Join(t.TempDir(), "etcd.nodes"), append([]string{"-endpoints", server.URL()}, flags...)...)
}

func startAs(t *testing.T, id, address, file string, flags ...string) *companion {
	t.Helper()
	c := &companion{t: t, own: address + ":4369", file: file}
	config, err := parse(append([]string{"-advertise", address, "-nodes_file", file, "-ttl", "2"}, flags...), func(string) string { return "" })
	wait.Must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	log := slog.New(slog.NewTextHandler(c, nil))
	go func() { ended <- serve(ctx, config, id, log, c.notify) }()
	c.end = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("ended with %v", err)
		}
	})
	t.Cleanup(func() {
		c.end()
		if t.Failed() {
			t.Logf("log of %s:\n%s", c.own, c.logged())
		}
	})
	return c
}

// Write takes an entry of the log.
func (c *companion) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.Write(b)
}

func (c *companion) logged() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.String()
}

func (c *companion) notify(assignments ...string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range assignments {
		if status, is := strings.CutPrefix(a, "STATUS="); is {
			c.said = status
		}
	}
	return nil
}

func (c *companion) status() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said
}

// awaitStatus waits until the status has all parts.
func (c *companion) awaitStatus(parts ...string) {
	c.t.Helper()
	wait.Until(c.t, fmt.Sprintf("status with %q", parts), func() error {
		said := c.status()
		for _, part := range parts {
			if !strings.Contains(said, part) {
				return fmt.Errorf("it is %q", said)
			}
		}
		return nil
	})
}

// hosts returns what is in the nodes file.
func (c *companion) hosts() []string {
	text, err := os.ReadFile(c.file)
	if err != nil {
		return nil
	}
	var list []string
	for line := range strings.Lines(string(text)) {
		if at, is := strings.CutPrefix(strings.TrimSpace(line), "@"); is {
			list = append(list, at)
		}
	}
	return list
}

// await waits until the nodes file has these companions' hosts, and no other.
func (c *companion) await(others ...*companion) {
	c.t.Helper()
	var want []netip.AddrPort
	for _, o := range others {
		if o.own != c.own {
			want = append(want, netip.MustParseAddrPort(o.own))
		}
	}
	slices.SortFunc(want, netip.AddrPort.Compare)
	wait.Until(c.t, fmt.Sprintf("%s has %v", c.own, want), func() error {
		if got := c.hosts(); !slices.Equal(got, texts(want)) {
			return fmt.Errorf("it has %v; status %q", got, c.status())
		}
		return nil
	})
}

func texts(list []netip.AddrPort) (all []string) {
	for _, at := range list {
		all = append(all, at.String())
	}
	return all
}

func awaitAll(all []*companion) {
	for _, c := range all {
		c.t.Helper()
		c.await(all...)
	}
}

// startMany starts the companions of hosts 1 to n.
func startMany(t *testing.T, server *etcd.Server, n int, flags ...string) (all []*companion) {
	t.Helper()
	for i := range n {
		all = append(all, start(t, server, i+1, flags...))
	}
	return all
}

func keys(t *testing.T, server *etcd.Server) []string {
	t.Helper()
	return strings.Fields(server.Ctl(t, "get", "--prefix", "--keys-only", ""))
}

// TestHosts has hosts come, go in order, and crash.
func TestHosts(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	all := startMany(t, server, 3)
	awaitAll(all)
	id, _ := numbered(1)
	if got := server.Ctl(t, "get", "--print-value-only", "/eclus/v1/epmds/"+id); got != "192.0.2.1:4369\n" {
		t.Errorf("the value is %q", got)
	}
	all[0].awaitStatus("etcd "+server.Address+":2379 at revision ", "2 other hosts", "this host is 192.0.2.1:4369")

	began := time.Now()
	late := start(t, server, 4)
	for _, c := range all {
		c.await(append(all, late)...)
	}
	t.Logf("a new host was in all files after %v", time.Since(began))

	late.end()
	all[2].end()
	all[0].await(all[:2]...)
	if got := keys(t, server); len(got) > 2 {
		t.Errorf("the keys of hosts that ended in order stay: %q", got)
	}
	// The lease of a host that crashed ends by itself.
	lease := strings.Fields(server.Ctl(t, "lease", "grant", "10"))[1]
	server.Ctl(t, "put", "--lease", lease, "/eclus/v1/epmds/crashed", "192.0.2.9:4369")
	all[0].await(all[0], all[1], &companion{own: "192.0.2.9:4369"})
	all[0].await(all[:2]...)
}

// TestOwnKey has somebody else remove a host's key, change it, and end its lease.
func TestOwnKey(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	all := startMany(t, server, 2)
	awaitAll(all)
	id, _ := numbered(1)
	key := "/eclus/v1/epmds/" + id
	again := func(what string) {
		t.Helper()
		wait.Until(t, "the host is there again after "+what, func() error {
			text, err := server.TryCtl("get", "--prefix", "--print-value-only", key)
			if err != nil || !strings.Contains(text, "192.0.2.1:4369") {
				return fmt.Errorf("there is %q, %v", text, err)
			}
			return nil
		})
		wait.Until(t, "the other knows after "+what, func() error {
			if got := all[1].hosts(); !slices.Contains(got, "192.0.2.1:4369") {
				return fmt.Errorf("it has %v", got)
			}
			return nil
		})
	}
	server.Ctl(t, "del", key)
	again("removal")
	for line := range strings.Lines(server.Ctl(t, "lease", "list")) {
		if fields := strings.Fields(line); len(fields) == 1 {
			server.Ctl(t, "lease", "revoke", fields[0])
		}
	}
	again("the end of its lease")
	server.Ctl(t, "put", key, "192.0.2.66:4369")
	again("a foreign value")
}

// TestSameMachine has two hosts with one machine ID. Both are known, and both say so.
func TestSameMachine(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	first := start(t, server, 1)
	first.awaitStatus("this host is 192.0.2.1:4369")
	id, _ := numbered(1)
	copied := startAs(t, id, "192.0.2.2", filepath.Join(t.TempDir(), "etcd.nodes"), "-endpoints", server.URL())
	awaitAll([]*companion{first, copied})
	if !strings.Contains(copied.logged(), "another host has this machine ID") {
		t.Error("the second says nothing")
	}
	// After a crash the first takes its key over.
	again := startAs(t, id, "192.0.2.1", filepath.Join(t.TempDir(), "etcd.nodes"), "-endpoints", server.URL())
	again.awaitStatus("this host is 192.0.2.1:4369")
	if strings.Contains(again.logged(), "another host") {
		t.Error("a host takes itself for another")
	}
	wait.Until(t, "two keys", func() error { // a lease may end on a machine that stops
		if got := keys(t, server); len(got) != 2 {
			return fmt.Errorf("there are %q", got)
		}
		return nil
	})
}

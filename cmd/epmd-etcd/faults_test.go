package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/etcd"
	"github.com/goerlang/eclus/test/wait"
)

// TestAway has etcd stop for longer than the leases last. Nobody drops a host meanwhile. When etcd
// is back, without its history or without all its data, every host is there again.
func TestAway(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		meanwhile func(t *testing.T, server *etcd.Server)
	}{
		{"lapsed and compacted", func(t *testing.T, server *etcd.Server) {
			server.Elsewhere(t, func(there *etcd.Server) {
				wait.Until(t, "all leases have ended", func() error {
					if left := keys(t, there); len(left) > 0 {
						return fmt.Errorf("left is %q", left)
					}
					return nil
				})
				revision := ""
				for range 3 {
					there.Ctl(t, "put", "/eclus/v1/epmds/gone", "192.0.2.77:4369")
					there.Ctl(t, "del", "/eclus/v1/epmds/gone")
				}
				_, revision, _ = strings.Cut(there.Ctl(t, "get", "none", "-w", "fields"), `"Revision" : `)
				there.Ctl(t, "compact", strings.Fields(revision)[0])
			})
		}},
		{"data lost", func(t *testing.T, server *etcd.Server) { server.LoseData(t) }},
		{"killed", func(*testing.T, *etcd.Server) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := etcd.Start(t)
			all := startMany(t, server, 5)
			awaitAll(all)
			server.Kill(t)
			for _, c := range all {
				c.awaitStatus("etcd away since 20", "connection", "4 other hosts", "this host is")
			}
			tt.meanwhile(t, server)
			awaitAll(all)
			late := start(t, server, 6) // it comes while etcd is away
			late.awaitStatus("etcd away since")
			began := time.Now()
			server.Start(t)
			back := time.Since(began)
			all = append(all, late)
			awaitAll(all)
			wait.Until(t, "all are put again", func() error {
				if got := keys(t, server); len(got) != len(all) {
					return fmt.Errorf("there is %q", got)
				}
				return nil
			})
			t.Logf("etcd was back after %v, all hosts after %v", back, time.Since(began))
			for _, c := range all {
				c.awaitStatus("etcd "+server.Address+":2379 at revision", "5 other hosts")
				if log := c.logged(); strings.Count(log, "etcd is away") > 8 {
					t.Errorf("it logs\n%s", log)
				}
			}
		})
	}
}

// TestGone has a host stay away when etcd comes back. It goes from files after a while.
func TestGone(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	all := startMany(t, server, 3)
	awaitAll(all)
	server.Kill(t)
	all[2].end()
	all[0].awaitStatus("etcd away")
	server.LoseData(t)
	server.Start(t)
	all[0].awaitStatus("at revision")
	all[0].await(all...)
	all[0].await(all[:2]...)
}

// TestRestart has a companion begin with what the file of its predecessor has.
func TestRestart(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	all := startMany(t, server, 2)
	awaitAll(all)
	server.Kill(t)
	id, address := numbered(1)
	all[0].end()
	text, err := os.ReadFile(all[0].file)
	wait.Must(t, err)
	wait.Must(t, os.WriteFile(all[0].file, append(text, "@192.0.2.9:4369 x\n@127.0.0.1:4369\nb@hostb 192.0.2.9:5000\n@192.0.2.8"...), 0o644))
	again := startAs(t, id, address, all[0].file, "-endpoints", server.URL())
	again.awaitStatus("1 other hosts")
	again.await(all...)
}

// TestHostile has others put in etcd what is not a host.
func TestHostile(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	c := start(t, server, 1)
	const folder = "/eclus/v1/epmds/"
	put := func(key, value string) {
		t.Helper()
		server.Ctl(t, "put", "--", key, value)
	}
	long := strings.Repeat("x", 100_000)
	for i, value := range []string{
		"", "x", "192.0.2.7", "192.0.2.7:0", "192.0.2.7:22", "192.0.2.7:70000", "hostb:4369", "127.0.0.1:4369", "0.0.0.0:4369",
		"224.0.0.1:4369", "255.255.255.255:4369", "[::1]:4369", "[ff02::1]:4369", "[fe80::1]:4369", "[fe80::1%eth0]:4369", "169.254.1.1:4369",
		"192.0.2.7:4369\n@192.0.2.8:4369", "192.0.2.7:4369\n", "\x1b[2J\x1b]0;x\a", "@gateway", "dns:evil:4369", "[2001:db8::1%x\ny]:4369",
		"[::ffff:127.0.0.1]:4369", long, "192.0.2.7:4369 # " + long, "\xff\xfe",
	} {
		put(fmt.Sprint(folder, "bad", i), value)
	}
	for _, key := range []string{"a/b", "\x1b[2J", "a b", "a\nb", "\xff", strings.Repeat("k", 300), ""} {
		put(folder+key, "192.0.2.8:4369")
	}
	put("/eclus/v1/other", "192.0.2.8:4369")
	put("/eclus/v1/epmds", "192.0.2.8:4369")
	put(folder+"stock", "[2001:db8::5]:4370")
	put(folder+"mapped", "[::ffff:192.0.2.5]:4369")
	good := []*companion{{own: "[2001:db8::5]:4370"}, {own: "192.0.2.5:4369"}}
	c.await(good...)
	fresh := start(t, server, 2) // which reads what the other has seen come
	fresh.await(append(good, c)...)
	for _, c := range []*companion{c, fresh} {
		log := c.logged()
		if strings.ContainsFunc(log, func(r rune) bool { return r < ' ' && r != '\n' || r == 0xfffd }) {
			t.Errorf("the log has what can't be shown: %.500q", log)
		}
		if len(log) > 50_000 {
			t.Errorf("the log has %d bytes", len(log))
		}
		for _, part := range []string{folder + "bad4", "port below 1024", "127.0.0.1 is not the address of a host"} {
			if !strings.Contains(log, part) {
				t.Errorf("the log has no %q", part)
			}
		}
	}
	put(folder+"stock", "what was a host")
	c.await(good[1], fresh)
}

// TestTooMany has more hosts in etcd than there is room for. Those that are known stay, and the
// others come when there is room.
func TestTooMany(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	c := start(t, server, 1)
	put := func(from, to int) {
		var script strings.Builder
		for i := from; i < to; i++ {
			fmt.Fprintf(&script, "put /eclus/v1/epmds/%04d 10.1.%d.%d:4369\n", i, i/200, i%200+1)
			if i%100 == 99 {
				server.Txn(t, script.String())
				script.Reset()
			}
		}
	}
	count := func(n int, first string) {
		t.Helper()
		wait.Until(t, fmt.Sprintf("%d hosts, with %s", n, first), func() error {
			if got := c.hosts(); len(got) != n || !slices.Contains(got, first) {
				return fmt.Errorf("there are %d", len(got))
			}
			return nil
		})
	}
	put(1000, 3100)
	// This host has a place too.
	count(2047, "10.1.5.1:4369")
	put(0, 500)
	again := start(t, server, 2)
	wait.Until(t, "the other has as many", func() error {
		if got := len(again.hosts()); got < 2047 {
			return fmt.Errorf("there are %d", got)
		}
		return nil
	})
	count(2047, "10.1.5.1:4369")
	server.Ctl(t, "del", "--prefix", "/eclus/v1/epmds/1")
	// There are 500 from 0 on, 1,100 from 2,000 on, and the other companion.
	count(1601, "10.1.0.1:4369")
	if !strings.Contains(c.logged(), "too many hosts") {
		t.Error("it says nothing of too many")
	}
}

// TestFile has the folder of the nodes file come late, and the file be in the way.
func TestFile(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	other := start(t, server, 2)
	folder := filepath.Join(t.TempDir(), "nodes.d")
	c := startAs(t, strings.Repeat("a", 32), "192.0.2.1", filepath.Join(folder, "etcd.nodes"), "-endpoints", server.URL())
	c.awaitStatus("nodes file not written since", "no such file")
	wait.Must(t, os.Mkdir(folder, 0o755))
	c.await(other)
	wait.Until(t, "status without trouble", func() error {
		if said := c.status(); strings.Contains(said, "not written") {
			return fmt.Errorf("it is %q", said)
		}
		return nil
	})
	left, err := os.ReadDir(folder)
	if err != nil || len(left) != 1 {
		t.Errorf("in the folder are %v, %v", left, err)
	}
}

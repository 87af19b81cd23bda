// Package hosts holds which hosts etcd has, and keeps the nodes file in which epmd reads them.
//
// A host that etcd has lost is not a host that went. So what was known before etcd was read anew
// stays for a while, in which its host puts itself there again.
//
// All methods may be called concurrently, and none but Run blocks.
package hosts

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/goerlang/eclus/cmd/epmd-etcd/internal/address"
)

// Limits on what others have put in etcd.
const (
	MaxHosts = 2048 // as many addresses as epmd asks
	maxKey   = 255  // bytes of a key in its folder
	maxValue = 64   // bytes; an IPv6 address with a port has at most 47
	minPort  = 1024 // as for what is announced by multicast DNS
)

// Parse parses the value of a key, ADDRESS:PORT. Nobody is trusted: it must be the address of
// another host, and a port that any user may have.
func Parse(value []byte) (netip.AddrPort, error) {
	if len(value) > maxValue {
		return netip.AddrPort{}, fmt.Errorf("a value of %d bytes is not ADDRESS:PORT", len(value))
	}
	at, err := netip.ParseAddrPort(string(value))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not ADDRESS:PORT", value)
	}
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	switch {
	case !address.IsHost(at.Addr()):
		return netip.AddrPort{}, fmt.Errorf("%v is not the address of a host beyond one link", at.Addr().WithZone(""))
	case at.Port() < minPort:
		return netip.AddrPort{}, fmt.Errorf("%v has a port below %d", at, minPort)
	}
	return at, nil
}

// ParseKey returns which host a key is of. folder begins the keys of all hosts.
func ParseKey(folder string, key []byte) (host string, err error) {
	host, is := strings.CutPrefix(string(key), folder)
	if !is || host == "" || len(host) > maxKey {
		return "", fmt.Errorf("a key of %d bytes is not that of a host", len(key))
	}
	for _, r := range host {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '.', r == '_', r == '-':
		default:
			return "", fmt.Errorf("key %.300q is not that of a host", key)
		}
	}
	return host, nil
}

// Table is the hosts that etcd has, and those that it had. Make it with New.
type Table struct {
	path  string
	grace time.Duration

	mu      sync.Mutex
	current map[string]netip.AddrPort    // by key
	kept    map[netip.AddrPort]time.Time // which etcd had; until when, or zero: until etcd was read
	own     netip.AddrPort               // this host
	left    bool                         // that there were too many
	changed chan struct{}                // holds a token after a change
}

// New returns a table for the nodes file at path. It begins with what the file of an earlier run
// has. A host that etcd has no more stays for grace after etcd was read.
func New(path string, grace time.Duration) (*Table, error) {
	list, err := read(path)
	t := &Table{
		path: path, grace: grace, current: make(map[string]netip.AddrPort),
		kept: make(map[netip.AddrPort]time.Time), changed: make(chan struct{}, 1),
	}
	for _, at := range list {
		t.kept[at] = time.Time{}
	}
	t.poke()
	return t, err
}

func (t *Table) poke() {
	select {
	case t.changed <- struct{}{}:
	default: // the token is there already
	}
}

// SetOwn says at which address this host is. It is not among the others.
func (t *Table) SetOwn(at netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.own = at
	t.poke()
}

// Lost says that etcd is away. Nothing that is known goes before Replace.
func (t *Table) Lost() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for at := range t.kept {
		t.kept[at] = time.Time{}
	}
}

// Replace says which hosts etcd has, by key. If there are too many, known ones come first. It
// returns how many there was no room for.
func (t *Table) Replace(all map[string]netip.AddrPort) (left int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := make(map[netip.AddrPort]bool)
	for _, at := range t.current {
		known[at] = true
		t.kept[at] = time.Time{}
	}
	for at := range t.kept {
		known[at] = true
	}
	keys := slices.Sorted(maps.Keys(all))
	slices.SortStableFunc(keys, func(a, b string) int {
		switch ka, kb := known[all[a]], known[all[b]]; {
		case ka == kb:
			return 0
		case ka:
			return -1
		}
		return 1
	})
	t.current = make(map[string]netip.AddrPort)
	for _, key := range keys[:min(len(keys), MaxHosts)] {
		t.current[key] = all[key]
		delete(t.kept, all[key])
	}
	until := time.Now().Add(t.grace)
	for at, when := range t.kept {
		if when.IsZero() {
			t.kept[at] = until
		}
	}
	t.poke()
	t.left = len(keys) > MaxHosts
	return len(keys) - len(t.current)
}

// Put says that a key has a host. It reports whether there is room for it.
func (t *Table) Put(key string, at netip.AddrPort) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.current[key]; !known && len(t.current) >= MaxHosts {
		t.left = true
		return false
	}
	t.current[key] = at
	delete(t.kept, at)
	t.poke()
	return true
}

// Delete says that a key is gone. It reports whether that makes room for a host which had none, so
// that etcd is to be read anew.
func (t *Table) Delete(key string) (room bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, known := t.current[key]
	delete(t.current, key)
	t.poke()
	return known && t.left
}

// Len returns how many other hosts are known.
func (t *Table) Len() int {
	list, _ := t.list()
	return len(list)
}

// list returns the other hosts in order, and when the next of them goes by itself. Those that etcd
// has come before those that it had.
func (t *Table) list() (list []netip.AddrPort, next time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	there := make(map[netip.AddrPort]bool)
	for _, at := range t.current {
		there[at] = true
	}
	now := time.Now()
	for at, until := range t.kept {
		switch {
		case until.IsZero():
		case !until.After(now):
			delete(t.kept, at)
			continue
		case next.IsZero() || until.Before(next):
			next = until
		}
		if len(there) < MaxHosts {
			there[at] = true
		}
	}
	delete(there, t.own)
	return slices.SortedFunc(maps.Keys(there), netip.AddrPort.Compare), next
}

const (
	writeEvery = 100 * time.Millisecond // at most
	retryWrite = time.Second
)

// Run keeps the file as the table is, until ctx ends. It says how many hosts are in it, or why it
// can't be written. The file stays.
func (t *Table) Run(ctx context.Context, wrote func(hosts int, err error)) error {
	var written []netip.AddrPort
	for isWritten := false; ; {
		list, next := t.list()
		var err error
		if !isWritten || !slices.Equal(list, written) {
			err = write(t.path, list)
			isWritten, written = err == nil, list
			wrote(len(list), err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(writeEvery):
		}
		until, cancel := context.WithCancel(ctx)
		switch {
		case err != nil:
			until, cancel = context.WithTimeout(ctx, retryWrite)
		case !next.IsZero():
			until, cancel = context.WithDeadline(ctx, next)
		}
		select {
		case <-t.changed:
		case <-until.Done():
		}
		cancel()
		if ctx.Err() != nil {
			return nil
		}
	}
}

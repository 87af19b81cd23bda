package hosts

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/cmd/epmd-etcd/internal/address"
	"github.com/goerlang/eclus/test/wait"
)

// folder begins the keys of hosts.
const folder = "/eclus/v1/epmds/"

// ours is where this host is.
var ours = netip.MustParseAddrPort("192.0.2.1:4369")

// change is what somebody does to a key in etcd.
type change struct {
	key, value string
	deletes    bool
}

// bytes returns a change as changes reads it: whether it deletes, then key and value, each behind
// its length.
func (c change) bytes() []byte {
	b := []byte{0, byte(len(c.key))}
	if c.deletes {
		b[0] = 1
	}
	b = append(append(b, c.key...), byte(len(c.value)))
	return append(b, c.value...)
}

// changes reads any bytes.
func changes(script []byte) (all []change) {
	text := func() (s string) {
		if len(script) > 0 {
			n := min(int(script[0]), len(script)-1)
			s, script = string(script[1:1+n]), script[1+n:]
		}
		return s
	}
	for len(script) > 0 {
		c := change{deletes: script[0]&1 != 0}
		script = script[1:]
		c.key, c.value = text(), text()
		all = append(all, c)
	}
	return all
}

// newTable returns a table without hosts.
func newTable(t *testing.T) *Table {
	t.Helper()
	table, err := New(filepath.Join(t.TempDir(), "etcd.nodes"), time.Minute)
	wait.Must(t, err)
	table.SetOwn(ours)
	return table
}

// written returns what a table writes to its file.
func written(t *testing.T, table *Table) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // it writes once
	wait.Must(t, table.Run(ctx, func(_ int, err error) { wait.Must(t, err) }))
	text, err := os.ReadFile(table.path)
	wait.Must(t, err)
	return string(text)
}

// host returns the host of a key and a value. The error can be shown.
func host(t *testing.T, key, value string) (host string, at netip.AddrPort, err error) {
	host, err = ParseKey(folder, []byte(key))
	if err == nil {
		at, err = Parse([]byte(value))
	}
	if err != nil && strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
		t.Errorf("key %q, value %q: the error can't be shown: %q", key, value, err)
	}
	return host, at, err
}

// FuzzHosts has others put anything in etcd. The file has other hosts, and nothing else. A table
// that learns of one change after the other has the same hosts as one that learns of all at once,
// and one that reads the file.
func FuzzHosts(f *testing.F) {
	for _, value := range []string{
		"192.0.2.7:4369", "[2001:db8::7]:4369", "[::ffff:192.0.2.5]:4369", "192.0.2.1:4369", "", "x", "192.0.2.7", "192.0.2.7:22",
		"192.0.2.7:70000", "hostb:4369", "127.0.0.1:4369", "[fe80::1%eth0]:4369", "192.0.2.7:4369\n@192.0.2.8:4369", "\x1b[2J\a",
		"@gateway", "[2001:db8::1%x\ny]:4369", "\xff\xfe", "192.0.2.7:4369 # x",
	} {
		other, put, gone := change{folder + "a.b-c_D", "192.0.2.9:5000", false}, change{folder + "b", value, false}, change{folder + "b", "", true}
		f.Add(put.bytes())
		f.Add(slices.Concat(other.bytes(), put.bytes(), gone.bytes()))
		f.Add(slices.Concat(change{folder + "b", "192.0.2.9:5000", false}.bytes(), put.bytes()))
	}
	for _, key := range []string{"", "a/b", "\x1b[2J", "a\nb", "\xff", strings.Repeat("k", 230)} {
		f.Add(change{folder + key, "192.0.2.8:4369", false}.bytes())
		f.Add(change{"/eclus/v1/" + key, "192.0.2.8:4369", false}.bytes())
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		follows, anew := newTable(t), newTable(t)
		there := make(map[string]netip.AddrPort)
		for _, c := range changes(script) {
			name, at, err := host(t, c.key, c.value)
			if err == nil && !c.deletes {
				follows.Put(name, at)
				there[name] = at
			} else if name != "" {
				follows.Delete(name)
				delete(there, name)
			}
		}
		anew.Replace(there)
		text := written(t, follows)
		if got := written(t, anew); got != text {
			t.Errorf("one after the other:\n%s\nall at once:\n%s", text, got)
		}
		again, err := New(follows.path, time.Minute)
		wait.Must(t, err)
		if got := written(t, again); got != text {
			t.Errorf("the file was\n%s\nand whoever reads it writes\n%s", text, got)
		}
		checkFile(t, text)
	})
}

// checkFile checks that a file has a heading, and other hosts in order.
func checkFile(t *testing.T, text string) {
	t.Helper()
	list, is := strings.CutPrefix(text, heading)
	if !is {
		t.Errorf("the file begins with %.100q", text)
	}
	var last netip.AddrPort
	for line := range strings.Lines(list) {
		at, err := netip.ParseAddrPort(strings.Trim(line, "@\n"))
		switch {
		case err != nil, line != "@"+at.String()+"\n":
			t.Errorf("the file has the line %q", line)
		case !address.IsHost(at.Addr()), at.Addr().Is4In6(), at.Port() < minPort, at == ours, last.IsValid() && last.Compare(at) >= 0:
			t.Errorf("the file has %v after %v", at, last)
		}
		last = at
	}
}

package hosts

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goerlang/eclus/registry"
)

// neighbour returns a node that is known from another host, at addresses.
func neighbour(id uint64, full, host string, sure bool, addresses ...string) *registry.Node {
	n := &registry.Node{ID: id, Node: full, Host: host, Sure: sure, Reach: registry.Reachable, EPMDPort: 4369, Origin: registry.LAN, Port: 4711}
	n.Name, _, _ = strings.Cut(full, "@")
	for _, a := range addresses {
		n.Addresses = append(n.Addresses, netip.MustParseAddr(a))
	}
	return n
}

func told(n *registry.Node) *registry.Node {
	n.Rank = registry.Told
	return n
}

var tableTests = []struct {
	name  string
	nodes []*registry.Node
	want  string // lines
}{
	{"long", []*registry.Node{neighbour(1, "b@hostb.local", "hostb.local", true, "198.51.100.12")}, " 198.51.100.12 hostb.local"},
	{"short", []*registry.Node{neighbour(1, "b@hostb", "hostb.local", true, "198.51.100.12")}, " 198.51.100.12 hostb\n 198.51.100.12 hostb.local"},
	{"as the registry has addresses, without zones", []*registry.Node{neighbour(1, "b@hostb.local", "hostb.local", true,
		"198.51.100.12", "2001:db8::12", "fe80::12%eth0", "10.0.0.12", "169.254.0.12")},
		" 198.51.100.12 hostb.local\n 2001:db8::12 hostb.local\n 10.0.0.12 hostb.local\n 169.254.0.12 hostb.local"},
	{"link-local alone", []*registry.Node{neighbour(1, "b@hostb.local", "hostb.local", true, "fe80::12%eth0")}, ""},
	{"names of DNS", []*registry.Node{
		neighbour(1, "b@db.example.com", "hostb.local", true, "198.51.100.12"),
		neighbour(2, "c@192.0.2.1", "hostb.local", true, "198.51.100.12"),
	}, " 198.51.100.12 hostb.local"},
	{"localhost", []*registry.Node{
		neighbour(1, "b@localhost", "hostb.local", false, "198.51.100.12"),
		neighbour(2, "c@ip6-localhost", "hostb.local", false, "198.51.100.12"),
	}, " 198.51.100.12 hostb.local"},
	{"names of this host", []*registry.Node{
		neighbour(1, "b@here", "evil.local", false, "198.51.100.66"),
		neighbour(2, "b@AVAHI", "avahi.local", true, "198.51.100.66"),
	}, " 198.51.100.66 evil.local"},
	{"what only claims a host in .local", []*registry.Node{
		neighbour(1, "x@hostc.local", "evil.local", false, "198.51.100.66"),
	}, " 198.51.100.66 evil.local"},
	{"what belongs, and what is claimed, which comes last", []*registry.Node{
		neighbour(1, "b@hostb", "evil.local", false, "198.51.100.66"),
		neighbour(2, "b@hostb", "hostb.local", true, "198.51.100.12"),
		neighbour(3, "b@a", "hostb.local", false, "198.51.100.12"),
	}, " 198.51.100.66 evil.local\n 198.51.100.12 hostb\n 198.51.100.12 hostb.local\n 198.51.100.12 a"},
	{"of two that claim it one, told before announced", []*registry.Node{
		neighbour(1, "b@nowhere", "a.example", false, "198.51.100.66"),
		told(neighbour(2, "b@nowhere", "b.example", false, "198.51.100.12")),
		told(neighbour(3, "c@nowhere", "b.example", false, "198.51.100.12", "2001:db8::12")),
	}, " 198.51.100.12 nowhere\n 2001:db8::12 nowhere"},
	{"capitals", []*registry.Node{
		neighbour(1, "b@HostB.local", "hostb.local", true, "198.51.100.12"),
	}, " 198.51.100.12 hostb.local"},
	{"names that no host can have", []*registry.Node{
		neighbour(1, "b@a\"b", "host#b.local", false, "198.51.100.12"),
		neighbour(2, "b@ä", "-.local", true, "198.51.100.12"),
	}, ""},
}

func TestTableLines(t *testing.T) {
	for _, tt := range tableTests {
		t.Run(tt.name, func(t *testing.T) {
			reg := registry.New("avahi.local", registry.OldNames)
			k := newKeeper(Options{Registry: reg, Format: Table, HostName: here, Port: 4369, Log: slog.New(slog.DiscardHandler)}, nil)
			for _, n := range tt.nodes {
				k.nodes[n.ID] = n
			}
			if got := strings.Join(k.lines(), "\n"); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// TestPeers has both kinds of files name hosts of peers. A .hosts.erlang does not name those of
// nodes without epmd, as net_adm:world/0 asks epmds.
func TestPeers(t *testing.T) {
	for format, want := range map[*Format]bool{World: false, Table: true} {
		k := newKeeper(Options{Registry: registry.New("here.local", 1), Format: format, HostName: here, Port: 4369}, nil)
		n := neighbour(1, "b@hostb.local", "hostb.local", true, "192.0.2.7")
		n.Origin = registry.Peer
		if k.changed(registry.Event{Kind: registry.Up, Node: n}); len(k.lines()) == 0 {
			t.Errorf("%q: the host of a peer is missing", format.begin)
		}
		n = neighbour(1, "b@hostb.local", "hostb.local", true, "192.0.2.7")
		n.Origin, n.EPMDPort, n.Via, n.Reach = registry.Peer, 0, "x.nodes", registry.Unchecked
		if k.changed(registry.Event{Kind: registry.Changed, Node: n}); (len(k.lines()) > 0) != want {
			t.Errorf("%q: of a nodes file: got %q", format.begin, k.lines())
		}
	}
}

// TestTableFull has more claimed names than there is place for. They give way, and the log says so
// once.
func TestTableFull(t *testing.T) {
	var log bytes.Buffer
	path := filepath.Join(t.TempDir(), "hosts")
	k := newKeeper(Options{
		Registry: registry.New("here.local", 1), Format: Table, HostName: here, Path: path, Port: 4369, Log: slog.New(slog.NewTextHandler(&log, nil)),
	}, nil)
	for id := range uint64(16384) {
		k.nodes[id] = neighbour(id, fmt.Sprintf("x@a%062d", id), "evil.local", false, "198.51.100.66")
	}
	k.nodes[1<<20] = neighbour(1<<20, "b@zz", "zz.local", true, "198.51.100.12")
	for range 2 {
		lines := k.lines()
		if !k.write(lines) || !slices.Contains(lines, " 198.51.100.12 zz") || len(lines) < 1000 {
			t.Errorf("%d lines; want many, and zz in them", len(lines))
		}
	}
	if n := strings.Count(log.String(), "no place for more"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log.String())
	}
	if info, err := os.Stat(path); err != nil || info.Size() > maxLines+1000 || info.Mode() != 0o644 {
		t.Errorf("got %v, %v", info, err)
	}
}

// TestTableStruckOut strikes out lines and takes them back. Others' lines stay.
func TestTableStruckOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	const mine = "127.0.0.1 localhost\n"
	f := &hostsFile{path: path, format: Table}
	lines := []string{" 198.51.100.12 hostb", " 198.51.100.13 hostc"}
	if err := errors.Join(os.WriteFile(path, []byte(mine), 0o644), f.write(lines)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		lines []string
		want  string
	}{{lines[1:], "#198.51.100.12 hostb\n 198.51.100.13 hostc\n"}, {nil, "#198.51.100.12 hostb\n#198.51.100.13 hostc\n"}, {lines, strings.Join(lines, "\n") + "\n"}} {
		p, was, err := f.read()
		if err != nil {
			t.Fatal(err)
		}
		if err := was.strikeOut(p, Table, tt.lines); err != nil {
			t.Fatal(err)
		}
		was.close()
		p.Close()
		text, err := os.ReadFile(path)
		if want := mine + Table.begin + "\n" + tt.want + Table.end + "\n"; err != nil || string(text) != want {
			t.Errorf("got %q, %v; want %q", text, err, want)
		}
	}
}

package listing

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/screen"
	"github.com/goerlang/eclus/registry"
)

// shownOn returns what is printed of a network on a screen.
func shownOn(s screen.Screen, k *knownNodes) string {
	var out strings.Builder
	p := tablePrinter{&out, s, time.UTC, testUsers(), 4369}
	p.snapshot(k)
	for i, n := range k.listed() {
		p.change([]registry.EventKind{registry.Up, registry.Changed, registry.Down}[i%3], n)
	}
	return out.String()
}

func ofWidth(columns int) screen.Screen { return screen.Screen{Width: func() int { return columns }} }

// crowd is a network of nodes with all there is to show, in all widths.
func crowd() *knownNodes {
	k := known()
	maps.Copy(k.nodes, held().nodes)
	n := registry.Node{Node: strings.Repeat("長", 40) + "@hostd.local", Name: "long", Host: "hostd.local", Origin: registry.LAN, Port: 1, EPMDPort: 54321}
	n.Addresses = []netip.Addr{netip.MustParseAddr("2001:db8:1111:2222:3333:4444:5555:6666")}
	k.nodes[keyOf(n)] = n
	return k
}

// TestWidths has no line of the table longer than the terminal is wide.
func TestWidths(t *testing.T) {
	for width := 5; width < 300; width++ {
		_, table, _ := strings.Cut(shownOn(ofWidth(width), crowd()), "\n\n")
		table, _, _ = strings.Cut(table, "\n\n") // the notes
		for line := range strings.Lines(table) {
			line = strings.TrimSuffix(line, "\n")
			if got := screen.TextWidth(line); got > width {
				t.Errorf("on %d columns a line has %d: %s", width, got, line)
			}
		}
	}
}

// TestColumnsLeftOut narrows the terminal.
func TestColumnsLeftOut(t *testing.T) {
	for width, want := range map[int]string{
		0:   "NODE ADDRESS PORT TYPE ORIGIN REACHABLE SINCE PID USER UNIT",
		120: "NODE ADDRESS PORT TYPE ORIGIN REACHABLE SINCE PID USER UNIT",
		100: "NODE ADDRESS PORT TYPE ORIGIN REACHABLE SINCE PID USER",
		80:  "NODE ADDRESS PORT TYPE ORIGIN REACHABLE SINCE",
		70:  "NODE ADDRESS PORT TYPE ORIGIN REACHABLE",
		50:  "NODE ADDRESS PORT TYPE REACHABLE",
		40:  "NODE ADDRESS PORT REACHABLE",
		34:  "NODE PORT REACHABLE",
		26:  "NODE REACHABLE",
		16:  "NODE",
	} {
		_, table, _ := strings.Cut(shownOn(ofWidth(width), held()), "\n\n")
		head, _, _ := strings.Cut(table, "\n")
		if got := strings.Join(strings.Fields(head), " "); got != want {
			t.Errorf("%d columns wide: %s; want %s", width, got, want)
		}
	}
}

const wantNarrow = `epmd on port 4369: 3 nodes, 2 on the LAN

NODE                  PORT   REACHABLE
å?[31m?@hosta.loc… ?  5      name
b@hostb.local         41237  no
c@hostc.local         65535  -

?: full name not confirmed by the node

kept from the LAN:
name: OTP takes no such name
+ å?[31m?@hosta.local ?  5  name
~ b@hostb.local  41237  no
- c@hostc.local  -  65535  normal  -
`

// TestNarrow cuts names, but not what follows them.
func TestNarrow(t *testing.T) {
	if got := shownOn(ofWidth(38), known()); got != wantNarrow {
		t.Errorf("got\n%s\nwant\n%s", got, wantNarrow)
	}
}

// TestColours has colours where they say something, and the same text.
func TestColours(t *testing.T) {
	coloured := screen.Screen{Coloured: true}
	got := shownOn(coloured, known())
	for _, want := range []string{
		"\n\x1b[1mNODE\x1b[m    ",
		"  \x1b[1mSINCE\x1b[m\n",
		"\n\x1b[2må?[31m?@hosta.local ?\x1b[m  127.0.0.1 ",
		"  lan     \x1b[31mno\x1b[m         2026",
		"  local   \x1b[33mname\x1b[m  ",
		"\n\x1b[32m+\x1b[m \x1b[2må",
		"\n\x1b[33m~\x1b[m b@hostb.local  198.51",
		"\n\x1b[31m-\x1b[m c@hostc.local  -  ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%q", want, got)
		}
	}
	for _, l := range []screen.Look{screen.Bold, screen.Faint, screen.Red, screen.Green, screen.Yellow} {
		got = strings.ReplaceAll(got, fmt.Sprintf("\x1b[%sm", l), "")
	}
	if got = strings.ReplaceAll(got, "\x1b[m", ""); got != shownOn(screen.Screen{}, known()) {
		t.Errorf("without colours it is\n%s\nwant\n%s", got, shownOn(screen.Screen{}, known()))
	}
}

// TestEmojiTable keeps columns of wide characters below each other.
func TestEmojiTable(t *testing.T) {
	k := &knownNodes{nodes: make(map[nodeKey]registry.Node)}
	for _, name := range []string{"日本", "🦊🦊", "abcd"} {
		n := registry.Node{Node: name, Name: name, Port: 7777, Sure: true}
		k.nodes[keyOf(n)] = n
	}
	_, table, _ := strings.Cut(shownOn(screen.Screen{}, k), "\n\n")
	var at []int
	for line := range strings.Lines(table) {
		if before, _, found := strings.Cut(line, "7777  normal  local   "); found {
			at = append(at, screen.TextWidth(before))
		}
	}
	if want := []int{len("abcd  -        "), len("abcd  -        "), len("abcd  -        ")}; !slices.Equal(at, want) {
		t.Errorf("ports at columns %v, want %v, of\n%s", at, want, table)
	}
}

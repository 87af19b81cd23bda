package listing

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/screen"
	"github.com/goerlang/eclus/cmd/epmd/internal/table"
	"github.com/goerlang/eclus/registry"
)

// tablePrinter shows nodes to a person:
//
//	epmd on port 4369: 2 nodes, 1 on the LAN
//
//	NODE            ADDRESS        PORT   TYPE    ORIGIN  REACHABLE  SINCE                VIA
//	a@hosta.local   127.0.0.1      41233  normal  local   yes        2026-03-01 12:00:00  -
//	b@hostb.local   198.51.100.12  41237  hidden  lan     no         2026-03-01 12:00:02  epmd
//
// From VIA on, columns are there if there is something in them. VIA says how a neighbour is known:
// "epmd" if the epmd of its host says so. EPMD is the port of a node's epmd if it
// differs from ours. PID, USER and UNIT are those of the process behind a node of this host. It
// shows each change on a line. "+" begins that of a new node, "~" of one that changed, "-" of one
// that went. Columns that the screen is too narrow for are left out, and names cut.
type tablePrinter struct {
	out    io.Writer
	screen screen.Screen
	zone   *time.Location
	users  userNames
	port   uint32 // of this epmd
}

// nodeTable says which columns there are. Names need 20 columns before anything that leads to a
// node is left out.
var nodeTable = table.Table{
	Titles:     []string{"NODE", "ADDRESS", "PORT", "TYPE", "ORIGIN", "REACHABLE", "SINCE", "VIA", "EPMD", "PID", "USER", "UNIT"},
	Optional:   viaColumn,
	Expendable: []int{unitColumn, userColumn, pidColumn, viaColumn, sinceColumn, originColumn, typeColumn, epmdColumn, addressColumn, portColumn, reachColumn},
	Short:      5,
	Cut:        nodeColumn,
	MinWidth:   20,
}

// Columns of the table.
const (
	nodeColumn = iota
	addressColumn
	portColumn
	typeColumn
	originColumn
	reachColumn
	sinceColumn
	viaColumn
	epmdColumn
	pidColumn
	userColumn
	unitColumn
)

// whyTexts explain why nodes of this host are not announced, in short lines.
var whyTexts = []struct {
	why  registry.Why
	text string
}{
	{registry.WhyName, "OTP takes no such name"},
	{registry.WhyHost, "its host is loopback"},
	{registry.WhyClosed, "nobody listens there"},
	{registry.WhyLoopback, "listens on loopback only"},
	{registry.WhyInterface, "listens on none to a LAN"},
}

// unsureMark follows the name of a node that did not tell it.
const unsureMark = " ?"

func (p tablePrinter) snapshot(k *knownNodes) {
	list := k.listed()
	var counts [registry.Origins]int
	unsure := 0
	why := make(map[registry.Why]bool)
	for _, n := range list {
		why[n.Why] = true
		counts[n.Origin]++
		if !n.Sure {
			unsure++
		}
	}
	elsewhere := ""
	if n := counts[registry.Peer]; n > 0 {
		elsewhere = fmt.Sprintf(", %d elsewhere", n)
	}
	fmt.Fprintf(p.out, "epmd on port %d: %s, %d on the LAN%s\n", k.epmdPort, k.count(len(list)), counts[registry.LAN], elsewhere)
	if k.lanOff != "" {
		fmt.Fprintf(p.out, "LAN discovery off: %s\n", screen.Printable(k.lanOff))
	}
	if k.silent != "" {
		fmt.Fprintf(p.out, "this host is not announced: %s\n", screen.Printable(k.silent))
	}
	p.printWithout(k.without)
	if len(list) > 0 {
		fmt.Fprintln(p.out)
		p.printRows(list)
	}
	if unsure > 0 {
		fmt.Fprintf(p.out, "\n%s: full name not confirmed by the node\n", strings.TrimSpace(unsureMark))
	}
	p.explain(why)
}

// maxWithout is how many epmds are shown that give no stream.
const maxWithout = 5

// printWithout says which epmds give no stream, and why.
func (p tablePrinter) printWithout(list []registry.NoStream) {
	for i, n := range list {
		if i == maxWithout {
			fmt.Fprintf(p.out, "no stream from %d more\n", len(list)-maxWithout)
			return
		}
		from := n.EPMD.String()
		if n.Host != "" {
			from = n.Host + " (" + from + ")"
		}
		fmt.Fprintf(p.out, "no stream from %s: %s\n", screen.Printable(from), screen.Printable(n.Why))
	}
}

// explain says what the reasons mean for which nodes are not announced.
func (p tablePrinter) explain(why map[registry.Why]bool) {
	first := "\nkept from the LAN:\n"
	for _, w := range whyTexts {
		if why[w.why] {
			fmt.Fprintf(p.out, "%s%s: %s\n", first, w.why, w.text)
			first = ""
		}
	}
}

// printRows prints the head of the table and the nodes, in columns.
func (p tablePrinter) printRows(list []registry.Node) {
	var rows [][]table.Cell
	for _, n := range list {
		rows = append(rows, p.row(n))
	}
	for _, line := range p.table().Lines(rows) {
		fmt.Fprintln(p.out, line)
	}
}

func (p tablePrinter) table() table.Table {
	t := nodeTable
	t.Screen = p.screen
	return t
}

func (p tablePrinter) change(kind registry.EventKind, n registry.Node) {
	sign := map[registry.EventKind]table.Cell{
		registry.Up:      {Text: "+", Look: screen.Green},
		registry.Changed: {Text: "~", Look: screen.Yellow},
		registry.Down:    {Text: "-", Look: screen.Red},
	}[kind]
	fmt.Fprintln(p.out, p.screen.Paint(sign.Text, sign.Look), p.table().Line(p.row(n), len("+ ")))
}

func (p tablePrinter) row(n registry.Node) []table.Cell {
	name := table.Cell{Text: screen.Printable(n.Node)}
	if !n.Sure {
		name.Mark, name.Look = unsureMark, screen.Faint
	}
	address := table.Empty
	if len(n.Addresses) > 0 {
		address = screen.Printable(n.Addresses[0].String())
	}
	pid, owner, unit := p.holderCells(n.Holder)
	return []table.Cell{
		nodeColumn:    name,
		addressColumn: {Text: address},
		portColumn:    {Text: strconv.Itoa(int(n.Port))},
		typeColumn:    {Text: n.Type.String()},
		originColumn:  {Text: n.Origin.String()},
		reachColumn:   reachCell(n),
		sinceColumn:   {Text: n.Since.In(p.zone).Format(time.DateTime)},
		viaColumn:     {Text: screen.Printable(cmp.Or(n.Via, table.Empty))},
		epmdColumn:    {Text: p.epmdCell(n)},
		pidColumn:     {Text: pid},
		userColumn:    {Text: owner},
		unitColumn:    {Text: unit},
	}
}

func reachCell(n registry.Node) table.Cell {
	switch {
	case n.Why != "":
		return table.Cell{Text: screen.Printable(string(n.Why)), Look: screen.Yellow}
	case n.Reach == registry.Unchecked:
		return table.Cell{Text: table.Empty}
	case n.Reach == registry.Unreachable:
		return table.Cell{Text: n.Reach.String(), Look: screen.Red}
	}
	return table.Cell{Text: n.Reach.String()}
}

// epmdCell returns the port of a node's epmd if it differs from ours.
func (p tablePrinter) epmdCell(n registry.Node) string {
	if n.EPMDPort == 0 || uint32(n.EPMDPort) == p.port {
		return table.Empty
	}
	return strconv.Itoa(int(n.EPMDPort))
}

// holderCells returns what is shown of the process behind a node.
func (p tablePrinter) holderCells(h *registry.Holder) (pid, owner, unit string) {
	if h == nil {
		return table.Empty, table.Empty, table.Empty
	}
	pid, unit = table.Empty, screen.Printable(cmp.Or(h.Unit, table.Empty))
	if h.PID != 0 {
		pid = strconv.Itoa(int(h.PID))
	}
	return pid, cmp.Or(screen.Printable(p.users.of(h.UID)), strconv.FormatUint(uint64(h.UID), 10)), unit
}

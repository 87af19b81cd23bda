package listing

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/screen"
	"github.com/goerlang/eclus/registry"
)

// jsonVersion is that of the objects. It changes when a key goes or comes to mean something else; one may be added at
// any time.
const jsonVersion = 1

// jsonPrinter shows nodes to a program, one object a line:
//
//	{"v":1,"node":"b@hostb.local","name":"b","host":"hostb.local","address":"198.51.100.12","port":41237,"type":"normal",
//	"origin":"lan","since":"2026-03-01T12:00:02Z","sure":true,"high":6,"low":5,"proto":0,"epmd":4369,"reachable":true}
//
// (here broken into two). v is jsonVersion. The other keys are those of the line protocol, see [epmd.Line], with numbers
// as numbers, addresses as a list, sure, which is always there, and reachable and lan as true or false, and user for the
// name that goes with uid. What is not known is left out.
//
// With -watch each has a key event after v: "up" (also for nodes known already), "changed" or "down". After the nodes
// known already comes
//
//	{"v":1,"event":"snapshot","port":4369,"nodes":2,"lan":"off","reason":"avahi-daemon is not running"}
//
// of which port is that of the epmd, nodes how many were listed, and lan on or off. reason is there if it is off, or
// after "published":false, which says that this host is not announced though lan is on.
type jsonPrinter struct {
	out   io.Writer
	watch bool
	users userNames
}

// nodeObject is what is printed of a node.
type nodeObject struct {
	Version   int          `json:"v"`
	Event     string       `json:"event,omitempty"`
	Node      string       `json:"node"`
	Name      string       `json:"name"`
	Host      string       `json:"host"`
	Address   *netip.Addr  `json:"address,omitempty"`
	Addresses []netip.Addr `json:"addresses,omitempty"` // if there are several, Address leading
	Port      uint16       `json:"port"`
	Type      string       `json:"type"`
	Origin    string       `json:"origin"`
	Creation  uint32       `json:"creation,omitempty"`
	Dist      string       `json:"dist,omitempty"`
	Since     time.Time    `json:"since"`
	Sure      bool         `json:"sure"`
	High      uint16       `json:"high,omitempty"`
	Low       *uint16      `json:"low,omitempty"`   // there if High is, as the next
	Protocol  *uint8       `json:"proto,omitempty"` // 0: TCP/IPv4
	EPMDPort  uint16       `json:"epmd,omitempty"`
	Reachable *bool        `json:"reachable,omitempty"`
	LAN       *bool        `json:"lan,omitempty"` // false, with Why, or not there
	Why       registry.Why `json:"why,omitempty"`
	PID       int32        `json:"pid,omitempty"`
	UID       *uint32      `json:"uid,omitempty"` // 0 is somebody
	User      string       `json:"user,omitempty"`
	Unit      string       `json:"unit,omitempty"`
}

// snapshotObject is what is printed after the nodes that were known already.
type snapshotObject struct {
	Version int    `json:"v"`
	Event   string `json:"event"`
	Port    uint32 `json:"port"`
	Nodes   int    `json:"nodes"`
	LAN     string `json:"lan"`
	Publish *bool  `json:"published,omitempty"` // false, or not there
	Reason  string `json:"reason,omitempty"`
}

func (p jsonPrinter) snapshot(k *knownNodes) {
	list := k.listed()
	for _, n := range list {
		p.change(registry.Up, n)
	}
	if !p.watch {
		return
	}
	o := snapshotObject{Version: jsonVersion, Event: "snapshot", Port: k.epmdPort, Nodes: len(list), LAN: "on"}
	switch {
	case k.lanOff != "":
		o.LAN, o.Reason = "off", k.lanOff
	case k.silent != "":
		o.Publish, o.Reason = new(bool), k.silent
	}
	p.print(o)
}

func (p jsonPrinter) change(kind registry.EventKind, n registry.Node) {
	o := newNodeObject(&n)
	if n.Holder != nil {
		o.User = p.users.of(n.Holder.UID)
	}
	if p.watch {
		o.Event = kind.String()
	}
	p.print(o)
}

func newNodeObject(n *registry.Node) nodeObject {
	o := nodeObject{
		Version:  jsonVersion,
		Node:     n.Node,
		Name:     n.Name,
		Host:     n.Host,
		Port:     n.Port,
		Type:     n.Type.String(),
		Origin:   n.Origin.String(),
		Creation: n.Creation,
		Dist:     n.Dist,
		Since:    n.Since,
		Sure:     n.Sure,
		High:     n.High,
		EPMDPort: n.EPMDPort,
	}
	if n.High != 0 {
		o.Low, o.Protocol = &n.Low, &n.Protocol
	}
	if n.Reach != registry.Unchecked {
		isReachable := n.Reach == registry.Reachable
		o.Reachable = &isReachable
	}
	if n.Why != "" {
		o.LAN, o.Why = new(bool), n.Why
	}
	if h := n.Holder; h != nil {
		o.PID, o.UID, o.Unit = h.PID, &h.UID, h.Unit
	}
	if len(n.Addresses) > 0 {
		o.Address = &n.Addresses[0]
	}
	if len(n.Addresses) > 1 {
		o.Addresses = n.Addresses
	}
	return o
}

func (p jsonPrinter) print(object any) {
	text, err := json.Marshal(object)
	if err != nil { // only a year past 9999 in since
		text, _ = json.Marshal(map[string]any{"v": jsonVersion, "event": "error", "reason": err.Error()})
	}
	fmt.Fprintf(p.out, "%s\n", screen.EscapeUnprintable(text))
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"time"
	"unicode"
	"unicode/utf16"

	"eclus/registry"
)

// jsonPrinter shows nodes to a program: one object a line with the keys of the line protocol, numbers
// as numbers, addresses as a list, sure as true or false, and user for the name that goes with uid, if it has one. With -watch each has a key event: "up" (also
// for those known already), "changed" or "down". After the nodes known already comes
//
//	{"event":"snapshot","port":4369,"nodes":2,"lan":"off","reason":"avahi-daemon is not running"}
//
// of which port is that of the epmd, lan on or off, and reason only there if it is off.
type jsonPrinter struct {
	out   io.Writer
	watch bool
	users userNames
}

// nodeObject is what is printed of a node.
type nodeObject struct {
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
	PID       int32        `json:"pid,omitempty"`
	UID       *uint32      `json:"uid,omitempty"` // 0 is somebody
	User      string       `json:"user,omitempty"`
	Unit      string       `json:"unit,omitempty"`
}

// snapshotObject is what is printed after the nodes that were known already.
type snapshotObject struct {
	Event  string `json:"event"`
	Port   uint32 `json:"port"`
	Nodes  int    `json:"nodes"`
	LAN    string `json:"lan"`
	Reason string `json:"reason,omitempty"`
}

func (p jsonPrinter) snapshot(k *knownNodes) {
	for _, n := range k.sorted() {
		p.change(registry.Up, n)
	}
	if !p.watch {
		return
	}
	lan := "on"
	if k.lanOff != "" {
		lan = "off"
	}
	p.print(snapshotObject{"snapshot", k.epmdPort, len(k.nodes), lan, k.lanOff})
}

func (p jsonPrinter) change(kind registry.EventKind, n registry.Node) {
	o := nodeObject{
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
	}
	if h := n.Holder; h != nil {
		o.PID, o.UID, o.User, o.Unit = h.PID, &h.UID, p.users.of(h.UID), h.Unit
	}
	if p.watch {
		o.Event = kind.String()
	}
	if len(n.Addresses) > 0 {
		o.Address = &n.Addresses[0]
	}
	if len(n.Addresses) > 1 {
		o.Addresses = n.Addresses
	}
	p.print(o)
}

func (p jsonPrinter) print(object any) {
	text, err := json.Marshal(object)
	if err != nil { // only a year past 9999 in since
		text, _ = json.Marshal(map[string]string{"event": "error", "reason": err.Error()})
	}
	fmt.Fprintf(p.out, "%s\n", escapeUnprintable(text))
}

// escapeUnprintable escapes what can't be printed and is therefore in a string of the JSON text. It could
// take over a terminal.
func escapeUnprintable(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for _, r := range string(text) {
		switch {
		case unicode.IsPrint(r):
			out = fmt.Appendf(out, "%c", r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

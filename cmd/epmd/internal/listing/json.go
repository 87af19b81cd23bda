package listing

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/goerlang/eclus/cmd/epmd/internal/screen"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
)

// jsonVersion is that of the objects. It changes when a key goes or changes its meaning. A key may
// be added at any time.
const jsonVersion = 1

// jsonPrinter shows nodes to a program, one object a line:
//
//	{"v":1,"node":"b@hostb.local","name":"b","host":"hostb.local","address":"198.51.100.12",
//	"port":41237,"type":"normal","origin":"lan","since":"2026-03-01T12:00:02Z","sure":true,
//	"high":6,"low":5,"proto":0,"epmd":4369,"reachable":true}
//
// (here broken into three). v is jsonVersion. The other keys are those of the line protocol, see
// [epmd.Line]. Numbers are numbers, and addresses are a list. sure, which is always there,
// reachable and lan are true or false. user is the name that goes with uid. What is not known is
// left out.
//
// With -watch each has a key event after v: "up", "changed" or "down". Nodes that were known before
// are "up" too. After the nodes known already comes
//
//	{"v":1,"event":"snapshot","port":4369,"nodes":2,"lan":"off",
//	"reason":"avahi-daemon is not running"}
//
// of which port is that of the epmd, nodes how many were listed, and lan on or off. reason is there
// if lan is off. It also follows "published":false: lan is on, but this host is not announced.
// no_stream is there if there are epmds of other hosts that give no stream: a list of objects with
// host (if known), address, port and reason.
type jsonPrinter struct {
	out   io.Writer
	watch bool
	users userNames
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

	Without []withoutObject `json:"no_stream,omitempty"`
}

// withoutObject is an epmd that gives no stream.
type withoutObject struct {
	Host    string `json:"host,omitempty"`
	Address string `json:"address"`
	Port    uint16 `json:"port"`
	Reason  string `json:"reason"`
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
	for _, n := range k.without {
		o.Without = append(o.Without, withoutObject{n.Host, n.EPMD.Addr().String(), n.EPMD.Port(), n.Why})
	}
	text, _ := json.Marshal(o) // which nothing in it makes fail
	p.print(text)
}

func (p jsonPrinter) change(kind registry.EventKind, n registry.Node) {
	text := fmt.Appendf(nil, `{"v":%d`, jsonVersion)
	if p.watch {
		text = fmt.Appendf(text, `,"event":%q`, kind)
	}
	for key, v := range epmd.JSONFields(&n) {
		value, err := json.Marshal(v)
		if err != nil { // only a year past 9999 in since
			text, _ = json.Marshal(map[string]any{"v": jsonVersion, "event": "error", "reason": err.Error()})
			p.print(text)
			return
		}
		text = fmt.Appendf(text, ",%q:%s", key, value)
		if key == "uid" {
			text = p.appendUser(text, n.Holder.UID)
		}
	}
	p.print(append(text, '}'))
}

// appendUser appends the name of a user, if there is one, to an object in the making.
func (p jsonPrinter) appendUser(object []byte, uid uint32) []byte {
	name := p.users.of(uid)
	if name == "" {
		return object
	}
	text, _ := json.Marshal(name) // which no string makes fail
	return fmt.Appendf(object, `,"user":%s`, text)
}

func (p jsonPrinter) print(object []byte) {
	fmt.Fprintf(p.out, "%s\n", screen.EscapeUnprintable(object))
}

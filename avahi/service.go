package avahi

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"unicode/utf8"

	"github.com/goerlang/eclus/registry"
)

// Limits of DNS and DNS-SD, in bytes.
const (
	maxLabel = 63  // of a service instance's name
	maxText  = 255 // of one string of a TXT record, KEY=VALUE
)

// service is a service instance to announce, on Avahi's host name.
type service struct {
	label string   // name of the instance; another may be taken on a collision
	port  uint16   // SRV
	text  [][]byte // TXT
}

// nodeService returns the service that stands for a local node. epmd is the port of the host's
// epmd. nodeService also returns the keys of what didn't fit into the TXT record.
func nodeService(n *registry.Node, host string, epmd uint16) (service, []string) {
	var t text
	t.add("txtvers", "1")
	if n.Sure {
		t.add("node", n.Node)
	}
	t.add("name", n.Name)
	t.add("type", n.Type.String())
	t.add("proto", strconv.Itoa(int(n.Protocol)))
	t.add("high", strconv.Itoa(int(n.High)))
	t.add("low", strconv.Itoa(int(n.Low)))
	t.add("epmd", strconv.Itoa(int(epmd)))
	if n.Dist != 0 {
		t.add("dist", n.Dist.String())
	}
	return service{instanceLabel(n.Name, host), n.Port, t.strings}, t.leftOut
}

// hostService returns the service that stands for this host.
func hostService(host string, epmd uint16, version string) service {
	var t text
	t.add("txtvers", "1")
	t.add("eclus", version)
	return service{host, epmd, t.strings}
}

// text is a TXT record in the making.
type text struct {
	strings [][]byte
	leftOut []string // keys
}

func (t *text) add(key, value string) {
	if len(key)+len("=")+len(value) > maxText {
		t.leftOut = append(t.leftOut, key)
		return
	}
	t.strings = append(t.strings, []byte(key+"="+value))
}

// instanceLabel returns NAME@HOST. If that is longer than a label can be, it is cut and ends in
// a hash of the whole. So names that differ only further on get different labels.
func instanceLabel(name, host string) string {
	full := name + "@" + host
	if len(full) <= maxLabel {
		return full
	}
	hash := fnv.New32a()
	hash.Write([]byte(full))
	tail := fmt.Sprintf("~%08x", hash.Sum32())
	cut := maxLabel - len(tail)
	for !utf8.RuneStart(full[cut]) {
		cut--
	}
	return full[:cut] + tail
}

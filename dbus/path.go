package dbus

import (
	"fmt"
	"strings"

	"github.com/godbus/dbus/v5"

	"github.com/goerlang/eclus/registry"
)

// escape makes an element of an object path from any string, as systemd does
// (sd_bus_path_encode(3)). Letters stay, and digits unless leading. Every other byte becomes _ and
// two hexadecimal digits. The empty string becomes _.
func escape(s string) string {
	if s == "" {
		return "_"
	}
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if isLetter(c) || i > 0 && isDigit(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return b.String()
}

func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }
func isDigit(c byte) bool  { return '0' <= c && c <= '9' }

// pathOf returns a free path for a node. The path has the node's alive name and host. It stays
// while the node lives, even if its host gets another name. Two epmds of a host may each have a
// node of that name. Then __2 and so on follows, which escape never returns.
func pathOf(n *registry.Node, isTaken func(dbus.ObjectPath) bool) dbus.ObjectPath {
	base := dbus.ObjectPath(Root + "/" + escape(n.Name+"@"+n.Host))
	path := base
	for i := 2; isTaken(path); i++ {
		path = dbus.ObjectPath(fmt.Sprintf("%s__%d", base, i))
	}
	return path
}

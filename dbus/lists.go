package dbus

import (
	"github.com/godbus/dbus/v5"

	"github.com/goerlang/eclus/registry"
)

// Limits of answers that have many nodes. They count as sizeOf does.
const (
	// maxAnswer is the size of an answer, in bytes. A bus drops the sender of a message that is too
	// large. dbus-daemon's system bus takes 32 MiB by default (max_message_size, dbus-daemon(1)).
	maxAnswer = 31 << 20
	// maxPage is the size of an answer to ListNodes, unless it is one node. A program that
	// pages leaves turns to others.
	maxPage = 1 << 20
)

// managedObjects is ObjectManager.GetManagedObjects. It refuses what the bus would not take.
func (s *session) managedObjects(call) ([]any, error) {
	all := make(map[dbus.ObjectPath]map[string]map[string]dbus.Variant)
	size := 0
	for path, n := range s.objects.all() {
		of := nodeInterfaces(n)
		if size += sizeOf(path, of[ifaceNode]); size > maxAnswer {
			return nil, refusal("LimitsExceeded", "%d nodes are too many for one message: call %s.ListNodes",
				len(s.objects.paths()), ifaceManager)
		}
		all[path] = of
	}
	return []any{all}, nil
}

// nodeInterfaces returns the interfaces of a node with their properties, in ObjectManager's form.
func nodeInterfaces(n *registry.Node) map[string]map[string]dbus.Variant {
	return map[string]map[string]dbus.Variant{ifaceNode: values(nodeProperties, n)}
}

// listed is a node in an answer to ListNodes.
type listed struct {
	Path       dbus.ObjectPath
	Properties map[string]dbus.Variant
}

// listNodes is Manager.ListNodes.
func (s *session) listNodes(c call) ([]any, error) {
	after, count := c.args[0].(dbus.ObjectPath), c.args[1].(uint32)
	page, size := []listed{}, 0
	for _, path := range s.objects.after(after) {
		l := listed{path, values(nodeProperties, s.objects.at(path))}
		size += sizeOf(l.Path, l.Properties)
		if count > 0 && len(page) == int(count) || len(page) > 0 && size > maxPage {
			break
		}
		page = append(page, l)
	}
	return []any{page}, nil
}

// sizeOf returns how many bytes of a message a node takes at most. See "Marshaling" of the D-Bus
// specification.
func sizeOf(path dbus.ObjectPath, properties map[string]dbus.Variant) int {
	const align = 7                // bytes of padding at most
	const length = 4 + 1           // of a string, and the NUL at its end
	const signature = 1 + 2 + 1    // its length, two characters, NUL
	const arrays = 2 * (4 + align) // of interfaces, and of properties
	size := align + length + len(path) + arrays + align + length + len(ifaceNode)
	for name, v := range properties {
		size += align + length + len(name) + signature + align
		switch v := v.Value().(type) {
		case string:
			size += length + len(v)
		case []string:
			size += 4
			for _, s := range v {
				size += align + length + len(s)
			}
		default:
			size += 8
		}
	}
	return size
}

package dbus

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"

	"github.com/goerlang/eclus/internal/bus"
)

// The interfaces of the objects.
const (
	ifaceManager        = "org.erlang.Epmd.Manager"
	ifaceNode           = "org.erlang.Epmd.Node"
	ifaceProperties     = busName + ".Properties"
	ifaceObjectManager  = busName + ".ObjectManager"
	ifaceIntrospectable = busName + ".Introspectable"
	ifacePeer           = busName + ".Peer"
)

// Errors of methods. The others are the bus's own, after errorPrefix.
const errNoSuchNode = "org.erlang.Epmd.Error.NoSuchNode"

// call is a method call whose arguments are as many and of the types that the method has.
type call struct {
	path dbus.ObjectPath
	args []any
}

// text returns an argument that is a string.
func (c call) text(i int) string { return c.args[i].(string) }

// method is one that objects have.
type method struct {
	iface  string
	in     string // signature of its arguments
	answer func(*session, call) ([]any, error)
}

// methods are all methods by their names, which no two have in common.
var methods = map[string]method{
	"Ping":              {ifacePeer, "", func(*session, call) ([]any, error) { return nil, nil }},
	"GetMachineId":      {ifacePeer, "", (*session).machineID},
	"Introspect":        {ifaceIntrospectable, "", (*session).introspect},
	"Get":               {ifaceProperties, "ss", (*session).get},
	"GetAll":            {ifaceProperties, "s", (*session).getAll},
	"Set":               {ifaceProperties, "ssv", (*session).set},
	"GetManagedObjects": {ifaceObjectManager, "", (*session).managedObjects},
	"Lookup":            {ifaceManager, "s", (*session).lookup},
	"ListNodes":         {ifaceManager, "ou", (*session).listNodes},
}

// refusal returns an error of a name of the bus's own.
func refusal(name, format string, args ...any) error {
	return &dbus.Error{Name: errorPrefix + name, Body: []any{text(fmt.Sprintf(format, args...))}}
}

// reply sends the reply to a method call: body, or an error of type *dbus.Error.
func (s *session) reply(msg *dbus.Message, body []any, err error) {
	reply := &dbus.Message{
		Type: dbus.TypeMethodReply,
		Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldReplySerial: dbus.MakeVariant(msg.Serial()),
			dbus.FieldDestination: dbus.MakeVariant(bus.Header[string](msg, dbus.FieldSender)),
		},
		Body: body,
	}
	var refused *dbus.Error
	if errors.As(err, &refused) {
		reply.Type, reply.Body = dbus.TypeError, refused.Body
		reply.Headers[dbus.FieldErrorName] = dbus.MakeVariant(refused.Name)
	}
	if len(reply.Body) > 0 {
		reply.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(reply.Body...))
	}
	s.conn.Send(reply, nil) // a connection that is broken ends the session by itself
}

// dispatch finds the method that is called and calls it. Its errors are of type *dbus.Error.
func (s *session) dispatch(msg *dbus.Message) ([]any, error) {
	path := bus.Header[dbus.ObjectPath](msg, dbus.FieldPath)
	iface := bus.Header[string](msg, dbus.FieldInterface) // may be missing
	member := bus.Header[string](msg, dbus.FieldMember)
	m, found := methods[member]
	has := s.interfacesAt(path)
	switch {
	case iface == ifacePeer: // of every object there could be
	case has == nil:
		return nil, refusal("UnknownObject", "no object %s", path)
	case iface != "" && !slices.Contains(has, iface):
		return nil, refusal("UnknownInterface", "object %s has no interface %s", path, iface)
	}
	if !found || iface != "" && iface != m.iface || m.iface != ifacePeer && !slices.Contains(has, m.iface) {
		return nil, refusal("UnknownMethod", "object %s has no method %s.%s", path, iface, member)
	}
	if in := bus.Header[dbus.Signature](msg, dbus.FieldSignature).String(); in != m.in {
		return nil, refusal("InvalidArgs", "%s has arguments %q, not %q", member, m.in, in)
	}
	return m.answer(s, call{path, msg.Body})
}

// interfacesAt returns the interfaces of an object, or nil if there is none.
func (s *session) interfacesAt(path dbus.ObjectPath) []string {
	switch {
	case path == Root:
		return []string{ifacePeer, ifaceIntrospectable, ifaceProperties, ifaceObjectManager, ifaceManager}
	case s.objects.at(path) != nil:
		return []string{ifacePeer, ifaceIntrospectable, ifaceProperties, ifaceNode}
	case path == "/" || strings.HasPrefix(Root, string(path)+"/"):
		return []string{ifacePeer, ifaceIntrospectable}
	}
	return nil
}

// machineID is Peer.GetMachineId. See machine-id(5).
func (s *session) machineID(call) ([]any, error) {
	id, err := os.ReadFile("/etc/machine-id")
	text := strings.TrimSpace(string(id))
	if err == nil {
		_, err = hex.DecodeString(text)
	}
	if err != nil {
		return nil, refusal("Failed", "no machine ID")
	}
	return []any{text}, nil
}

// properties returns all properties of an object's interface.
func (s *session) properties(path dbus.ObjectPath, iface string) (map[string]dbus.Variant, error) {
	if !slices.Contains(s.interfacesAt(path), iface) {
		return nil, refusal("UnknownInterface", "object %s has no interface %s", path, iface)
	}
	switch iface {
	case ifaceManager:
		return values(managerProperties, s.status), nil
	case ifaceNode:
		return values(nodeProperties, s.objects.at(path)), nil
	}
	return map[string]dbus.Variant{}, nil
}

// getAll is Properties.GetAll.
func (s *session) getAll(c call) ([]any, error) {
	all, err := s.properties(c.path, c.text(0))
	return []any{all}, err
}

// get is Properties.Get.
func (s *session) get(c call) ([]any, error) {
	all, err := s.properties(c.path, c.text(0))
	if err != nil {
		return nil, err
	}
	value, found := all[c.text(1)]
	if !found {
		return nil, refusal("UnknownProperty", "interface %s has no property %s", c.text(0), c.text(1))
	}
	return []any{value}, nil
}

// set is Properties.Set, which never does anything.
func (s *session) set(c call) ([]any, error) {
	if _, err := s.get(c); err != nil {
		return nil, err
	}
	return nil, refusal("PropertyReadOnly", "property %s is read-only", c.text(1))
}

// lookup is Manager.Lookup.
func (s *session) lookup(c call) ([]any, error) {
	path := s.objects.lookup(nameOf(c.text(0)))
	if path == "" {
		return nil, &dbus.Error{Name: errNoSuchNode, Body: []any{fmt.Sprintf("no node %q is known", c.text(0))}}
	}
	return []any{path}, nil
}

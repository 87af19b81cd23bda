package dbus

import (
	_ "embed"
	"fmt"
	"strings"

	"github.com/godbus/dbus/v5"
)

// The descriptions of our interfaces, as they are installed for others to read.
//
//go:embed org.erlang.Epmd.Manager.xml
var managerXML string

//go:embed org.erlang.Epmd.Node.xml
var nodeXML string

// standardXML describes the interfaces of the D-Bus specification.
const standardXML = `<interface name="org.freedesktop.DBus.Peer">
    <method name="Ping"/>
    <method name="GetMachineId">
      <arg name="machine_uuid" type="s" direction="out"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Introspectable">
    <method name="Introspect">
      <arg name="xml_data" type="s" direction="out"/>
    </method>
  </interface>
`

const propertiesXML = `<interface name="org.freedesktop.DBus.Properties">
    <method name="Get">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/>
      <arg name="value" type="v" direction="out"/>
    </method>
    <method name="GetAll">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="props" type="a{sv}" direction="out"/>
    </method>
    <method name="Set">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/>
      <arg name="value" type="v" direction="in"/>
    </method>
    <signal name="PropertiesChanged">
      <arg name="interface_name" type="s"/>
      <arg name="changed_properties" type="a{sv}"/>
      <arg name="invalidated_properties" type="as"/>
    </signal>
  </interface>
`

const objectManagerXML = `<interface name="org.freedesktop.DBus.ObjectManager">
    <method name="GetManagedObjects">
      <arg name="objects" type="a{oa{sa{sv}}}" direction="out"/>
    </method>
    <signal name="InterfacesAdded">
      <arg name="object" type="o"/>
      <arg name="interfaces" type="a{sa{sv}}"/>
    </signal>
    <signal name="InterfacesRemoved">
      <arg name="object" type="o"/>
      <arg name="interfaces" type="as"/>
    </signal>
  </interface>
`

const doctype = `<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
`

// introspect is Introspectable.Introspect.
func (s *session) introspect(c call) ([]any, error) {
	var b strings.Builder
	b.WriteString(doctype + "<node>\n  " + standardXML)
	var children []dbus.ObjectPath
	switch {
	case c.path == Root:
		b.WriteString("  " + propertiesXML + "  " + objectManagerXML + "  " + interfaceOf(managerXML))
		children = s.objects.paths()
	case s.objects.at(c.path) != nil:
		b.WriteString("  " + propertiesXML + "  " + interfaceOf(nodeXML))
	default:
		children = []dbus.ObjectPath{Root}
	}
	b.WriteString(childrenXML(c.path, children) + "</node>\n")
	return []any{b.String()}, nil
}

// childrenXML lists the children of an object, or says that they are too many for a message.
func childrenXML(parent dbus.ObjectPath, children []dbus.ObjectPath) string {
	var b strings.Builder
	above := strings.TrimSuffix(string(parent), "/") + "/"
	for _, path := range children { // made of letters, digits and _
		name, _, _ := strings.Cut(strings.TrimPrefix(string(path), above), "/")
		if b.WriteString("  <node name=\"" + name + "\"/>\n"); b.Len() > maxAnswer {
			return fmt.Sprintf("  <!-- %d nodes are too many for one message: call %s.ListNodes -->\n", len(children), ifaceManager)
		}
	}
	return b.String()
}

// interfaceOf returns the interface element of a description.
func interfaceOf(description string) string {
	const end = "</interface>\n"
	from, to := strings.Index(description, "<interface"), strings.Index(description, end)
	return description[from : to+len(end)]
}

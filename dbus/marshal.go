package dbus

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/godbus/dbus/v5"

	"github.com/goerlang/eclus/registry"
)

// Signals are marshaled here, as "Message Protocol" and "Type System" of the D-Bus specification
// have it, little-endian. The library's encoder works by reflection, and twice for each message. It
// needs 580 allocations for a node that comes, and thousands may come at once. Messages and their
// bodies begin at b[0], so that both are aligned.

// Signatures of the signals' bodies.
const (
	addedSignature   = "oa{sa{sv}}"
	removedSignature = "oas"
	changedSignature = "sa{sv}as"
)

// appendAdded appends the body of InterfacesAdded for a node.
func appendAdded(b []byte, path dbus.ObjectPath, n *registry.Node) []byte {
	b, interfaces := beginArray(appendString(b, string(path)), 8)
	b = appendProperties(appendString(b, ifaceNode), nodeProperties, n)
	return interfaces.end(b)
}

// appendRemoved appends the body of InterfacesRemoved for a node.
func appendRemoved(b []byte, path dbus.ObjectPath) []byte {
	return appendStrings(appendString(b, string(path)), []string{ifaceNode})
}

// appendChanged appends the body of PropertiesChanged for these properties.
func appendChanged[T any](b []byte, iface string, properties []property[T], of T) []byte {
	return appendStrings(appendProperties(appendString(b, iface), properties, of), nil)
}

// appendHeader appends all of a signal that precedes its body.
func appendHeader(b []byte, serial uint32, path dbus.ObjectPath, iface, member, signature string, body int) []byte {
	const flags, version = 0, 1
	b = append(b, 'l', byte(dbus.TypeSignal), flags, version)
	b = appendUint32(appendUint32(b, uint32(body)), serial)
	b, fields := beginArray(b, 8)
	b = appendString(appendField(b, dbus.FieldPath, "o"), string(path))
	b = appendString(appendField(b, dbus.FieldInterface, "s"), iface)
	b = appendString(appendField(b, dbus.FieldMember, "s"), member)
	b = appendSignature(appendField(b, dbus.FieldSignature, "g"), signature)
	return align(fields.end(b), 8)
}

// appendField appends what precedes the value of a header's field.
func appendField(b []byte, field dbus.HeaderField, signature string) []byte {
	return appendSignature(append(align(b, 8), byte(field)), signature)
}

// appendProperties appends a dictionary of properties.
func appendProperties[T any](b []byte, properties []property[T], of T) []byte {
	b, entries := beginArray(b, 8)
	for _, p := range properties {
		b = appendVariant(appendString(align(b, 8), p.name), p.of(of))
	}
	return entries.end(b)
}

// appendVariant appends a value of one of the types that properties have. Another type is a mistake
// of this package, and it panics.
func appendVariant(b []byte, v any) []byte {
	switch v := v.(type) {
	case bool:
		var bit uint32
		if v {
			bit = 1
		}
		return appendUint32(appendSignature(b, "b"), bit)
	case uint8:
		return append(appendSignature(b, "y"), v)
	case uint16:
		return binary.LittleEndian.AppendUint16(align(appendSignature(b, "q"), 2), v)
	case uint32:
		return appendUint32(appendSignature(b, "u"), v)
	case uint64:
		return binary.LittleEndian.AppendUint64(align(appendSignature(b, "t"), 8), v)
	case string:
		return appendString(appendSignature(b, "s"), v)
	case []string:
		return appendStrings(appendSignature(b, "as"), v)
	}
	panic(fmt.Sprintf("property of type %T", v))
}

func appendStrings(b []byte, list []string) []byte {
	b, strings := beginArray(b, 4)
	for _, s := range list {
		b = appendString(b, s)
	}
	return strings.end(b)
}

func appendString(b []byte, s string) []byte {
	return append(append(appendUint32(b, uint32(len(s))), s...), 0)
}

func appendSignature(b []byte, s string) []byte {
	return append(append(append(b, byte(len(s))), s...), 0)
}

func appendUint32(b []byte, v uint32) []byte {
	return binary.LittleEndian.AppendUint32(align(b, 4), v)
}

// align appends zeros up to a multiple of n bytes. n is a power of two.
func align(b []byte, n int) []byte {
	var zeros [8]byte
	return append(b, zeros[:-len(b)&(n-1)]...)
}

// array is an array whose elements are being appended.
type array struct{ length, first int } // where these are

// beginArray begins an array of elements that are aligned to n bytes.
func beginArray(b []byte, n int) ([]byte, array) {
	b = appendUint32(b, 0)
	length := len(b) - 4
	b = align(b, n)
	return b, array{length, len(b)}
}

// end enters how long the array is.
func (a array) end(b []byte) []byte {
	binary.LittleEndian.PutUint32(b[a.length:], uint32(len(b)-a.first))
	return b
}

// serials numbers the messages of a connection, the library's and ours.
type serials struct{ last atomic.Uint32 }

// GetSerial returns a number that is not zero.
func (s *serials) GetSerial() uint32 {
	for {
		if n := s.last.Add(1); n != 0 {
			return n
		}
	}
}

// RetireSerial does nothing: a number comes again after 4,294,967,295 others.
func (s *serials) RetireSerial(uint32) {}

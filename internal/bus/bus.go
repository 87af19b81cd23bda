// Package bus finds a D-Bus message bus and waits for it. It starts no goroutine and never starts a
// bus. Callers speak D-Bus themselves.
package bus

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/godbus/dbus/v5"
)

// Address says where a message bus is. The zero Address is none.
type Address struct {
	name    string
	sockets []string // as package net names them: a path, or @ and an abstract name
	err     error    // why there are none, though the environment has an address
}

// Parse parses
//
//	system     the system bus: DBUS_SYSTEM_BUS_ADDRESS, or else the well-known address
//	session    the session bus: DBUS_SESSION_BUS_ADDRESS, or else "bus" in XDG_RUNTIME_DIR
//	ADDRESS    a D-Bus address of Unix sockets, several separated by semicolons:
//	           unix:path=/run/bus, unix:abstract=name
//
// If the environment's address can't be used, Err and Dial return why. Parse doesn't.
func Parse(s string) (Address, error) {
	switch s {
	case "system":
		return System(), nil
	case "session":
		sockets, err := parseAddresses(sessionAddress())
		return Address{s, sockets, err}, nil
	}
	sockets, err := parseAddresses(s)
	if err != nil {
		return Address{}, err
	}
	return Address{name: s, sockets: sockets}, nil
}

// System returns the address of the system bus, as Parse does.
func System() Address {
	sockets, err := parseAddresses(systemAddress())
	return Address{"system", sockets, err}
}

// String returns what Parse parsed.
func (a Address) String() string { return a.name }

// IsZero reports whether there is no bus.
func (a Address) IsZero() bool { return a.name == "" }

// Err returns why the environment's address can't be used, or nil.
func (a Address) Err() error { return a.err }

// conn reads as much at once as there is. The library reads a message field by field.
type conn struct {
	net.Conn
	in *bufio.Reader
}

func (c conn) Read(b []byte) (int, error) { return c.in.Read(b) }

// Dial connects to the first socket that takes connections. One goroutine at a time may read. Each
// Write goes out in one piece, whoever else writes.
func (a Address) Dial(ctx context.Context) (net.Conn, error) {
	errs := []error{a.err}
	for _, socket := range a.sockets {
		c, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err == nil {
			return conn{c, bufio.NewReader(c)}, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// Header returns a field of a message's header, or zero if the field is missing or of another type.
func Header[T any](msg *dbus.Message, field dbus.HeaderField) T {
	value, _ := msg.Headers[field].Value().(T)
	return value
}

func systemAddress() string {
	if address := os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"); address != "" {
		return address
	}
	return "unix:path=/run/dbus/system_bus_socket"
}

func sessionAddress() string {
	if address := os.Getenv("DBUS_SESSION_BUS_ADDRESS"); address != "" {
		return address
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = fmt.Sprintf("/run/user/%d", os.Getuid())
	}
	return "unix:path=" + url.PathEscape(dir+"/bus")
}

// parseAddresses returns the sockets of a list of addresses.
func parseAddresses(list string) ([]string, error) {
	var sockets []string
	for address := range strings.SplitSeq(strings.TrimSuffix(list, ";"), ";") {
		socket, err := parseAddress(address)
		if err != nil {
			return nil, fmt.Errorf("bus address %q: %w", address, err)
		}
		sockets = append(sockets, socket)
	}
	return sockets, nil
}

// parseAddress returns the socket of one address, such as unix:path=/run/bus,guid=0123.
func parseAddress(address string) (string, error) {
	pairs, isUnix := strings.CutPrefix(address, "unix:")
	if !isUnix {
		return "", errors.New("no Unix socket")
	}
	for pair := range strings.SplitSeq(pairs, ",") {
		key, value, _ := strings.Cut(pair, "=")
		value, err := url.PathUnescape(value)
		switch {
		case err != nil:
			return "", err
		case key == "path" && filepath.IsAbs(value):
			return value, nil
		case key == "abstract" && value != "":
			return "@" + value, nil
		}
	}
	return "", errors.New("neither path nor abstract name of a socket")
}

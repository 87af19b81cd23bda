package epmd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"eclus/registry"
)

// NamedPort is a line of the answer to NamesReq.
type NamedPort struct {
	Name string // alive name
	Port uint16 // distribution port
}

// Names is the answer to NamesReq: the port of the epmd in 4 bytes, big-endian, then a line for each
// node, the one registered last leading:
//
//	name a at port 41233\n
type Names struct {
	EPMDPort uint32
	Nodes    []NamedPort
}

// Append appends the answer to dst.
func (n Names) Append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, n.EPMDPort)
	for _, node := range n.Nodes {
		dst = appendNamesLine(dst, node.Name, node.Port)
	}
	return dst
}

func appendNamesLine(dst []byte, name string, port uint16) []byte {
	dst = append(dst, "name "...)
	dst = append(dst, name...)
	dst = append(dst, " at port "...)
	dst = strconv.AppendUint(dst, uint64(port), 10)
	return append(dst, '\n')
}

// What a Client takes from an epmd, which may be anybody's.
const (
	maxNames     = 1 << 16 // nodes: one a port
	maxNamesLine = len("name ") + 4*MaxNameChars + len(" at port 65535\n")
)

// ReadNames reads an answer to NamesReq up to its end. Names are returned as they came, which is
// whatever somebody registered. A line that is none is an error that names it.
func ReadNames(r io.Reader) (Names, error) {
	var names Names
	if err := binary.Read(r, binary.BigEndian, &names.EPMDPort); err != nil {
		return Names{}, fmt.Errorf("answer to NAMES_REQ: port: %w", err)
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxNamesLine)
	for lines.Scan() {
		node, err := parseNamesLine(lines.Text())
		if err != nil {
			return names, err
		}
		if len(names.Nodes) == maxNames {
			return names, fmt.Errorf("answer to NAMES_REQ: more than %d lines", maxNames)
		}
		names.Nodes = append(names.Nodes, node)
	}
	if err := lines.Err(); err != nil {
		return names, fmt.Errorf("answer to NAMES_REQ: %w", err)
	}
	return names, nil
}

func parseNamesLine(line string) (NamedPort, error) {
	rest, ok := strings.CutPrefix(line, "name ")
	at := strings.LastIndex(rest, " at port ")
	if !ok || at < 0 {
		return NamedPort{}, fmt.Errorf("answer to NAMES_REQ: line %q", line)
	}
	port, err := strconv.ParseUint(rest[at+len(" at port "):], 10, 16)
	if err != nil {
		return NamedPort{}, fmt.Errorf("answer to NAMES_REQ: line %q: %w", line, errors.Unwrap(err))
	}
	return NamedPort{rest[:at], uint16(port)}, nil
}

// appendDump appends the answer to DumpReq: the port as in Names, then a line for each registered
// node, newest first, and one for each name that has gone and is remembered, oldest first. A line ends
// in a newline and a NUL:
//
//	active name     <a> at port 41233, fd = 7\n\0
//	old/unused name <b>, port = 41234, fd = 8 \n\0
func appendDump(dst []byte, epmdPort uint32, nodes []*registry.Node, old []registry.Old) []byte {
	dst = binary.BigEndian.AppendUint32(dst, epmdPort)
	for _, n := range nodes {
		dst = fmt.Appendf(dst, "active name     <%s> at port %d, fd = %d\n\x00", n.Name, n.Port, n.FD)
	}
	for _, o := range old {
		dst = fmt.Appendf(dst, "old/unused name <%s>, port = %d, fd = %d \n\x00", o.Name, o.Port, o.FD)
	}
	return dst
}

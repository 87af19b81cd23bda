package epmd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/goerlang/eclus/registry"
)

// NamedPort is a line of the answer to NamesReq.
type NamedPort struct {
	Name string // alive name
	Port uint16 // distribution port
}

// Names is the answer to NamesReq. The port of the epmd leads, in 4 bytes, big-endian. A line for
// each node follows, the newest first:
//
//	name a at port 41233\n
type Names struct {
	EPMDPort uint32
	Nodes    []NamedPort
	Cut      bool // more nodes are registered than were read
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
	maxNames      = 1 << 16 // nodes: one a port
	maxNamesBytes = 4 << 20 // unless the Client says otherwise
	maxNamesLine  = len("name ") + 4*MaxNameChars + len(" at port 65535\n")
)

// ReadNames reads an answer to NamesReq up to its end. It takes at most 65,536 nodes and 4 MiB.
// Cut says that there was more. Names are returned as they came, and may be anything. A line that
// has another form is skipped, as erl_epmd does: a name may have a newline in it. An error says
// that no epmd answers so, or that the answer broke off.
func ReadNames(r io.Reader) (Names, error) { return readNames(r, maxNamesBytes) }

func readNames(r io.Reader, limit int64) (Names, error) {
	rest := &io.LimitedReader{R: r, N: limit + 1} // one more shows that there is more
	var names Names
	if err := binary.Read(rest, binary.BigEndian, &names.EPMDPort); err != nil {
		return Names{}, fmt.Errorf("answer to NAMES_REQ: port: %w", noAnswer(err))
	}
	if names.EPMDPort == 0 || names.EPMDPort > math.MaxUint16 {
		return Names{}, fmt.Errorf("answer to NAMES_REQ: no epmd has port %d", names.EPMDPort)
	}
	lines := bufio.NewReaderSize(rest, maxNamesLine)
	for {
		line, err := readLine(lines)
		if node, ok := parseNamesLine(line); ok && len(names.Nodes) < maxNames {
			names.Nodes = append(names.Nodes, node)
		} else if ok {
			names.Cut = true
			return names, nil
		}
		if err != nil {
			names.Cut = rest.N == 0
			return names, endOfNames(err)
		}
	}
}

func endOfNames(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("answer to NAMES_REQ: %w", err)
}

// readLine returns the next line without its newline. It reads an incomplete line, or one longer
// than the buffer, to its end and returns "".
func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadSlice('\n')
	if err == nil {
		return string(line[:len(line)-1]), nil
	}
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = r.ReadSlice('\n')
	}
	return "", err
}

func parseNamesLine(line string) (NamedPort, bool) {
	rest, ok := strings.CutPrefix(line, "name ")
	at := strings.LastIndex(rest, " at port ")
	if !ok || at < 0 {
		return NamedPort{}, false
	}
	port, err := strconv.ParseUint(rest[at+len(" at port "):], 10, 16)
	return NamedPort{rest[:at], uint16(port)}, err == nil
}

// appendDump appends the answer to DumpReq. It begins with the port, as Names does. A line for
// each registered node follows, the newest first. Then come names that have gone, the oldest
// first. A line ends in a newline and a NUL:
//
//	active name     <a> at port 41233, fd = 7\n\0
//	old/unused name <b>, port = 41234, fd = 8 \n\0
func appendDump(dst []byte, epmdPort uint32, nodes []*registry.Node, old []registry.Old) []byte {
	dst = binary.BigEndian.AppendUint32(dst, epmdPort)
	for _, n := range nodes {
		dst = append(append(dst, "active name     <"...), n.Name...)
		dst = strconv.AppendUint(append(dst, "> at port "...), uint64(n.Port), 10)
		dst = strconv.AppendInt(append(dst, ", fd = "...), int64(n.FD), 10)
		dst = append(dst, "\n\x00"...)
	}
	for _, o := range old {
		dst = append(append(dst, "old/unused name <"...), o.Name...)
		dst = strconv.AppendUint(append(dst, ">, port = "...), uint64(o.Port), 10)
		dst = strconv.AppendInt(append(dst, ", fd = "...), int64(o.FD), 10)
		dst = append(dst, " \n\x00"...)
	}
	return dst
}

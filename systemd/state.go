package systemd

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"eclus/registry"
)

// stateVersion is the first line of a state. A later epmd reads what an earlier one wrote, and the other way
// round as far as keys that it does not know can be skipped.
const stateVersion = `{"eclus":1}` + "\n"

// record is a line of a state, in JSON: a node that registered, or, with gone, one that went or a name that
// went earlier. What was written last about an id counts.
type record struct {
	ID       uint64            `json:"id,omitempty"`
	Name     string            `json:"name"`
	Port     uint16            `json:"port"`
	Type     registry.NodeType `json:"type,omitempty"`
	Protocol uint8             `json:"protocol,omitempty"`
	High     uint16            `json:"high,omitempty"`
	Low      uint16            `json:"low,omitempty"`
	Extra    []byte            `json:"extra,omitempty"`
	Creation uint32            `json:"creation,omitempty"`
	Counter  uint32            `json:"counter"`
	Since    time.Time         `json:"since,omitzero"`
	Address  netip.Addr        `json:"address,omitzero"`
	PeerPort uint16            `json:"peer_port,omitempty"`
	FD       int32             `json:"fd"`
	Node     string            `json:"node,omitempty"` // full name; this and the next if it was asked
	Dist     string            `json:"dist,omitempty"`
	Gone     bool              `json:"gone,omitempty"`
}

func recordOf(n *registry.Node, gone bool) record {
	r := record{
		ID: n.ID, Name: n.Name, Port: n.Port, Type: n.Type, Protocol: n.Protocol, High: n.High, Low: n.Low,
		Extra: []byte(n.Extra), Creation: n.Creation, Counter: n.Counter, Since: n.Since, FD: n.FD, Gone: gone,
		PeerPort: n.PeerPort,
	}
	if len(n.Addresses) > 0 {
		r.Address = n.Addresses[0]
	}
	if n.Sure {
		r.Node, r.Dist = n.Node, n.Dist
	}
	return r
}

// node returns the node that was registered, as registry.Restore takes it, with its connection's present
// descriptor.
func (r record) node(fd int) registry.Node {
	n := registry.Node{
		ID: r.ID, Name: r.Name, Port: r.Port, Type: r.Type, Protocol: r.Protocol, High: r.High, Low: r.Low,
		Extra: string(r.Extra), Creation: r.Creation, Counter: r.Counter, Since: r.Since, FD: int32(fd),
		PeerPort: r.PeerPort,
		Node:     r.Node, Dist: r.Dist, Sure: r.Node != "",
	}
	if r.Address.IsValid() {
		n.Addresses = []netip.Addr{r.Address}
	}
	return n
}

// old returns the node as one that has gone.
func (r record) old() registry.Old {
	return registry.Old{Name: r.Name, Port: r.Port, FD: r.FD, Counter: r.Counter}
}

// state is the records of a registry in a file without a name (memfd_create(2)), to which each change is
// appended. It is in memory, and whoever holds its descriptor has all that was written, however this process
// ended.
type state struct {
	file *os.File
	size int64
	full int64 // size past which a new state is shorter
}

// minFull keeps small states from being written anew all the time.
const minFull = 1 << 20

// newState returns a state of all that reg has.
func newState(reg *registry.Registry) (*state, error) {
	fd, err := unix.MemfdCreate("epmd state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create state: %w", err)
	}
	s := &state{file: os.NewFile(uintptr(fd), "epmd state")}
	var b bytes.Buffer
	b.WriteString(stateVersion)
	lines := json.NewEncoder(&b)
	for _, o := range reg.Old() {
		err = errors.Join(err, lines.Encode(record{Name: o.Name, Port: o.Port, FD: o.FD, Counter: o.Counter, Gone: true}))
	}
	for _, n := range slices.Backward(reg.Local()) {
		err = errors.Join(err, lines.Encode(recordOf(n, false)))
	}
	if err = errors.Join(err, s.write(b.Bytes())); err != nil {
		s.file.Close()
		return nil, err
	}
	s.full = max(minFull, 4*s.size)
	return s, nil
}

// append adds a record.
func (s *state) append(r record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return s.write(append(line, '\n'))
}

func (s *state) write(b []byte) error {
	n, err := s.file.WriteAt(b, s.size)
	s.size += int64(n)
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

// readState returns the nodes that were registered, in that order, and the names that had gone. An error comes
// with what could be read before it.
func readState(r io.ReaderAt) (nodes []record, old []registry.Old, err error) {
	lines := bufio.NewReader(io.NewSectionReader(r, 0, 1<<40))
	first, err := lines.ReadString('\n')
	if err != nil || first != stateVersion {
		return nil, nil, fmt.Errorf("state begins with %q, not %q", first, stateVersion)
	}
	ids := make(map[uint64]int) // places in nodes
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break // what is left is no whole line: it was being written when its writer ended
		}
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			return living(nodes), old, fmt.Errorf("state: line %q: %w", line, err)
		}
		i, known := ids[r.ID]
		switch {
		case known:
			nodes[i] = r
		case !r.Gone:
			ids[r.ID] = len(nodes)
			nodes = append(nodes, r)
		}
		if !r.Gone {
			continue
		}
		old = append(old, r.old())
	}
	return living(nodes), old, nil
}

func living(nodes []record) []record {
	return slices.DeleteFunc(nodes, func(r record) bool { return r.Gone })
}

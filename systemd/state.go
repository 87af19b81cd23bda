package systemd

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/registry"
)

// A state begins with a header: stateMagic, then where the records begin, in 8 bytes, big-endian. A
// later epmd reads what an earlier one wrote. An earlier one skips keys that it does not know.
const (
	stateMagic  = "eclus 1\n"
	stateHeader = len(stateMagic) + 8
)

// record is a line of a state, in JSON. It is a node that registered. With gone it is a node that
// went, or a name that went earlier. The last record of an ID counts. A record without a name has
// the last ID that was given to a node, and the id of this epmd; or how busy systemd was.
type record struct {
	ID       uint64            `json:"id,omitempty"`
	Name     string            `json:"name"`
	Port     uint16            `json:"port"`
	Type     registry.NodeType `json:"type,omitempty"`   // as it registered
	Hidden   bool              `json:"hidden,omitempty"` // as it said since
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
	Node     string            `json:"node,omitempty"` // full name, if it was asked
	Dist     string            `json:"dist,omitempty"`
	Mute     bool              `json:"mute,omitempty"` // it was asked and did not tell
	Gone     bool              `json:"gone,omitempty"`
	PeerID   string            `json:"peer_id,omitempty"` // registry.PeerID, in hex
	Busy     time.Duration     `json:"busy,omitempty"`    // pace.busy at the time Since

	// Where the connection is. A record without a cookie is from an epmd that stored each
	// connection under a name of its own (see oldName).
	Cookie uint64 `json:"cookie,omitempty"` // SO_COOKIE of the socket
	UID    uint32 `json:"uid"`              // user of its peer, or places.Unknown
	Stored string `json:"stored,omitempty"` // FDNAME= that it has been sent with
}

// logNames returns the node's names as a log has them.
func (r record) logNames() slog.Attr {
	return (&registry.Node{Node: r.Node, Name: r.Name, Sure: r.Node != ""}).LogNames()
}

func recordOf(n *registry.Node, gone bool) record {
	r := record{
		ID: n.ID, Name: n.Name, Port: n.Port, Type: n.Told, Protocol: n.Protocol, High: n.High, Low: n.Low,
		Extra: []byte(n.Extra), Creation: n.Creation, Counter: n.Counter, Since: n.Since, FD: n.FD, Gone: gone,
		PeerPort: n.PeerPort, Mute: n.Mute,
	}
	if len(n.Addresses) > 0 {
		r.Address = n.Addresses[0]
	}
	if n.Sure {
		r.Node, r.Dist, r.Hidden = n.Node, n.Dist.String(), n.Type == registry.Hidden
	}
	return r
}

// node returns the node that was registered, as registry.Restore takes it. fd is the present
// descriptor of its connection.
func (r record) node(fd int) registry.Node {
	n := registry.Node{
		ID: r.ID, Name: r.Name, Port: r.Port, Type: r.Type, Told: r.Type, Protocol: r.Protocol, High: r.High, Low: r.Low,
		Extra: string(r.Extra), Creation: r.Creation, Counter: r.Counter, Since: r.Since, FD: int32(fd),
		PeerPort: r.PeerPort,
		Node:     r.Node, Dist: registry.DistOf(r.Dist), Sure: r.Node != "", Mute: r.Mute,
	}
	if r.Hidden {
		n.Type = registry.Hidden
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

// state is the records of a registry in a file without a name (memfd_create(2)). Each change is
// appended. The file is in memory: whoever holds its descriptor has all that was written, however
// this process ended.
//
// When most records are outdated, the state writes all records anew behind them. Then it changes
// the header and gives the old part back. So the file stays the same for good.
type state struct {
	file *os.File
	size int64
	full int64 // size past which it is worth writing anew
}

// minFull keeps small states from being written anew all the time.
const minFull = 1 << 20

// newState returns a state of all that reg has. It calls of for each node.
func newState(reg *registry.Registry, of func(*registry.Node) record) (*state, error) {
	fd, err := unix.MemfdCreate("epmd state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create state: %w", err)
	}
	return continueState(os.NewFile(uintptr(fd), "epmd state"), reg, of)
}

// unkept returns the record of a node whose connection is not in the fd store.
func unkept(n *registry.Node) record { return recordOf(n, false) }

// continueState takes over an existing state, and writes all that reg has to it. It calls of for
// each node. It closes f if it fails.
func continueState(f *os.File, reg *registry.Registry, of func(*registry.Node) record) (*state, error) {
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("continue state: %w", err)
	}
	s := &state{file: f, size: max(info.Size(), int64(stateHeader))}
	if err := s.renew(reg, of); err != nil {
		f.Close()
		return nil, err
	}
	return s, nil
}

// firstRecord returns the record without a name.
func firstRecord(reg *registry.Registry) record {
	id := reg.PeerID()
	return record{ID: reg.LastID(), PeerID: hex.EncodeToString(id[:]), Gone: true}
}

// renew writes all that reg has, and makes that the state.
func (s *state) renew(reg *registry.Registry, of func(*registry.Node) record) error {
	var b bytes.Buffer
	lines := json.NewEncoder(&b)
	err := lines.Encode(firstRecord(reg))
	for _, o := range reg.Old() {
		err = errors.Join(err, lines.Encode(record{Name: o.Name, Port: o.Port, FD: o.FD, Counter: o.Counter, Gone: true}))
	}
	for _, n := range slices.Backward(reg.Local()) {
		err = errors.Join(err, lines.Encode(of(n)))
	}
	begin := s.size
	if err = errors.Join(err, s.write(b.Bytes())); err != nil {
		return err
	}
	header := binary.BigEndian.AppendUint64([]byte(stateMagic), uint64(begin))
	if _, err := s.file.WriteAt(header, 0); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	s.full = s.size + max(minFull, 3*(s.size-begin))
	return control(s.file, func(fd int) error {
		past := begin - int64(stateHeader)
		if past == 0 {
			return nil
		}
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(stateHeader), past)
	})
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
	if _, err := s.file.WriteAt(b, s.size); err != nil {
		return fmt.Errorf("write state: %w", err) // the next write begins at the same place
	}
	s.size += int64(len(b))
	return nil
}

// past is the content of a state.
type past struct {
	nodes  []record // that were registered, in that order
	old    []registry.Old
	lastID uint64   // that was given to a node
	peerID [16]byte // of the epmd; zero: an earlier version wrote the state
	pace   pace
}

// readState reads a state. It returns what it could read, even with an error.
func readState(f io.ReaderAt) (past, error) {
	header := make([]byte, stateHeader)
	if _, err := f.ReadAt(header, 0); err != nil || string(header[:len(stateMagic)]) != stateMagic {
		return past{}, fmt.Errorf("state begins with %q, not %q", header, stateMagic)
	}
	begin := int64(binary.BigEndian.Uint64(header[len(stateMagic):]) & math.MaxInt64)
	lines := bufio.NewReader(io.NewSectionReader(f, begin, math.MaxInt64-begin))
	var p past
	places := make(map[uint64]int) // in p.nodes, by ID
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil { // what is left is no whole line: it was being written when its writer ended
			p.nodes = living(p.nodes)
			return p, nil
		}
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			p.nodes = living(p.nodes)
			return p, fmt.Errorf("state: line %q: %w", line, err)
		}
		p.add(r, places)
	}
}

// add enters a record.
func (p *past) add(r record, places map[uint64]int) {
	p.lastID = max(p.lastID, r.ID)
	if id, err := hex.DecodeString(r.PeerID); err == nil && len(id) == len(p.peerID) {
		p.peerID = [16]byte(id)
	}
	i, known := places[r.ID]
	switch {
	case r.Busy > 0:
		p.pace = pace{busy: r.Busy, at: r.Since}
	case known:
		p.nodes[i] = r
	case !r.Gone:
		places[r.ID] = len(p.nodes)
		p.nodes = append(p.nodes, r)
	}
	if r.Gone && r.Counter != 0 {
		p.old = append(p.old, r.old())
	}
}

func living(nodes []record) []record {
	return slices.DeleteFunc(nodes, func(r record) bool { return r.Gone })
}

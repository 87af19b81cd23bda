package registry

import (
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

// NodeType tells whether a node is shown to others, as the byte that stands for it in ALIVE2_REQ and
// PORT2_RESP. OTP registers all its nodes as Normal and tells the hidden ones apart in the handshake.
type NodeType uint8

// The node types of OTP's "Distribution Protocol" guide, and those with which its libraries register.
// Others are passed on as they are.
const (
	Normal NodeType = 'M' // 77
	Hidden NodeType = 'H' // 72
	CNode  NodeType = 'h' // 104, of erl_interface: hidden
	Java   NodeType = 'n' // 110, of jinterface: normal
)

// String returns "hidden" for Hidden and CNode, and "normal" for all else, as TXT records and lists have
// it.
func (t NodeType) String() string {
	if t == Hidden || t == CNode {
		return "hidden"
	}
	return "normal"
}

// Origin tells where a node was registered.
type Origin uint8

// A node is known because it registered here, or because another host announced it.
const (
	Local Origin = iota
	LAN
)

// String returns "local" or "lan".
func (o Origin) String() string {
	if o == LAN {
		return "lan"
	}
	return "local"
}

// Reach tells whether a node can be reached from here, as far as the epmd of its host says.
type Reach uint8

// What is known of a neighbour's reach. A local node is Reachable for as long as it is registered.
const (
	Unchecked   Reach = iota // its host has not been asked yet
	Reachable                // the epmd of its host answers and has the node
	Unreachable              // it does not answer, or does not have the node
)

// String returns "unknown", "yes" or "no".
func (r Reach) String() string {
	switch r {
	case Reachable:
		return "yes"
	case Unreachable:
		return "no"
	}
	return "unknown"
}

// Node is what is known of one node. The registry hands out pointers to nodes that never change
// again: a node of which something else becomes known is replaced. Nobody else may change them
// either.
type Node struct {
	ID        uint64       // tells this registration or neighbour from all others in this process
	Node      string       // full name: a@hosta.local
	Name      string       // alive name: a
	Host      string       // name of its host on the LAN: hosta.local
	Extra     string       // opaque bytes of ALIVE2_REQ; local nodes only
	Dist      string       // distribution carrier, "tcp" or "tls"; empty: not known
	Addresses []netip.Addr // most likely to be reached first; of a local node where it registered from
	Listens   []netip.Addr // addresses at which its port is open, 0.0.0.0 and :: for all of their family; local nodes only, nil: not known
	Why       Why          // why no other host can reach it; local nodes only
	Since     time.Time    // registered, or first seen
	Creation  uint32       // 0: not known
	Counter   uint32       // what Creation was made of; local nodes only
	FD        int32        // descriptor number of its connection; local nodes only, shown by DUMP_REQ
	Holder    *Holder      // the process behind its connection; local nodes only, nil: not known
	Port      uint16       // distribution port
	EPMDPort  uint16       // where the epmd of its host listens; neighbours only
	PeerPort  uint16       // of its end of its connection, which is at Addresses[0]; local nodes only
	High, Low uint16       // distribution versions spoken; 0: not known
	Type      NodeType     // of a local node that has said who it is: what it said
	Told      NodeType     // what ALIVE2_REQ told as its type, and PORT2_RESP tells on; local nodes only
	Protocol  uint8        // 0: TCP/IPv4, as ALIVE2_REQ has it
	Origin    Origin
	Reach     Reach
	Sure      bool // Node is what the node calls itself; otherwise it was put together from Name and Host
	Mute      bool // it was asked for its full name and did not tell; local nodes only
}

// Peer returns a local node's end of its connection. It is not valid if that is not known.
func (n *Node) Peer() netip.AddrPort {
	if len(n.Addresses) == 0 || n.Origin != Local {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(n.Addresses[0], n.PeerPort)
}

// NeighbourKey is what makes a neighbour: an alive name at an epmd, which is a host and a port. Two epmds of a host may
// have a node of the same name each, and two hosts may claim the same full name.
type NeighbourKey struct {
	Name     string // alive name
	Host     string
	EPMDPort uint16
}

// NeighbourKey returns the key of a neighbour.
func (n *Node) NeighbourKey() NeighbourKey { return NeighbourKey{n.Name, n.Host, n.EPMDPort} }

// LogNames returns what a log calls a node: "node", its full name, once it has told that, and "name", its alive name.
func (n *Node) LogNames() slog.Attr {
	if !n.Sure {
		return slog.String("name", n.Name)
	}
	return slog.Group("", "node", n.Node, "name", n.Name)
}

// Holder is the process that holds a local node's name by its connection.
type Holder struct {
	Unit string // systemd unit it runs in, a service or a scope; empty: none, or not known
	PID  int32  // 0: not known
	UID  uint32 // whose it is

	// Foreign says that this is no node of OTP: the process does not run OTP's emulator, nor, if the process
	// is not known, does any in the control group that the connection was made in.
	Foreign bool
}

// String returns "pid 812, uid 107, rabbitmq-server.service", as much of it as is known.
func (h *Holder) String() string {
	if h == nil {
		return "not known"
	}
	s := fmt.Sprintf("uid %d", h.UID)
	if h.PID != 0 {
		s = fmt.Sprintf("pid %d, %s", h.PID, s)
	}
	if h.Unit != "" {
		s += ", " + h.Unit
	}
	return s
}

// Identity is what a node says of itself in the distribution handshake.
type Identity struct {
	Node     string // full name
	Dist     string // "tcp" or "tls"
	Hidden   bool
	Creation uint32 // 0: not told. A node that registers again keeps the creation it had first
}

package registry

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"
)

// NodeType says whether a node is shown to others. It is the byte for that in ALIVE2_REQ and
// PORT2_RESP. OTP registers all its nodes as Normal. Which are hidden, they say in the
// handshake.
type NodeType uint8

// The node types of OTP's "Distribution Protocol" guide, and those with which OTP's libraries
// register. The registry passes on others as they are.
const (
	Normal NodeType = 'M' // 77
	Hidden NodeType = 'H' // 72
	CNode  NodeType = 'h' // 104, of erl_interface: hidden
	Java   NodeType = 'n' // 110, of jinterface: normal
)

// String returns "hidden" for Hidden and CNode, else "normal". TXT records and lists have these
// words.
func (t NodeType) String() string {
	if t == Hidden || t == CNode {
		return "hidden"
	}
	return "normal"
}

// Dist is what carries a node's distribution.
type Dist uint8

// Carriers. Zero: not known.
const (
	TCP Dist = iota + 1
	TLS
)

// String returns "tcp", "tls" or "".
func (d Dist) String() string {
	if d > TLS {
		return fmt.Sprintf("Dist(%d)", uint8(d))
	}
	return [...]string{"", "tcp", "tls"}[d]
}

// DistOf returns the carrier of that name. It returns zero if there is none.
func DistOf(name string) Dist {
	for d := TCP; d <= TLS; d++ {
		if d.String() == name {
			return d
		}
	}
	return 0
}

// Origin tells where a node was registered.
type Origin uint8

// Origins. A node that isn't Local is a neighbour.
const (
	Local Origin = iota // registered here
	LAN                 // of another host of the LAN
	Peer                // elsewhere: its epmd is known by a configured address
	numOrigins
)

// Origins is how many origins there are.
const Origins = int(numOrigins)

// String returns "local", "lan" or "peer".
func (o Origin) String() string {
	if o >= numOrigins {
		return fmt.Sprintf("Origin(%d)", uint8(o))
	}
	return [...]string{"local", "lan", "peer"}[o]
}

// What [Node.Via] has beside the name of a nodes file.
const (
	ViaMDNS = "mdns" // it is announced
	ViaEPMD = "epmd" // the epmd of its host says so
)

// Reach says whether a node can be reached from here. The epmd of its host knows.
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
// again. When something else becomes known of a node, the registry replaces it. Nobody may
// change a node that was handed out.
//
// In Listens, 0.0.0.0 and :: stand for all addresses of their family.
type Node struct {
	ID        uint64       // tells this registration or neighbour from all others in this process
	Node      string       // full name: a@hosta.local
	Name      string       // alive name: a
	Host      string       // name of its host on the LAN: hosta.local
	Extra     string       // opaque bytes of ALIVE2_REQ; local nodes only
	Via       string       // ViaMDNS, ViaEPMD or a nodes file's name; neighbours only
	Addresses []netip.Addr // likeliest to be reached first; of a local node its peer
	Listens   []netip.Addr // where its port is open; local nodes only, nil: not known
	Claims    *[]uint16    // other ports where it is announced, nil: none; neighbours only
	Why       Why          // why no other host can reach it; local nodes only
	Since     time.Time    // registered, or first seen
	Holder    *Holder      // the process behind its connection; local nodes only, nil: not known
	Creation  uint32       // 0: not known
	Counter   uint32       // what Creation was made of; local nodes only
	FD        int32        // descriptor number of its connection; local nodes only, for DUMP_REQ
	Port      uint16       // distribution port
	EPMDPort  uint16       // where the epmd of its host listens; neighbours only
	PeerPort  uint16       // of its end of its connection, at Addresses[0]; local nodes only
	High, Low uint16       // distribution versions spoken; 0: not known
	Type      NodeType     // of a local node that has said who it is: what it said
	Told      NodeType     // as in ALIVE2_REQ, for PORT2_RESP; local nodes only
	Protocol  uint8        // 0: TCP/IPv4, as ALIVE2_REQ has it
	Dist      Dist         // zero: not known
	Origin    Origin
	Rank      Rank // of the source that it is known from; neighbours only
	Reach     Reach
	Named     bool // this host's owner has named its epmd, or the node; neighbours only
	Sure      bool // Node is what the node calls itself, and the host in it is its own
	Mute      bool // it was asked for its full name and did not tell; local nodes only
}

// Peer returns a local node's end of its connection. It is not valid if that is not known.
func (n *Node) Peer() netip.AddrPort {
	if len(n.Addresses) == 0 || n.Origin != Local {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(n.Addresses[0], n.PeerPort)
}

// HasNoEPMD reports whether the node registers with no epmd that is known: a nodes file says where
// it is.
func (n *Node) HasNoEPMD() bool {
	return n.EPMDPort == 0 && n.Via != "" && n.Via != ViaMDNS && n.Via != ViaEPMD
}

// NeighbourKey is what makes a neighbour: an alive name at an epmd. An epmd is a host and a
// port. Two epmds of a host may each have a node of one name. Two hosts may claim one full
// name.
type NeighbourKey struct {
	Name     string // alive name
	Host     string
	EPMDPort uint16
}

// NeighbourKey returns the key of a neighbour.
func (n *Node) NeighbourKey() NeighbourKey { return NeighbourKey{n.Name, n.Host, n.EPMDPort} }

// ClaimsAs reports whether a neighbour is announced at the same other ports as another.
func (n *Node) ClaimsAs(other *Node) bool { return slices.Equal(n.claims(), other.claims()) }

func (n *Node) claims() []uint16 {
	if n.Claims == nil {
		return nil
	}
	return *n.Claims
}

// LogNames returns what a log calls a node. "name" is its alive name. "node" is its full name,
// and is there once the node has told it.
func (n *Node) LogNames() slog.Attr {
	if !n.Sure {
		return slog.String("name", n.Name)
	}
	return slog.Group("", "node", n.Node, "name", n.Name)
}

// Holder is the process whose connection holds a local node's name.
type Holder struct {
	Unit string // systemd unit it runs in, a service or a scope; empty: none, or not known
	PID  int32  // 0: not known
	UID  uint32 // whose it is

	// Foreign says that this is no node of OTP: the process does not run OTP's emulator. If the
	// process is not known, no process of the connection's control group does.
	Foreign bool
}

// String returns what is known, such as "pid 812, uid 107, rabbitmq-server.service".
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
	Dist     Dist
	Hidden   bool
	Creation uint32 // 0: not told. A node that registers again keeps the creation it had first
}

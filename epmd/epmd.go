// Package epmd speaks the EPMD protocol of Erlang/OTP: the messages, a [Server] and a [Client].
// It follows the guide "Distribution Protocol", and the epmd of OTP where the guide is silent.
// Two requests are its own, [NodesReq] and [WatchReq]. With them a program of this host learns of
// all known nodes, those of the LAN included. Another host learns of this one's nodes.
//
// Every request has its length before it, in 2 bytes, big-endian. It has at most [MaxRequest]
// bytes. Its first byte is its [Tag]. Answers have no length. All end with the connection, except
// that to [AliveReq]. A node stays registered for as long as the connection of its AliveReq stays
// open.
package epmd

import (
	"encoding/binary"
	"fmt"
)

// DefaultPort is the TCP port assigned to epmd.
const DefaultPort = 4369

// MaxRequest is the length of the longest request, without the 2 bytes before it.
const MaxRequest = 3057

// Tag is the first byte of a request. The answers to AliveReq and PortReq have one too.
type Tag byte

// Tags of requests, and of the three answers that have one.
const (
	TagDump       Tag = 'd' // 100, DUMP_REQ
	TagKill       Tag = 'k' // 107, KILL_REQ
	TagNames      Tag = 'n' // 110, NAMES_REQ
	TagStop       Tag = 's' // 115, STOP_REQ
	TagAliveXResp Tag = 'v' // 118, ALIVE2_X_RESP
	TagPortResp   Tag = 'w' // 119, PORT2_RESP
	TagAlive      Tag = 'x' // 120, ALIVE2_REQ
	TagAliveResp  Tag = 'y' // 121, ALIVE2_RESP
	TagPort       Tag = 'z' // 122, PORT_PLEASE2_REQ
	TagNodes      Tag = 'N' // 78, ours: every known node, or those of a name
	TagWatch      Tag = 'W' // 87, ours: the same, and every change
)

// Request is one of the messages that ask an epmd for something.
type Request interface {
	// Append appends the request, without its length, to dst.
	Append(dst []byte) []byte
}

// The requests that are their tag alone.
type (
	NamesReq struct{} // NAMES_REQ: the registered names and their ports, as text
	DumpReq  struct{} // DUMP_REQ: the same for debugging, with names that have gone
	KillReq  struct{} // KILL_REQ: end the daemon
)

// NodesReq asks for known nodes, as lines; see [Line]. With a name it asks for those alone whose
// full name or alive name that is:
//
//	tag=78  name
//	  1     bytes
type NodesReq struct{ Name string } // empty: every node

// WatchReq asks for every known node, and then for every change as it happens. An epmd that asks
// another says who it is:
//
//	tag=87  hello
//	  1     as text   bytes
type WatchReq struct{ Hello *PeerHello } // nil: any other program asks

// Append implements Request.
func (NamesReq) Append(dst []byte) []byte { return append(dst, byte(TagNames)) }

// Append implements Request.
func (DumpReq) Append(dst []byte) []byte { return append(dst, byte(TagDump)) }

// Append implements Request.
func (KillReq) Append(dst []byte) []byte { return append(dst, byte(TagKill)) }

// Append implements Request.
func (r NodesReq) Append(dst []byte) []byte { return append(append(dst, byte(TagNodes)), r.Name...) }

// Append implements Request.
func (r WatchReq) Append(dst []byte) []byte {
	dst = append(dst, byte(TagWatch))
	if r.Hello == nil {
		return dst
	}
	return r.Hello.appendRequest(dst)
}

// AppendFrame appends req as it is sent, with its length before it. If it is longer than
// MaxRequest, AppendFrame returns dst as it was, and an error.
func AppendFrame(dst []byte, req Request) ([]byte, error) {
	start := len(dst)
	out := req.Append(append(dst, 0, 0))
	length := len(out) - start - 2
	if length > MaxRequest {
		return dst, fmt.Errorf("request of %d bytes: at most %d fit", length, MaxRequest)
	}
	binary.BigEndian.PutUint16(out[start:], uint16(length))
	return out, nil
}

package epmd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/goerlang/eclus/registry"
)

// Limits of an AliveReq beyond which an epmd refuses the registration.
const (
	MaxNameChars = 255  // of an alive name, in characters
	MaxExtra     = 1020 // of Extra, in bytes
)

// ErrRefused marks an AliveReq that is well-formed but asks for too much. The node gets an
// AliveResp that says so. A malformed request gets no answer at all.
var ErrRefused = errors.New("refused")

// AliveReq is ALIVE2_REQ. With it a node registers, for as long as the connection stays open.
// Big-endian, after the 2-byte length that precedes every request (OTP "Distribution Protocol",
// Register a Node in EPMD):
//
//	tag=120  port  type  proto  high  low  nlen  name  elen  extra
//	   1      2     1      1     2     2    2    nlen   2    elen    bytes
//
// The request has at least 14 bytes. What follows extra is ignored.
type AliveReq struct {
	Port      uint16            // distribution port
	Type      registry.NodeType // registry.Normal or registry.Hidden
	Protocol  uint8             // 0: TCP/IPv4
	High, Low uint16            // distribution versions; ALIVE2_X_RESP answers High >= 6
	Name      string            // alive name: UTF-8, at most 255 characters, no NUL
	Extra     string            // opaque, at most 1020 bytes, returned in PortResp
}

// aliveFixed is the length of an AliveReq with neither name nor extra.
const aliveFixed = 13

// Append implements Request.
func (r AliveReq) Append(dst []byte) []byte {
	dst = append(dst, byte(TagAlive))
	dst = binary.BigEndian.AppendUint16(dst, r.Port)
	dst = append(dst, byte(r.Type), r.Protocol)
	dst = binary.BigEndian.AppendUint16(dst, r.High)
	dst = binary.BigEndian.AppendUint16(dst, r.Low)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(r.Name)))
	dst = append(dst, r.Name...)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(r.Extra)))
	return append(dst, r.Extra...)
}

// ParseAliveReq parses an AliveReq, its tag included. An error that is ErrRefused comes with the
// request, and the node is to be told. Any other error says that the request is malformed.
func ParseAliveReq(b []byte) (AliveReq, error) {
	if len(b) <= aliveFixed {
		return AliveReq{}, fmt.Errorf("ALIVE2_REQ of %d bytes: less than %d", len(b), aliveFixed+1)
	}
	if Tag(b[0]) != TagAlive {
		return AliveReq{}, fmt.Errorf("ALIVE2_REQ with tag %d", b[0])
	}
	nlen := int(binary.BigEndian.Uint16(b[9:]))
	if aliveFixed+nlen > len(b) {
		return AliveReq{}, fmt.Errorf("ALIVE2_REQ of %d bytes: nlen %d is too long", len(b), nlen)
	}
	name := b[11 : 11+nlen]
	elen := int(binary.BigEndian.Uint16(b[11+nlen:]))
	if aliveFixed+nlen+elen > len(b) {
		return AliveReq{}, fmt.Errorf("ALIVE2_REQ of %d bytes: nlen %d and elen %d are too long", len(b), nlen, elen)
	}
	if bytes.IndexByte(name, 0) >= 0 {
		return AliveReq{}, fmt.Errorf("ALIVE2_REQ: name %q has a NUL", name)
	}
	req := AliveReq{
		Port:     binary.BigEndian.Uint16(b[1:]),
		Type:     registry.NodeType(b[3]),
		Protocol: b[4],
		High:     binary.BigEndian.Uint16(b[5:]),
		Low:      binary.BigEndian.Uint16(b[7:]),
		Name:     string(name),
		Extra:    string(b[aliveFixed+nlen : aliveFixed+nlen+elen]),
	}
	return req, req.check()
}

// check returns an error that is ErrRefused if an epmd refuses r.
func (r AliveReq) check() error {
	switch {
	case !utf8.ValidString(r.Name):
		return fmt.Errorf("name %q is not UTF-8: %w", r.Name, ErrRefused)
	case utf8.RuneCountInString(r.Name) > MaxNameChars:
		return fmt.Errorf("name %q has more than %d characters: %w", r.Name, MaxNameChars, ErrRefused)
	case len(r.Extra) > MaxExtra:
		return fmt.Errorf("extra has %d bytes, more than %d: %w", len(r.Extra), MaxExtra, ErrRefused)
	}
	return nil
}

// AliveResp is the answer to AliveReq. A node whose highest distribution version is 6 or more
// (OTP 23) gets ALIVE2_X_RESP, others get ALIVE2_RESP. Big-endian:
//
//	tag=118  result  creation        tag=121  result  creation
//	   1       1        4               1       1        2         bytes
//
// It leaves in one segment: OTP takes the first part of a divided one for garbage.
type AliveResp struct {
	Wide     bool   // ALIVE2_X_RESP
	Result   uint8  // 0: registered
	Creation uint32 // to tell the node from earlier ones of its name; 1 to 3 unless Wide
}

// refusedCreation stands for the creation of a node that is refused.
const refusedCreation = 99

// Append appends the answer to dst.
func (r AliveResp) Append(dst []byte) []byte {
	if r.Wide {
		return binary.BigEndian.AppendUint32(append(dst, byte(TagAliveXResp), r.Result), r.Creation)
	}
	return binary.BigEndian.AppendUint16(append(dst, byte(TagAliveResp), r.Result), uint16(r.Creation))
}

// aliveRespLen returns the length of an AliveResp with that tag.
func aliveRespLen(tag byte) (int, error) {
	switch Tag(tag) {
	case TagAliveXResp:
		return 6, nil
	case TagAliveResp:
		return 4, nil
	}
	return 0, fmt.Errorf("answer to ALIVE2_REQ with tag %d", tag)
}

// ParseAliveResp parses an answer to AliveReq. b ends where the answer does.
func ParseAliveResp(b []byte) (AliveResp, error) {
	if len(b) == 0 {
		return AliveResp{}, errors.New("empty answer to ALIVE2_REQ")
	}
	length, err := aliveRespLen(b[0])
	if err != nil {
		return AliveResp{}, err
	}
	if len(b) != length {
		return AliveResp{}, fmt.Errorf("answer to ALIVE2_REQ with tag %d: %d bytes, not %d", b[0], len(b), length)
	}
	if Tag(b[0]) == TagAliveXResp {
		return AliveResp{true, b[1], binary.BigEndian.Uint32(b[2:])}, nil
	}
	return AliveResp{false, b[1], uint32(binary.BigEndian.Uint16(b[2:]))}, nil
}

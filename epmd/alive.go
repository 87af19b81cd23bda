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

// ErrRefused marks an AliveReq that is well-formed but asks for what can't be registered. It is
// answered with an AliveResp that says so; a malformed request is not answered at all.
var ErrRefused = errors.New("refused")

// AliveReq is ALIVE2_REQ, with which a node registers; it counts for as long as the connection that
// brought it stays open. Big-endian, after the 2-byte length that precedes every request
// (OTP "Distribution Protocol", Register a Node in EPMD):
//
//	tag=120  port  type  proto  high  low  nlen  name  elen  extra
//	   1      2     1      1     2     2    2    nlen   2    elen    bytes
//
// What follows extra is ignored, but the request has at least 14 bytes.
type AliveReq struct {
	Port      uint16            // distribution port
	Type      registry.NodeType // registry.Normal or registry.Hidden
	Protocol  uint8             // 0: TCP/IPv4
	High, Low uint16            // distribution versions spoken; High >= 6 is answered with ALIVE2_X_RESP
	Name      string            // alive name: UTF-8, at most 255 characters, no NUL
	Extra     string            // opaque, at most 1020 bytes, returned in PortResp
}

// aliveFixed is the length of an AliveReq of which name and extra are empty.
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

// ParseAliveReq parses an AliveReq, its tag included. An error that is ErrRefused tells that the
// request, which is returned too, is to be answered with a refusal; any other that it is malformed.
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

// check returns an error that is ErrRefused if an epmd refuses to register r.
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

// AliveResp is the answer to AliveReq: ALIVE2_X_RESP to a node whose highest distribution version is
// 6 or more (OTP 23), ALIVE2_RESP to others. Big-endian:
//
//	tag=118  result  creation        tag=121  result  creation
//	   1       1        4               1       1        2         bytes
//
// The whole of it leaves in one segment: OTP takes the first part of a divided one for garbage.
type AliveResp struct {
	Wide     bool   // ALIVE2_X_RESP
	Result   uint8  // 0: registered
	Creation uint32 // to tell the node from earlier ones of its name; 1 to 3 unless Wide
}

// refusedCreation is what stands for the creation in the answer to a node that is not registered.
const refusedCreation = 99

// Append appends the answer to dst.
func (r AliveResp) Append(dst []byte) []byte {
	if r.Wide {
		return binary.BigEndian.AppendUint32(append(dst, byte(TagAliveXResp), r.Result), r.Creation)
	}
	return binary.BigEndian.AppendUint16(append(dst, byte(TagAliveResp), r.Result), uint16(r.Creation))
}

// aliveRespLen returns the length of an AliveResp, told by its tag.
func aliveRespLen(tag byte) (int, error) {
	switch Tag(tag) {
	case TagAliveXResp:
		return 6, nil
	case TagAliveResp:
		return 4, nil
	}
	return 0, fmt.Errorf("answer to ALIVE2_REQ with tag %d", tag)
}

// ParseAliveResp parses an answer to AliveReq, of which there are no more bytes than belong to it.
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

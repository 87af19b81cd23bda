package epmd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/goerlang/eclus/registry"
)

// MaxLookupChars is how many characters a name has at most that can be looked up. A registered
// one may have one more.
const MaxLookupChars = 254

// PortReq is PORT_PLEASE2_REQ. It asks for the distribution port of a node (OTP "Distribution
// Protocol", Get the Distribution Port of Another Node):
//
//	tag=122  name
//	   1     rest   bytes
//
// One NUL after the name is tolerated.
type PortReq struct {
	Name string // alive name: UTF-8, 1 to 254 characters, no NUL
}

// Append implements Request.
func (r PortReq) Append(dst []byte) []byte { return append(append(dst, byte(TagPort)), r.Name...) }

// ParsePortReq parses a PortReq, its tag included. A request that is an error here gets no
// answer.
func ParsePortReq(b []byte) (PortReq, error) {
	name, err := portReqName(b)
	return PortReq{string(name)}, err
}

// portReqName is ParsePortReq without a copy of the name.
func portReqName(b []byte) ([]byte, error) {
	if len(b) == 0 || Tag(b[0]) != TagPort {
		return nil, errors.New("PORT_PLEASE2_REQ without its tag")
	}
	name := b[1:]
	if n := len(name); n > 0 && name[n-1] == 0 {
		name = name[:n-1]
	}
	switch {
	case len(name) == 0:
		return nil, errors.New("PORT_PLEASE2_REQ without a name")
	case bytes.IndexByte(name, 0) >= 0:
		return nil, fmt.Errorf("PORT_PLEASE2_REQ: name %q has a NUL", name)
	case !utf8.Valid(name):
		return nil, fmt.Errorf("PORT_PLEASE2_REQ: name %q is not UTF-8", name)
	case utf8.RuneCount(name) > MaxLookupChars:
		return nil, fmt.Errorf("PORT_PLEASE2_REQ: name %q has more than %d characters", name, MaxLookupChars)
	}
	return name, nil
}

// PortResp is PORT2_RESP, the answer to PortReq. If result is not 0, nothing follows it.
// Big-endian:
//
//	tag=119  result  port  type  proto  high  low  nlen  name  elen  extra
//	   1       1      2     1      1     2     2    2    nlen   2    elen    bytes
type PortResp struct {
	Result    uint8 // 0: registered, and the rest is set
	Port      uint16
	Type      registry.NodeType
	Protocol  uint8
	High, Low uint16
	Name      string
	Extra     string
}

// Append appends the answer to dst.
func (r PortResp) Append(dst []byte) []byte {
	dst = append(dst, byte(TagPortResp), r.Result)
	if r.Result != 0 {
		return dst
	}
	dst = binary.BigEndian.AppendUint16(dst, r.Port)
	dst = append(dst, byte(r.Type), r.Protocol)
	dst = binary.BigEndian.AppendUint16(dst, r.High)
	dst = binary.BigEndian.AppendUint16(dst, r.Low)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(r.Name)))
	dst = append(dst, r.Name...)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(r.Extra)))
	return append(dst, r.Extra...)
}

// maxPortResp is the length of the longest PortResp that a Client reads.
const maxPortResp = portRespFixed + 4*MaxNameChars + MaxExtra

// portRespFixed is the length of a PortResp with neither name nor extra.
const portRespFixed = 14

// ParsePortResp parses an answer to PortReq. The extra of a node that registered with an old epmd
// may be missing, length and all.
func ParsePortResp(b []byte) (PortResp, error) {
	if len(b) < 2 || Tag(b[0]) != TagPortResp {
		return PortResp{}, fmt.Errorf("answer to PORT_PLEASE2_REQ: %d bytes without its tag and result", len(b))
	}
	if b[1] != 0 {
		return PortResp{Result: b[1]}, nil
	}
	if len(b) < portRespFixed-2 {
		return PortResp{}, fmt.Errorf("answer to PORT_PLEASE2_REQ: %d bytes are too few", len(b))
	}
	name, rest, err := cutCounted(b[10:])
	if err != nil {
		return PortResp{}, fmt.Errorf("answer to PORT_PLEASE2_REQ: name: %w", err)
	}
	var extra []byte
	if len(rest) > 0 {
		if extra, _, err = cutCounted(rest); err != nil {
			return PortResp{}, fmt.Errorf("answer to PORT_PLEASE2_REQ: extra: %w", err)
		}
	}
	return PortResp{
		Port:     binary.BigEndian.Uint16(b[2:]),
		Type:     registry.NodeType(b[4]),
		Protocol: b[5],
		High:     binary.BigEndian.Uint16(b[6:]),
		Low:      binary.BigEndian.Uint16(b[8:]),
		Name:     string(name),
		Extra:    string(extra),
	}, nil
}

// cutCounted divides b after a field that has its length before it, in 2 bytes.
func cutCounted(b []byte) (field, rest []byte, err error) {
	if len(b) < 2 {
		return nil, nil, errors.New("its length is missing")
	}
	n := int(binary.BigEndian.Uint16(b))
	if n > len(b)-2 {
		return nil, nil, fmt.Errorf("length %d, but %d bytes are left", n, len(b)-2)
	}
	return b[2 : 2+n], b[2+n:], nil
}

// StopReq is STOP_REQ. It unregisters a node by force:
//
//	tag=115  name
//	   1     rest   bytes
//
// The name ends at the first NUL. The answer is "STOPPED", or "NOEXISTSTOPPED" for an unknown
// name.
type StopReq struct {
	Name string
}

// Append implements Request.
func (r StopReq) Append(dst []byte) []byte { return append(append(dst, byte(TagStop)), r.Name...) }

// ParseStopReq parses a StopReq, its tag included.
func ParseStopReq(b []byte) (StopReq, error) {
	if len(b) <= 1 || Tag(b[0]) != TagStop {
		return StopReq{}, errors.New("STOP_REQ without its tag and a name")
	}
	name, _, _ := bytes.Cut(b[1:], []byte{0})
	return StopReq{string(name)}, nil
}

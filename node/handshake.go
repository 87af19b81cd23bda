package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Flags are the capabilities that a node announces in the handshake (OTP "Distribution Protocol",
// Distribution Flags).
type Flags uint64

// The flags this package uses, by their names in OTP without DFLAG_.
const (
	Published          Flags = 1 << 0 // the node is no hidden one
	ExtendedReferences Flags = 1 << 2
	DistMonitor        Flags = 1 << 3 // processes are monitored
	FunTags            Flags = 1 << 4
	DistMonitorName    Flags = 1 << 5 // by their names too
	NewFunTags         Flags = 1 << 7
	ExtendedPidsPorts  Flags = 1 << 8
	ExportPtrTag       Flags = 1 << 9
	BitBinaries        Flags = 1 << 10
	NewFloats          Flags = 1 << 11
	UnicodeIO          Flags = 1 << 12
	DistHdrAtomCache   Flags = 1 << 13 // messages have a distribution header, with an atom cache
	SmallAtomTags      Flags = 1 << 14
	UTF8Atoms          Flags = 1 << 16
	MapTag             Flags = 1 << 17
	BigCreation        Flags = 1 << 18
	SendSender         Flags = 1 << 19 // SEND_SENDER
	BigSeqtraceLabels  Flags = 1 << 20
	ExitPayload        Flags = 1 << 22 // PAYLOAD_EXIT and its like
	Fragments          Flags = 1 << 23 // messages come in pieces
	Handshake23        Flags = 1 << 24 // the handshake of OTP 23, version 6
	UnlinkID           Flags = 1 << 25 // mandatory since OTP 26
	Spawn              Flags = 1 << 32 // SPAWN_REQUEST; erpc is built on it
	NameMe             Flags = 1 << 33 // it wants a name, and has that of its host alone
	V4NC               Flags = 1 << 34 // mandatory since OTP 26
	Alias              Flags = 1 << 35 // ALIAS_SEND
	Mandatory25Digest  Flags = 1 << 36 // mandatory since OTP 27
)

// Mandatory holds every flag that a node of OTP 23 to 29 demands of its peer. If one is missing,
// the node refuses the peer and logs an error. All are spelled out: releases before 25 don't know
// that Mandatory25Digest implies most of them.
const Mandatory = ExtendedReferences | FunTags | NewFunTags | ExtendedPidsPorts | ExportPtrTag | BitBinaries |
	NewFloats | UTF8Atoms | MapTag | BigCreation | Handshake23 | UnlinkID | V4NC | Mandatory25Digest

// connected is what a Conn announces. That is all that OTP 25 does, but no atom cache and no
// fragments. AtomVM demands all of it.
const connected = Mandatory | DistMonitor | DistMonitorName | UnicodeIO | SmallAtomTags | SendSender | BigSeqtraceLabels |
	ExitPayload | Spawn | Alias

// probing is what Identify announces: all that OTP 25 does. Identify ends before a message is
// sent.
const probing = connected | DistHdrAtomCache | Fragments

// missing returns what a peer with flags f can't do and a Conn needs. From OTP 25 on one flag may
// stand for most others.
func (f Flags) missing() Flags {
	if f&Mandatory25Digest != 0 {
		f |= Mandatory
	}
	return (Mandatory &^ (UnlinkID | V4NC | Mandatory25Digest)) &^ f
}

// The tags that handshake messages begin with.
const (
	tagName      = 'N' // SendName and Challenge
	tagOldName   = 'n' // Challenge before version 6
	tagStatus    = 's'
	namedPrefix  = "named:"
	maxStatusLen = 32 // of a status code; the longest known has 15 bytes
)

var (
	errShort  = errors.New("ends too early")
	errNoName = errors.New("name of no bytes")
)

// SendName opens the handshake. The connecting node sends it, in the form of version 6 (OTP 23).
// Big-endian; what follows the name is ignored:
//
//	tag='N'  flags  creation  nlen  name
//	   1       8       4       2    nlen   bytes
type SendName struct {
	Flags    Flags
	Creation uint32 // tells incarnations of a node apart; 0 for one that makes no pids
	Name     string // full node name, unchecked, 1 to 1020 bytes
}

// Append appends the message to b, without the length that frames it.
func (m SendName) Append(b []byte) []byte {
	b = append(b, tagName)
	b = binary.BigEndian.AppendUint64(b, uint64(m.Flags))
	b = binary.BigEndian.AppendUint32(b, m.Creation)
	return appendString(b, m.Name)
}

// ParseSendName parses a whole message. It takes any bytes for the name: see [CheckName].
func ParseSendName(b []byte) (SendName, error) {
	const head = 1 + 8 + 4
	if len(b) < head || b[0] != tagName {
		return SendName{}, badMessage("send_name", b)
	}
	name, _, err := cutString(b[head:])
	if err != nil {
		return SendName{}, fmt.Errorf("send_name: %w", err)
	}
	return SendName{
		Flags:    Flags(binary.BigEndian.Uint64(b[1:])),
		Creation: binary.BigEndian.Uint32(b[9:]),
		Name:     name,
	}, nil
}

// StatusCode is what a Status says.
type StatusCode string

// The accepting node answers SendName with one of these; to Alive the connecting node answers True
// or False.
const (
	OK             StatusCode = "ok"              // go on
	OKSimultaneous StatusCode = "ok_simultaneous" // go on; the peer's own attempt gives way
	NotOK          StatusCode = "nok"             // a handshake under this name is under way
	NotAllowed     StatusCode = "not_allowed"     // a flag is missing, or the name is not allowed
	Alive          StatusCode = "alive"           // a node of this name is connected already
	Named          StatusCode = "named:"          // go on, under the name the status gives
	True           StatusCode = "true"            // the connection Alive speaks of is broken: go on
	False          StatusCode = "false"           // it is not: give this one up
)

// Status is the answer to SendName, or the answer to that answer. A name and a creation follow
// Named alone. Big-endian; what follows the creation is ignored:
//
//	tag='s'  code                       tag='s'  "named:"  nlen  name  creation
//	   1     at most 32 bytes              1        6       2    nlen     4      bytes
type Status struct {
	Code     StatusCode
	Name     string // Named: full node name given to the peer, unchecked, 1 to 1020 bytes
	Creation uint32 // Named: the peer's creation
}

// Append appends the message to b, without the length that frames it.
func (m Status) Append(b []byte) []byte {
	b = append(b, tagStatus)
	b = append(b, m.Code...)
	if m.Code != Named {
		return b
	}
	b = appendString(b, m.Name)
	return binary.BigEndian.AppendUint32(b, m.Creation)
}

// ParseStatus parses a whole message. It returns short codes as they are, even if it does not
// know them.
func ParseStatus(b []byte) (Status, error) {
	if len(b) < 2 || b[0] != tagStatus {
		return Status{}, badMessage("status", b)
	}
	code := string(b[1:])
	if strings.HasPrefix(code, namedPrefix) {
		return parseNamed(b[1+len(namedPrefix):])
	}
	if len(code) > maxStatusLen {
		return Status{}, fmt.Errorf("status of %d bytes, at most %d", len(code), maxStatusLen)
	}
	return Status{Code: StatusCode(code)}, nil
}

// parseNamed parses what follows "named:".
func parseNamed(b []byte) (Status, error) {
	name, rest, err := cutString(b)
	if err != nil {
		return Status{}, fmt.Errorf("status %q: %w", namedPrefix, err)
	}
	if len(rest) < 4 {
		return Status{}, fmt.Errorf("status %q: creation %w", namedPrefix, errShort)
	}
	return Status{Code: Named, Name: name, Creation: binary.BigEndian.Uint32(rest)}, nil
}

// Challenge is what the accepting node says of itself once it has accepted the peer's name. The
// peer proves its cookie with the number in it. Big-endian; what follows the name is ignored:
//
//	tag='N'  flags  challenge  creation  nlen  name
//	   1       8        4         4       2    nlen   bytes
//
// Nodes before OTP 23 have the older form. It has the lower half of the flags and no creation.
// The name goes on to the end:
//
//	tag='n'  version=5  flags  challenge  name
//	   1         2        4        4            bytes
type Challenge struct {
	Flags     Flags
	Challenge uint32
	Creation  uint32 // of the accepting node; 0 in the older form
	Name      string // its full node name, unchecked, 1 to 1020 bytes
}

// Append appends the message to b in the form of version 6, without the length that frames it.
func (m Challenge) Append(b []byte) []byte {
	b = append(b, tagName)
	b = binary.BigEndian.AppendUint64(b, uint64(m.Flags))
	b = binary.BigEndian.AppendUint32(b, m.Challenge)
	b = binary.BigEndian.AppendUint32(b, m.Creation)
	return appendString(b, m.Name)
}

// ParseChallenge parses a whole message of either form. It takes any bytes for the name: see
// [CheckName].
func ParseChallenge(b []byte) (Challenge, error) {
	const head, oldHead = 1 + 8 + 4 + 4, 1 + 2 + 4 + 4
	switch {
	case len(b) >= head && b[0] == tagName:
		name, _, err := cutString(b[head:])
		if err != nil {
			return Challenge{}, fmt.Errorf("challenge: %w", err)
		}
		return Challenge{
			Flags:     Flags(binary.BigEndian.Uint64(b[1:])),
			Challenge: binary.BigEndian.Uint32(b[9:]),
			Creation:  binary.BigEndian.Uint32(b[13:]),
			Name:      name,
		}, nil
	case len(b) >= oldHead && b[0] == tagOldName:
		name, err := checkLen(b[oldHead:])
		if err != nil {
			return Challenge{}, fmt.Errorf("old challenge: %w", err)
		}
		return Challenge{
			Flags:     Flags(binary.BigEndian.Uint32(b[3:])),
			Challenge: binary.BigEndian.Uint32(b[7:]),
			Name:      name,
		}, nil
	}
	return Challenge{}, badMessage("challenge", b)
}

// appendString appends s after its length in two bytes.
func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// cutString is the reverse of appendString. It also returns what follows the string.
func cutString(b []byte) (s string, rest []byte, err error) {
	if len(b) < 2 {
		return "", nil, fmt.Errorf("nlen %w", errShort)
	}
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if n > len(b) {
		return "", nil, fmt.Errorf("nlen %d, %d bytes left", n, len(b))
	}
	s, err = checkLen(b[:n])
	return s, b[n:], err
}

// checkLen returns b as a string, unless b is empty or longer than any node name.
func checkLen(b []byte) (string, error) {
	if len(b) == 0 {
		return "", errNoName
	}
	if len(b) > maxNameBytes {
		return "", fmt.Errorf("name of %d bytes, at most %d", len(b), maxNameBytes)
	}
	return string(b), nil
}

// badMessage is the error for bytes that can't be the message named what.
func badMessage(what string, b []byte) error {
	return fmt.Errorf("%d bytes that begin with %.16q are no %s", len(b), b, what)
}

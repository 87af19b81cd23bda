package node

import "encoding/binary"

const (
	tagReply = 'r'
	tagAck   = 'a'
)

// ChallengeReply is the connecting node's answer to a Challenge: the proof, and a challenge of
// its own. Big-endian; what follows is ignored:
//
//	tag='r'  challenge  digest
//	   1         4        16    bytes
type ChallengeReply struct {
	Challenge uint32
	Digest    Digest
}

// Append appends the message to b, without the length that frames it.
func (m ChallengeReply) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(append(b, tagReply), m.Challenge)
	return append(b, m.Digest[:]...)
}

// ParseChallengeReply parses a whole message.
func ParseChallengeReply(b []byte) (ChallengeReply, error) {
	const head = 1 + 4
	if len(b) < head+len(Digest{}) || b[0] != tagReply {
		return ChallengeReply{}, badMessage("challenge_reply", b)
	}
	return ChallengeReply{binary.BigEndian.Uint32(b[1:]), Digest(b[head : head+len(Digest{})])}, nil
}

// ChallengeAck is the last message of the handshake. With it the accepting node proves that it
// knows the cookie too. What follows is ignored:
//
//	tag='a'  digest
//	   1       16    bytes
type ChallengeAck struct {
	Digest Digest
}

// Append appends the message to b, without the length that frames it.
func (m ChallengeAck) Append(b []byte) []byte {
	return append(append(b, tagAck), m.Digest[:]...)
}

// ParseChallengeAck parses a whole message.
func ParseChallengeAck(b []byte) (ChallengeAck, error) {
	if len(b) < 1+len(Digest{}) || b[0] != tagAck {
		return ChallengeAck{}, badMessage("challenge_ack", b)
	}
	return ChallengeAck{Digest(b[1 : 1+len(Digest{})])}, nil
}

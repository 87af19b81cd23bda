package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// The control messages of this package, by their names in OTP (OTP "Distribution Protocol", Protocol between
// Connected Nodes). Those with a trace token come from a process that is being traced with seq_trace.
const (
	opLink           = 1
	opSend           = 2
	opExit           = 3
	opUnlink         = 4
	opRegSend        = 6
	opExit2          = 8
	opSendTT         = 12
	opExitTT         = 13
	opRegSendTT      = 16
	opMonitor        = 19
	opDemonitor      = 20
	opMonitorExit    = 21
	opSpawnRequest   = 29
	opSpawnRequestTT = 30
	opSpawnReply     = 31
	opSpawnReplyTT   = 32
	opUnlinkID       = 35
	opUnlinkIDAck    = 36
)

// passThrough begins each message between nodes that have not agreed on an atom cache.
const passThrough = 112

const (
	atomNoProc  Atom = "noproc"
	atomNotSup  Atom = "notsup"
	atomMonitor Atom = "monitor"
)

var errNoControl = errors.New("control message that is no tuple with a number in front")

// encodeMessage encodes a control message and its payload, if any. Big-endian; length is of what follows:
//
//	length  type=112  131  control  [131  payload]
//	   4        1      1             1              bytes
func encodeMessage(control Tuple, payload ...any) ([]byte, error) {
	b := append(make([]byte, messageLenSize, 128), passThrough)
	for _, term := range append([]any{control}, payload...) {
		var err error
		if b, err = AppendTerm(append(b, extVersion), term); err != nil {
			return nil, err
		}
	}
	size := len(b) - messageLenSize
	if int64(size) > math.MaxUint32 {
		return nil, errTooLong
	}
	binary.BigEndian.PutUint32(b, uint32(size))
	return b, nil
}

// control is a message from a peer, split in two.
type control struct {
	op      int
	term    []byte // the control message, 131 included
	payload RawTerm
}

// parseControl splits a message. It checks that the terms are well-formed, but not what they are.
func parseControl(m []byte, limits Limits) (control, error) {
	if len(m) == 0 || m[0] != passThrough {
		return control{}, fmt.Errorf("message that begins with %.1q; want %d", m, passThrough)
	}
	var raw RawTerm
	rest, err := limits.CutTerm(m[1:], &raw)
	if err != nil {
		return control{}, err
	}
	c := control{term: m[1 : len(m)-len(rest)]}
	const tag, op = 1, 4 // 131, tag, arity, tag, op
	if len(c.term) <= op || c.term[tag] != extSmallTuple || c.term[op-1] != extSmallInteger {
		return control{}, errNoControl
	}
	c.op = int(c.term[op])
	if len(rest) > 0 {
		err = limits.Unmarshal(rest, &c.payload)
	}
	return c, err
}

// unmarshal decodes the control message; its size has been checked.
func (m control) unmarshal(v any) error { return Limits{Size: len(m.term)}.Unmarshal(m.term, v) }

// decodeRaw decodes a part of a message; its size has been checked.
func decodeRaw(t RawTerm, v any) error { return Limits{Size: len(t)}.decodeAll(t, v) }

// dispatch acts on a message. What it does not know it ignores: that asks nothing of us.
func (c *Conn) dispatch(m []byte) error {
	msg, err := parseControl(m, Limits{Size: c.us.MaxMessage})
	if err != nil {
		return err
	}
	switch msg.op {
	case opSend, opSendTT, opRegSend, opRegSendTT:
		err = c.gotMessage(msg)
	case opMonitor:
		err = c.gotMonitor(msg)
	case opMonitorExit:
		err = c.gotDown(msg)
	case opSpawnReply, opSpawnReplyTT:
		err = c.gotSpawned(msg)
	case opSpawnRequest, opSpawnRequestTT:
		err = c.refuseSpawn(msg)
	case opExit, opExitTT:
		err = c.gotExit(msg)
	case opLink:
		err = c.gotLink(msg)
	case opUnlink:
		err = c.gotOldUnlink(msg)
	case opUnlinkID:
		err = c.gotUnlink(msg)
	}
	if err != nil {
		return fmt.Errorf("control message %d: %w", msg.op, err)
	}
	return nil
}

// reply has a control message sent by the reader.
func (c *Conn) reply(control Tuple) error {
	m, err := encodeMessage(control)
	if err != nil {
		return err
	}
	return c.answer(m)
}

// gotMessage is for {SEND, ”, To}, {REG_SEND, From, ”, ToName}, and the same with a trace token.
func (c *Conn) gotMessage(msg control) error {
	var t Tuple
	if err := msg.unmarshal(&t); err != nil {
		return err
	}
	if msg.payload == nil {
		return errors.New("message without a payload")
	}
	if (msg.op == opSend || msg.op == opSendTT) && len(t) >= 3 {
		if to, ok := t[2].(Pid); ok && to == c.pid {
			return c.toSelf(msg.payload)
		}
		return nil // it may be a process of an earlier connection
	}
	if len(t) < 4 {
		return errors.New("too short")
	}
	from, isPid := t[1].(Pid)
	to, isAtom := t[3].(Atom)
	if !isPid || !isAtom {
		return errors.New("sender that is no pid or name that is no atom")
	}
	return c.toProcess(Message{To: to, From: from, Term: msg.payload})
}

// toSelf is for an answer to something asked, {Ref, Reply}, or another message.
func (c *Conn) toSelf(term RawTerm) error {
	var reply struct {
		_     struct{} `erl:",tuple"`
		Ref   Ref
		Reply RawTerm
	}
	if err := decodeRaw(term, &reply); err == nil && c.deliver(reply.Ref, outcome{term: reply.Reply, reply: true}) {
		return nil
	}
	return c.toProcess(Message{Term: term})
}

// toProcess leaves m to its handler, if there is one, and answers what every node does otherwise.
func (c *Conn) toProcess(m Message) error {
	if c.us.Processes[m.To] == nil {
		return c.answerSystem(m)
	}
	select {
	case c.in <- m:
		return nil
	default:
		return errBehind
	}
}

// gotMonitor is for {MONITOR_P, From, ToPidOrName, Ref}. Whatever is not there is reported as gone at once.
func (c *Conn) gotMonitor(msg control) error {
	var m struct {
		_    struct{} `erl:",tuple"`
		Op   int
		From Pid
		To   any
		Ref  Ref
	}
	if err := msg.unmarshal(&m); err != nil {
		return err
	}
	if c.has(m.To) {
		return nil
	}
	return c.reply(Tuple{opMonitorExit, m.To, m.From, m.Ref, atomNoProc})
}

// has says whether there is a process to, a pid or a name.
func (c *Conn) has(to any) bool {
	name, ok := to.(Atom)
	if !ok {
		return to == any(c.pid)
	}
	return name == netKernel || name != "" && c.us.Processes[name] != nil
}

// gotDown is for {MONITOR_P_EXIT, From, To, Ref, Reason}.
func (c *Conn) gotDown(msg control) error {
	var m struct {
		_        struct{} `erl:",tuple"`
		Op       int
		From, To RawTerm
		Ref      Ref
		Reason   RawTerm
	}
	err := msg.unmarshal(&m)
	if err == nil {
		c.deliver(m.Ref, outcome{term: m.Reason})
	}
	return err
}

// gotSpawned is for {SPAWN_REPLY, Ref, To, Flags, PidOrReason}, which may have a trace token.
func (c *Conn) gotSpawned(msg control) error {
	var t Tuple
	if err := msg.unmarshal(&t); err != nil {
		return err
	}
	if len(t) < 5 {
		return errors.New("too short")
	}
	ref, _ := t[1].(Ref)
	switch result := t[4].(type) {
	case Pid:
		c.found(ref, result)
	case Atom:
		reason, err := AppendTerm(nil, result)
		c.deliver(ref, outcome{term: reason, refused: result})
		return err
	}
	return nil
}

// refuseSpawn is for {SPAWN_REQUEST, Ref, From, GroupLeader, MFA, Options}, which may have a trace token. No
// peer runs anything here.
func (c *Conn) refuseSpawn(msg control) error {
	var t Tuple
	if err := msg.unmarshal(&t); err != nil {
		return err
	}
	if len(t) < 6 {
		return errors.New("too short")
	}
	ref, isRef := t[1].(Ref)
	from, isPid := t[2].(Pid)
	if !isRef || !isPid {
		return errors.New("request that is no reference or sender that is no pid")
	}
	return c.reply(Tuple{opSpawnReply, ref, from, 0, atomNotSup})
}

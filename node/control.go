package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/goerlang/eclus/node/etf"
)

// The control messages of this package, by their names in OTP (OTP "Distribution Protocol",
// Protocol between Connected Nodes). A process traced with seq_trace sends those with a trace
// token.
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
	opSendSender     = 22
	opSendSenderTT   = 23
	opPayloadExit    = 24
	opPayloadExitTT  = 25
	opPayloadDown    = 28 // PAYLOAD_MONITOR_P_EXIT
	opSpawnRequest   = 29
	opSpawnRequestTT = 30
	opSpawnReply     = 31
	opSpawnReplyTT   = 32
	opAliasSend      = 33
	opAliasSendTT    = 34
	opUnlinkID       = 35
	opUnlinkIDAck    = 36
)

// passThrough begins each message between nodes that have not agreed on an atom cache.
const passThrough = 112

const (
	atomNoProc  etf.Atom = "noproc"
	atomNotSup  etf.Atom = "notsup"
	atomMonitor etf.Atom = "monitor"
)

var (
	errTooShort  = errors.New("too short")
	errNoPayload = errors.New("message without a payload")
)

// The tags that a control message begins with, after [etf.Version].
const (
	smallTuple   = 104
	smallInteger = 97
)

var errTooLong = errors.New("too long")

var errNoControl = errors.New("control message that is no tuple with a number in front")

// encodeMessage encodes a control message and its payload, if any. Big-endian; length is of what
// follows it:
//
//	length  type=112  131  control  [131  payload]
//	   4        1      1             1              bytes
func encodeMessage(control etf.Tuple, payload ...any) ([]byte, error) {
	b := append(make([]byte, messageLenSize, 128), passThrough)
	for _, term := range append([]any{control}, payload...) {
		var err error
		if b, err = etf.Append(append(b, etf.Version), term); err != nil {
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
	payload etf.Raw
}

// parseControl splits a message. It checks that the terms are well-formed, but not what they are.
func parseControl(m []byte, limits etf.Limits) (control, error) {
	if len(m) == 0 || m[0] != passThrough {
		return control{}, fmt.Errorf("message that begins with %.1q; want %d", m, passThrough)
	}
	var raw etf.Raw
	rest, err := limits.Cut(m[1:], &raw)
	if err != nil {
		return control{}, err
	}
	c := control{term: m[1 : len(m)-len(rest)]}
	const tag, op = 1, 4 // 131, tag, arity, tag, op
	if len(c.term) <= op || c.term[tag] != smallTuple || c.term[op-1] != smallInteger {
		return control{}, errNoControl
	}
	c.op = int(c.term[op])
	if len(rest) > 0 {
		err = limits.Unmarshal(rest, &c.payload)
	}
	return c, err
}

// unmarshal decodes the control message. Its size has been checked.
func (m control) unmarshal(v any) error { return etf.Limits{Size: len(m.term)}.Unmarshal(m.term, v) }

// decodeRaw decodes a part of a message. Its size has been checked.
func decodeRaw(t etf.Raw, v any) error { return etf.Limits{Size: len(t)}.UnmarshalRaw(t, v) }

// dispatch acts on a message. It ignores one that it does not know: that asks nothing of us.
func (c *Conn) dispatch(m []byte) error {
	msg, err := parseControl(m, etf.Limits{Size: c.us.MaxMessage})
	if err != nil {
		return err
	}
	switch msg.op {
	case opSend, opSendTT, opSendSender, opSendSenderTT, opRegSend, opRegSendTT:
		err = c.gotMessage(msg)
	case opAliasSend, opAliasSendTT:
		err = c.gotAliased(msg)
	case opMonitor:
		err = c.gotMonitor(msg)
	case opMonitorExit:
		err = c.gotDown(msg)
	case opPayloadDown:
		err = c.gotPayloadDown(msg)
	case opSpawnReply, opSpawnReplyTT:
		err = c.gotSpawned(msg)
	case opSpawnRequest, opSpawnRequestTT:
		err = c.refuseSpawn(msg)
	case opExit, opExitTT:
		err = c.gotExit(msg)
	case opPayloadExit, opPayloadExitTT:
		err = c.gotPayloadExit(msg)
	case opLink:
		err = c.gotLink(msg)
	case opUnlink:
		err = c.gotOldUnlink(msg)
	case opUnlinkID:
		err = c.gotUnlink(msg)
	}
	if unfit := (*etf.TypeError)(nil); errors.As(err, &unfit) { // its text has Go types of ours
		return fmt.Errorf("control message %d: %s is of no use there", msg.op, unfit.Term)
	}
	if err != nil {
		return fmt.Errorf("control message %d: %w", msg.op, err)
	}
	return nil
}

// reply sends a control message of the reader.
func (c *Conn) reply(control etf.Tuple) error {
	m, err := encodeMessage(control)
	if err != nil {
		return err
	}
	return c.answer(m)
}

// gotMessage is for {SEND, Unused, To}, {SEND_SENDER, From, To} and {REG_SEND, From, Unused,
// ToName}. Each may have a trace token.
func (c *Conn) gotMessage(msg control) error {
	var t etf.Tuple
	if err := msg.unmarshal(&t); err != nil {
		return err
	}
	if msg.payload == nil {
		return errNoPayload
	}
	if msg.op != opRegSend && msg.op != opRegSendTT {
		if len(t) < 3 {
			return errTooShort
		}
		if to, ok := t[2].(etf.Pid); ok && to == c.pid {
			from, _ := t[1].(etf.Pid) // none in a SEND
			return c.toSelf(from, msg.payload)
		}
		return nil // it may be a process of an earlier connection
	}
	if len(t) < 4 {
		return errTooShort
	}
	from, isPid := t[1].(etf.Pid)
	to, isAtom := t[3].(etf.Atom)
	if !isPid || !isAtom {
		return errors.New("sender that is no pid or name that is no atom")
	}
	return c.toProcess(Message{To: to, From: from, Term: msg.payload})
}

// gotAliased is for {ALIAS_SEND, From, Alias}, which may have a trace token. The alias can be the
// reference of something asked, such as a monitor. There are no other aliases.
func (c *Conn) gotAliased(msg control) error {
	var t etf.Tuple
	if err := msg.unmarshal(&t); err != nil {
		return err
	}
	if len(t) < 3 {
		return errTooShort
	}
	if msg.payload == nil {
		return errNoPayload
	}
	if alias, ok := t[2].(etf.Ref); ok && c.waitsFor(alias) {
		from, _ := t[1].(etf.Pid)
		return c.toSelf(from, msg.payload)
	}
	return nil
}

// toSelf is for an answer to something asked, {Ref, Reply}, or another message.
func (c *Conn) toSelf(from etf.Pid, term etf.Raw) error {
	var reply struct {
		_     struct{} `erl:",tuple"`
		Ref   etf.Ref
		Reply etf.Raw
	}
	if err := decodeRaw(term, &reply); err == nil && c.deliver(reply.Ref, outcome{term: reply.Reply, reply: true}) {
		return nil
	}
	return c.toProcess(Message{From: from, Term: term})
}

// toProcess leaves m to its handler. If there is none, it answers what every node does.
func (c *Conn) toProcess(m Message) error {
	if c.us.Processes[m.To] == nil {
		return c.answerSystem(m)
	}
	c.account.add(c, len(m.Term))
	select {
	case c.in <- m:
		return nil
	default:
		return errBehind
	}
}

// gotMonitor is for {MONITOR_P, From, ToPidOrName, Ref}. It reports at once as gone what is not
// there.
func (c *Conn) gotMonitor(msg control) error {
	var m struct {
		_    struct{} `erl:",tuple"`
		Op   int
		From etf.Pid
		To   any
		Ref  etf.Ref
	}
	if err := msg.unmarshal(&m); err != nil {
		return err
	}
	if c.has(m.To) {
		return nil
	}
	return c.reply(etf.Tuple{opMonitorExit, m.To, m.From, m.Ref, atomNoProc})
}

// has reports whether there is a process to, a pid or a name.
func (c *Conn) has(to any) bool {
	name, ok := to.(etf.Atom)
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
		From, To etf.Raw
		Ref      etf.Ref
		Reason   etf.Raw
	}
	err := msg.unmarshal(&m)
	if err == nil {
		c.deliver(m.Ref, outcome{term: m.Reason})
	}
	return err
}

// gotPayloadDown is for {PAYLOAD_MONITOR_P_EXIT, From, To, Ref}. Its payload is the reason.
func (c *Conn) gotPayloadDown(msg control) error {
	var m struct {
		_        struct{} `erl:",tuple"`
		Op       int
		From, To etf.Raw
		Ref      etf.Ref
	}
	err := msg.unmarshal(&m)
	if err == nil && msg.payload == nil {
		err = errNoPayload
	}
	if err == nil {
		c.deliver(m.Ref, outcome{term: msg.payload})
	}
	return err
}

// gotSpawned is for {SPAWN_REPLY, Ref, To, Flags, PidOrReason}. It may have a trace token.
func (c *Conn) gotSpawned(msg control) error {
	var t etf.Tuple
	if err := msg.unmarshal(&t); err != nil {
		return err
	}
	if len(t) < 5 {
		return errTooShort
	}
	ref, _ := t[1].(etf.Ref)
	switch result := t[4].(type) {
	case etf.Pid:
		c.found(ref, result)
	case etf.Atom:
		reason, err := etf.Append(nil, result)
		c.deliver(ref, outcome{term: reason, refused: result})
		return err
	}
	return nil
}

// refuseSpawn is for {SPAWN_REQUEST, Ref, From, GroupLeader, MFA, Options}. It may have a trace
// token. No peer runs anything here.
func (c *Conn) refuseSpawn(msg control) error {
	var t etf.Tuple
	if err := msg.unmarshal(&t); err != nil {
		return err
	}
	if len(t) < 6 {
		return errTooShort
	}
	ref, isRef := t[1].(etf.Ref)
	from, isPid := t[2].(etf.Pid)
	if !isRef || !isPid {
		return errors.New("request that is no reference or sender that is no pid")
	}
	return c.reply(etf.Tuple{opSpawnReply, ref, from, 0, atomNotSup})
}

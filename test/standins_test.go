package test

import (
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/node"
	"github.com/goerlang/eclus/node/etf"
	"github.com/goerlang/eclus/registry"
)

// TestStandIns has acceptors that do what nodes in other languages do. Their sources are not to be
// had here. They register as nodes of OTP do. By itself, epmd leaves them alone; -ping tells what
// they are.
func TestStandIns(t *testing.T) {
	t.Parallel()
	h := loopback(t)
	h.start(t, "-lan", "off")
	first := h.erl(t, "-name", "first@127.0.0.1")
	cookie := cookieOf(t, first)
	var asked atomic.Int32
	stand := func(name string, high uint16, serve func(net.Conn)) {
		port := h.serve(t, func(c net.Conn) {
			asked.Add(1)
			serve(c)
		})
		h.registerAs(t, epmd.AliveReq{Name: name, Port: port, Type: registry.Normal, High: high, Low: 5})
	}
	stand("pyrlang", 5, acceptOld)
	stand("atomvm", 6, func(c net.Conn) { acceptNew(c, "atomvm@127.0.0.1", cookie, atomVMFlags, answerPing) })
	stand("ergo", 6, func(c net.Conn) { acceptNew(c, "ergo@127.0.0.1", cookie, node.Mandatory, headersOnly) })
	last := h.erl(t, "-name", "last@127.0.0.1")
	// By now, those who came before have been asked, if at all.
	h.watch(t).until(t, local("last@127.0.0.1", sure))
	if n := asked.Load(); n != 0 {
		t.Errorf("epmd has connected %d times to what is no node of OTP", n)
	}

	h.ping(t, "pyrlang@127.0.0.1").checkFails(t, "identify", "an old node", "version 5")
	if p := h.ping(t, "atomvm@127.0.0.1"); !p.Pong {
		t.Errorf("AtomVM: %+v", p)
	}
	h.ping(t, "ergo@127.0.0.1").checkFails(t, "ping", "closed the connection on our first message", "distribution header")
	eval(t, last, "net_kernel:allow(['first@127.0.0.1']).", "ok")
	h.ping(t, "last@127.0.0.1").checkFails(t, "identify", "refuses eclus@127.0.0.1", "Either net_kernel:allow/1 .* or .* distribution flags")
	checkSilent(t, first)
}

// atomVMFlags are what AtomVM demands, beside what OTP does.
const atomVMFlags = node.Mandatory&^node.Mandatory25Digest | node.DistMonitor | node.DistMonitorName | node.UnicodeIO | node.SmallAtomTags |
	node.SendSender | node.BigSeqtraceLabels | node.ExitPayload | node.Spawn | node.Alias

// readPacket reads a message after its length in size bytes.
func readPacket(c net.Conn, size int) ([]byte, error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(c, head[4-size:]); err != nil {
		return nil, err
	}
	m := make([]byte, binary.BigEndian.Uint32(head))
	_, err := io.ReadFull(c, m)
	return m, err
}

func writePacket(c net.Conn, m []byte) {
	c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
}

// acceptOld knows the handshake of version 5 alone, as Pyrlang, and closes on another.
func acceptOld(c net.Conn) {
	if m, err := readPacket(c, 2); err == nil && m[0] == 'n' {
		writePacket(c, []byte("sok"))
		writePacket(c, append([]byte("n\x00\x05\x00\x03\x7f\xff\x00\x00\x00\x01"), "pyrlang@127.0.0.1"...))
		readPacket(c, 2)
	}
}

// acceptNew goes through the handshake of version 6 with a peer that has certain flags, and then
// on.
func acceptNew(c net.Conn, name, cookie string, flags node.Flags, connected func(net.Conn, string)) {
	m, err := readPacket(c, 2)
	if err != nil {
		return
	}
	peer, err := node.ParseSendName(m)
	if err != nil {
		return
	}
	if peer.Flags&flags != flags {
		writePacket(c, node.Status{Code: node.NotAllowed}.Append(nil))
		return
	}
	writePacket(c, node.Status{Code: node.OK}.Append(nil))
	writePacket(c, node.Challenge{Flags: flags | node.Published, Challenge: 7, Creation: 9, Name: name}.Append(nil))
	m, err = readPacket(c, 2)
	if err != nil {
		return
	}
	reply, err := node.ParseChallengeReply(m)
	if digest := func(n uint32) [md5.Size]byte { return md5.Sum(fmt.Append([]byte(cookie), n)) }; err == nil && reply.Digest == digest(7) {
		writePacket(c, node.ChallengeAck{Digest: digest(reply.Challenge)}.Append(nil))
		connected(c, name)
	}
}

// headersOnly takes only messages that begin with a distribution header, as ergo.
func headersOnly(c net.Conn, _ string) {
	for {
		m, err := readPacket(c, 4)
		if err != nil || len(m) > 0 && m[0] != 131 {
			return
		}
	}
}

// answerPing answers pings of net_kernel, as AtomVM, runs nothing for others and has no other
// process.
func answerPing(c net.Conn, name string) {
	send := func(terms ...any) {
		m := []byte{112}
		for _, t := range terms {
			m, _ = etf.Append(append(m, 131), t)
		}
		c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(m))), m...))
	}
	self := etf.Pid{Node: etf.Atom(name), ID: 1, Creation: 9}
	for {
		m, err := readPacket(c, 4)
		if err != nil {
			return
		}
		var control etf.Tuple
		var payload any
		if len(m) == 0 {
			continue
		}
		rest, err := etf.Cut(m[1:], &control)
		if err != nil {
			return
		}
		if len(rest) > 0 {
			if err := etf.Unmarshal(rest, &payload); err != nil {
				return
			}
		}
		switch control[0] {
		case int64(19): // MONITOR_P of what is not there
			if control[2] != etf.Atom("net_kernel") {
				// PAYLOAD_MONITOR_P_EXIT
				send(etf.Tuple{28, control[2], control[1], control[3]}, etf.Atom("noproc"))
			}
		case int64(29): // SPAWN_REQUEST
			send(etf.Tuple{31, control[1], control[2], 0, etf.Atom("notsup")})
		case int64(6): // REG_SEND
			if call, ok := payload.(etf.Tuple); ok && len(call) == 3 && control[3] == etf.Atom("net_kernel") {
				from := call[1].(etf.Tuple)
				// SEND_SENDER
				send(etf.Tuple{22, self, from[0]}, etf.Tuple{from[1], etf.Atom("yes")})
			}
		}
	}
}

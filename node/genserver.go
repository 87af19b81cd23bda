package node

import "github.com/goerlang/eclus/node/etf"

// GenCall is a message that gen_server:call/2 sends: {'$gen_call', {From, Tag}, Request}.
type GenCall struct {
	From    etf.Pid
	Tag     etf.Raw
	Request etf.Raw
}

// Call returns the call that m is, or false.
func (m Message) Call() (GenCall, bool) {
	var v struct {
		_    struct{} `erl:"$gen_call,tuple"`
		From struct {
			_   struct{} `erl:",tuple"`
			Pid etf.Pid
			Tag etf.Raw
		}
		Request etf.Raw
	}
	if decodeRaw(m.Term, &v) != nil {
		return GenCall{}, false
	}
	return GenCall{v.From.Pid, v.From.Tag, v.Request}, true
}

// Reply answers a call, as gen_server:reply/2 does.
func (c *Conn) Reply(to GenCall, reply any) error { return c.Send(to.From, etf.Tuple{to.Tag, reply}) }

// answerSystem answers, for the reader, what has no handler. These are calls of net_kernel, and
// requests for I/O from functions that run at the peer on our behalf.
func (c *Conn) answerSystem(m Message) error {
	if call, ok := m.Call(); ok && m.To == netKernel {
		return c.answerSend(call.From, etf.Tuple{call.Tag, netKernelReply(call.Request)})
	}
	var io struct {
		_       struct{} `erl:"io_request,tuple"`
		From    etf.Pid
		As      etf.Raw
		Request etf.Raw
	}
	if m.To == "" && decodeRaw(m.Term, &io) == nil {
		return c.answerSend(io.From, etf.Tuple{etf.Atom("io_reply"), io.As, etf.Tuple{atomError, etf.Atom("enotsup")}})
	}
	return nil
}

// netKernelReply says yes to a ping, {is_auth, Node}. It says that nothing else is to be had.
func netKernelReply(request etf.Raw) any {
	var ping struct {
		_    struct{} `erl:"is_auth,tuple"`
		Node etf.Atom
	}
	if decodeRaw(request, &ping) == nil {
		return atomYes
	}
	return etf.Tuple{atomError, atomNotSup}
}

// answerSend is Send for the reader.
func (c *Conn) answerSend(to etf.Pid, msg any) error {
	m, err := encodeMessage(etf.Tuple{opSend, etf.Atom(""), to}, msg)
	if err != nil {
		return err
	}
	return c.answer(m)
}

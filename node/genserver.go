package node

// GenCall is a message that gen_server:call/2 sends: {'$gen_call', {From, Tag}, Request}.
type GenCall struct {
	From    Pid
	Tag     RawTerm
	Request RawTerm
}

// Call returns the call that m is, or false.
func (m Message) Call() (GenCall, bool) {
	var v struct {
		_    struct{} `erl:"$gen_call,tuple"`
		From struct {
			_   struct{} `erl:",tuple"`
			Pid Pid
			Tag RawTerm
		}
		Request RawTerm
	}
	if decodeRaw(m.Term, &v) != nil {
		return GenCall{}, false
	}
	return GenCall{v.From.Pid, v.From.Tag, v.Request}, true
}

// Reply answers a call, as gen_server:reply/2 does.
func (c *Conn) Reply(to GenCall, reply any) error { return c.Send(to.From, Tuple{to.Tag, reply}) }

// answerSystem answers, for the reader, what has no handler: calls of net_kernel, and requests for I/O from
// functions that run at the peer on our behalf.
func (c *Conn) answerSystem(m Message) error {
	if call, ok := m.Call(); ok && m.To == netKernel {
		return c.answerSend(call.From, Tuple{call.Tag, netKernelReply(call.Request)})
	}
	var io struct {
		_       struct{} `erl:"io_request,tuple"`
		From    Pid
		As      RawTerm
		Request RawTerm
	}
	if m.To == "" && decodeRaw(m.Term, &io) == nil {
		return c.answerSend(io.From, Tuple{Atom("io_reply"), io.As, Tuple{atomError, Atom("enotsup")}})
	}
	return nil
}

// netKernelReply says yes to a ping, {is_auth, Node}, and that nothing else is to be had.
func netKernelReply(request RawTerm) any {
	var ping struct {
		_    struct{} `erl:"is_auth,tuple"`
		Node Atom
	}
	if decodeRaw(request, &ping) == nil {
		return atomYes
	}
	return Tuple{atomError, atomNotSup}
}

// answerSend is Send for the reader.
func (c *Conn) answerSend(to Pid, msg any) error {
	m, err := encodeMessage(Tuple{opSend, Atom(""), to}, msg)
	if err != nil {
		return err
	}
	return c.answer(m)
}

package epmd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/goerlang/eclus/test/wait"
)

// chunks is a script for several connections at once. The two lowest bits of what tell the
// connection. The next bit closes it afterwards, with the one above by a reset. A chunk is
//
//	what  length  bytes
//	 1      1     length
func chunks(script []byte, do func(conn int, b []byte, end, reset bool)) {
	for len(script) >= 2 {
		what, n := script[0], min(int(script[1]), len(script)-2)
		do(int(what&3), script[2:2+n], what&4 != 0, what&8 != 0)
		script = script[2+n:]
	}
}

// appendChunk appends what chunks reads.
func appendChunk(script []byte, what byte, b []byte) []byte {
	for len(b) > 255 {
		script = append(append(script, what&3, 255), b[:255]...)
		b = b[255:]
	}
	return append(append(script, what, byte(len(b))), b...)
}

// FuzzServer sends anything over several connections. The server must go on answering, and forget
// all of it.
func FuzzServer(f *testing.F) {
	for _, tt := range answerTests {
		f.Add(appendChunk(nil, 0, unhex(f, tt.hex)))
	}
	for i, tt := range aliveTests {
		frame := unhex(f, tt.hex)
		frame = append(binary.BigEndian.AppendUint16(nil, uint16(len(frame))), frame...)
		script := appendChunk(nil, 0, frame)
		script = appendChunk(script, 1, frame[:len(frame)/2])
		script = appendChunk(script, 0, []byte{byte(i)})
		script = appendChunk(script, 1|byte(i%4)<<2, frame[len(frame)/2:])
		f.Add(appendChunk(script, 2, []byte{0, 1, "nNdWk"[i%5]}))
	}
	f.Add(appendChunk(appendChunk(nil, 0, []byte{0, 1, 'W'}), 12, nil))
	for _, tt := range watchTests {
		req := unhex(f, tt.hex)
		frame := append(binary.BigEndian.AppendUint16(nil, uint16(len(req))), req...)
		f.Add(appendChunk(appendChunk(nil, 1, frame), 2, frame))
	}

	s := serve(f, Config{})
	answer := s.addNodes(1, "base")
	files := openFiles(f)
	f.Fuzz(func(t *testing.T, script []byte) {
		var peers [4]*peer
		chunks(script, func(i int, b []byte, end, reset bool) {
			if peers[i] == nil {
				peers[i] = dial(t, s.addr)
			}
			peers[i].send(b)
			if !end {
				return
			}
			if reset {
				peers[i].reset()
			}
			peers[i].Close()
			peers[i] = nil
		})
		for _, p := range peers {
			if p != nil {
				p.CloseWrite()
				io.Copy(io.Discard, p)
				p.Close()
			}
		}
		if want := (state{}); s.state() != want || s.streaming() != 0 || openFiles(t) > files {
			wait.True(t, "nothing is left", func() bool {
				return s.state() == want && s.streaming() == 0 && openFiles(t) <= files
			})
		}
		p := dial(t, s.addr)
		defer p.Close()
		p.ask(NamesReq{})
		if got := p.all(); !bytes.Equal(got, answer) {
			t.Errorf("names are %q; want %q", got, answer)
		}
		select {
		case err := <-s.ended:
			t.Fatal(errors.Join(errors.New("the server has ended"), err))
		default:
		}
	})
}

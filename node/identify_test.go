package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

const prober = "eclus@probing.host"

// answers of a node a@b, each after its length
const (
	okFrame        = "0003 736f6b"
	challengeFrame = "0016 4e 0000000000000001 00000002 00000003 0003 614062"
)

var identifyTests = []struct {
	name   string
	greet  string // answer to the TLS greeting; it is read as the handshake message of a plain node
	answer string // to the plain handshake
	want   Identity
	err    string
	is     error
}{
	{"plain", "", okFrame + challengeFrame, Identity{Name: "a@b", Flags: Published, Creation: 3}, "", nil},
	{"hidden", "", okFrame + "0016 4e 0000000000000004 00000002 00000003 0003 614062",
		Identity{Name: "a@b", Flags: ExtendedReferences, Creation: 3, Hidden: true}, "", nil},
	{"simultaneous", "", "0010 736f6b5f73696d756c74616e656f7573" + challengeFrame,
		Identity{Name: "a@b", Flags: Published, Creation: 3}, "", nil},
	{"old challenge", "", okFrame + "000e 6e 0005 00000001 00000002 614062", Identity{Name: "a@b", Flags: Published}, "", nil},
	{"closed", "", "", Identity{}, "read status", io.EOF},
	{"half a status", "", "0003 73", Identity{}, "read status", io.ErrUnexpectedEOF},
	{"empty status", "", "0000", Identity{}, "no status", nil},
	{"huge status", "", "ffff 736f6b", Identity{}, "65535 bytes", nil},
	{"other frame sizes", "", "00000003 736f6b", Identity{}, "no status", nil},
	{"ok and no more", "", okFrame, Identity{}, "read challenge: EOF", errCrossed},
	{"ok and half a challenge", "", okFrame + "0016 4e", Identity{}, "read challenge: unexpected EOF", errCrossed},
	{"huge challenge", "", okFrame + "1001 4e", Identity{}, "4097 bytes", nil},
	{"challenge of another kind", "", okFrame + okFrame, Identity{}, "no challenge", nil},
	{"escape in the name", "", okFrame + "0016 4e 0000000000000001 00000002 00000003 0003 1b4062", Identity{}, "printable", nil},
	{"Latin-1 name", "", okFrame + "0016 4e 0000000000000001 00000002 00000003 0003 6140e9", Identity{}, "UTF-8", nil},
	{"HTTP", "485454502f312e31203430300d0a0d0a", "", Identity{}, "TLS greeting", nil},
	{"a byte, then closed", "16", "", Identity{}, "TLS greeting", nil},
	{"TLS alert", "15 0303 0002 0228", "", Identity{TLS: true}, "handshake failure", ErrTLS},
	{"TLS, then closed", "16 0303 0040", "", Identity{TLS: true}, "EOF", ErrTLS},
	{"TLS, huge message", "16 0303 0004 02ffffff", "", Identity{TLS: true}, "exceeds maximum", ErrTLS},
}

func TestIdentify(t *testing.T) {
	for _, tt := range identifyTests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			addr := listen(t, func(c net.Conn) {
				m, err := frames{c, plainLenSize}.read()
				if err != nil { // the greeting: longer than any message of ours
					c.Write(unhex(t, tt.greet))
					return
				}
				want := SendName{Flags: probing, Name: prober}
				if got, err := ParseSendName(m); err != nil || got != want {
					t.Errorf("node was sent %x: %+v, %v; want %+v", m, got, err, want)
				}
				c.Write(unhex(t, tt.answer))
			})
			got, err := Identify(t.Context(), addr, prober)
			if got != tt.want || !names(err, tt.err) || !errors.Is(err, tt.is) && tt.is != nil {
				t.Errorf("got %+v, %v; want %+v, error %v naming %q", got, err, tt.want, tt.is, tt.err)
			}
			if got, want := IsBusy(err), tt.is == errCrossed; got != want {
				t.Errorf("%v: busy %v, want %v", err, got, want)
			}
		})
	}
}

func TestIdentifyStatus(t *testing.T) {
	for _, s := range []Status{{Code: NotOK}, {Code: NotAllowed}, {Code: Alive}, {Named, "x@y", 1}, {Code: "\x1b[2J"}} {
		t.Run(string(s.Code), func(t *testing.T) {
			replied := make(chan []byte, 1)
			addr := listen(t, plainNode(func(c net.Conn) {
				frames{c, plainLenSize}.write(s.Append(nil))
				b, _ := io.ReadAll(c)
				replied <- b
			}))
			got, err := Identify(t.Context(), addr, prober)
			refused := new(StatusError)
			if got != (Identity{}) || !errors.As(err, &refused) || refused.Code != s.Code {
				t.Errorf("got %+v, %v; want StatusError of %q", got, err, s.Code)
			}
			if got, want := IsBusy(err), s.Code != NotAllowed; got != want {
				t.Errorf("busy %v, want %v", got, want)
			}
			if strings.Contains(err.Error(), "\x1b") {
				t.Errorf("raw bytes of the peer in error %q", err)
			}
			want := ""
			if s.Code == Alive {
				want = "0006 7366616c7365"
			}
			if b := <-replied; !bytes.Equal(b, unhex(t, want)) {
				t.Errorf("replied %x; want %s", b, want)
			}
		})
	}
}

// TestIdentifyGreeting looks at the greeting. It is exactly one TLS record, and for a plain node
// a whole message.
func TestIdentifyGreeting(t *testing.T) {
	greeting := make(chan []byte, 1)
	addr := listen(t, func(c net.Conn) {
		var head [5]byte
		io.ReadFull(c, head[:])
		body := make([]byte, binary.BigEndian.Uint16(head[3:]))
		io.ReadFull(c, body)
		select {
		case greeting <- append(head[:], body...):
		default:
		}
	})
	_, err := Identify(t.Context(), addr, prober)
	b := <-greeting
	if !bytes.HasPrefix(b, []byte{0x16, 0x03}) || len(b) < 2+0x1603 || !errors.Is(err, io.EOF) {
		t.Errorf("greeting of %d bytes, %.8x, error %v; want more than %d, 1603, EOF", len(b), b, err, 2+0x1603)
	}
}

func TestIdentifySlowly(t *testing.T) {
	addr := listen(t, plainNode(func(c net.Conn) {
		for _, b := range unhex(t, okFrame+challengeFrame) {
			c.Write([]byte{b})
		}
	}))
	want := Identity{Name: "a@b", Flags: Published, Creation: 3}
	if got, err := Identify(t.Context(), addr, prober); got != want || err != nil {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

func TestIdentifyEnds(t *testing.T) {
	need.Time(t)
	drip := func(start string) func(net.Conn) { // begins well, and then a byte now and then
		return func(c net.Conn) {
			_, err := c.Write(unhex(t, start))
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for err == nil {
				<-tick.C
				_, err = c.Write([]byte{0})
			}
		}
	}
	silent := func(c net.Conn) { io.Copy(io.Discard, c) }
	for _, tt := range []struct {
		name string
		node func(net.Conn)
		want Identity
	}{
		{"silent", silent, Identity{}},
		{"TLS, drips", drip("16 0303 4000"), Identity{TLS: true}},
		{"plain, silent", plainNode(silent), Identity{}},
		{"plain, drips", plainNode(drip("0fff")), Identity{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			wait.Rounds(t, func() error { // the node must have begun by then
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				got, err := Identify(ctx, listen(t, tt.node), prober)
				if got != tt.want || !errors.Is(err, context.DeadlineExceeded) {
					return fmt.Errorf("got %+v, %v; want %+v and the deadline", got, err, tt.want)
				}
				return nil
			})
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		got, err := Identify(ctx, listen(t, func(c net.Conn) { cancel(); silent(c) }), prober)
		if got != (Identity{}) || !errors.Is(err, context.Canceled) {
			t.Errorf("got %+v, %v", got, err)
		}
	})
	t.Run("by itself", func(t *testing.T) {
		t.Parallel()
		start := time.Now()
		_, err := Identify(t.Context(), listen(t, silent), prober)
		if d := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || d < identifyTime || d > 4*identifyTime {
			t.Errorf("got %v after %v; want an end after %v", err, d, identifyTime)
		}
	})
}

func TestIdentifyNobody(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(ln.Addr().String())
	ln.Close()
	if got, err := Identify(t.Context(), addr, prober); got != (Identity{}) || !names(err, "connection refused") {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := Identify(t.Context(), addr, "nobody"); !names(err, `"nobody"`) {
		t.Errorf("prober without a host: got %v", err)
	}
}

func TestIdentifyTLS(t *testing.T) {
	cert := newCertificate(t)
	const challenge = "00000016 4e 0000000000000001 00000002 00000003 0003 614062"
	for _, tt := range []struct {
		name, answer string
		want         Identity
		err          string
	}{
		{"good", "00000003 736f6b" + challenge, Identity{"a@b", Published, 3, false, true}, ""},
		{"refused", "00000004 736e6f6b", Identity{TLS: true}, `"nok"`},
		{"huge", "ffffffff", Identity{TLS: true}, "4294967295 bytes"},
		{"closed", "", Identity{TLS: true}, "EOF"},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(tt.name+" "+tls.VersionName(version), func(t *testing.T) {
				addr := listen(t, func(c net.Conn) {
					s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: version})
					defer s.Close()
					if _, err := (frames{s, secureLenSize}).read(); err != nil {
						t.Errorf("node: read name: %v", err)
					}
					s.Write(unhex(t, tt.answer))
				})
				if got, err := Identify(t.Context(), addr, prober); got != tt.want || !names(err, tt.err) {
					t.Errorf("got %+v, %v; want %+v, error naming %q", got, err, tt.want, tt.err)
				}
			})
		}
	}
}

func TestPeerReadIsBounded(t *testing.T) {
	addr := listen(t, func(c net.Conn) { io.Copy(c, zeros{}) })
	p, err := dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if n, err := io.Copy(io.Discard, struct{ io.Reader }{p}); n != maxFromPeer || !names(err, "more than") {
		t.Errorf("read %d bytes, %v; want %d", n, err, maxFromPeer)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// plainNode is a plain node as far as the status. It closes a connection whose first message is
// no name. It leaves the rest of the others to answer.
func plainNode(answer func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		if m, err := (frames{c, plainLenSize}).read(); err == nil && slices.Contains(m[:1], tagName) {
			answer(c)
		}
	}
}

// listen serves each connection to the address it returns, until the test ends.
func listen(t *testing.T, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serve(c)
			drainAndClose(c)
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	return netip.MustParseAddrPort(ln.Addr().String())
}

// drainAndClose closes c without a reset that would destroy what was written.
func drainAndClose(c net.Conn) {
	c.(*net.TCPConn).CloseWrite()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	io.Copy(io.Discard, c)
	c.Close()
}

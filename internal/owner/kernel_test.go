package owner

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What Linux 6.18 on a little-endian machine answers to question 7, from a connection over IPv4,
// one over IPv6, and for none.
const (
	diagHeader = "7c000000 1400 0000 07000000 7a660000 "
	diagInet   = "02010000 9266 8c47 7f000001000000000000000000000000 7f000001000000000000000000000000 00000000" +
		"007c010000000000 00000000 00000000 00000000 e8030000 d4707c01 "
	diagInet6 = "0a010000 c634 80d9 00000000000000000000000000000001 00000000000000000000000000000001 00000000" +
		"007d010000000000 00000000 00000000 00000000 00000000 d8707c01 "
	diagMapped = "0a010000 c634 80d9 00000000000000000000ffff7f000001 00000000000000000000ffff7f000001 00000000" +
		"007d010000000000 00000000 00000000 00000000 00000000 d8707c01 "
	diagAttrs = "0500080000000000 08000f0000000000 0c00150001000000 02000000 0600160052000000"
	diagNone  = "5c000000 0200 0000 07000000 7a660000 feffffff 48000000 1400 0100 07000000 00000000 02060000 ffffffff" +
		"0001 0002 7f000001000000000000000000000000 7f000001000000000000000000000000 00000000 ffffffffffffffff"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// parse parses a datagram as the answer to question 7.
func parse(b []byte) (socket, error) {
	messages, err := parseAnswer(b, 7)
	if err != nil {
		return socket{}, err
	}
	return parseSocket(messages[0])
}

var diagTests = []struct {
	name, hex string
	want      socket
	err       string // what the error must say; empty: none
}{
	{"IPv4", diagHeader + diagInet + diagAttrs, socket{
		local: netip.MustParseAddrPort("127.0.0.1:37478"), peer: netip.MustParseAddrPort("127.0.0.1:35911"),
		uid: 1000, inode: 24932564, cgroup: 0x200000001,
	}, ""},
	{"IPv6", diagHeader + diagInet6 + diagAttrs, socket{
		local: netip.MustParseAddrPort("[::1]:50740"), peer: netip.MustParseAddrPort("[::1]:32985"),
		inode: 24932568, cgroup: 0x200000001,
	}, ""},
	{"IPv4 of an IPv6 socket", diagHeader + diagMapped + diagAttrs, socket{
		local: netip.MustParseAddrPort("127.0.0.1:50740"), peer: netip.MustParseAddrPort("127.0.0.1:32985"),
		inode: 24932568, cgroup: 0x200000001,
	}, ""},
	{"no attributes", "58" + diagHeader[2:] + diagInet6, socket{
		local: netip.MustParseAddrPort("[::1]:50740"), peer: netip.MustParseAddrPort("[::1]:32985"), inode: 24932568,
	}, ""},
	{"malformed attribute", diagHeader + diagInet6 + "0300150000000000" + diagAttrs[17:], socket{
		local: netip.MustParseAddrPort("[::1]:50740"), peer: netip.MustParseAddrPort("[::1]:32985"), inode: 24932568,
	}, ""},
	{"none", diagNone, socket{}, errNoSocket.Error()},
	{"refused", "14000000 0200 0000 07000000 00000000 ffffffff", socket{}, unix.EPERM.Error()},
	{"error cut short", "12000000 0200 0000 07000000 00000000 ffff 0000", socket{}, "2 bytes"},
	{"other question", "14000000 0200 0000 08000000 00000000 feffffff", socket{}, "question 8, not 7"},
	{"other type", "10000000 0300 0000 07000000 00000000", socket{}, "type 3"},
	{"cut short", "57" + diagHeader[2:] + diagInet6, socket{}, "71 bytes"},
	{"longer than it is", diagHeader + diagInet6, socket{}, "88 bytes"},
	{"shorter than a header", "0f000000 1400 0000 07000000 00000000", socket{}, "16 bytes"},
	{"no header", "10000000 1400 0000 07000000 000000", socket{}, "15 bytes"},
	{"nothing", "", socket{}, "0 bytes"},
}

func TestParseAnswer(t *testing.T) {
	for _, tt := range diagTests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parse(unhex(t, tt.hex))
			if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got %+v, %v; want %+v, error saying %q", got, err, tt.want, tt.err)
			}
		})
	}
	if _, err := parse(unhex(t, diagNone)); !errors.Is(err, errNoSocket) {
		t.Errorf("got %v; want errNoSocket", err)
	}
}

// TestQuestion compares a question with the copy of it in the kernel's answer.
func TestQuestion(t *testing.T) {
	for _, tt := range []struct{ local, peer, want string }{
		{"[::ffff:127.0.0.1]:1", "127.0.0.1:2", diagNone[strings.Index(diagNone, "02060000"):]},
		{"[fe80::1%7]:1", "[fe80::2%7]:2", "0a060000 ffffffff 0001 0002" +
			"fe800000000000000000000000000001 fe800000000000000000000000000002 07000000 ffffffffffffffff"},
	} {
		m := question(netip.MustParseAddrPort(tt.local), netip.MustParseAddrPort(tt.peer))
		if want := unhex(t, tt.want); !slices.Equal(m.Data, want) {
			t.Errorf("got  %x\nwant %x", m.Data, want)
		}
	}
}

func TestZoneIndex(t *testing.T) {
	for zone, want := range map[string]uint32{"": 0, "3": 3, "lo": 1, "nowhere": 0} {
		if got := zoneIndex(zone); got != want {
			t.Errorf("zone %q is interface %d; want %d", zone, got, want)
		}
	}
}

func FuzzParseAnswer(f *testing.F) {
	for _, tt := range diagTests {
		f.Add(unhex(f, tt.hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		sock, err := parse(b)
		if err == nil && (!sock.local.IsValid() || !sock.peer.IsValid()) {
			t.Errorf("%x: parsed as %+v", b, sock)
		}
	})
}

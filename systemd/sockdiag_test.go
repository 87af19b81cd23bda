package systemd

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What Linux 6.18 on a little-endian machine answers to question 7, from a connection over IPv4, one over IPv6, and
// for none.
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

func diagUnhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var diagTests = []struct {
	name, hex string
	want      diagSocket
	err       string // what the error must say; empty: none
}{
	{"IPv4", diagHeader + diagInet + diagAttrs, diagSocket{
		local: netip.MustParseAddrPort("127.0.0.1:37478"), peer: netip.MustParseAddrPort("127.0.0.1:35911"),
		uid: 1000, inode: 24932564, cgroup: 0x200000001,
	}, ""},
	{"IPv6", diagHeader + diagInet6 + diagAttrs, diagSocket{
		local: netip.MustParseAddrPort("[::1]:50740"), peer: netip.MustParseAddrPort("[::1]:32985"),
		inode: 24932568, cgroup: 0x200000001,
	}, ""},
	{"IPv4 of an IPv6 socket", diagHeader + diagMapped + diagAttrs, diagSocket{
		local: netip.MustParseAddrPort("127.0.0.1:50740"), peer: netip.MustParseAddrPort("127.0.0.1:32985"),
		inode: 24932568, cgroup: 0x200000001,
	}, ""},
	{"no attributes", "58" + diagHeader[2:] + diagInet6, diagSocket{
		local: netip.MustParseAddrPort("[::1]:50740"), peer: netip.MustParseAddrPort("[::1]:32985"), inode: 24932568,
	}, ""},
	{"attribute of no length", diagHeader + diagInet6 + "0000150000000000" + diagAttrs[17:], diagSocket{
		local: netip.MustParseAddrPort("[::1]:50740"), peer: netip.MustParseAddrPort("[::1]:32985"), inode: 24932568,
	}, ""},
	{"none", diagNone, diagSocket{}, errNoSocket.Error()},
	{"refused", "14000000 0200 0000 07000000 00000000 ffffffff", diagSocket{}, unix.EPERM.Error()},
	{"error cut short", "12000000 0200 0000 07000000 00000000 ffff", diagSocket{}, "2 bytes"},
	{"other question", "14000000 0200 0000 08000000 00000000 feffffff", diagSocket{}, "question 8, not 7"},
	{"other type", "10000000 0300 0000 07000000 00000000", diagSocket{}, "type 3"},
	{"cut short", "57" + diagHeader[2:] + diagInet6, diagSocket{}, "71 bytes"},
	{"longer than it is", diagHeader + diagInet6, diagSocket{}, "has 124"},
	{"shorter than a header", "0f000000 1400 0000 07000000 00000000", diagSocket{}, "has 15"},
	{"no header", "10000000 1400 0000 07000000 000000", diagSocket{}, "15 bytes"},
	{"nothing", "", diagSocket{}, "0 bytes"},
}

func TestParseDiagReply(t *testing.T) {
	for _, tt := range diagTests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseDiagReply(diagUnhex(t, tt.hex), 7)
			if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got %+v, %v; want %+v, error saying %q", got, err, tt.want, tt.err)
			}
		})
	}
	if _, err := parseDiagReply(diagUnhex(t, diagNone), 7); !errors.Is(err, errNoSocket) {
		t.Errorf("got %v; want errNoSocket", err)
	}
}

// TestDiagRequest compares a question with the copy of it in the kernel's answer.
func TestDiagRequest(t *testing.T) {
	got := diagRequest(7, netip.MustParseAddrPort("[::ffff:127.0.0.1]:1"), netip.MustParseAddrPort("127.0.0.1:2"))
	want := diagUnhex(t, diagNone)[20:]
	want = slices.Concat(want[:12], make([]byte, 4), want[16:])
	if !slices.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
	got = diagRequest(1, netip.MustParseAddrPort("[fe80::1%7]:1"), netip.MustParseAddrPort("[fe80::2%7]:2"))
	want = diagUnhex(t, "48000000 1400 0100 01000000 00000000 0a060000 ffffffff 0001 0002"+
		"fe800000000000000000000000000001 fe800000000000000000000000000002 07000000 ffffffffffffffff")
	if !slices.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}

func TestZoneIndex(t *testing.T) {
	for zone, want := range map[string]uint32{"": 0, "3": 3, "lo": 1, "nowhere": 0} {
		if got := zoneIndex(zone); got != want {
			t.Errorf("zone %q is interface %d; want %d", zone, got, want)
		}
	}
}

func FuzzParseDiagReply(f *testing.F) {
	for _, tt := range diagTests {
		f.Add(diagUnhex(f, tt.hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		sock, err := parseDiagReply(b, 7)
		if err == nil && (!sock.local.IsValid() || !sock.peer.IsValid()) {
			t.Errorf("%x: parsed as %+v", b, sock)
		}
	})
}

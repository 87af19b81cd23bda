package netif

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/wait"
)

// TestGateways has default routes come and go, of both families. Others are no news.
func TestGateways(t *testing.T) {
	inNetNS(t, func() error {
		for _, command := range []string{
			"link add d0 type veth peer name p0", "link add d1 type veth peer name p1", "link set lo up",
			"link set d0 up", "link set p0 up", "link set d1 up", "link set p1 up",
			"addr add 198.51.100.1/24 dev d0", "addr add 2001:db8::1/64 dev d0 nodad", "addr add 203.0.113.1/24 dev d1",
		} {
			if err := ip(t.Context(), command); err != nil {
				return err
			}
		}
		w, err := WatchRoutes()
		if err != nil {
			return err
		}
		defer w.Close()
		for _, tt := range []struct{ command, want, links string }{
			{"route add 192.0.2.0/24 via 198.51.100.9", "", " / "},
			{"route add default via 198.51.100.9", "198.51.100.9", "d0 / "},
			{"route add default via 198.51.100.7 table 100", "198.51.100.9", "d0 / "},
			{"route add default via 203.0.113.9 metric 100", "198.51.100.9 203.0.113.9", "d0 d1 / "},
			{"-6 route add default via fe80::9 dev d1", "198.51.100.9 203.0.113.9 fe80::9%d1", "d0 d1 / d1"},
			{"-6 route replace default via 2001:db8::9", "198.51.100.9 203.0.113.9 2001:db8::9", "d0 d1 / d0"},
			{"route del default via 203.0.113.9", "198.51.100.9 2001:db8::9", "d0 / d0"},
			{"route replace default nexthop via 198.51.100.7 dev d0 nexthop via 203.0.113.7 dev d1", "198.51.100.7 203.0.113.7 2001:db8::9", "d0 d1 / d0"},
			{"-6 route del default", "198.51.100.7 203.0.113.7", "d0 d1 / "},
			{"-4 route replace default via inet6 fe80::5 dev d0", "fe80::5%d0", "d0 / "},
			{"-4 route replace default dev d0", "", "d0 / "},
			{"-6 route add unreachable default", "", "d0 / "},
		} {
			before, err := Gateways()
			if err != nil {
				return err
			}
			if err := ip(t.Context(), tt.command); err != nil {
				return err
			}
			got, err := Gateways()
			if err != nil {
				return err
			}
			if want := parseAddrs(tt.want); !slices.Equal(got, want) {
				t.Errorf("ip %s: got %v; want %v", tt.command, got, want)
			}
			if links, err := defaultLinks(); err != nil || links != tt.links {
				t.Errorf("ip %s: default routes lead to %q, %v; want %q", tt.command, links, err, tt.links)
			}
			if slices.Equal(got, before) {
				continue
			}
			select {
			case <-w.Changed():
			case <-time.After(wait.Patience):
				return fmt.Errorf("nothing told of: ip %s", tt.command)
			}
		}
		return nil
	})
}

func parseAddrs(list string) (addrs []netip.Addr) {
	for a := range strings.FieldsSeq(list) {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	return addrs
}

// TestParseHops has hops that are cut short.
func TestParseHops(t *testing.T) {
	for _, b := range []string{"", "\x08", "\x08\x00\x00\x00\x01\x00\x00", "\x00\x00\x00\x00\x01\x00\x00\x00", "\xff\x00\x00\x00\x01\x00\x00\x00"} {
		if got := parseHops([]byte(b)); got != nil {
			t.Errorf("%q: got %v", b, got)
		}
	}
}

// defaultLinks returns the names of the interfaces of default routes, those of IPv6 behind a slash.
func defaultLinks() (string, error) {
	four, six, err := DefaultLinks()
	name := func(list []int32) string {
		var names []string
		for _, index := range list {
			names = append(names, Name(int(index)))
		}
		return strings.Join(names, " ")
	}
	return name(four) + " / " + name(six), err
}

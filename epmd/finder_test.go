package epmd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/registry"

	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// ports returns that port at addresses.
func ports(port uint16, addrs ...string) (list []netip.AddrPort) {
	for _, a := range addrs {
		list = append(list, netip.AddrPortFrom(netip.MustParseAddr(a), port))
	}
	return list
}

// silent takes connections at an address and port and never answers.
func silent(t *testing.T, at netip.AddrPort) {
	t.Helper()
	l, err := listen(at.String())
	need.Possible(t, err)
	t.Cleanup(func() { l.Close() })
}

// TestClientAddresses asks an epmd with further addresses. Those refuse, say nothing, or lead to
// another epmd.
func TestClientAddresses(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{})
	s.addNodes(1, "a")
	port := s.addr.Port()
	silent(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.3"), port))
	other := serveAt(t, Config{}, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.4"), port).String())
	for _, addrs := range [][]string{
		{"127.0.0.1"}, {"127.0.0.2", "127.0.0.1"}, {"127.0.0.3", "127.0.0.1"}, {"127.0.0.4", "127.0.0.1"},
		{"127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.1", "127.0.0.5"},
	} {
		began := time.Now()
		resp, at, err := NewClient(ports(port, addrs...)...).LookupAt(t.Context(), "a0")
		if err != nil || resp.Name != "a0" || at != s.addr {
			t.Errorf("%v: got %+v at %v, %v", addrs, resp, at, err)
		}
		t.Logf("%v: %v", addrs, time.Since(began).Round(time.Millisecond))
	}
	for _, addrs := range [][]string{{"127.0.0.1"}, {"127.0.0.2", "127.0.0.1"}, {"127.0.0.1", "127.0.0.3"}} {
		_, at, err := NewClient(ports(port, addrs...)...).LookupAt(t.Context(), "nobody")
		if !errors.Is(err, ErrNotRegistered) || at != s.addr {
			t.Errorf("%v, unknown: %v at %v", addrs, err, at)
		}
	}
	names, err := NewClient(ports(port, "127.0.0.2", "127.0.0.3", "127.0.0.4")...).Names(t.Context())
	if err != nil || len(names.Nodes) != 0 || names.EPMDPort != DefaultPort {
		t.Errorf("names: %+v, %v", names, err)
	}
	wait.Rounds(t, func() error { // both must have been asked by then
		ctx, cancel := context.WithTimeout(t.Context(), 3*stagger)
		defer cancel()
		_, err := NewClient(ports(port, "127.0.0.2", "127.0.0.3")...).Lookup(ctx, "a0")
		each := AddrErrors(nil)
		if !errors.As(err, &each) || len(each) != 2 || !anyNames(each, "127.0.0.2", "refused") || !anyNames(each, "127.0.0.3", "deadline") {
			return fmt.Errorf("nobody answers: %w", err)
		}
		return nil
	})
	if _, err := NewClient().Names(t.Context()); !strings.Contains(fmt.Sprint(err), "no address") {
		t.Errorf("no address: %v", err)
	}
	if err := NewClient(ports(port, "127.0.0.2", "127.0.0.1")...).Kill(t.Context()); !errors.Is(err, ErrRefused) {
		t.Errorf("kill: %v", err)
	}
	other.stillAnswers()
}

// anyNames reports whether one of the errors is of that address and names that.
func anyNames(errs []*AddrError, addr, naming string) bool {
	return slices.ContainsFunc(errs, func(e *AddrError) bool {
		return e.Addr.Addr().String() == addr && strings.Contains(e.Error(), naming)
	})
}

// TestFinder finds nodes by names of three kinds. They resolve to several addresses, to loopback
// as the name of this host, or nowhere.
func TestFinder(t *testing.T) {
	s := serve(t, Config{})
	a, err := s.client.Register(t.Context(), AliveReq{Port: 4711, High: 6, Low: 5, Type: registry.Normal, Name: "a"})
	wait.Must(t, err)
	defer a.Close()
	f := &Finder{Port: s.addr.Port(), Host: "hosta.lab.example", Resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
		var addrs []netip.Addr
		switch host {
		case "both":
			for _, a := range []string{"::1", "fe80::1", "::ffff:127.0.0.2", "127.0.0.1"} {
				addrs = append(addrs, netip.MustParseAddr(a))
			}
		case "nothing":
			return nil, nil
		default:
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
		return addrs, nil
	}}
	for node, wanted := range map[string][]netip.AddrPort{
		"a@both":              ports(4711, "127.0.0.1", "127.0.0.2", "::1", "fe80::1"),
		"a@hosta":             ports(4711, "127.0.0.1", "::1"),
		"a@HOSTA":             ports(4711, "127.0.0.1", "::1"),
		"a@hosta.lab.example": ports(4711, "127.0.0.1", "::1"),
	} {
		if got, err := f.Find(t.Context(), node); err != nil || !slices.Equal(got, wanted) {
			t.Errorf("%s: got %v, %v; want %v", node, got, err, wanted)
		}
	}
	for node, naming := range map[string]string{
		"a": "no host", "a@hosta.local": "no such host", "a@hosta.lab": "no such host", "a@": "no such host",
		"a@nothing": `host "nothing" has no address`, "b@both": `"b" is not registered, 1 other`,
	} {
		if got, err := f.Find(t.Context(), node); err == nil || !strings.Contains(err.Error(), naming) {
			t.Errorf("%s: got %v, %v; want an error naming %s", node, got, err, naming)
		}
	}
	absent := (*NotFoundError)(nil)
	if _, err := f.Find(t.Context(), "b@both"); !errors.Is(err, ErrNotRegistered) || !errors.As(err, &absent) ||
		!slices.Equal(absent.Others, []NamedPort{{"a", 4711}}) || absent.At != s.addr {
		t.Errorf("not registered: %v", err)
	}
}

func TestParseDomain(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "nameserver 192.0.2.1\n": "", "domain lab.example\n": "lab.example", "search lab.example. example\noptions x\n": "lab.example",
		"search a.example\ndomain b.example\n": "b.example", "search\n": "", "# domain x\n": "",
	} {
		if got := parseDomain(strings.NewReader(text)); got != want {
			t.Errorf("%q: got %q; want %q", text, got, want)
		}
	}
}

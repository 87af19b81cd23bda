package way

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/cookie"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/node"
	"github.com/goerlang/eclus/registry"
)

// goodWorld is one in which the node b@hostb.local is well.
func goodWorld(t *testing.T) world {
	t.Helper()
	return world{
		addresses: func(context.Context, string) ([]netip.Addr, error) { return []netip.Addr{addr("198.51.100.12")}, nil },
		lookup: func(_ context.Context, at []netip.AddrPort, name string) (epmd.PortResp, netip.AddrPort, error) {
			return epmd.PortResp{Name: name, Port: 4711}, at[0], nil
		},
		names:    func(context.Context, netip.AddrPort) (epmd.Names, error) { return epmd.Names{}, nil },
		connect:  func(_ context.Context, at []netip.AddrPort) (netip.AddrPort, error) { return at[0], nil },
		identify: identifiedAs("b@hostb.local"),
		dial: func(*node.Dialer, context.Context, string, ...netip.AddrPort) (*node.Conn, error) {
			return nil, nil
		},
		neighbours: func(context.Context) ([]registry.Node, error) { return nil, errors.New("no epmd here") },
		prefixes:   func() ([]netip.Prefix, error) { return []netip.Prefix{netip.MustParsePrefix("198.51.100.11/24")}, nil },
		switching:  func() ([]byte, error) { return []byte("hosts: files mdns4_minimal [NOTFOUND=return] dns\n"), nil },
	}
}

// noEPMD has no epmd answer.
func noEPMD(w *world) {
	w.lookup = func(_ context.Context, at []netip.AddrPort, _ string) (epmd.PortResp, netip.AddrPort, error) {
		return epmd.PortResp{}, netip.AddrPort{}, each(at[0].String(), syscall.ECONNREFUSED)
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func identifiedAs(name string) func(context.Context, netip.AddrPort, string) (node.Identity, error) {
	return func(context.Context, netip.AddrPort, string) (node.Identity, error) {
		return node.Identity{Name: name, Flags: node.Published | node.Spawn}, nil
	}
}

// each is the error of several addresses.
func each(addrsAndErrors ...any) error {
	var errs epmd.AddrErrors
	for i := 0; i < len(addrsAndErrors); i += 2 {
		errs = append(errs, &epmd.AddrError{
			Addr: netip.MustParseAddrPort(addrsAndErrors[i].(string)), Err: addrsAndErrors[i+1].(error), After: time.Millisecond})
	}
	return fmt.Errorf("ask epmd: %w", errs)
}

const (
	epmdAt = "198.51.100.12:4369"
	nodeAt = "198.51.100.12:4711"
)

// overTLS has the node speak TLS.
func overTLS(w *world) {
	w.identify = func(context.Context, netip.AddrPort, string) (node.Identity, error) {
		return node.Identity{Name: "b@hostb.local", Flags: node.Published | node.Spawn, TLS: true}, nil
	}
}

// TestAdvice has the way end in all ways that there is advice for.
func TestAdvice(t *testing.T) {
	resolves := func(addrs ...string) func(*world) {
		return func(w *world) {
			w.addresses = func(context.Context, string) (list []netip.Addr, err error) {
				for _, a := range addrs {
					list = append(list, addr(a))
				}
				if len(list) == 0 {
					err = errors.New("no address is known")
				}
				return list, err
			}
		}
	}
	asked := func(err error) func(*world) {
		return func(w *world) {
			w.lookup = func(context.Context, []netip.AddrPort, string) (epmd.PortResp, netip.AddrPort, error) {
				return epmd.PortResp{}, netip.AddrPort{}, err
			}
			w.connect = func(_ context.Context, at []netip.AddrPort) (netip.AddrPort, error) { return netip.AddrPort{}, err }
		}
	}
	connected := func(err error) func(*world) {
		return func(w *world) {
			w.connect = func(context.Context, []netip.AddrPort) (netip.AddrPort, error) { return netip.AddrPort{}, err }
		}
	}
	announces := func(n registry.Node) func(*world) {
		return func(w *world) {
			w.neighbours = func(context.Context) ([]registry.Node, error) { return []registry.Node{{Node: "x@y"}, n}, nil }
		}
	}
	absent := func(names epmd.Names, err error) func(*world) {
		return func(w *world) {
			w.lookup = func(_ context.Context, at []netip.AddrPort, _ string) (epmd.PortResp, netip.AddrPort, error) {
				return epmd.PortResp{}, at[0], epmd.ErrNotRegistered
			}
			w.names = func(context.Context, netip.AddrPort) (epmd.Names, error) { return names, err }
		}
	}
	switched := func(text string) func(*world) {
		return func(w *world) { w.switching = func() ([]byte, error) { return []byte(text), nil } }
	}
	interfaces := func(prefixes ...string) func(*world) {
		return func(w *world) {
			w.prefixes = func() (list []netip.Prefix, err error) {
				for _, p := range prefixes {
					list = append(list, netip.MustParsePrefix(p))
				}
				return list, nil
			}
		}
	}
	identified := func(id node.Identity, err error) func(*world) {
		return func(w *world) {
			w.identify = func(context.Context, netip.AddrPort, string) (node.Identity, error) { return id, err }
		}
	}
	dialed := func(err error) func(*world) {
		return func(w *world) {
			w.dial = func(*node.Dialer, context.Context, string, ...netip.AddrPort) (*node.Conn, error) { return nil, err }
		}
	}
	registered := func(answer epmd.PortResp) func(*world) {
		return func(w *world) {
			w.lookup = func(_ context.Context, at []netip.AddrPort, _ string) (epmd.PortResp, netip.AddrPort, error) {
				return answer, at[0], nil
			}
		}
	}
	many := func(n int) (names epmd.Names) {
		for range n {
			names.Nodes = append(names.Nodes, epmd.NamedPort{Name: "x"})
		}
		return names
	}
	for _, tt := range []struct {
		name          string
		node          string // b@hostb.local if empty
		world         []func(*world)
		cookie        string // "none": there is none
		prove         bool
		roots         *x509.CertPool
		step          string // where the way ends; "": nowhere
		found, advice string
	}{
		{name: "pong"},
		{name: "no full name", node: "b", step: "name", found: "NAME@HOST", advice: "full node name"},
		{
			name:   "no multicast DNS",
			world:  []func(*world){resolves(), switched("hosts: files dns # mdns4\n")},
			step:   "resolve",
			found:  "no address is known",
			advice: "libnss-mdns",
		},
		{
			name:   "IPv4 alone is looked up, and the neighbour has IPv6",
			world:  []func(*world){resolves(), announces(registry.Node{Node: "c@hostb.local", Host: "hostb.local", Origin: registry.LAN, Addresses: []netip.Addr{addr("fe80::1%eth0")}})},
			step:   "trust",
			found:  "only an announcement says that hostb.local is fe80::1%eth0: no cookie is proved there",
			advice: "pass it on.*-prove.*no address is known.*nsswitch.conf has mdns4_minimal.*write mdns_minimal",
		},
		{
			name:   "IPv4 alone is looked up, and this host has IPv6",
			world:  []func(*world){resolves(), interfaces("127.0.0.1/8", "2001:db8::1/64")},
			step:   "resolve",
			advice: "nsswitch.conf has mdns4_minimal",
		},
		{
			name:   "both are looked up",
			world:  []func(*world){resolves(), interfaces("2001:db8::1/64"), switched("hosts: files mdns_minimal\n")},
			step:   "resolve",
			advice: "Nobody on the LAN",
		},
		{
			name:   "nobody of that name",
			world:  []func(*world){resolves()},
			step:   "resolve",
			advice: "Nobody on the LAN.*avahi-resolve -n hostb.local",
		},
		{
			name:   "renamed by Avahi",
			world:  []func(*world){resolves(), announces(registry.Node{Node: "b@hostb.local", Host: "hostb-2.local", Origin: registry.LAN, Addresses: []netip.Addr{addr("198.51.100.12")}})},
			step:   "trust",
			found:  "hostb.local is 198.51.100.12",
			advice: `announces itself as hostb-2\.local \(198\.51\.100\.12\).*Avahi renames.*-name b@hostb-2\.local, or put hostb\.local`,
		},
		{
			name:   "other name than in DNS",
			node:   "b@db.example.com",
			world:  []func(*world){resolves(), announces(registry.Node{Node: "b@db.example.com", Host: "hostb.local"})},
			step:   "resolve",
			advice: `^The host that has it announces itself as hostb\.local \(\)\.\nStart`,
		},
		{
			name:  "announced, and prove",
			prove: true,
			world: []func(*world){resolves(), announces(registry.Node{Node: "b@hostb.local", Host: "hostb.local", Origin: registry.LAN, Addresses: []netip.Addr{addr("198.51.100.12")}})},
			found: "the node accepted our cookie, that in ERLANG_COOKIE$",
		},
		{
			name: "a peer that has been named counts as the resolver",
			world: []func(*world){resolves(), func(w *world) {
				w.neighbours = func(context.Context) ([]registry.Node, error) {
					return []registry.Node{
						{Node: "b@hostb.local", Host: "hostb.local", Origin: registry.LAN, Addresses: []netip.Addr{addr("198.51.100.66")}},
						{Node: "c@hostb.local", Host: "hostb.local", Origin: registry.Peer, Named: true, Addresses: []netip.Addr{addr("198.51.100.12")}},
					}, nil
				}
				w.dial = func(_ *node.Dialer, _ context.Context, _ string, at ...netip.AddrPort) (*node.Conn, error) {
					if at[0].String() != nodeAt {
						return nil, fmt.Errorf("dials %v", at)
					}
					return nil, nil
				}
			}},
			found: "accepted our cookie",
		},
		{
			name:  "in a nodes file, without epmd",
			world: []func(*world){noEPMD, announces(registry.Node{Node: "b@hostb.local", Via: "b.nodes", Port: 4711, Origin: registry.Peer, Named: true})},
			found: "accepted our cookie",
		},
		{
			name:  "in a nodes file that a program has written",
			world: []func(*world){noEPMD, announces(registry.Node{Node: "b@hostb.local", Via: "b.nodes", Port: 4711, Origin: registry.Peer})},
			step:  "epmd",
		},
		{
			name:   "DNS",
			node:   "b@db.example.com",
			world:  []func(*world){resolves()},
			step:   "resolve",
			advice: "getent ahosts db.example.com",
		},
		{
			name:   "short name",
			node:   "b@hostb",
			world:  []func(*world){resolves()},
			step:   "resolve",
			advice: "short name.*-name NAME@hostb.local.*ECLUS_PEER=gateway",
		},
		{
			name: "the host of a container",
			node: "b@hostb",
			world: []func(*world){resolves("127.0.1.1"), absent(epmd.Names{}, nil),
				announces(registry.Node{Node: "b@hostb", Origin: registry.Peer, Named: true, Addresses: []netip.Addr{addr("198.51.100.12")}})},
			step:   "lookup",
			found:  "not registered",
			advice: "^hostb is loopback here.*198.51.100.12.*eclus_epmd.*base_hosts_file",
		},
		{
			name: "the host of a container, which is only announced",
			node: "b@hostb",
			world: []func(*world){resolves("127.0.1.1"), absent(epmd.Names{}, nil),
				announces(registry.Node{Node: "b@hostb", Origin: registry.LAN, Addresses: []netip.Addr{addr("198.51.100.12")}})},
			step:   "lookup",
			advice: "^Nor is any",
		},
		{
			name:   "no zone",
			node:   "b@fe80::1",
			world:  []func(*world){resolves("fe80::1")},
			step:   "resolve",
			found:  "fe80::1, a link-local address without its zone",
			advice: "fe80::1%eth0",
		},
		{
			name:   "epmd refuses",
			world:  []func(*world){asked(each(epmdAt, syscall.ECONNREFUSED))},
			step:   "epmd",
			found:  "nothing listens on " + epmdAt,
			advice: "no epmd takes connections.*loopback only.*container, the host's port 4369",
		},
		{
			name:   "epmd silent",
			world:  []func(*world){asked(each(epmdAt, context.DeadlineExceeded))},
			step:   "epmd",
			found:  "no answer from " + epmdAt,
			advice: "down, or a firewall drops.*4369",
		},
		{
			name:   "epmd closes",
			world:  []func(*world){asked(each(epmdAt, epmd.ErrNoAnswer))},
			step:   "epmd",
			found:  "closes the connection",
			advice: "-allow",
		},
		{
			name:   "no epmd",
			world:  []func(*world){asked(each(epmdAt, errors.New("no epmd has port 1213486160")))},
			step:   "epmd",
			found:  "no epmd has port",
			advice: "may be no epmd",
		},
		{
			name:   "no route",
			world:  []func(*world){asked(each(epmdAt, syscall.ENETUNREACH))},
			step:   "epmd",
			found:  "no way",
			advice: "no route",
		},
		{
			name:   "rejected",
			world:  []func(*world){asked(each(epmdAt, syscall.EHOSTUNREACH))},
			step:   "epmd",
			found:  "rejected",
			advice: `firewall rejects.*4369 \(with "host unreachable"\)`,
		},
		{
			name:   "unreachable by a router",
			world:  []func(*world){asked(each(epmdAt, syscall.EHOSTUNREACH)), interfaces("192.0.2.1/24")},
			step:   "epmd",
			found:  "no way",
			advice: "router says so.*down, or a firewall",
		},
		{
			name:   "missing",
			world:  []func(*world){asked(each(epmdAt, syscall.EHOSTUNREACH)), connected(context.DeadlineExceeded)},
			step:   "epmd",
			found:  "no way",
			advice: "down or on another network",
		},
		{
			name:   "each address",
			world:  []func(*world){resolves("198.51.100.12", "fe80::1", "2001:db8::2"), asked(each(epmdAt, syscall.ECONNREFUSED, "[fe80::1]:4369", syscall.EINVAL, "[2001:db8::2]:4369", syscall.ENETUNREACH))},
			step:   "epmd",
			found:  `nothing listens on .*:4369 for us; fe80::1 is a link-local address without its zone; no way to \[2001:db8::2\]`,
			advice: "(?s)The host is up.*Add the interface.*no route",
		},
		{
			name:   "none registered",
			world:  []func(*world){absent(epmd.Names{}, nil)},
			step:   "lookup",
			found:  `"b" is not registered`,
			advice: "Nor is any other",
		},
		{
			name:   "others registered",
			world:  []func(*world){absent(many(2), nil)},
			step:   "lookup",
			advice: "^These are: x, x$",
		},
		{
			name:   "many registered",
			world:  []func(*world){absent(many(23), nil)},
			step:   "lookup",
			advice: "^These are, and 3 more: x, x",
		},
		{
			name:   "more registered than are read",
			world:  []func(*world){absent(epmd.Names{Nodes: many(23).Nodes, Cut: true}, nil)},
			step:   "lookup",
			advice: "^These are, and many more: x, x",
		},
		{
			name:   "at another port",
			world:  []func(*world){absent(many(2), nil), announces(registry.Node{Node: "b@elsewhere", Name: "b", Host: "hostb.local", EPMDPort: 5555})},
			step:   "lookup",
			advice: "^The LAN has it at the epmd on port 5555 of hostb.local: epmd -port 5555 -ping b@elsewhere.*\nThese are",
		},
		{
			name:   "others not told",
			world:  []func(*world){absent(epmd.Names{}, io.ErrUnexpectedEOF)},
			step:   "lookup",
			advice: "can't be told",
		},
		{
			name:   "port closed",
			world:  []func(*world){connected(each(nodeAt, syscall.ECONNREFUSED))},
			step:   "connect",
			found:  "nothing listens on " + nodeAt,
			advice: "inet_dist_use_interface.*publish that",
		},
		{
			name:   "port dropped",
			world:  []func(*world){connected(each(nodeAt, context.DeadlineExceeded))},
			step:   "connect",
			found:  "no answer",
			advice: "firewall drops.*inet_dist_listen_min",
		},
		{
			name:   "port rejected",
			world:  []func(*world){connected(each(nodeAt, syscall.EHOSTUNREACH))},
			step:   "connect",
			found:  "rejected",
			advice: "epmd answers there, so a firewall rejects",
		},
		{
			name:  "port at each address",
			world: []func(*world){connected(each(nodeAt, syscall.ECONNREFUSED, "[2001:db8::2]:4711", syscall.EHOSTUNREACH, "[fe80::1]:4711", syscall.EINVAL))},
			step:  "connect",
			found: `nothing listens on .*:4711 for us; no way to \[2001:db8::2\]:4711; fe80::1 is a link-local`,
		},
		{
			name:   "another name",
			world:  []func(*world){func(w *world) { w.identify = identifiedAs("b@hostb") }},
			step:   "identify",
			found:  "calls itself b@hostb",
			advice: "(?s)epmd -ping b@hostb\n.*can't be connected",
		},
		{
			name: "another name, of a host that was renamed",
			node: "b@hostb-2.local",
			world: []func(*world){func(w *world) {
				w.addresses = func(_ context.Context, host string) ([]netip.Addr, error) {
					if host == "hostb-2.local" {
						return []netip.Addr{addr("198.51.100.12")}, nil
					}
					return nil, errors.New("no address")
				}
			}},
			step:   "identify",
			advice: `hostb\.local resolves nowhere here: its host is known as hostb-2\.local\.\nStart the node with -name b@hostb-2\.local, or put hostb\.local and its address 198\.51`,
		},
		{
			name:   "suspended",
			world:  []func(*world){identified(node.Identity{}, context.DeadlineExceeded)},
			step:   "identify",
			found:  "does not answer",
			advice: "suspended, overloaded or hanging",
		},
		{
			name:   "wants a certificate",
			world:  []func(*world){identified(node.Identity{TLS: true}, node.ErrTLS)},
			step:   "identify",
			found:  "speaks TLS",
			advice: "verify_peer",
		},
		{
			name:   "not allowed",
			world:  []func(*world){identified(node.Identity{}, &node.StatusError{Code: node.NotAllowed})},
			step:   "identify",
			found:  "refuses eclus@hosta",
			advice: "net_kernel:allow/1.*log says which",
		},
		{
			name:   "old flags",
			world:  []func(*world){identified(node.Identity{}, &node.FlagsError{Missing: node.Spawn})},
			step:   "identify",
			found:  "an old node",
			advice: "version 5",
		},
		{
			name:   "old handshake",
			world:  []func(*world){identified(node.Identity{}, node.ErrHungUp)},
			step:   "identify",
			found:  "an old node: connection closed",
			advice: "version 5",
		},
		{
			name:   "hangs up",
			world:  []func(*world){identified(node.Identity{}, node.ErrHungUp), registered(epmd.PortResp{Port: 4711, High: 6})},
			step:   "identify",
			found:  "^connection closed",
			advice: "may be no Erlang node, or one written in another language",
		},
		{
			name:   "no node",
			world:  []func(*world){identified(node.Identity{}, errors.New("message of 12345 bytes"))},
			step:   "identify",
			found:  "12345",
			advice: "^What listens there may be no Erlang node.$",
		},
		{
			name:   "no cookie",
			cookie: "none",
			step:   "cookie",
			found:  "no cookie: neither",
			advice: "takes its cookie",
		},
		{
			name:   "another cookie",
			world:  []func(*world){dialed(fmt.Errorf("connect: %w", node.ErrCookie))},
			step:   "cookie",
			found:  "the node does not accept the cookie in ERLANG_COOKIE",
			advice: "erlang:get_cookie.*logged this try",
		},
		{
			name:   "a certificate that is wrong",
			world:  []func(*world){overTLS, dialed(fmt.Errorf("connect: %w: expired", node.ErrUnverified))},
			roots:  x509.NewCertPool(),
			step:   "cookie",
			found:  "certificate not verified: expired",
			advice: "No cookie is proved.*for hostb.local",
		},
		{
			name:   "no certificate to verify",
			roots:  x509.NewCertPool(),
			world:  []func(*world){dialed(errors.New("dialled"))},
			step:   "cookie",
			found:  "does not speak TLS",
			advice: "No cookie is proved",
		},
		{
			name:  "a certificate that is right",
			world: []func(*world){overTLS},
			roots: x509.NewCertPool(),
			found: "accepted our cookie.*; its certificate is verified$",
		},
		{
			name:  "a certificate that is not verified",
			world: []func(*world){overTLS},
			found: `accepted our cookie.*; its certificate is not verified \(-ca\)$`,
		},
		{
			name:   "a C node does not answer",
			world:  []func(*world){registered(epmd.PortResp{Port: 4711, Type: registry.CNode}), dialed(context.DeadlineExceeded)},
			step:   "cookie",
			found:  "does not answer",
			advice: "hanging",
		},
		{
			name:  "a C node",
			world: []func(*world){registered(epmd.PortResp{Port: 4711, Type: registry.CNode})},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := New(Options{Node: cmp.Or(tt.node, "b@hostb.local"), Port: epmd.DefaultPort, Prove: tt.prove, Roots: tt.roots, HostName: "hosta", Getenv: secret}, nil)
			if tt.cookie != "" {
				w.options.Getenv = func(string) (string, bool) { return "", false }
			}
			w.net = goodWorld(t)
			for _, change := range tt.world {
				change(&w.net)
			}
			arrived := w.Go(t.Context())
			last := w.Steps[len(w.Steps)-1]
			if arrived != (tt.step == "") || !arrived && last.Step != tt.step {
				t.Fatalf("arrived %v, ends with %+v; want it to end at %q", arrived, last, tt.step)
			}
			advice := strings.Join(last.Advice, "\n")
			for text, pattern := range map[string]string{last.Found: tt.found, advice: tt.advice} {
				if !regexp.MustCompile("(?s)" + pattern).MatchString(text) {
					t.Errorf("got %q; want %q", text, pattern)
				}
			}
			taken := len(steps)
			if !w.Announced {
				taken--
			}
			if arrived && (advice != "" || len(w.Steps) != taken) {
				t.Errorf("arrived after %d steps, with advice %q", len(w.Steps), advice)
			}
		})
	}
}

func secret(name string) (string, bool) { return "secret", name == cookie.Variable }

// TestOtherAddress goes on with another address where the first one's port is closed.
func TestOtherAddress(t *testing.T) {
	var shown []Step
	w := New(Options{Node: "b@hostb.local", Port: epmd.DefaultPort, HostName: "hosta", Getenv: secret}, func(s Step) { shown = append(shown, s) })
	w.net = goodWorld(t)
	w.net.addresses = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{addr("::1"), addr("127.0.0.1")}, nil
	}
	w.net.connect = func(_ context.Context, at []netip.AddrPort) (netip.AddrPort, error) { return at[1], nil }
	if !w.Go(t.Context()) || w.Address != "127.0.0.1" || w.Port != 4711 || len(shown) != len(steps)-1 {
		t.Errorf("got %+v, shown %+v", w.Seen, shown)
	}
	if found := w.Steps[4].Found; found != "127.0.0.1:4711 is open; [::1]:4711 is not" {
		t.Errorf("found %q", found)
	}
}

// TestBusy goes to a node that another connection of this host keeps busy.
func TestBusy(t *testing.T) {
	const busyTime = 2 * time.Second // as node.WhileBusy has it
	for _, busy := range []time.Duration{busyTime / 2, 2 * busyTime} {
		synctest.Test(t, func(t *testing.T) {
			w := New(Options{Node: "b@hostb.local", Port: epmd.DefaultPort, HostName: "hosta", Getenv: secret}, nil)
			w.net = goodWorld(t)
			free := time.Now().Add(busy)
			w.net.identify = func(ctx context.Context, at netip.AddrPort, prober string) (node.Identity, error) {
				if time.Now().Before(free) {
					return node.Identity{}, &node.StatusError{Code: node.NotOK}
				}
				return identifiedAs("b@hostb.local")(ctx, at, prober)
			}
			arrived := w.Go(t.Context())
			if last := w.Steps[len(w.Steps)-1]; arrived != (busy < busyTime) || !arrived && !strings.Contains(last.Found, "busy with another connection of eclus@hosta.local") {
				t.Errorf("busy for %v: arrived %v, last %+v", busy, arrived, last)
			}
		})
	}
}

// TestSelf has the name under which nodes are asked go by their own.
func TestSelf(t *testing.T) {
	for host, want := range map[string]string{
		"hostb": "eclus@hosta", "hostb.local": "eclus@hosta.local", "localhost": "eclus@localhost", "127.0.0.1": "eclus@127.0.0.1",
	} {
		w := &Way{options: Options{HostName: "hosta"}, host: host, addr: netip.MustParseAddrPort("127.0.0.1:4711")}
		if got := w.self(); got != want {
			t.Errorf("to a node of %s: %s, want %s", host, got, want)
		}
	}
}

// TestKnownAdvice has a host resolve nowhere, and the epmd here know the node. The step says how
// nodes reach it, and whether both ways lead there.
func TestKnownAdvice(t *testing.T) {
	at := []netip.Addr{addr("fe80::12%eth0"), addr("198.51.100.12")}
	both := "^epmd knows it. Nodes reach it with -epmd_module eclus_epmd, or by the file of epmd -etc_hosts and ERL_INETRC.\nSee epmd"
	module := "^epmd knows it. Nodes reach it with -epmd_module eclus_epmd. The file of epmd -etc_hosts does not have it.$"
	for _, tt := range []struct {
		name  string
		known registry.Node
		want  string // of the node in known
	}{
		{"long", registry.Node{Node: "b@hostb.local", Host: "hostb.local", Addresses: at}, both},
		{"short", registry.Node{Node: "b@hostb", Host: "hostb.local", Sure: true, Addresses: at}, both},
		{"invented", registry.Node{Node: "b@nowhere", Host: "hostb.local", Addresses: at}, both},
		{"long and invented", registry.Node{Node: "b@nowhere.local", Host: "hostb.local", Addresses: at}, module},
		{"at another epmd", registry.Node{Node: "b@hostb", Host: "hostb.local", Addresses: at, EPMDPort: 5555}, module},
		{"a peer's", registry.Node{Node: "b@hostb", Host: "hostb.local", Addresses: at, Origin: registry.Peer, Named: true}, both},
		{"DNS", registry.Node{Node: "b@hostb.lab.example", Host: "hostb.local", Addresses: at}, `and -eclus domains '\["lab.example"\]'.$`},
		{"another node of the host", registry.Node{Node: "c@hostb", Host: "hostb.local", Addresses: at}, "^$"},
		{"link-local alone", registry.Node{Node: "b@hostb.local", Host: "hostb.local", Addresses: at[:1]}, "^$"},
		{"out of reach", registry.Node{Node: "b@hostb.local", Host: "hostb.local", Addresses: at, Reach: registry.Unreachable}, "^$"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := New(Options{Node: strings.Replace(tt.known.Node, "c@", "b@", 1), Port: epmd.DefaultPort, HostName: "hosta", Getenv: secret}, nil)
			w.net = goodWorld(t)
			w.net.addresses = func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no address is known") }
			w.net.neighbours = func(context.Context) ([]registry.Node, error) { return []registry.Node{tt.known}, nil }
			w.Go(t.Context())
			if step := w.Steps[1]; !step.OK || !regexp.MustCompile(tt.want).MatchString(strings.Join(step.Advice, "\n")) {
				t.Errorf("got %+v; want advice %q", step, tt.want)
			}
			for _, step := range w.Steps[2:] {
				if step.OK && len(step.Advice) > 0 {
					t.Errorf("the advice goes on: %+v", step)
				}
			}
		})
	}
}

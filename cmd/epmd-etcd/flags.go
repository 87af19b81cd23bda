package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/goerlang/eclus/cmd/epmd-etcd/internal/address"
	"github.com/goerlang/eclus/cmd/epmd-etcd/internal/etcd"
)

// config is what the flags say.
type config struct {
	endpoints []string
	prefix    string
	advertise string
	port      uint16
	files     etcd.Files
	ttl       time.Duration
	nodesFile string
	version   bool
}

// Limits of flags.
const (
	minTTL    = 2 * time.Second // etcd gives no shorter lease
	maxTTL    = time.Hour
	maxPrefix = 255 // bytes
	minPort   = 1024

	// minGrace is how long hosts have at least to come back when etcd does.
	minGrace = 10 * time.Second
)

// errHelp says that the usage is asked for.
var errHelp = errors.New("help")

// flags are all flags, as the usage has them.
var flags = []struct {
	name, argument, standard, help string
	set                            func(*config, string) error
}{
	{"endpoints", "List", "http://127.0.0.1:2379", `Where etcd is: http://HOST:PORT or https://HOST:PORT, separated
by commas.`, (*config).setEndpoints},
	{"prefix", "Prefix", "/eclus", `What the keys begin with: PREFIX/v1/epmds/HOST.`, (*config).setPrefix},
	{"advertise", "Address|Interface", "", `Where other hosts find the epmd of this one. Default is the
address of the interface that the default route leads to.`, (*config).setAdvertise},
	{"port", "No", "4369", `The port of that epmd. Also ERL_EPMD_PORT in the environment.`, (*config).setPort},
	{"ca", "Path", "", `Verify etcd by the authorities in this PEM file. Default are
those of the system.`, func(c *config, s string) error { c.files.CA = s; return nil }},
	{"cert", "Path", "", `Show etcd this certificate (PEM) ...`, func(c *config, s string) error { c.files.Cert = s; return nil }},
	{"key", "Path", "", `... of which this is the key.`, func(c *config, s string) error { c.files.Key = s; return nil }},
	{"credentials_file", "Path", "", `Log in to etcd. The file has one line, USER:PASSWORD.`, func(c *config, s string) error { c.files.Credentials = s; return nil }},
	{"ttl", "Seconds", "15", `How long etcd has this host after its end.`, (*config).setTTL},
	{"nodes_file", "Path", "/run/epmd/nodes.d/etcd.nodes", `The file that epmd reads.`, (*config).setNodesFile},
}

// usage returns what -h prints.
func usage() string {
	var b strings.Builder
	fmt.Fprintf(&b, "usage: %s [-endpoints List] [...]\n\nKeeps this host in etcd, and tells epmd which others are there.\n\n", name)
	for _, f := range flags {
		fmt.Fprintf(&b, "    -%s %s\n", f.name, f.argument)
		for line := range strings.Lines(f.help) {
			fmt.Fprintf(&b, "        %s\n", strings.TrimSpace(line))
		}
		if f.standard != "" {
			fmt.Fprintf(&b, "        Default is %s\n", f.standard)
		}
	}
	b.WriteString("    -version\n        Print name, version and Go version\n    -h\n        Print this and exit\n")
	return b.String()
}

// parse parses flags. The error names the flag and the value.
func parse(args []string, getenv func(string) string) (config, error) {
	var c config
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	set.BoolVar(&c.version, "version", false, "")
	given := make(map[string]*string)
	for _, f := range flags {
		given[f.name] = set.String(f.name, f.standard, "")
	}
	if port := getenv("ERL_EPMD_PORT"); port != "" {
		*given["port"] = port
	}
	switch err := set.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return c, errHelp
	case err != nil:
		return c, err
	case set.NArg() > 0:
		return c, fmt.Errorf("argument %q is not expected", set.Arg(0))
	}
	for _, f := range flags {
		if value := *given[f.name]; value != "" || f.standard != "" {
			if err := f.set(&c, value); err != nil {
				return c, fmt.Errorf("-%s %q: %w", f.name, value, err)
			}
		}
	}
	return c, c.check()
}

// check checks what no flag says by itself.
func (c *config) check() error {
	hasTLS := strings.HasPrefix(c.endpoints[0], "https:")
	switch {
	case (c.files.Cert == "") != (c.files.Key == ""):
		return fmt.Errorf("-cert %q, -key %q: each needs the other", c.files.Cert, c.files.Key)
	case !hasTLS && c.files.CA != "":
		return fmt.Errorf("-ca %q: the endpoints are not https", c.files.CA)
	case !hasTLS && c.files.Cert != "":
		return fmt.Errorf("-cert %q: the endpoints are not https", c.files.Cert)
	}
	return nil
}

func (c *config) setEndpoints(s string) error {
	for one := range strings.SplitSeq(s, ",") {
		u, err := url.Parse(one)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return fmt.Errorf("%q is not http://HOST:PORT or https://HOST:PORT", one)
		}
		host, port, err := net.SplitHostPort(u.Host)
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 || host == "" {
			return fmt.Errorf("%q is without host or port", one)
		}
		c.endpoints = append(c.endpoints, one)
		if was := c.endpoints[0]; !strings.HasPrefix(was, u.Scheme+":") {
			return fmt.Errorf("%q and %q: either all are https, or none", was, one)
		}
	}
	return nil
}

func (c *config) setPrefix(s string) error {
	for _, r := range s {
		if r <= ' ' || r > '~' {
			return errors.New("only printable ASCII may be in it")
		}
	}
	c.prefix = strings.TrimRight(s, "/")
	if c.prefix == "" || len(c.prefix) > maxPrefix {
		return fmt.Errorf("it must have 1 to %d bytes before slashes at its end", maxPrefix)
	}
	return nil
}

func (c *config) setAdvertise(s string) error {
	c.advertise = s
	if addr, err := netip.ParseAddr(s); err == nil {
		if !address.IsHost(addr.Unmap()) {
			return errors.New("other hosts don't find this one there")
		}
		return nil
	}
	if len(s) > 15 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' || r == ':' }) {
		return errors.New("neither an address nor the name of an interface")
	}
	return nil
}

func (c *config) setPort(s string) error {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n < minPort {
		return fmt.Errorf("not a port from %d on", minPort)
	}
	c.port = uint16(n)
	return nil
}

func (c *config) setTTL(s string) error {
	n, err := strconv.ParseUint(s, 10, 32)
	c.ttl = time.Duration(n) * time.Second
	if err != nil || c.ttl < minTTL || c.ttl > maxTTL {
		return fmt.Errorf("not a number of seconds from %d to %d", minTTL/time.Second, maxTTL/time.Second)
	}
	return nil
}

func (c *config) setNodesFile(s string) error {
	base := filepath.Base(s)
	if !filepath.IsAbs(s) || !strings.HasSuffix(base, ".nodes") || strings.HasPrefix(base, ".") {
		return errors.New("not an absolute path of a file NAME.nodes")
	}
	c.nodesFile = s
	return nil
}

package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/cookie"
	"github.com/goerlang/eclus/cmd/epmd/internal/daemon"
	"github.com/goerlang/eclus/cmd/epmd/internal/listing"
	"github.com/goerlang/eclus/cmd/epmd/internal/named"
	"github.com/goerlang/eclus/cmd/epmd/internal/nodesd"
	"github.com/goerlang/eclus/cmd/epmd/internal/openat"
	"github.com/goerlang/eclus/cmd/epmd/internal/stock"
	"github.com/goerlang/eclus/cmd/epmd/internal/stockerror"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/internal/bus"
	"github.com/goerlang/eclus/node"
)

// command is what the command line asks for.
type command uint8

const (
	commandServe command = iota
	commandStock
	commandNodes
	commandPing
	commandPeek
	commandVersion
	commandHelp
)

// config is the command line and the environment, checked.
type config struct {
	command command
	port    uint16
	name    string // whom to stop, ping or peek at

	question    stock.Question
	filter      listing.Filter
	json, watch bool
	cookieFile  string         // empty: where OTP looks
	caFile      string         // empty: certificates are not verified
	roots       *x509.CertPool // those in caFile
	prove       bool           // the cookie, at an address that is only announced

	address string         // the list of addresses as given
	daemon  daemon.Options // what only a daemon needs to know
}

// usageError is the error of a command line that OTP's epmd refuses too. It answers with its usage.
// Ours says first what is wrong. A mistake in a flag of ours gets one line.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// parser goes through the arguments as the epmd of OTP does, from left to right. Questions to a
// running epmd come last.
type parser struct {
	config
	rest  []string
	given map[string]string // flags so far, and their arguments
	asked string            // the flag that asks for the command
}

// parse makes a config of the arguments, without the program's name, and the environment.
func parse(args []string, getenv func(string) (string, bool)) (config, error) {
	p := parser{rest: args, given: make(map[string]string)}
	for len(p.rest) > 0 {
		if err := p.next(); err != nil {
			return config{}, err
		}
		if p.command == commandHelp {
			return p.config, nil // whatever else there is
		}
	}
	if err := p.environment(getenv); err != nil {
		return config{}, err
	}
	if err := p.contradictions(); err != nil {
		return config{}, err
	}
	_, p.daemon.AsNode = p.given["-node"]
	return p.config, p.parseAddresses()
}

// next deals with the flag that is next, its argument included.
func (p *parser) next() error {
	name := p.rest[0]
	f := flagNamed(name)
	if f == nil {
		return p.pattern(name)
	}
	p.rest = p.rest[1:]
	if f.command != commandServe && f.command != commandHelp && p.command != commandServe && (f.last || name != p.asked) {
		return fmt.Errorf("%s contradicts %s", name, p.asked)
	}
	if f.command != commandServe {
		p.command, p.asked = f.command, name
	}
	if err := p.take(f, name); err != nil {
		return err
	}
	if f.last && len(p.rest) > 0 {
		return f.mistake("%s must come last: %q follows", name, p.rest[0])
	}
	return nil
}

// pattern deals with what is no flag. It may be the pattern of -nodes, which other flags of -nodes
// may precede.
func (p *parser) pattern(s string) error {
	if p.command != commandNodes || p.filter.Pattern != "" || strings.HasPrefix(s, "-") {
		return usagef("unknown flag %q", s)
	}
	return p.take(flagNamed("-nodes"), "-nodes")
}

// take takes the argument of a flag, if it has one, and sets what the flag says.
func (p *parser) take(f *flag, name string) error {
	argument := ""
	p.given[f.name()] = ""
	switch {
	case f.argument == "":
	case len(p.rest) > 0 && !(f.isOptional() && strings.HasPrefix(p.rest[0], "-")):
		argument, p.rest = p.rest[0], p.rest[1:]
		p.given[f.name()] = argument
	case f.isOptional():
		return nil
	case f.command != commandServe:
		return f.mistake("%s: %s missing", name, strings.ToLower(f.argument))
	default:
		return f.mistake("%s: value missing", name)
	}
	if f.set == nil {
		return nil
	}
	if err := f.set(p, argument); err != nil {
		return f.mistake("%s %q: %v", name, argument, err)
	}
	return nil
}

// mistake returns the error of a flag. It is a usageError if OTP's epmd has the flag too.
func (f *flag) mistake(format string, args ...any) error {
	if f.stock {
		return usagef(format, args...)
	}
	return fmt.Errorf(format, args...)
}

// on returns what sets a flag without an argument.
func on(field func(*config) *bool) func(*parser, string) error {
	return func(p *parser, _ string) error {
		*field(&p.config) = true
		return nil
	}
}

// asks returns what sets a question of OTP's epmd, and a name if one follows.
func asks(q stock.Question) func(*parser, string) error {
	return func(p *parser, name string) error {
		p.question, p.name = q, name
		return nil
	}
}

func (p *parser) setName(s string) error {
	p.name = s
	return nil
}

func (p *parser) setPort(s string) error {
	port, err := strconv.ParseUint(s, 10, 16)
	if err != nil || port == 0 {
		return errors.New("not a port from 1 to 65535")
	}
	p.port = uint16(port)
	return nil
}

func (p *parser) setAddress(s string) error {
	p.address = s
	return nil
}

func (p *parser) setLAN(s string) error {
	switch s {
	case "on":
		p.daemon.Publish, p.daemon.Browse = true, true
	case "publish":
		p.daemon.Publish, p.daemon.Browse = true, false
	case "browse":
		p.daemon.Publish, p.daemon.Browse = false, true
	case "off":
		p.daemon.Publish, p.daemon.Browse = false, false
	default:
		return errors.New("not one of on, publish, browse, off")
	}
	return nil
}

func (p *parser) setAllow(s string) (err error) {
	if p.daemon.Access, err = epmd.ParseAccess(s); err != nil {
		return errors.New("not local, lan, any or a comma-separated list of CIDR prefixes")
	}
	return nil
}

func (p *parser) setInterfaces(s string) error {
	p.daemon.Interfaces = strings.Split(s, ",")
	if slices.ContainsFunc(p.daemon.Interfaces, func(name string) bool { return !named.IsInterfaceName(name) }) {
		return errors.New("not a comma-separated list of network interfaces")
	}
	return nil
}

// setPeers takes a list of epmds. It may be empty.
func (p *parser) setPeers(s string) (err error) {
	p.daemon.Peers, err = named.ParseList(s)
	return err
}

// nodesDirs are the folders of nodes files. Programs write below /run.
const nodesDirs = "/etc/epmd/nodes.d,/run/epmd/nodes.d"

// setNodesDirs takes a list of folders. It may be empty.
func (p *parser) setNodesDirs(s string) error {
	p.daemon.NodesDirs = nil
	for path := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ',' }) {
		if !filepath.IsAbs(path) {
			return errors.New("not the absolute path of a folder")
		}
		path = filepath.Clean(path)
		p.daemon.NodesDirs = append(p.daemon.NodesDirs, nodesd.Folder{Path: path, Written: strings.HasPrefix(path, "/run/")})
	}
	return nil
}

// absolutePath takes an absolute path alone. A daemon has another working directory than the shell
// that started it.
func absolutePath(of func(*config) *string) func(*parser, string) error {
	return func(p *parser, s string) error {
		if s != "" && !filepath.IsAbs(s) || strings.HasSuffix(s, "/") {
			return errors.New("not the absolute path of a file")
		}
		*of(&p.config) = s
		return nil
	}
}

func (p *parser) setBus(s string) (err error) {
	if s == "off" {
		p.daemon.Bus = bus.Address{}
		return nil
	}
	if p.daemon.Bus, err = bus.Parse(s); err != nil {
		return errors.New("not system, session, off or the address of a bus (unix:path=...)")
	}
	return nil
}

// setNode takes the full name of the node that the daemon is too.
func (p *parser) setNode(s string) error {
	p.daemon.NodeName = s
	return node.CheckName(s)
}

// setIdentify is for a variable alone: there is no flag.
func (p *parser) setIdentify(s string) error {
	if s != "on" && s != "off" {
		return errors.New("not one of on, off")
	}
	p.daemon.Identify = s == "on"
	return nil
}

func (p *parser) setKeepPerUser(s string) error {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || n < 1 {
		return errors.New("not a positive number of nodes")
	}
	p.daemon.KeepPerUser = int(n)
	return nil
}

func (p *parser) setCookieFile(s string) error { return setPath(&p.cookieFile, s) }

func (p *parser) setCAFile(s string) error { return setPath(&p.caFile, s) }

func setPath(path *string, s string) error {
	if s == "" {
		return errors.New("no path")
	}
	*path = s
	return nil
}

// maxSeconds fits into a C int, and as nanoseconds into a time.Duration.
const maxSeconds = 1<<31 - 1

// seconds returns what sets a time.
func seconds(field func(*config) *time.Duration) func(*parser, string) error {
	return func(p *parser, s string) error {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 1 || n > maxSeconds {
			return errors.New("not a positive number of seconds")
		}
		*field(&p.config) = time.Duration(n) * time.Second
		return nil
	}
}

// environment fills in from the environment, or by default, what no flag has set. Who only asks is
// not told of mistakes in variables for a daemon.
func (p *parser) environment(getenv func(string) (string, bool)) error {
	for f := range allFlags() {
		if _, isGiven := p.given[f.name()]; f.variable == "" || isGiven || p.command != commandServe && f.name() != "-port" {
			continue
		}
		value, ok := getenv(f.variable)
		if !ok && f.standard == "" {
			continue
		}
		if !ok {
			value = f.standard
		}
		if err := f.set(p, value); err != nil {
			return fmt.Errorf("%s %q: %v", f.variable, value, err)
		}
	}
	return nil
}

// contradictions returns an error if two flags can't both be meant. So it does if a flag lacks the
// one that it goes with.
func (p *parser) contradictions() error {
	isGiven := func(name string) bool { _, ok := p.given[name]; return ok }
	for f := range allFlags() {
		if !isGiven(f.name()) {
			continue
		}
		if len(f.with) > 0 && !slices.ContainsFunc(f.with, isGiven) {
			return fmt.Errorf("%s goes with %s only", p.asGiven(f), either(f.with))
		}
		if i := slices.IndexFunc(f.not, isGiven); i >= 0 {
			return fmt.Errorf("%s contradicts %s", f.name(), f.not[i])
		}
	}
	if p.command != commandServe {
		return nil
	}
	d := &p.daemon
	switch {
	case d.Daemon && d.Systemd:
		return errors.New("-daemon contradicts -systemd")
	case !d.Publish && !d.Browse && len(d.Interfaces) > 0:
		return fmt.Errorf("-interface %q contradicts -lan off", p.given["-interface"])
	case !d.Browse && len(d.Peers)+len(d.NodesDirs) == 0 && d.HostsFile != "":
		return fmt.Errorf("-hosts_file %q needs LAN discovery or peers: -lan on or browse, -peer or -nodes_dir", d.HostsFile)
	case !d.Browse && len(d.Peers)+len(d.NodesDirs) == 0 && d.EtcHosts != "":
		return fmt.Errorf("-etc_hosts %q needs LAN discovery or peers: -lan on or browse, -peer or -nodes_dir", d.EtcHosts)
	case d.EtcHosts != "" && filepath.Clean(d.EtcHosts) == filepath.Clean(d.HostsFile):
		return fmt.Errorf("-etc_hosts %q contradicts -hosts_file, which is the same file", d.EtcHosts)
	case isGiven("-lan") && !d.Browse && d.Publish && d.Access.LocalOnly():
		return errors.New("-lan publish contradicts -allow local")
	}
	return nil
}

// asGiven returns a flag with its argument.
func (p *parser) asGiven(f *flag) string {
	if f.argument == "" {
		return f.name()
	}
	return fmt.Sprintf("%s %q", f.name(), p.given[f.name()])
}

// either returns "a, b or c".
func either(list []string) string {
	last := len(list) - 1
	if last == 0 {
		return list[0]
	}
	return strings.Join(list[:last], ", ") + " or " + list[last]
}

// checkFiles returns an error if a file that a flag names can't be used. It also reads the
// authorities of -ca, and the cookie for -node. Without one there is to be no epmd either.
func (c *config) checkFiles(getenv func(string) (string, bool)) (err error) {
	for name, path := range map[string]string{"-hosts_file": c.daemon.HostsFile, "-etc_hosts": c.daemon.EtcHosts} {
		if path == "" {
			continue
		}
		if err := openat.CheckFolder(path); err != nil {
			return fmt.Errorf("%s %q: %w", name, path, err)
		}
	}
	if c.daemon.AsNode {
		if c.daemon.Cookie, _, err = cookie.Find(c.cookieFile, getenv); err != nil {
			return fmt.Errorf("-node: %w", err)
		}
	}
	if c.cookieFile != "" {
		if _, err := os.Stat(c.cookieFile); err != nil {
			return fmt.Errorf("-cookie_file %q: %w", c.cookieFile, cause(err))
		}
	}
	if c.caFile != "" {
		if c.roots, err = readRoots(c.caFile); err != nil {
			return fmt.Errorf("-ca %q: %w", c.caFile, cause(err))
		}
	}
	return nil
}

// readRoots reads the certificates of authorities from a PEM file.
func readRoots(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, errors.New("no certificate in PEM format is in it")
	}
	return roots, nil
}

// cause returns what is wrong with a file, without the call and the path.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// parseAddresses parses the addresses to listen on. Commas and spaces separate them. Only who
// serves needs them.
func (p *parser) parseAddresses() error {
	if p.command != commandServe {
		return nil
	}
	for word := range strings.FieldsFuncSeq(p.address, func(r rune) bool { return r == ',' || r == ' ' }) {
		addr, err := netip.ParseAddr(word)
		if err != nil {
			return stockerror.Errorf("cannot parse IP address %q", word)
		}
		p.daemon.Addresses = append(p.daemon.Addresses, addr.Unmap())
	}
	return nil
}

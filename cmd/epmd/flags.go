package main

import (
	"cmp"
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
	"github.com/goerlang/eclus/cmd/epmd/internal/hosts"
	"github.com/goerlang/eclus/cmd/epmd/internal/listing"
	"github.com/goerlang/eclus/cmd/epmd/internal/stockerror"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/internal/bus"
	"github.com/goerlang/eclus/node"
)

// Environment variables. Those of OTP keep its meaning; a flag has precedence over its variable.
const (
	envPort    = "ERL_EPMD_PORT"
	envAddress = "ERL_EPMD_ADDRESS"
	envRelaxed = "ERL_EPMD_RELAXED_COMMAND_CHECK" // counts when set, even to nothing
	envLAN     = "ECLUS_LAN"
	envAllow   = "ECLUS_ALLOW"
	envHosts   = "ECLUS_HOSTS_FILE"
	envBus     = "ECLUS_BUS"
	envAsk     = "ECLUS_IDENTIFY"
	envPerUser = "ECLUS_KEEP_PER_USER"
)

// command is what the command line asks for.
type command uint8

const (
	commandServe command = iota
	commandNames
	commandStarted
	commandDump
	commandKill
	commandStop
	commandNodes
	commandPing
	commandPeek
	commandVersion
	commandHelp
)

// config is the command line and the environment, checked.
type config struct {
	command command
	name    string // whom to stop, ping or peek at

	port      uint16
	address   string       // the list of addresses as given
	addresses []netip.Addr // the same parsed; empty: everywhere
	debug     int          // how many -d
	daemon    bool
	relaxed   bool

	keepPerUser int // nodes of one user that systemd keeps; 0: as many as usual
	systemd     bool

	packetTimeout, delayAccept, delayWrite time.Duration // 0: not given

	lan        lanMode
	access     epmd.Access
	interfaces []string    // empty: those that lead to a LAN
	hostsFile  string      // empty: none
	bus        bus.Address // zero: none
	cookieFile string      // empty: where OTP looks
	asNode     bool        // be a hidden node too
	nodeName   string      // of that node; empty: as other nodes call this host
	identify   bool        // ask nodes of this host for their names
	cookie     node.Cookie // for asNode, set by checkFiles

	json, watch bool
	filter      listing.Filter
}

// lanMode says which parts of LAN discovery are wanted.
type lanMode struct{ publish, browse bool }

// usageError is the error of a command line that OTP's epmd answers with its usage. Ours says first what is
// wrong. A mistake in what is ours alone is an error like any other, of one line.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// parser goes through the arguments as the epmd of OTP does: from left to right, and what is to be
// asked of a running epmd comes last.
type parser struct {
	config
	rest    []string
	given   map[string]string // flags so far that the environment could have set, or that exclude others
	listing string            // the latest flag so far that goes with -nodes only
	asked   string            // the flag that asks something: -nodes, -ping or -peek
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
	return p.config, p.parseAddresses()
}

// next deals with the flag that is next, its value included.
func (p *parser) next() error {
	flag := p.rest[0]
	p.rest = p.rest[1:]
	switch flag {
	case "-d", "-debug":
		p.debug++
	case "-daemon":
		p.daemon = true
	case "-relaxed_command_check":
		p.relaxed = true
	case "-systemd":
		p.systemd = true
	case "-node":
		return p.setNode()
	case "-json", "-watch", "-local", "-lan_only":
		p.list(flag)
	case "-nodes":
		return p.question(flag, commandNodes)
	case "-ping":
		return p.about(flag, commandPing)
	case "-peek":
		return p.about(flag, commandPeek)
	case "-h", "-help", "--help":
		p.command = commandHelp
	case "-names", "-started", "-dump", "-kill", "-stop":
		return p.last(flag)
	case "-version", "--version":
		return p.version(flag)
	default:
		if p.command == commandNodes && p.filter.Pattern == "" && !strings.HasPrefix(flag, "-") {
			return blame("-nodes", flag, p.filter.SetPattern(flag))
		}
		return p.valued(flag)
	}
	return nil
}

// question deals with a flag by which a running epmd or node is asked, and that more flags may follow.
func (p *parser) question(flag string, c command) error {
	if p.asked != "" && p.asked != flag {
		return fmt.Errorf("%s contradicts %s", flag, p.asked)
	}
	p.command, p.asked = c, flag
	return nil
}

// about deals with a question about a node, whose name follows.
func (p *parser) about(flag string, c command) error {
	if len(p.rest) == 0 {
		return fmt.Errorf("%s: node missing", flag)
	}
	p.name, p.rest = p.rest[0], p.rest[1:]
	return p.question(flag, c)
}

// list deals with a flag that says how -nodes is to list nodes, or which.
func (p *parser) list(flag string) {
	if flag != "-json" && flag != "-watch" {
		p.listing = flag
	}
	switch flag {
	case "-json":
		p.json = true
	case "-watch":
		p.watch = true
	case "-local":
		p.filter.LocalOnly = true
	case "-lan_only":
		p.filter.LANOnly = true
	}
}

// last deals with a flag after which nothing may follow.
func (p *parser) last(flag string) error {
	if p.command != commandServe {
		return fmt.Errorf("%s contradicts %s", flag, p.asked)
	}
	switch flag {
	case "-names":
		p.command = commandNames
	case "-started":
		p.command = commandStarted
	case "-dump":
		p.command = commandDump
	case "-kill":
		p.command = commandKill
	case "-stop":
		p.command = commandStop
		if len(p.rest) == 0 {
			return usagef("-stop: name missing")
		}
		p.name, p.rest = p.rest[0], p.rest[1:]
	}
	if len(p.rest) > 0 {
		return usagef("%s must come last: %q follows", flag, p.rest[0])
	}
	return nil
}

// version deals with the flag that asks for the version.
func (p *parser) version(flag string) error {
	switch {
	case p.command != commandServe:
		return fmt.Errorf("%s contradicts %s", flag, p.asked)
	case len(p.rest) > 0:
		return fmt.Errorf("%s must come last: %q follows", flag, p.rest[0])
	}
	p.command = commandVersion
	return nil
}

// valued deals with a flag that has a value.
func (p *parser) valued(flag string) error {
	set := p.setter(flag)
	if set == nil {
		return usagef("unknown flag %q", flag)
	}
	if len(p.rest) == 0 {
		return mistake(flag, "%s: value missing", flag)
	}
	value := p.rest[0]
	p.rest = p.rest[1:]
	p.given[flag] = value
	return blame(flag, value, set(value))
}

// setter returns what sets the value of a flag, or nil for an unknown one.
func (p *parser) setter(flag string) func(string) error {
	switch flag {
	case "-port":
		return p.setPort
	case "-address":
		return p.setAddress
	case "-lan":
		return p.setLAN
	case "-allow":
		return p.setAllow
	case "-interface":
		return p.setInterfaces
	case "-hosts_file":
		return p.setHostsFile
	case "-bus":
		return p.setBus
	case "-cookie_file":
		return p.setCookieFile
	case "-packet_timeout":
		return secondsSetter(&p.packetTimeout)
	case "-delay_accept":
		return secondsSetter(&p.delayAccept)
	case "-delay_write":
		return secondsSetter(&p.delayWrite)
	}
	return nil
}

// blame adds to what a setter said the flag or variable and its value.
func blame(name, value string, err error) error {
	if err == nil {
		return nil
	}
	return mistake(name, "%s %q: %v", name, value, err)
}

// mistake returns the error of a flag or variable: a usageError if OTP's epmd has that flag too.
func mistake(name, format string, args ...any) error {
	switch name {
	case "-port", "-address", "-packet_timeout", "-delay_accept", "-delay_write":
		return usagef(format, args...)
	}
	return fmt.Errorf(format, args...)
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
		p.lan = lanMode{publish: true, browse: true}
	case "publish":
		p.lan = lanMode{publish: true}
	case "browse":
		p.lan = lanMode{browse: true}
	case "off":
		p.lan = lanMode{}
	default:
		return errors.New("not one of on, publish, browse, off")
	}
	return nil
}

func (p *parser) setAllow(s string) (err error) {
	if p.access, err = epmd.ParseAccess(s); err != nil {
		return errors.New("not local, lan, any or a comma-separated list of CIDR prefixes")
	}
	return nil
}

func (p *parser) setInterfaces(s string) error {
	p.interfaces = strings.Split(s, ",")
	if slices.ContainsFunc(p.interfaces, func(name string) bool { return !isInterfaceName(name) }) {
		return errors.New("not a comma-separated list of network interfaces")
	}
	return nil
}

// setHostsFile wants an absolute path, since a daemon has another working directory than who started it.
func (p *parser) setHostsFile(s string) error {
	if s != "" && !filepath.IsAbs(s) || strings.HasSuffix(s, "/") {
		return errors.New("not the absolute path of a file")
	}
	p.hostsFile = s
	return nil
}

func (p *parser) setBus(s string) (err error) {
	if s == "off" {
		p.bus = bus.Address{}
		return nil
	}
	if p.bus, err = bus.Parse(s); err != nil {
		return errors.New("not system, session, off or the address of a bus (unix:path=...)")
	}
	return nil
}

// setNode deals with -node, which a full node name may follow.
func (p *parser) setNode() error {
	p.asNode = true
	if len(p.rest) == 0 || strings.HasPrefix(p.rest[0], "-") {
		return nil
	}
	p.nodeName, p.rest = p.rest[0], p.rest[1:]
	if err := node.CheckName(p.nodeName); err != nil {
		return mistake("-node", "-node: %v", err)
	}
	return nil
}

// setIdentify is for a variable alone: there is no flag.
func (p *parser) setIdentify(s string) error {
	if s != "on" && s != "off" {
		return errors.New("not one of on, off")
	}
	p.identify = s == "on"
	return nil
}

func (p *parser) setKeepPerUser(s string) error {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || n < 1 {
		return errors.New("not a positive number of nodes")
	}
	p.keepPerUser = int(n)
	return nil
}

func (p *parser) setCookieFile(s string) error {
	if s == "" {
		return errors.New("no path")
	}
	p.cookieFile = s
	return nil
}

// isInterfaceName tells whether a network interface can have that name. It need not be there: interfaces
// come and go.
func isInterfaceName(s string) bool {
	const maxLen = 15 // IFNAMSIZ less its NUL
	return s != "" && len(s) <= maxLen && s != "." && s != ".." && !strings.ContainsAny(s, "/: \t\n\v\f\r")
}

// maxSeconds keeps what is made of a value within a time.Duration and a C int.
const maxSeconds = 1<<31 - 1

func secondsSetter(d *time.Duration) func(string) error {
	return func(s string) error {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 1 || n > maxSeconds {
			return errors.New("not a positive number of seconds")
		}
		*d = time.Duration(n) * time.Second
		return nil
	}
}

// environment fills in from the environment, or by default, what no flag has set. Of the variables that
// say how to serve, nothing is said to those who only ask.
func (p *parser) environment(getenv func(string) (string, bool)) error {
	fill := func(flag, variable, standard string, set func(string) error) error {
		if _, ok := p.given[flag]; ok {
			return nil
		}
		if value, ok := getenv(variable); ok {
			return blame(variable, value, set(value))
		}
		return set(standard)
	}
	if err := fill("-port", envPort, strconv.Itoa(epmd.DefaultPort), p.setPort); err != nil || p.command != commandServe {
		return err
	}
	if _, ok := getenv(envRelaxed); ok {
		p.relaxed = true
	}
	if value, ok := getenv(envPerUser); ok {
		if err := p.setKeepPerUser(value); err != nil {
			return blame(envPerUser, value, err)
		}
	}
	return cmp.Or(
		fill("-address", envAddress, "", p.setAddress),
		fill("-lan", envLAN, "on", p.setLAN),
		fill("-allow", envAllow, "lan", p.setAllow),
		fill("-hosts_file", envHosts, "", p.setHostsFile),
		fill("-bus", envBus, "system", p.setBus),
		fill("", envAsk, "on", p.setIdentify),
	)
}

// contradictions returns an error if two flags can't both be meant.
func (p *parser) contradictions() error {
	listing := p.command == commandNodes
	about := p.command == commandPing || p.command == commandPeek
	serving := p.command == commandServe
	_, lanGiven := p.given["-lan"]
	switch {
	case p.listing != "" && !listing:
		return fmt.Errorf("%s goes with -nodes only", p.listing)
	case p.json && !listing && !about:
		return fmt.Errorf("-json goes with -nodes, -ping or -peek only")
	case p.watch && !listing && p.command != commandPeek:
		return fmt.Errorf("-watch goes with -nodes or -peek only")
	case p.asNode && !serving:
		return fmt.Errorf("-node contradicts %s: it is for the daemon", cmp.Or(p.asked, "what asks a running epmd"))
	case p.cookieFile != "" && !about && !p.asNode:
		return fmt.Errorf("-cookie_file %q goes with -ping, -peek or -node only", p.cookieFile)
	case p.filter.LocalOnly && p.filter.LANOnly:
		return fmt.Errorf("-local contradicts -lan_only")
	case p.asked != "" && p.daemon:
		return fmt.Errorf("%s contradicts -daemon", p.asked)
	case p.asked != "" && p.systemd:
		return fmt.Errorf("%s contradicts -systemd", p.asked)
	case serving && p.daemon && p.systemd:
		return fmt.Errorf("-daemon contradicts -systemd")
	case serving && p.lan == lanMode{} && len(p.interfaces) > 0:
		return fmt.Errorf("-interface %q contradicts -lan off", p.given["-interface"])
	case serving && !p.lan.browse && p.hostsFile != "":
		return fmt.Errorf("-hosts_file %q needs LAN discovery: -lan on or browse", p.hostsFile)
	case lanGiven && p.lan == lanMode{publish: true} && p.access.LocalOnly():
		return fmt.Errorf("-lan publish contradicts -allow local")
	}
	return nil
}

// checkFiles returns an error if a file that the flags name can't serve its purpose. It reads the cookie
// of a node: whoever asks for one wants no epmd without.
func (c *config) checkFiles(getenv func(string) (string, bool)) (err error) {
	if c.hostsFile != "" {
		if err := hosts.CheckFolder(c.hostsFile); err != nil {
			return fmt.Errorf("-hosts_file %q: %w", c.hostsFile, err)
		}
	}
	if c.asNode {
		if c.cookie, _, err = cookie.Find(c.cookieFile, getenv); err != nil {
			return fmt.Errorf("-node: %w", err)
		}
	}
	if c.cookieFile != "" {
		if _, err := os.Stat(c.cookieFile); err != nil {
			return fmt.Errorf("-cookie_file %q: %w", c.cookieFile, cause(err))
		}
	}
	return nil
}

// cause returns what is wrong with a file, without the call and the path.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// parseAddresses parses the list of addresses to listen on, which are separated by commas and spaces.
// Only who serves needs them.
func (p *parser) parseAddresses() error {
	if p.command != commandServe {
		return nil
	}
	for word := range strings.FieldsFuncSeq(p.address, func(r rune) bool { return r == ',' || r == ' ' }) {
		addr, err := netip.ParseAddr(word)
		if err != nil {
			return stockerror.Errorf("cannot parse IP address %q", word)
		}
		p.addresses = append(p.addresses, addr.Unmap())
	}
	return nil
}

package named

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// MaxWhos is how many may be named in one place.
const MaxWhos = 2048

// Who is how a person or a program names one or several epmds. It is an address, a name in DNS, or
// the gateway. The zero Who is nobody.
type Who struct {
	Addr    netip.Addr // IPv4 or IPv6, with a zone if it is link-local
	Name    string     // in DNS: the epmds at all its addresses
	Gateway bool       // the epmd at each default gateway
	Port    uint16     // 0: that of this epmd, as nodes go by one port for all hosts
}

// String returns what Parse takes.
func (w Who) String() string {
	s := w.Addr.String()
	switch {
	case w.Name != "":
		s = "dns:" + w.Name
	case w.Gateway:
		s = "gateway"
	case w.Port != 0:
		return netip.AddrPortFrom(w.Addr, w.Port).String()
	}
	if w.Port != 0 {
		s += ":" + strconv.Itoa(int(w.Port))
	}
	return s
}

// Parse takes ADDRESS, dns:NAME or gateway, each of them also with :PORT. An IPv6 address before a
// port has brackets. The error says what is wrong with s and quotes it.
func Parse(s string) (Who, error) {
	if name, is := strings.CutPrefix(s, "dns:"); is {
		return parseName(s, name)
	}
	if kind, port, given := strings.Cut(s, ":"); kind == "gateway" {
		w := Who{Gateway: true}
		return w, setPort(&w, s, port, given)
	}
	return parseAddress(s)
}

// ParseList takes what Parse takes, separated by commas or spaces. It may be empty.
func ParseList(s string) ([]Who, error) {
	var list []Who
	for word := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ',' || r == ' ' }) {
		w, err := Parse(word)
		if err != nil {
			return nil, err
		}
		if list = append(list, w); len(list) > MaxWhos {
			return nil, fmt.Errorf("more than %d epmds", MaxWhos)
		}
	}
	return list, nil
}

func parseName(s, rest string) (Who, error) {
	name, port, given := strings.Cut(rest, ":")
	w := Who{Name: strings.ToLower(strings.TrimSuffix(name, "."))}
	_, notIP := netip.ParseAddr(rest)
	_, nameNotIP := netip.ParseAddr(w.Name)
	switch {
	case notIP == nil, nameNotIP == nil:
		return Who{}, fmt.Errorf("%q: dns: does not go with an address", s)
	case !isDNSName(w.Name):
		return Who{}, fmt.Errorf("%q does not name a host, such as dns:epmds.lab.example", s)
	}
	return w, setPort(&w, s, port, given)
}

// setPort sets a port that may be given.
func setPort(w *Who, s, port string, given bool) error {
	if !given {
		return nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		*w = Who{}
		return fmt.Errorf("%q: %q is not a port from 1 to 65535", s, port)
	}
	w.Port = uint16(n)
	return nil
}

// isDNSName reports whether a host can have that name: up to 253 bytes, in labels of letters,
// digits, hyphens and underscores.
func isDNSName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		bad := strings.ContainsFunc(label, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_')
		})
		if bad || label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}

func parseAddress(s string) (Who, error) {
	at, err := netip.ParseAddrPort(s)
	if noPort := err != nil; noPort {
		var addr netip.Addr
		addr, err = netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
		at = netip.AddrPortFrom(addr, 0)
	} else if at.Port() == 0 {
		err = errors.New("port 0")
	}
	w := Who{Addr: at.Addr().Unmap(), Port: at.Port()}
	zone := w.Addr.Zone()
	if err != nil || w.Addr.IsUnspecified() || w.Addr.IsMulticast() || zone != "" && !IsInterfaceName(zone) {
		return Who{}, fmt.Errorf("%q is not the address of a host, such as 192.0.2.7, 192.0.2.7:4369 or [2001:db8::7]:4369, "+
			"nor dns:NAME or gateway", s)
	}
	return w, nil
}

// IsInterfaceName reports whether a network interface can have that name. It need not be there:
// interfaces come and go.
func IsInterfaceName(s string) bool {
	const maxLen = 15 // IFNAMSIZ less its NUL
	return s != "" && len(s) <= maxLen && s != "." && s != ".." && !strings.ContainsAny(s, "/: \t\n\v\f\r")
}

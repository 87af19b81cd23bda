package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/goerlang/eclus/cmd/epmd/internal/cookie"
	"github.com/goerlang/eclus/cmd/epmd/internal/stockerror"
	"github.com/goerlang/eclus/test/wait"
)

// arguments are good ones for each flag that takes one, or variable that has no flag.
var arguments = map[string]string{
	"-address": "192.0.2.1", "-port": "5000", "-packet_timeout": "5", "-delay_accept": "5",
	"-delay_write": "5", "-stop": "a", "-lan": "browse", "-interface": "eth0", "-hosts_file": "/h", "-etc_hosts": "/e",
	"-peer": "192.0.2.7", "-nodes_dir": "/n",
	"-bus": "session", "-allow": "any", "-node": "a@host.example", "-nodes": "a*", "-ping": "a@b",
	"-peek": "a@b", "-cookie_file": "c", "-ca": "c", "ECLUS_IDENTIFY": "off", "ECLUS_KEEP_PER_USER": "7",
}

// line returns a command line with a flag, its argument, and what it goes with.
func (f *flag) line(t *testing.T) []string {
	t.Helper()
	var args []string
	if len(f.with) > 0 {
		args = flagNamed(f.with[0]).line(t)
	}
	args = append(args, f.name())
	if f.argument != "" {
		argument, found := arguments[f.name()]
		if !found {
			t.Fatalf("no argument for %s", f.name())
		}
		args = append(args, argument)
	}
	return args
}

// wantError wants an error that has all words, in one printable line.
func wantError(t *testing.T, what any, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%q: no error", what)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q: error %q; want it to have %q", what, err, word)
		}
	}
	if strings.ContainsFunc(err.Error(), unicode.IsControl) {
		t.Errorf("%q: error %q is not one printable line", what, err)
	}
}

// eachFlag runs a test for each flag.
func eachFlag(t *testing.T, test func(t *testing.T, f *flag)) {
	for f := range allFlags() {
		if f.name() != "" {
			t.Run(f.name(), func(t *testing.T) { test(t, f) })
		}
	}
}

// TestEachFlag gives each flag alone. It lacks its argument, or what it goes with, or has too much.
func TestEachFlag(t *testing.T) {
	eachFlag(t, func(t *testing.T, f *flag) {
		line := f.line(t)
		if _, err := parse(line, environ("")); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		alone := line[slices.Index(line, f.name()):]
		if len(f.with) > 0 {
			_, err := parse(alone, environ(""))
			wantError(t, alone, err, f.name(), "goes with "+f.with[0])
		}
		if f.argument != "" && !f.isOptional() {
			_, err := parse(alone[:1], environ(""))
			wantError(t, alone[:1], err, f.name()+": ", " missing")
			if isUsage := errors.As(err, new(usageError)); isUsage != f.stock {
				t.Errorf("usage shown: %v; want %v", isUsage, f.stock)
			}
		}
		if f.last {
			_, err := parse(append(line, "-d"), environ(""))
			wantError(t, line, err, f.name()+" must come last", `"-d"`)
		}
	})
}

// TestContradictions gives flags together that contradict each other, in both orders.
func TestContradictions(t *testing.T) {
	eachFlag(t, func(t *testing.T, f *flag) {
		for _, name := range f.not {
			other := flagNamed(name)
			if other == nil {
				t.Fatalf("contradicts %s, which is no flag", name)
			}
			for _, line := range [][]string{append(f.line(t), other.line(t)...), append(other.line(t), f.line(t)...)} {
				if _, err := parse(line, environ("")); err == nil {
					t.Errorf("%q passes", line)
				}
			}
		}
		if f.command == commandServe || f.command == commandHelp {
			return
		}
		for g := range allFlags() {
			if g.command != commandServe && g.command != commandHelp && g.name() != f.name() && !f.last {
				line := append(f.line(t), g.line(t)...)
				_, err := parse(line, environ(""))
				wantError(t, line, err, g.name()+" contradicts "+f.name())
			}
		}
	})
}

// TestVariables sets each variable, which a flag overrides. Only a daemon reads it. Who asks an
// epmd reads the port alone.
func TestVariables(t *testing.T) {
	for f := range allFlags() {
		if f.variable == "" || f.set == nil || f.name() == "-relaxed_command_check" || f.name() == "-address" {
			continue // the last two take anything here
		}
		t.Run(f.variable, func(t *testing.T) {
			good := arguments[f.name()]
			if f.name() == "" {
				good = arguments[f.variable]
			}
			set := func(value string) func(string) (string, bool) {
				return func(name string) (string, bool) { return value, name == f.variable }
			}
			if _, err := parse(nil, set(good)); err != nil {
				t.Errorf("%q: %v", good, err)
			}
			const evil = "\x1b[2J\n"
			_, err := parse(nil, set(evil))
			wantError(t, evil, err, f.variable, strconv.Quote(evil))
			if _, err := parse([]string{"-nodes"}, set(evil)); (err != nil) != (f.name() == "-port") {
				t.Errorf("-nodes: %v", err)
			}
			if f.name() == "" {
				return
			}
			if _, err := parse(f.line(t), set(evil)); err != nil {
				t.Errorf("%q: the variable counts: %v", f.line(t), err)
			}
		})
	}
}

// TestLimits has arguments at the edge of what flags take.
func TestLimits(t *testing.T) {
	for _, tt := range []struct{ flag, good, bad string }{
		{"-port", "1|65535|00080", "0|65536|-1|+1|0x10|1e3|1 ||18446744073709551617"},
		{"-packet_timeout", "1|2147483647", "0|-1|2147483648|9223372036854775808|1.5|"},
		{"-delay_write", "1", "0|5s"},
		{"-interface", "a|eth0,wlan0|abcdefghijklmno|ö", "|,|a,|abcdefghijklmnop|.|..|a/b|a:1|a b|a\tb"},
		{"-peer", "192.0.2.7|192.0.2.7:1|[2001:db8::7]:65535|2001:db8::7|[::1]|fe80::1%eth0|127.0.0.1,::1|::ffff:192.0.2.7|",
			"a|192.0.2.7:|192.0.2.7:65536|192.0.2.7:0|192.0.2.256|0.0.0.0|::|224.0.0.251|ff02::fb|fe80::1%a/b|192.0.2.7,x"},
		{"-hosts_file", "/h|/run/x y|", "h|./h|/run/|/"},
		{"-etc_hosts", "/h|/run/x y|", "h|./h|/run/|/"},
		{"-node", "a@b|x@host.example|a@192.0.2.1", "|a|@b|a@|a@b@c|a b@c|a@\x1b"},
		{"-allow", "local|lan|any|192.0.2.0/24,2001:db8::/32", "|local,lan|192.0.2.1/33|192.0.2.0/24,|x"},
		{"-lan", "on|publish|browse|off", "|ON|on |both"},
		{"-cookie_file", "c", ""},
		{"-nodes", "a|*|?@b|[a-z]", "[|a["},
	} {
		f := flagNamed(tt.flag)
		try := func(argument string) error { return f.set(&parser{given: map[string]string{}}, argument) }
		for good := range strings.SplitSeq(tt.good, "|") {
			if err := try(good); err != nil {
				t.Errorf("%s %q: %v", tt.flag, good, err)
			}
		}
		for bad := range strings.SplitSeq(tt.bad, "|") {
			wantError(t, tt.flag+" "+bad, try(bad))
		}
	}
}

// TestSeconds has each time in its field.
func TestSeconds(t *testing.T) {
	c, err := parse(strings.Fields("-packet_timeout 2147483647 -delay_accept 2 -delay_write 3"), environ(""))
	if d := c.daemon; err != nil || d.PacketTimeout != 2147483647*time.Second || d.DelayAccept != 2*time.Second || d.DelayWrite != 3*time.Second {
		t.Errorf("got %+v, %v", d, err)
	}
}

// TestAddresses lists addresses as OTP's epmd takes them.
func TestAddresses(t *testing.T) {
	for list, want := range map[string]string{
		"": "", ",": "", " , ,": "",
		"192.0.2.1,,::1": "192.0.2.1 ::1", " 192.0.2.1 ::1 ": "192.0.2.1 ::1",
		"::ffff:192.0.2.1": "192.0.2.1", "fe80::1%eth0": "fe80::1%eth0",
		"host": "!", "192.0.2.256": "!", "192.0.2.1/24": "!", "192.0.2.1:80": "!", "\x1b[2J": "!",
	} {
		c, err := parse([]string{"-address", list}, environ(""))
		if want == "!" {
			wantError(t, list, err, "cannot parse IP address "+strconv.Quote(list))
			if !errors.As(err, new(stockerror.Error)) {
				t.Errorf("%q: not shown as OTP's epmd does: %T", list, err)
			}
			continue
		}
		var got []string
		for _, addr := range c.daemon.Addresses {
			got = append(got, addr.String())
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: got %q, %v; want %q", list, got, err, want)
		}
	}
}

// TestCheckFiles names files that can't be used. It gets no cookie to be a node with.
func TestCheckFiles(t *testing.T) {
	dir := t.TempDir()
	open, empty := filepath.Join(dir, "open"), filepath.Join(dir, "empty")
	wait.Must(t, os.WriteFile(open, []byte("SECRET"), 0o644))
	wait.Must(t, os.Chmod(open, 0o644))
	wait.Must(t, os.WriteFile(empty, nil, 0o400))
	for _, tt := range []struct{ args, env, err string }{
		{"-hosts_file " + dir + "/hosts", "", ""},
		{"-hosts_file " + dir + "/none/hosts", "", "-hosts_file |no such file or directory"},
		{"-hosts_file " + open + "/hosts", "", "-hosts_file |not a directory"},
		{"-etc_hosts " + dir + "/hosts", "", ""},
		{"-etc_hosts " + dir + "/none/hosts", "", "-etc_hosts |no such file or directory"},
		{"-node -cookie_file " + open, "", "-node: |can be used by others"},
		{"-node -cookie_file " + empty, "", "-node: |the cookie is empty"},
		{"-node -cookie_file " + dir, "", "-node: |is no regular file"},
		{"-node", "", "-node: |" + cookie.ErrNone.Error()},
		{"-node", "HOME=" + dir, "-node: |" + cookie.ErrNone.Error()},
		{"-node", "ERLANG_COOKIE=SECRET", ""},
		{"-node", "ERLANG_COOKIE=SECRÉT", "-node: cookie in ERLANG_COOKIE: "},
		{"-ping a@b -cookie_file " + empty + "/x", "", "-cookie_file |not a directory"},
		// The way to the node says what is wrong with it.
		{"-ping a@b -cookie_file " + open, "", ""},
		{"-ping a@b -ca " + dir + "/none", "", "-ca |no such file or directory"},
		{"-peek a@b -ca " + dir, "", "-ca |is a directory"},
		{"-ping a@b -ca " + open, "", "-ca |no certificate in PEM format"},
	} {
		c, err := parse(strings.Fields(tt.args), environ(tt.env))
		wait.Must(t, err)
		err = c.checkFiles(environ(tt.env))
		if tt.err == "" {
			wait.Must(t, err)
			continue
		}
		wantError(t, tt.args, err, strings.Split(tt.err, "|")...)
		if err != nil && strings.Contains(err.Error(), "SECR") {
			t.Errorf("%s: error %q has the cookie", tt.args, err)
		}
	}
}

// FuzzParse has any command line. Errors are one printable line, whatever is in it.
func FuzzParse(f *testing.F) {
	for _, tt := range parseTests {
		f.Add(strings.ReplaceAll(tt.args, " ", "\x00"))
	}
	f.Add("-lan\x00\x1b[2J\n")
	f.Add("-ping\x00a@b\x00-watch\x00\u202e")
	f.Fuzz(func(t *testing.T, args string) {
		c, err := parse(strings.Split(args, "\x00"), environ(""))
		if err != nil {
			wantError(t, args, err)
		} else if c.command != commandHelp && c.port == 0 {
			t.Errorf("%q: %+v has no port", args, c)
		}
	})
}

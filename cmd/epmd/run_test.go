package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

// serveEPMD runs an epmd of ours until the test ends, or until it is killed. It returns its port.
func serveEPMD(t *testing.T, relaxed bool, names ...string) (port uint16) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	wait.Must(t, err)
	port = l.Addr().(*net.TCPAddr).AddrPort().Port()
	reg := registry.New("hosta.local", registry.OldNames)
	server := epmd.NewServer(epmd.Config{Registry: reg, Port: port, Relaxed: relaxed})
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, l.(*net.TCPListener)) }()
	t.Cleanup(func() {
		cancel()
		<-served
	})
	for _, name := range names {
		req := epmd.AliveReq{Port: 41000, Type: registry.Normal, High: 6, Low: 5, Name: name}
		registration, err := epmd.NewLocalClient(port).Register(t.Context(), req)
		wait.Must(t, err)
		t.Cleanup(func() { registration.Close() })
	}
	return port
}

// runAt runs epmd with arguments in which PORT stands for a port.
func runAt(t *testing.T, args string, port uint16) (status int, stdout, stderr string) {
	t.Helper()
	var out, complaints strings.Builder
	args = strings.ReplaceAll(args, "PORT", fmt.Sprint(port))
	err := run(wait.Soon(t), strings.Fields("epmd "+args), environ(""), &out, &complaints)
	return report(err, &complaints), out.String(), complaints.String()
}

// TestRunAsks asks an epmd that has a node. One epmd takes -kill and -stop all the same.
func TestRunAsks(t *testing.T) {
	for _, tt := range []struct {
		args    string
		relaxed bool
		status  int
		stdout  string // all that is written, or how it begins if it ends in "..."
	}{
		{"-port PORT -names", false, 0, "epmd: up and running on port PORT with data:\nname a at port 41000\n"},
		{"-port PORT -started", false, 0, ""},
		{"-port PORT -dump", false, 0, "epmd: up and running on port PORT with data:\nactive name     <a> at port 41000, fd = ..."},
		{"-port PORT -kill", false, 1, "Killing not allowed - living nodes in database.\n"},
		{"-port PORT -kill", true, 0, "Killed\n"},
		{"-port PORT -stop a", true, 0, "STOPPED\n"},
		{"-port PORT -stop b", true, 0, "NOEXIST\n"},
		{"-port PORT -stop a", false, 1, "epmd: local epmd responded with <>\n"},
		{"-port PORT -nodes", false, 0, "epmd on port PORT: 1 node, 0 on the LAN\n..."},
		{"-port PORT -nodes -json", false, 0, `{"v":1,"node":"a@hosta.local","name":"a",...`},
		{"-port PORT -nodes b*", false, 2, "epmd on port PORT: 0 of 1 node, 0 on the LAN\n..."},
		{"-port PORT -nodes -lan_only -json", false, 2, ""},
	} {
		port := serveEPMD(t, tt.relaxed, "a")
		status, stdout, stderr := runAt(t, tt.args, port)
		want, isPart := strings.CutSuffix(strings.ReplaceAll(tt.stdout, "PORT", fmt.Sprint(port)), "...")
		if status != tt.status || stdout != want && !(isPart && strings.HasPrefix(stdout, want)) {
			t.Errorf("%s: exit status %d, %q; want %d, %q; stderr %q", tt.args, status, stdout, tt.status, want, stderr)
		}
		if (stderr == "") != (tt.status != 1 || strings.HasSuffix(tt.args, "-kill")) {
			t.Errorf("%s: stderr %q", tt.args, stderr)
		}
	}
}

// errFull is the error of a device without space.
var errFull = errors.New("no space left")

// full takes nothing.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

// TestRunFull writes to a device without space. That is an error, not a success with no output.
func TestRunFull(t *testing.T) {
	port := fmt.Sprint(serveEPMD(t, false, "a"))
	for _, args := range []string{"-h", "-version", "-port " + port + " -nodes", "-port " + port + " -nodes -json"} {
		var stderr strings.Builder
		err := run(t.Context(), strings.Fields("epmd "+args), environ(""), full{}, &stderr)
		if status := report(err, &stderr); status != 1 || !errors.Is(err, errFull) || !strings.HasSuffix(stderr.String(), errFull.Error()+"\n") {
			t.Errorf("%s: exit status %d, %v, stderr %q", args, status, err, &stderr)
		}
	}
}

// TestRunHostile has control characters on the command line. None reaches the terminal.
func TestRunHostile(t *testing.T) {
	const evil = "x\x1b[2J\u202e\r\n@b"
	for _, args := range [][]string{
		{evil}, {"-" + evil}, {"-port", evil}, {"-lan", evil}, {"-address", evil}, {"-bus", evil}, {"-interface", evil}, {"-peer", evil}, {"-peer", "fe80::1%" + evil},
		{"-allow", evil}, {"-node", evil}, {"-hosts_file", "/" + evil + "/h"}, {"-etc_hosts", "/" + evil + "/h"}, {"-ping", evil}, {"-ping", evil, "-json"},
		{"-peek", evil}, {"-cookie_file", evil}, {"-ping", "a@b", "-cookie_file", evil}, {"-names", evil}, {"-port", "1", "-nodes", evil},
	} {
		var out strings.Builder
		err := run(t.Context(), append([]string{"epmd"}, args...), environ(""), &out, &out)
		if status := report(err, &out); status != 1 || out.Len() == 0 {
			t.Errorf("%q: exit status %d, wrote %q", args, status, &out)
		}
		if strings.ContainsAny(out.String(), "\x1b\u202e") || strings.Contains(strings.ReplaceAll(out.String(), "\r\n", ""), "\r") {
			t.Errorf("%q: wrote %q", args, &out)
		}
	}
}

// TestVersion says what the linker has set.
func TestVersion(t *testing.T) {
	defer func(was string) { version = was }(version)
	version = "1.2.3"
	if _, stdout, _ := runAt(t, "-version", 0); !strings.HasPrefix(stdout, "epmd (Eclus) 1.2.3 go") {
		t.Errorf("got %q", stdout)
	}
	if got := (config{}).daemonOptions(nil, nil).Version; got != version {
		t.Errorf("the daemon is %q", got)
	}
	if version = ""; buildVersion() == "" || strings.Contains(buildVersion(), "(devel)") {
		t.Errorf("not linked with a version: %q", buildVersion())
	}
}

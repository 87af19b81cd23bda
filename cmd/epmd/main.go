// Command epmd is an Erlang Port Mapper Daemon. It also announces the nodes of this host on the
// local network, and finds those of other hosts. It takes the place of the epmd of Erlang/OTP.
// Flags, environment, texts and exit statuses are the same. Run it with -h for a list of all flags.
//
// To build it, give go build a folder, because ./epmd is the package of the protocol:
//
//	go build -o build/ ./cmd/epmd
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/goerlang/eclus/cmd/epmd/internal/daemon"
	"github.com/goerlang/eclus/cmd/epmd/internal/detach"
	"github.com/goerlang/eclus/cmd/epmd/internal/exit"
	"github.com/goerlang/eclus/cmd/epmd/internal/listing"
	"github.com/goerlang/eclus/cmd/epmd/internal/peek"
	"github.com/goerlang/eclus/cmd/epmd/internal/probe"
	"github.com/goerlang/eclus/cmd/epmd/internal/screen"
	"github.com/goerlang/eclus/cmd/epmd/internal/stock"
	"github.com/goerlang/eclus/cmd/epmd/internal/stockerror"
	"github.com/goerlang/eclus/cmd/epmd/internal/way"
	"github.com/goerlang/eclus/systemd"
)

// version is set by the linker: -X main.version=1.2.3. The script version knows it.
var version string

func main() {
	err := run(context.Background(), os.Args, os.LookupEnv, os.Stdout, os.Stderr)
	os.Exit(report(err, os.Stderr))
}

// run does what the command line and the environment say. All of both is checked before anything is
// bound or asked.
func run(ctx context.Context, args []string, getenv func(string) (string, bool), stdout, stderr io.Writer) error {
	c, err := parse(args[1:], getenv)
	if err == nil {
		err = c.checkFiles(getenv)
	}
	if err != nil {
		return err
	}
	switch c.command {
	case commandHelp:
		_, err := io.WriteString(stdout, usageText())
		return err
	case commandVersion:
		_, err := fmt.Fprintf(stdout, "epmd (Eclus) %s %s\n", buildVersion(), runtime.Version())
		return err
	case commandNodes:
		return listing.List(ctx, listing.Options{
			Port: c.port, Filter: c.filter, JSON: c.json, Watch: c.watch, Screen: screen.Of(stdout, getenv), Stdout: stdout, Stderr: stderr,
		})
	case commandPing:
		return probe.Ping(ctx, probe.Options{Way: c.wayOptions(getenv), JSON: c.json, Screen: screen.Of(stdout, getenv), Stdout: stdout})
	case commandPeek:
		return peek.Peek(ctx, peek.Options{
			Way: c.wayOptions(getenv), JSON: c.json, Watch: c.watch, Screen: screen.Of(stdout, getenv), Stdout: stdout, Stderr: stderr,
		})
	case commandServe:
		if rehearsal, err := systemd.Rehearsal(stdout); rehearsal {
			return err
		}
		if c.daemon.Daemon && !systemd.TakesOver() {
			starter, err := detach.Detach(ctx, c.port, args, getenv)
			if starter == nil || err != nil {
				return err
			}
			c.daemon.Starter = starter
		}
		return daemon.Serve(ctx, c.daemonOptions(args, stderr))
	}
	return stock.Ask(ctx, stock.Options{Question: c.question, Name: c.name, Port: c.port, Stdout: stdout, Stderr: stderr})
}

// wayOptions returns which way to go to a node.
func (c config) wayOptions(getenv func(string) (string, bool)) way.Options {
	return way.Options{
		Node: c.name, Port: c.port, CookieFile: c.cookieFile, Prove: c.prove, Roots: c.roots, HostName: hostName(), Getenv: getenv,
	}
}

// daemonOptions returns what the daemon needs to know. args are those of this process.
func (c config) daemonOptions(args []string, stderr io.Writer) daemon.Options {
	o := c.daemon
	o.Args, o.Stderr, o.Port, o.HostName, o.Version = args, stderr, c.port, hostName, buildVersion()
	return o
}

// hostName returns the first label of the name of this host.
func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	host, _, _ := strings.Cut(name, ".")
	return host
}

// report writes err to stderr, unless the command has done so. It returns the exit status.
func report(err error, stderr io.Writer) int {
	var status exit.Status
	var usage usageError
	var stock stockerror.Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "epmd: %v\n%s", err, usageText())
	case errors.As(err, &stock):
		stock.Report(stderr)
	default:
		fmt.Fprintf(stderr, "epmd: %v\n", err)
	}
	return 1
}

// buildVersion returns what this epmd calls itself, on the network too.
func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && version == "" && info.Main.Version != "(devel)" {
		return cmp.Or(info.Main.Version, "devel")
	}
	return cmp.Or(version, "devel")
}

// Package stock asks the epmd that runs here what OTP's epmd can ask: -names, -started, -dump,
// -kill and -stop. Texts, streams and exit statuses are the same as there.
//
// Ask connects to the epmd by TCP, and blocks until that has answered. With Names, it gives up
// after 2 s.
package stock

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/exit"
	"github.com/goerlang/eclus/cmd/epmd/internal/explain"
	"github.com/goerlang/eclus/cmd/epmd/internal/screen"
	"github.com/goerlang/eclus/epmd"
)

// maxStopName is how long a name OTP's epmd takes for -stop, in bytes.
const maxStopName = 1000

// namesTime is how long Names waits for an answer to begin. Health checks ask it, and a wedged epmd
// is to fail them.
const namesTime = 2 * time.Second

// Question is what the epmd is asked.
type Question uint8

// The questions of OTP's epmd.
const (
	Names Question = iota
	Started
	Dump
	Kill
	Stop
)

// Options say what to ask, and where the answer goes.
type Options struct {
	Question       Question
	Name           string // whom to stop
	Port           uint16
	Stdout, Stderr io.Writer
}

// explainer explains why there is no answer. To ask whether an epmd is there (-started) is no
// reason to write anything.
func (o Options) explainer() *explain.Explainer {
	e := &explain.Explainer{Port: o.Port, Stderr: o.Stderr, Unwilling: "an epmd that did not answer this"}
	switch o.Question {
	case Started:
		e.Stderr = nil
	case Stop:
		e.Unwilling = "an epmd that does not grant -stop: it takes one started with -relaxed_command_check"
	}
	return e
}

// Ask asks the epmd that runs here. It prints the same text as OTP's epmd, to the same stream. As
// there, it waits for an epmd that does not answer, except with Names. If the epmd does not answer
// as it should, an explanation follows on Stderr. An error is an [exit.Status].
func Ask(ctx context.Context, o Options) error {
	if o.Question == Stop && len(o.Name) > maxStopName {
		fmt.Fprint(o.Stdout, "epmd: Name too long!")
		return exit.Status(1)
	}
	asking, giveUp := context.WithCancel(ctx)
	defer giveUp()
	explainer := o.explainer()
	var conn net.Conn
	var begun error // of the first byte
	var answer *bufio.Reader
	var err error
	explainer.IfLate(ctx, func() {
		if o.Question == Names {
			defer time.AfterFunc(namesTime, giveUp).Stop()
		}
		if conn, err = epmd.NewLocalClient(o.Port).Ask(asking, o.request()); err == nil {
			answer = bufio.NewReader(conn)
			_, begun = answer.Peek(1)
		}
	})
	if isWriteError(err) {
		fmt.Fprintln(o.Stdout, "epmd: Can't write to epmd")
		explainer.Explain(ctx, explain.Unanswered)
		return exit.Status(1)
	}
	if err != nil {
		if o.Question != Started {
			fmt.Fprintln(o.Stderr, "epmd: Cannot connect to local epmd")
		}
		explainer.Explain(ctx, explain.Unreachable)
		return exit.Status(1)
	}
	defer conn.Close()
	valid, err := printAnswer(o.Question, answer, begun, o.Stdout)
	switch {
	case valid:
	case asking.Err() != nil:
		explainer.Explain(ctx, explain.Late)
	default:
		explainer.Explain(ctx, explain.Unanswered)
	}
	return err
}

// isWriteError reports whether a request was refused by a connection that stood.
func isWriteError(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "write"
}

func (o Options) request() epmd.Request {
	switch o.Question {
	case Kill:
		return epmd.KillReq{}
	case Stop:
		return epmd.StopReq{Name: o.Name}
	case Dump:
		return epmd.DumpReq{}
	}
	return epmd.NamesReq{}
}

// printAnswer prints the answer to a command as OTP's epmd does. begun is the error of the first
// byte, which reading does not return again. The error is the command's; valid reports whether an
// epmd could have answered so.
func printAnswer(asked Question, answer *bufio.Reader, begun error, stdout io.Writer) (valid bool, err error) {
	switch asked {
	case Kill:
		return printKilled(answer, begun, stdout)
	case Stop:
		return printStopped(answer, begun, stdout)
	case Started:
		return printNames(answer, io.Discard)
	}
	return printNames(answer, stdout)
}

// printNames prints an answer to NamesReq or DumpReq. A terminal gets it as it comes, others in as
// few writes as OTP's epmd needs. There are programs that read once.
func printNames(answer *bufio.Reader, stdout io.Writer) (valid bool, err error) {
	var port int32
	if err := binary.Read(answer, binary.BigEndian, &port); err != nil {
		fmt.Fprintln(stdout, "epmd: no response from local epmd")
		return false, exit.Status(1)
	}
	heading := fmt.Sprintf("epmd: up and running on port %d with data:\n", port)
	if screen.IsTerminal(stdout) {
		io.WriteString(stdout, heading)
		screen.CopyPrintable(stdout, answer)
	} else {
		out := bufio.NewWriter(stdout)
		out.WriteString(heading)
		_, _ = io.Copy(struct{ io.Writer }{out}, answer) // however it ends, the answer is what came
		out.Flush()
	}
	return 0 < port && port <= 65535, nil // what other programs say first makes larger numbers
}

// printKilled prints an answer to KillReq.
func printKilled(answer io.Reader, begun error, stdout io.Writer) (valid bool, err error) {
	said, err := readShort(answer, begun, len("OK"), stdout)
	switch {
	case err != nil:
		return false, err
	case said == "OK":
		fmt.Fprintln(stdout, "Killed")
		return true, nil
	}
	fmt.Fprintln(stdout, "Killing not allowed - living nodes in database.")
	return said == "NO", exit.Status(1)
}

// printStopped prints the first 7 bytes of an answer to StopReq: "STOPPED" or "NOEXIST".
func printStopped(answer io.Reader, begun error, stdout io.Writer) (valid bool, err error) {
	said, err := readShort(answer, begun, len("STOPPED"), stdout)
	if err != nil {
		return false, err
	}
	fmt.Fprintln(stdout, screen.Printable(said))
	return said == "STOPPED" || said == "NOEXIST", nil
}

// readShort reads an answer of that length and, if it is shorter, says so.
func readShort(answer io.Reader, begun error, length int, stdout io.Writer) (string, error) {
	buf := make([]byte, length)
	err := begun
	if err == nil {
		_, err = io.ReadFull(answer, buf)
	}
	switch {
	case err == nil:
		return string(buf), nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		fmt.Fprintln(stdout, "epmd: local epmd responded with <>")
	default:
		fmt.Fprintln(stdout, "epmd: failed to read answer from local epmd")
	}
	return "", exit.Status(1)
}

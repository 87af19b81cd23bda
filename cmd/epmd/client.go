package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/goerlang/eclus/cmd/epmd/internal/screen"
	"github.com/goerlang/eclus/epmd"
)

// maxStopName is how long a name OTP's epmd takes for -stop, in bytes.
const maxStopName = 1000

// ask puts one of the questions of OTP's epmd to the one that runs here. It prints the same text to the
// same stream, and as there an epmd that does not answer is waited for. What can be found out about one that
// does not answer as it should follows on stderr.
func ask(ctx context.Context, c config, stdout, stderr io.Writer) error {
	if c.command == commandStop && len(c.name) > maxStopName {
		fmt.Fprint(stdout, "epmd: Name too long!")
		return exitStatus(1)
	}
	var conn net.Conn
	var begun error // of the first byte
	var answer *bufio.Reader
	var err error
	explainIfLate(ctx, c, stderr, func() {
		if conn, err = epmd.NewLocalClient(c.port).Ask(ctx, c.request()); err == nil {
			answer = bufio.NewReader(conn)
			_, begun = answer.Peek(1)
		}
	})
	if isWriteError(err) {
		fmt.Fprintln(stdout, "epmd: Can't write to epmd")
		explain(ctx, c, unanswered, stderr)
		return exitStatus(1)
	}
	if err != nil {
		if c.command != commandStarted {
			fmt.Fprintln(stderr, "epmd: Cannot connect to local epmd")
		}
		explain(ctx, c, unreachable, stderr)
		return exitStatus(1)
	}
	defer conn.Close()
	valid, err := printAnswer(c.command, answer, begun, stdout)
	if !valid {
		explain(ctx, c, unanswered, stderr)
	}
	return err
}

// isWriteError reports whether a request was refused by a connection that stood.
func isWriteError(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "write"
}

func (c config) request() epmd.Request {
	switch c.command {
	case commandKill:
		return epmd.KillReq{}
	case commandStop:
		return epmd.StopReq{Name: c.name}
	case commandDump:
		return epmd.DumpReq{}
	}
	return epmd.NamesReq{}
}

// printAnswer prints the answer to a command as OTP's epmd does. begun is the error of its first byte, which
// is not returned again when that is read. The error is the command's; valid reports whether an epmd could
// have answered so.
func printAnswer(asked command, answer *bufio.Reader, begun error, stdout io.Writer) (valid bool, err error) {
	switch asked {
	case commandKill:
		return printKilled(answer, begun, stdout)
	case commandStop:
		return printStopped(answer, begun, stdout)
	case commandStarted:
		return printNames(answer, io.Discard)
	}
	return printNames(answer, stdout)
}

// printNames prints an answer to NamesReq or DumpReq: to a terminal as it comes, else in as few writes as
// OTP's epmd needs. There are programs that read once.
func printNames(answer *bufio.Reader, stdout io.Writer) (valid bool, err error) {
	var port int32
	if err := binary.Read(answer, binary.BigEndian, &port); err != nil {
		fmt.Fprintln(stdout, "epmd: no response from local epmd")
		return false, exitStatus(1)
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
	return isPort(int64(port)), nil
}

// isPort tells whether that can be an epmd's port. What other programs say first makes larger numbers.
func isPort(n int64) bool { return 0 < n && n <= 65535 }

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
	return said == "NO", exitStatus(1)
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
	return "", exitStatus(1)
}

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"eclus/epmd"
)

// maxStopName is how long a name OTP's epmd takes for -stop, in bytes.
const maxStopName = 1000

// ask puts one of the questions of OTP's epmd to the one that runs here. It prints the same text to the
// same stream, and as there an epmd that does not answer is waited for.
func ask(ctx context.Context, c config, stdout, stderr io.Writer) error {
	if c.command == commandStop && len(c.name) > maxStopName {
		fmt.Fprint(stdout, "epmd: Name too long!")
		return exitStatus(1)
	}
	conn, err := epmd.NewLocalClient(c.port).Ask(ctx, c.request())
	if err != nil {
		if c.command != commandStarted {
			fmt.Fprintln(stderr, "epmd: Cannot connect to local epmd")
		}
		return exitStatus(1)
	}
	defer conn.Close()
	switch c.command {
	case commandKill:
		return printKilled(conn, stdout)
	case commandStop:
		return printStopped(conn, stdout)
	case commandStarted:
		return printNames(conn, io.Discard)
	}
	return printNames(conn, stdout)
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

// printNames prints an answer to NamesReq or DumpReq as it comes.
func printNames(conn net.Conn, stdout io.Writer) error {
	var port int32
	if err := binary.Read(conn, binary.BigEndian, &port); err != nil {
		fmt.Fprintln(stdout, "epmd: no response from local epmd")
		return exitStatus(1)
	}
	fmt.Fprintf(stdout, "epmd: up and running on port %d with data:\n", port)
	if isTerminal(stdout) {
		copyPrintable(stdout, conn)
	} else {
		_, _ = io.Copy(stdout, conn) // however it ends, the answer is what came
	}
	return nil
}

// printKilled prints an answer to KillReq.
func printKilled(conn net.Conn, stdout io.Writer) error {
	answer, err := readShort(conn, len("OK"), stdout)
	switch {
	case err != nil:
		return err
	case answer == "OK":
		fmt.Fprintln(stdout, "Killed")
		return nil
	}
	fmt.Fprintln(stdout, "Killing not allowed - living nodes in database.")
	return exitStatus(1)
}

// printStopped prints the first 7 bytes of an answer to StopReq: "STOPPED" or "NOEXIST".
func printStopped(conn net.Conn, stdout io.Writer) error {
	answer, err := readShort(conn, len("STOPPED"), stdout)
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, printable(answer))
	return nil
}

// readShort reads an answer of that length and, if it is shorter, says so.
func readShort(conn net.Conn, length int, stdout io.Writer) (string, error) {
	buf := make([]byte, length)
	_, err := io.ReadFull(conn, buf)
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

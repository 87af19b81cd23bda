// Command bare is the least that a Go program does to answer as an epmd. It listens on the address
// and port of its flags, and answers whatever is asked as if no node were registered. The benchmark
// shows by it how much of an epmd's start is Go's.
package main

import (
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
)

func main() {
	address := flag.String("address", "127.0.0.1", "where to listen")
	port := flag.Uint("port", 4369, "where to listen")
	flag.Parse()
	if err := serve(*address, uint16(*port)); err != nil {
		fmt.Fprintln(os.Stderr, "bare:", err)
		os.Exit(1)
	}
}

func serve(address string, port uint16) error {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, port)))
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		answer(conn, port)
	}
}

// answer answers one request, which fits into what is read at once.
func answer(conn net.Conn, port uint16) {
	defer conn.Close()
	var request [512]byte
	if _, err := conn.Read(request[:]); err == nil {
		conn.Write(binary.BigEndian.AppendUint32(nil, uint32(port)))
	}
}

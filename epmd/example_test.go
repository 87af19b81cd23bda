package epmd_test

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
)

func ExampleAliveReq_Append() {
	fmt.Printf("% x\n", epmd.AliveReq{Port: 41233, Type: registry.Normal, High: 6, Low: 5, Name: "a"}.Append(nil))
	// Output: 78 a1 11 4d 00 00 06 00 05 00 01 61 00 00
}

func ExampleServer() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	nodes := registry.New("hosta.local", registry.OldNames)
	server := epmd.NewServer(epmd.Config{Registry: nodes})

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error)
	go func() { ended <- server.Serve(ctx, listener.(*net.TCPListener)) }()

	client := epmd.NewClient(listener.Addr().(*net.TCPAddr).AddrPort())
	reg, err := client.Register(ctx, epmd.AliveReq{Port: 41233, Type: registry.Normal, High: 6, Low: 5, Name: "a"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer reg.Close()
	fmt.Println(nodes.Lookup("a").Node)

	cancel()
	fmt.Println(<-ended)
	// Output:
	// a@hosta.local
	// <nil>
}

func ExampleClient() {
	ctx := context.Background()
	client := epmd.NewLocalClient(epmd.DefaultPort)
	node, err := client.Lookup(ctx, "a")
	if errors.Is(err, epmd.ErrNotRegistered) {
		fmt.Println("no such node")
		return
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(node.Name, node.Port)
}

func ExampleClient_Watch() {
	lines, err := epmd.NewLocalClient(epmd.DefaultPort).Watch(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer lines.Close()
	for {
		line, err := lines.Next()
		if err != nil {
			fmt.Println(err) // cut off, or the epmd has gone
			return
		}
		fmt.Printf("%c %s\n", line.Kind, line.Get("node"))
	}
}

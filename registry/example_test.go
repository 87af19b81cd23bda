package registry_test

import (
	"fmt"

	"github.com/goerlang/eclus/registry"
)

func Example() {
	r := registry.New("hosta.local", registry.OldNames)
	reg, err := r.Register(registry.Node{Name: "a", Port: 41233, High: 6, Low: 5})
	if err != nil {
		fmt.Println(err)
		return
	}
	nodes, changes := r.Subscribe()
	defer changes.Close()
	for _, n := range nodes {
		fmt.Println("known:", n.Node, n.Port)
	}

	r.Unregister(reg)
	events, err := changes.Take()
	for _, e := range events {
		fmt.Println(e.Kind, e.Node.Node)
	}
	fmt.Println(err)
	// Output:
	// known: a@hosta.local 41233
	// down a@hosta.local
	// <nil>
}

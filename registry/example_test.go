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
	changes := r.Subscribe()
	defer changes.Close()
	for _, n := range changes.Take().Nodes {
		fmt.Println("known:", n.Node, n.Port)
	}

	r.Unregister(reg)
	for _, e := range changes.Take().Events {
		fmt.Println(e.Kind, e.Node.Node)
	}
	// Output:
	// known: a@hosta.local 41233
	// down a@hosta.local
}

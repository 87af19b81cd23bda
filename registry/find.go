package registry

import "strings"

// entry is a node of another host, and its places in the lists of those that are called like it.
type entry struct {
	*Node
	at    [len(names{})]int
	owner string // whose share it is of
}

// names has the neighbours by what they are called: by alive name, and by full name. Anybody may
// announce thousands of one name, so nothing looks through a list.
type names [2]map[string][]*entry

// of returns a neighbour's names, in the order of names.
func (names) of(n *Node) [len(names{})]string { return [...]string{n.Name, n.Node} }

func (l *names) add(n *entry) {
	for i, name := range l.of(n.Node) {
		if l[i] == nil {
			l[i] = make(map[string][]*entry)
		}
		n.at[i] = len(l[i][name])
		l[i][name] = append(l[i][name], n)
	}
}

// remove has the last of each list take the place of n.
func (l *names) remove(n *entry) {
	for i, name := range l.of(n.Node) {
		list := l[i][name]
		end := len(list) - 1
		if end == 0 {
			delete(l[i], name)
			continue
		}
		list[n.at[i]], list[end].at[i] = list[end], n.at[i]
		list[end] = nil
		l[i][name] = list[:end]
	}
}

// Find returns the nodes of that name, which is a full or an alive name. Those of this host come
// first.
func (r *Registry) Find(name string) []*Node {
	r.mu.RLock()
	defer r.mu.RUnlock()
	others, at := r.named[0][name], strings.LastIndexByte(name, '@')
	if at >= 0 {
		others = r.named[1][name]
	}
	found := make([]*Node, 0, 1+len(others))
	if reg := r.local[name]; reg != nil {
		found = append(found, reg.node)
	}
	if at >= 0 {
		if reg := r.local[name[:at]]; reg != nil && reg.node.Node == name {
			found = append(found, reg.node)
		}
	}
	for _, n := range others {
		found = append(found, n.Node)
	}
	return found
}

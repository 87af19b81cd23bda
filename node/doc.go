// Package node speaks to running Erlang nodes of OTP 23 to 29. It speaks the distribution
// protocol, as the nodes do to one another (OTP "Distribution Protocol", Protocol between
// Connected Nodes).
//
// The messages of the handshake are types with Append and Parse. They do no I/O. [Identify] asks
// a node for its name. It blocks until it has the answer. It may be called concurrently, and
// leaves no goroutine behind. What a peer sends is bounded in size and time. It is checked before
// it is returned.
//
// [Dial] and [Dialer] connect to a node as a hidden node that knows the [Cookie]. A [Server]
// takes connections from nodes. Either way a [Conn] comes of it. Over a Conn functions are
// called, messages sent, and processes monitored and linked to. Goroutines of its own serve it
// until Close. Its methods may be called concurrently. Each waits no longer than its context or
// the connection lasts. The handshake declines atom caches, fragments and aliases. No node runs
// anything here. No memory is taken on the word of a peer.
//
// Package etf encodes and decodes data.
package node

// Package node speaks to running Erlang nodes: the distribution protocol as the nodes themselves speak
// it to one another (OTP "Distribution Protocol", Protocol between Connected Nodes), for OTP 23 to 29.
//
// The messages of the handshake are types with Append and Parse and do no I/O. [Identify] asks a node
// for its name. It blocks until it has the answer, starts no goroutine that outlives it and may be called
// concurrently. What a peer sends is bounded in size and time and checked before it is returned.
//
// [Dial] and [Dialer] connect to a node as a hidden node that knows the [Cookie], and a [Server] takes
// connections from nodes. Either way a [Conn] comes of it, over which functions are called, messages sent and
// processes monitored and linked to. A Conn is served by goroutines of its own until Close; its methods may be called
// concurrently, and each waits no longer than its context or the connection lasts. Atom caches, fragments
// and aliases are declined in the handshake. No node runs anything here, and no memory is taken
// on the word of a peer.
//
// Data is encoded and decoded by package etf.
package node

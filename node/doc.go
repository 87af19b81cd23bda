// Package node speaks to running Erlang nodes: the distribution protocol as the nodes themselves speak
// it to one another (OTP "Distribution Protocol", Protocol between Connected Nodes).
//
// The messages of the handshake are types with Append and Parse and do no I/O. [Identify] asks a node
// for its name. It blocks until it has the answer, starts no goroutine that outlives it and may be called
// concurrently. What a peer sends is bounded in size and time and checked before it is returned.
package node

// Package node speaks to running Erlang nodes: the distribution protocol as the nodes themselves speak
// it to one another (OTP "Distribution Protocol", Protocol between Connected Nodes), and the external term
// format that carries their data (OTP "External Term Format"), for OTP 23 to 28.
//
// The messages of the handshake are types with Append and Parse and do no I/O. [Identify] asks a node
// for its name. It blocks until it has the answer, starts no goroutine that outlives it and may be called
// concurrently. What a peer sends is bounded in size and time and checked before it is returned.
//
// [Marshal] and [Unmarshal] turn Go values into terms and back, in the manner of encoding/json. They do no
// I/O and may be called concurrently. No length that a term claims for itself is trusted; [Limits] bound
// what it may cost.
package node

// Package etf turns Go values into Erlang terms and back, in the manner of encoding/json: the external
// term format (OTP "External Term Format"), as nodes of OTP 23 to 29 send it to each other.
//
// [Marshal] and [Unmarshal] do no I/O and may be called concurrently. No length that a term claims for
// itself is trusted. [Limits] bound what a term may cost.
package etf

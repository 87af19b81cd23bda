// Package etf turns Go values into Erlang terms and back, in the manner of encoding/json. It reads
// and writes the external term format (OTP "External Term Format") of OTP 23 to 29.
//
// [Marshal] and [Unmarshal] do no I/O and may be called concurrently. They trust no length that a
// term claims for itself. [Limits] bound what a term may cost.
package etf

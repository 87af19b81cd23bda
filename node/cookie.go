package node

import (
	"crypto/md5"
	"fmt"
	"io"
	"log/slog"
	"strconv"
)

// Cookie is the secret that all nodes of a cluster share. It is any bytes, as a node holds them
// in an atom. Printing, logging or encoding it shows a placeholder. string(c) is the secret
// itself.
type Cookie string

const noCookie = "(cookie)" // what is shown of any

// String returns a placeholder.
func (Cookie) String() string { return noCookie }

// Format writes a placeholder, whatever the verb.
func (Cookie) Format(f fmt.State, _ rune) { io.WriteString(f, noCookie) }

// LogValue returns a placeholder.
func (Cookie) LogValue() slog.Value { return slog.StringValue(noCookie) }

// MarshalText returns a placeholder. It serves encoding/json too.
func (Cookie) MarshalText() ([]byte, error) { return []byte(noCookie), nil }

// Digest proves knowledge of a cookie. It is the MD5 sum of the cookie and of a challenge in
// decimal (OTP "Distribution Protocol", Distribution Handshake).
type Digest [md5.Size]byte

// digest answers challenge.
func (c Cookie) digest(challenge uint32) Digest {
	return md5.Sum(strconv.AppendUint([]byte(c), uint64(challenge), 10))
}

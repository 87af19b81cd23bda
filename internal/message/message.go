// Package message has the IDs of those log messages that epmd.catalog explains to an operator.
package message

import "log/slog"

// ID is 32 hexadecimal digits that stay the same however a message's text may change. The journal
// has it as MESSAGE_ID= (systemd.journal-fields(7)).
type ID string

// The messages that have an ID. Their texts are "node up" and so on.
const (
	NodeUp         ID = "ee43d0d7450846158a5dd1fa29aa3a3c"
	NodeNamed      ID = "ca8262d50f8342c7a108eb3f411c1912"
	NodeDown       ID = "4d41255004f84e54aab6749e86f7b406"
	NameRefused    ID = "1283f3189e7c437c91677929bf9df1fb"
	NeighbourUp    ID = "70754a3b8d3741a8bd106c9564612b82"
	NeighbourNamed ID = "aa3eefb9efa9472184e4430034d92ff2"
	NeighbourDown  ID = "dfd7d2c532c14ae4a3f55d735de30044"
	PeerRefused    ID = "54560f043b2340029b1f975b6e909dda"
	StateRestored  ID = "9a0838eb484c4bf0a19848d88d909030"
)

// Attr returns the attribute that gives a log record the ID.
func (id ID) Attr() slog.Attr { return slog.Any("message_id", id) }

// LogValue returns an empty group. So a handler that knows nothing of IDs leaves the attribute out.
func (id ID) LogValue() slog.Value { return slog.GroupValue() }

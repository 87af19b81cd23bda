package message

import (
	"log/slog"
	"strings"
	"testing"
)

// TestAttr holds that handlers of the standard library leave IDs out.
func TestAttr(t *testing.T) {
	var text, json strings.Builder
	slog.New(slog.NewTextHandler(&text, nil)).Info("node up", NodeUp.Attr(), "port", 1)
	slog.New(slog.NewJSONHandler(&json, nil)).Info("node up", NodeUp.Attr(), "port", 1)
	for _, got := range []string{text.String(), json.String()} {
		if strings.Contains(got, string(NodeUp)) || strings.Contains(got, "message_id") || !strings.Contains(got, "port") {
			t.Errorf("got %q; want a port and no ID", got)
		}
	}
}

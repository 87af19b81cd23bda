package stockerror

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// TestReport writes as OTP's epmd does: "epmd: Thu Mar  5 12:00:00 2026: TEXT\r\n".
func TestReport(t *testing.T) {
	var stderr strings.Builder
	var stock Error
	if err := fmt.Errorf("start: %w", Errorf("cannot parse IP address %q", "x")); !errors.As(err, &stock) {
		t.Fatalf("%v is no Error", err)
	}
	stock.Report(&stderr)
	want := `^epmd: [A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}: cannot parse IP address "x"\r\n$`
	if !regexp.MustCompile(want).MatchString(stderr.String()) {
		t.Errorf("wrote %q; want %s", &stderr, want)
	}
}

func TestCause(t *testing.T) {
	err := error(Error{Text: "failed to bind", Cause: syscall.EADDRINUSE})
	if !errors.Is(err, syscall.EADDRINUSE) || err.Error() != "failed to bind" {
		t.Errorf("%v has cause %v", err, errors.Unwrap(err))
	}
	if errors.Unwrap(Errorf("x")) != nil {
		t.Error("an error without a cause has one")
	}
}

func TestStrerror(t *testing.T) {
	for errno, want := range map[syscall.Errno]string{
		syscall.EADDRNOTAVAIL: "Cannot assign requested address",
		syscall.EACCES:        "Permission denied",
	} {
		if got := Strerror(errno); got != want {
			t.Errorf("%d: %q, want %q", errno, got, want)
		}
	}
}

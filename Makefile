# make demo and make test install what they need on a Debian machine; the rest takes what is there.

PREFIX     ?= /usr
DESTDIR    ?=
UNITDIR    ?= /lib/systemd/system
VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
SUDO       := $(if $(filter 0,$(shell id -u)),,sudo -E env "PATH=$(PATH)")
GO         := test/go
TESTFLAGS  ?= -race
GOTESTSUM  := gotest.tools/gotestsum@v1.13.0
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: build demo test bench lint install clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o build/epmd ./cmd/epmd

demo:
	$(SUDO) test/setup
	@$(MAKE) --no-print-directory build
	@$(GO) build -o build/demo ./test/demo
	@$(SUDO) build/demo build/epmd

test:
	$(SUDO) test/setup
	$(SUDO) $(GO) run $(GOTESTSUM) --format testname -- -timeout 30m $(TESTFLAGS) ./...

bench: build
	$(SUDO) test/setup
	$(GO) build -o build/bench ./test/bench
	$(SUDO) build/bench -epmd build/epmd

lint:
	@unformatted=$$($$($(GO) env GOROOT)/bin/gofmt -l .); \
	    test -z "$$unformatted" || { echo "gofmt would change:" $$unformatted; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

install: build
	install -D -m 755 build/epmd $(DESTDIR)$(PREFIX)/bin/epmd
	install -D -m 644 systemd/epmd.socket $(DESTDIR)$(UNITDIR)/epmd.socket
	install -D -m 644 systemd/epmd.service $(DESTDIR)$(UNITDIR)/epmd.service

clean:
	rm -rf build

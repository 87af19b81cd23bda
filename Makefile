# make demo and make test install what they need on a Debian machine; the rest takes what is there.

PREFIX     ?= /usr
DESTDIR    ?=
UNITDIR    ?= $(PREFIX)/lib/systemd/system
USERUNITDIR ?= $(PREFIX)/lib/systemd/user
BASHDIR    ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR     ?= $(PREFIX)/share/zsh/site-functions
FISHDIR    ?= $(PREFIX)/share/fish/vendor_completions.d
DBUSDIR    ?= $(PREFIX)/share/dbus-1
VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
SUDO       := $(if $(filter 0,$(shell id -u)),,sudo -E env "PATH=$(PATH)")
GO         := test/go
TESTFLAGS  ?= -race
GOTESTSUM  := gotest.tools/gotestsum@v1.13.0
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: build demo test releases bench lint install deb clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o build/epmd ./cmd/epmd

demo:
	@$(SUDO) test/setup demo
	@$(MAKE) --no-print-directory build
	@$(GO) build -o build/demo ./test/demo
	@$(SUDO) build/demo build/epmd

test:
	@$(SUDO) test/setup
	$(SUDO) $(GO) run $(GOTESTSUM) --format testname -- -p 1 -timeout 45m $(TESTFLAGS) ./...

releases:
	$(SUDO) test/releases

bench: build
	$(SUDO) test/setup
	$(GO) build -o build/bench ./test/bench
	$(SUDO) build/bench -epmd build/epmd

lint:
	@unformatted=$$($$($(GO) env GOROOT)/bin/gofmt -l .); \
	    test -z "$$unformatted" || { echo "gofmt would change:" $$unformatted; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

# The units run the epmd that is installed: PREFIX is written into them where it is not /usr.
install: build
	install -D -m 755 build/epmd $(DESTDIR)$(PREFIX)/bin/epmd
	install -D -m 644 -t $(DESTDIR)$(UNITDIR) systemd/epmd.socket systemd/epmd.service
	install -D -m 644 -t $(DESTDIR)$(USERUNITDIR) systemd/user/epmd.socket systemd/user/epmd.service
	sed -i 's|^ExecStart=/usr/bin/|ExecStart=$(PREFIX)/bin/|' \
	    $(DESTDIR)$(UNITDIR)/epmd.service $(DESTDIR)$(USERUNITDIR)/epmd.service
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/sysusers.d systemd/sysusers/eclus.conf
	set -e; for catalog in $(wildcard systemd/*.catalog); do \
	    install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/systemd/catalog $$catalog; done
	install -D -m 644 -t $(DESTDIR)$(DBUSDIR)/system.d dbus/org.erlang.Epmd.conf
	install -D -m 644 -t $(DESTDIR)$(DBUSDIR)/system-services dbus/org.erlang.Epmd.service
	install -D -m 644 -t $(DESTDIR)$(DBUSDIR)/services dbus/org.erlang.Epmd.service
	install -D -m 644 -t $(DESTDIR)$(DBUSDIR)/interfaces dbus/org.erlang.Epmd.Manager.xml dbus/org.erlang.Epmd.Node.xml
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man1 cmd/epmd/epmd.1
	install -D -m 644 cmd/epmd/completion/epmd.bash $(DESTDIR)$(BASHDIR)/epmd
	install -D -m 644 -t $(DESTDIR)$(ZSHDIR) cmd/epmd/completion/_epmd
	install -D -m 644 -t $(DESTDIR)$(FISHDIR) cmd/epmd/completion/epmd.fish
	set -e; for folder in epmd.socket.d epmd.service.d; do \
	    install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/eclus/examples/$$folder systemd/examples/$$folder/*; done

deb: ARCH = $(shell $(GO) env GOARCH)
deb: build
	@rm -rf build/deb
	@$(MAKE) --no-print-directory install DESTDIR=build/deb PREFIX=/usr \
	    ZSHDIR=/usr/share/zsh/vendor-completions
	@GO=$(GO) debian/build build/deb "$(VERSION)" "$(ARCH)" build

clean:
	rm -rf build

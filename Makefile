# make demo and make test install what they need on a Debian machine; the rest takes what is there.

PREFIX     ?= /usr/local
DESTDIR    ?=
UNITDIR    ?= $(PREFIX)/lib/systemd/system
USERUNITDIR ?= $(PREFIX)/lib/systemd/user
BASHDIR    ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR     ?= $(PREFIX)/share/zsh/site-functions
FISHDIR    ?= $(PREFIX)/share/fish/vendor_completions.d
DBUSDIR    ?= $(PREFIX)/share/dbus-1
# Of policies, the system bus reads those below /usr/share and /etc only.
POLICYDIR  ?= $(if $(filter /usr,$(PREFIX)),$(DBUSDIR),/etc/dbus-1)/system.d
# Where Debian's erl looks for applications.
ERLDIR     ?= /usr/lib/erlang/lib
VERSION    ?= $(shell ./version)
SUDO       := $(if $(filter 0,$(shell id -u)),,sudo -E env "PATH=$(PATH)")
GO         := test/go
TESTFLAGS  ?= -race
GOTESTSUM  := gotest.tools/gotestsum@v1.13.0
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: build erlang demo test check fuzz otp-suite fresh soak releases bench lint install uninstall unowned files deb clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o build/epmd ./cmd/epmd

build/epmd: go.mod $(shell find . -path ./build -prune -o -name '*.go' ! -name '*_test.go' -print)
	@$(MAKE) --no-print-directory build

# The application for nodes, where there is Erlang to compile it.
ERLAPP = eclus-$(shell sed -n 's/.*{vsn, "\(.*\)"}.*/\1/p' erlang/src/eclus.app.src)
erlang:
	@rm -rf build/erlang && mkdir -p build/erlang/ebin
	@command -v erlc >/dev/null || { echo "no erlc here: the Erlang application eclus is left out" >&2; exit 0; }; \
	    cd erlang/src && erlc +deterministic +debug_info -o ../../build/erlang/ebin *.erl && \
	    modules=$$(printf '%s,' *.erl | sed 's/\.erl//g; s/,$$//') && \
	    sed "s/{modules, \[\]}/{modules, [$$modules]}/" eclus.app.src >../../build/erlang/ebin/eclus.app

demo:
	@$(SUDO) test/setup demo
	@$(MAKE) --no-print-directory build
	@$(GO) build -o build/demo ./test/demo
	@$(SUDO) build/demo build/epmd

test:
	@$(SUDO) test/setup
	$(SUDO) $(GO) run $(GOTESTSUM) --format testname -- -p 2 -parallel 4 -timeout 45m $(TESTFLAGS) ./...
	test/fuzz 5s

# The loop in which one works: what needs neither root nor other programs. Much of it waits, so
# more packages run at once than there are cores.
check:
	$(GO) test -short -p 4 ./...

fuzz:
	test/fuzz 2m

otp-suite: build
	@$(SUDO) test/setup
	$(SUDO) test/otp-suite build/epmd

fresh:
	$(SUDO) test/fresh

# Minutes of load.
soak:
	@$(SUDO) test/setup
	$(SUDO) $(GO) test -count=1 -tags soak -run Soak -timeout 60m -v ./test/...

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
	GOARCH=386 $(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

install: build/epmd erlang unowned
	@umask 022; $(MAKE) --no-print-directory files

# Removes what install has installed with the same variables.
uninstall: build/epmd erlang unowned
	@made=$$(mktemp -d); trap 'rm -rf "$$made"' EXIT; \
	    $(MAKE) --silent files DESTDIR="$$made"; \
	    cd "$$made"; find . -type f -printf '$(DESTDIR)/%P\0' | xargs -0 rm -fv; \
	    find . -depth \( -path '*/doc/eclus*' -o -path '*/$(ERLAPP)*' \) -type d -printf '$(DESTDIR)/%P\0' | xargs -0 rmdir 2>/dev/null || true

# Leaves to packages what is theirs, as /usr/bin/epmd is erlang-base's.
unowned:
	@owner=$$(dpkg -S "$(DESTDIR)$(PREFIX)/bin/epmd" 2>/dev/null | grep -v '^diversion') || exit 0; \
	    echo "$(DESTDIR)$(PREFIX)/bin/epmd belongs to package $${owner%%:*}: take another PREFIX, or make deb" >&2; exit 1

# The units and their drop-ins run the epmd that is installed.
files:
	install -D -m 755 build/epmd $(DESTDIR)$(PREFIX)/bin/epmd
	install -D -m 644 -t $(DESTDIR)$(UNITDIR) systemd/epmd.socket systemd/epmd.service
	install -D -m 644 -t $(DESTDIR)$(USERUNITDIR) systemd/user/epmd.socket systemd/user/epmd.service
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/sysusers.d systemd/sysusers/eclus.conf
	set -e; for catalog in $(wildcard systemd/*.catalog); do \
	    install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/systemd/catalog $$catalog; done
	install -D -m 644 -t $(DESTDIR)$(POLICYDIR) dbus/org.erlang.Epmd.conf
	install -D -m 644 -t $(DESTDIR)$(DBUSDIR)/system-services dbus/org.erlang.Epmd.service
	install -D -m 644 -t $(DESTDIR)$(DBUSDIR)/services dbus/org.erlang.Epmd.service
	install -D -m 644 -t $(DESTDIR)$(DBUSDIR)/interfaces dbus/org.erlang.Epmd.Manager.xml dbus/org.erlang.Epmd.Node.xml
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man1 cmd/epmd/epmd.1
	install -D -m 644 cmd/epmd/completion/epmd.bash $(DESTDIR)$(BASHDIR)/epmd
	install -D -m 644 -t $(DESTDIR)$(ZSHDIR) cmd/epmd/completion/_epmd
	install -D -m 644 -t $(DESTDIR)$(FISHDIR) cmd/epmd/completion/epmd.fish
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/eclus README.md CHANGELOG.md SECURITY.md CONTRIBUTING.md
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/eclus/docs docs/*.md
	set -e; for file in $(wildcard build/erlang/ebin/*); do \
	    install -D -m 644 -t $(DESTDIR)$(ERLDIR)/$(ERLAPP)/ebin $$file; done
	set -e; for folder in epmd.socket.d epmd.service.d; do \
	    install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/eclus/examples/$$folder systemd/examples/$$folder/*; done
	grep -rlZ '^ExecStart=/usr/bin/' $(DESTDIR)$(UNITDIR)/epmd.service $(DESTDIR)$(USERUNITDIR)/epmd.service \
	    $(DESTDIR)$(PREFIX)/share/doc/eclus/examples | xargs -0 sed -i 's|^ExecStart=/usr/bin/|ExecStart=$(PREFIX)/bin/|'

deb: ARCH = $(shell $(GO) env GOARCH)
deb:
	@$(MAKE) --no-print-directory build erlang
	@rm -rf build/deb
	@umask 022; $(MAKE) --no-print-directory files DESTDIR=build/deb PREFIX=/usr \
	    ZSHDIR=/usr/share/zsh/vendor-completions
	@GO=$(GO) debian/build build/deb "$(VERSION)" "$(ARCH)" build

clean:
	rm -rf build

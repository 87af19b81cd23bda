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

# The companion for etcd is a Go module of its own.
ETCD := cmd/epmd-etcd

.PHONY: all build etcd erlang demo test check fuzz otp-suite projects fresh soak attack releases bench image containers lint install uninstall unowned files etcd-files deb deb-epmd deb-etcd clean

all: build etcd

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o build/epmd ./cmd/epmd

build/epmd: go.mod $(shell find . \( -path ./build -o -path ./$(ETCD) \) -prune -o -name '*.go' ! -name '*_test.go' -print)
	@$(MAKE) --no-print-directory build

etcd:
	CGO_ENABLED=0 $(GO) -C $(ETCD) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o ../../build/epmd-etcd .

build/epmd-etcd: $(ETCD)/go.mod $(shell find $(ETCD) internal systemd -name '*.go' ! -name '*_test.go')
	@$(MAKE) --no-print-directory etcd

# The container image localhost/eclus:ARCH, by podman or docker, whose old builder can't build for
# other processors (GOARCH=arm64). That of this machine is localhost/eclus, too.
# Its epmd has no inlining in packages that no answer needs: that saves 4 %. The same sources, version
# and time give the same digest with one podman, in whatever folder and with whatever umask.
PLAIN  = crypto/... vendor/golang.org/x/... encoding/asn1 encoding/json math/big log/slog github.com/godbus/...
ENGINE ?= $(shell command -v podman || command -v docker)
IMAGE  ?= localhost/eclus
image: ARCH = $(or $(GOARCH),$(shell $(GO) env GOARCH))
image: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
image:
	@test -n "$(ENGINE)" || { echo "neither podman nor docker here" >&2; exit 1; }
	@rm -rf build/image/$(ARCH) && mkdir -p build/image/$(ARCH)
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false $(PLAIN:%=-gcflags '%=-l') \
	    -ldflags "-s -w -X main.version=$(VERSION)" -o build/image/$(ARCH)/epmd ./cmd/epmd
	chmod 755 build/image/$(ARCH) build/image/$(ARCH)/epmd
	touch -d @$$SOURCE_DATE_EPOCH build/image/$(ARCH)/epmd
	DOCKER_BUILDKIT=1 $(ENGINE) build $(if $(findstring podman,$(ENGINE)),--format docker --layers=false --timestamp $$SOURCE_DATE_EPOCH) \
	    --platform linux/$(ARCH) --build-arg VERSION=$(VERSION) -t $(IMAGE):$(ARCH) \
	    -f packaging/container/Containerfile build/image/$(ARCH)
	$(if $(findstring podman,$(ENGINE)),packaging/container/same-digest $(ENGINE) $(IMAGE):$(ARCH))
	$(if $(filter $(shell $(GO) env GOHOSTARCH),$(ARCH)),$(ENGINE) tag $(IMAGE):$(ARCH) $(IMAGE))

# Real containers, each in a network of the tests' own.
containers:
	@$(SUDO) test/setup containers
	@$(MAKE) --no-print-directory erlang
	$(SUDO) $(GO) test -count=1 -tags containers -run Container -timeout 60m -v ./test

# The application for nodes, where there is Erlang to compile it.
ERLAPP = eclus-$(shell sed -n 's/.*{vsn, "\(.*\)"}.*/\1/p' erlang/eclus/src/eclus.app.src)
erlang:
	@rm -rf build/erlang && mkdir -p build/erlang/ebin
	@command -v erlc >/dev/null || { echo "no erlc here: the Erlang application eclus is left out" >&2; exit 0; }; \
	    cd erlang/eclus/src && erlc +deterministic +debug_info -o ../../../build/erlang/ebin *.erl && \
	    modules=$$(printf '%s,' *.erl | sed 's/\.erl//g; s/,$$//') && \
	    sed "s/{modules, \[\]}/{modules, [$$modules]}/" eclus.app.src >../../../build/erlang/ebin/eclus.app

demo:
	@$(SUDO) test/setup demo
	@$(MAKE) --no-print-directory build erlang
	@$(GO) build -o build/demo ./test/demo
	@$(SUDO) build/demo build/epmd build/erlang

test:
	@$(SUDO) test/setup
	$(SUDO) $(GO) run $(GOTESTSUM) --format testname -- -p 3 -parallel 6 -timeout 45m $(TESTFLAGS) ./...
	$(SUDO) $(GO) -C $(ETCD) run $(GOTESTSUM) --format testname -- $(TESTFLAGS) ./...
	test/fuzz 5s

# The loop in which one works: what needs neither root nor other programs. Much of it waits, so
# more packages run at once than there are cores. Most of the rest is linking, which is quicker
# without what debuggers need; make lint vets.
check:
	$(GO) test -short -vet=off -ldflags=-w -p 4 ./...
	$(GO) -C $(ETCD) test -short -vet=off -ldflags=-w ./...

fuzz:
	test/fuzz 2m

otp-suite: build
	@$(SUDO) test/setup
	$(SUDO) test/otp-suite build/epmd

projects: build
	$(SUDO) test/projects build/epmd

fresh:
	$(SUDO) test/fresh

# Minutes of load.
soak:
	@$(SUDO) test/setup
	$(SUDO) $(GO) test -count=1 -tags soak -run Soak -timeout 60m -v ./test/...

# What hostile users do, each for TIME.
TIME ?= 60s
attack:
	@$(SUDO) test/setup
	$(SUDO) ATTACK_TIME=$(TIME) $(GO) test -count=1 -tags attack -timeout 60m -v ./test/attack

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
	$(GO) vet -tags 'attack soak containers' ./test/...
	$(GO) run $(STATICCHECK) ./...
	$(GO) -C $(ETCD) vet ./...
	GOARCH=386 $(GO) -C $(ETCD) vet ./...
	$(GO) -C $(ETCD) run $(STATICCHECK) ./...
	$(GO) run $(STATICCHECK) -tags containers ./test

# The companion for etcd is installed too if "make etcd" or a bare "make" has built it.
install: build/epmd erlang unowned
	@umask 022; $(MAKE) --no-print-directory files $(if $(wildcard build/epmd-etcd),etcd-files)

# Removes what install has installed with the same variables.
uninstall: build/epmd erlang unowned
	@made=$$(mktemp -d); trap 'rm -rf "$$made"' EXIT; \
	    $(MAKE) --silent files etcd-files COMPANION=/dev/null DESTDIR="$$made"; \
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
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/tmpfiles.d systemd/tmpfiles/eclus.conf
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

COMPANION = build/epmd-etcd
etcd-files:
	install -D -m 755 $(COMPANION) $(DESTDIR)$(PREFIX)/bin/epmd-etcd
	install -D -m 644 -t $(DESTDIR)$(UNITDIR) systemd/etcd/epmd-etcd.service
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/sysusers.d systemd/etcd/sysusers/eclus-etcd.conf
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/systemd/catalog systemd/etcd/epmd-etcd.catalog
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man8 $(ETCD)/epmd-etcd.8
	sed -i 's|^ExecStart=/usr/bin/|ExecStart=$(PREFIX)/bin/|' $(DESTDIR)$(UNITDIR)/epmd-etcd.service

deb: deb-epmd deb-etcd

deb-epmd deb-etcd: ARCH = $(or $(GOARCH),$(shell $(GO) env GOARCH))
deb-epmd:
	@$(MAKE) --no-print-directory build erlang
	@rm -rf build/deb
	@umask 022; $(MAKE) --no-print-directory files DESTDIR=build/deb PREFIX=/usr \
	    ZSHDIR=/usr/share/zsh/vendor-completions
	@GO=$(GO) debian/build build/deb "$(VERSION)" "$(ARCH)" build

deb-etcd:
	@$(MAKE) --no-print-directory etcd
	@rm -rf build/deb-etcd
	@umask 022; $(MAKE) --no-print-directory etcd-files DESTDIR=build/deb-etcd PREFIX=/usr
	@install -D -m 644 debian/etcd/default build/deb-etcd/etc/default/epmd-etcd
	@GO=$(GO) debian/build build/deb-etcd "$(VERSION)" "$(ARCH)" build etcd

clean:
	rm -rf build

# SPDX-License-Identifier: Apache-2.0
# `make help` lists the targets.

GO       ?= go
PREFIX   ?= /usr/local
DESTDIR  ?=
VERSION  ?= v2.3.4
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)$(shell git diff --quiet HEAD 2>/dev/null || echo .m)
COMMANDS  = $(notdir $(wildcard cmd/*))
LDFLAGS   = -s -w -X slipway/internal/version.Version=$(VERSION) -X slipway/internal/version.Revision=$(REVISION)
# The init of containers is embedded; what grpc traces by is left out.
TAGS      = embedinit,grpcnotrace
FUZZTIME ?= 30s

export CGO_ENABLED = 0
export GOFLAGS    := -buildvcs=false

.PHONY: help
help: ## show this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: runtime/init.bin ## build the commands into bin/
	@mkdir -p bin
	$(if $(COMMANDS),$(GO) build -trimpath -tags '$(TAGS)' -ldflags '$(LDFLAGS)' -o bin/ $(addprefix ./cmd/,$(COMMANDS)))

# The init of containers is embedded in the commands that run them.
.PHONY: runtime/init.bin
runtime/init.bin:
	$(GO) build -trimpath -ldflags '-s -w' -o $@ ./runtime/init

.PHONY: install
install: build ## install into $(DESTDIR)$(PREFIX)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/systemd/system
	install -m 0755 $(addprefix bin/,$(COMMANDS)) $(DESTDIR)$(PREFIX)/bin
	sed 's|@BINDIR@|$(PREFIX)/bin|' packaging/containerd.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/containerd.service
	chmod 0644 $(DESTDIR)$(PREFIX)/lib/systemd/system/containerd.service

.PHONY: rpm
rpm: build ## an RPM for Rocky 8 and RHEL 8 in dist/
	packaging/rpm.sh $(VERSION:v%=%)

.PHONY: test
test: setup build ## install what the tests need, then run all of them (as root)
	scripts/test.sh

.PHONY: race
race: ## unit tests under the race detector
	CGO_ENABLED=1 $(GO) test -race $$($(GO) list ./... | grep -v /test/)

.PHONY: race-build
race-build: runtime/init.bin # COMMAND with the race detector into OUT, for tests
	CGO_ENABLED=1 $(GO) build -race -tags embedinit -o $(OUT)/ ./cmd/$(COMMAND)

.PHONY: vm
vm: build ## the PARTS of test/vm (all) in the virtual machine of SLIPWAY_VM_RUN
	test/vm/run.sh $(PARTS)

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME each
	scripts/fuzz.sh $(FUZZTIME)

.PHONY: lint
lint: ## gofmt and go vet
	@test -z "$$(gofmt -l $$(git ls-files '*.go') | tee /dev/stderr)"
	$(GO) vet ./...

.PHONY: bench
bench: setup build ## ratios against containerd 2.3.4 and runc in the same run
	bench/run.sh

.PHONY: quickstart
quickstart: build ## pull, run, exec, kill and remove a busybox container, from nothing
	scripts/quickstart.sh

.PHONY: setup
setup:
	scripts/setup.sh

# SPDX-FileCopyrightText: The stacker authors
# SPDX-License-Identifier: Apache-2.0

export CGO_ENABLED = 0
GO ?= go
PROGRAM ?= stacker
# -trimpath and an empty build id: the same source gives the same binary everywhere.
# grpcnotrace: without it a package that looks methods up by name is linked in, and with
# it every method of every type (see internal/template).
GOFLAGS_BUILD = -buildvcs=auto -trimpath -tags grpcnotrace -ldflags "-s -w -buildid="

.PHONY: build demo test check lint bench fuzz clean arm64

build: ## the program → ./stacker
	$(GO) build $(GOFLAGS_BUILD) -o $(PROGRAM) ./cmd/stacker

demo: build ## build a real image with it, and run something in the result
	cd examples/hello && ../../stacker build
	cd examples/hello && ../../stacker chroot hello /hello

test: build ## all tests; as root also those that need it
	$(GO) test -timeout 28m ./...

lint:
	@test -z "$$(gofmt -l cmd internal bench *.go)" || { gofmt -l cmd internal bench *.go; exit 1; }
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./...

arm64:
	GOARCH=arm64 $(GO) build $(GOFLAGS_BUILD) -o /dev/null ./cmd/stacker

check: lint arm64 test ## what CI runs

bench: build ## the workloads, beside other builders; see docs/benchmarks.md
	./bench/run

fuzz: ## every fuzz target for a while
	@set -e; for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "== $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $${FUZZTIME:-20s} $$pkg; \
	  done; done

clean:
	rm -f stacker

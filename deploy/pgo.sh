#!/bin/sh
# Learns for the compiler what gatepost does under load: `pgo.sh PROFILE` builds it with counters, lets `bench` load it with requests of every kind,
# and merges what was counted into a profile. `make binary PGO=1` and `make release PGO=1` run it.
#
# No two runs count the same, so who wants the same bytes again needs the same profile.
# LLVM_PROFDATA is LLVM's tool for it, CARGO_TARGET_DIR where target is; RUSTFLAGS are kept.
set -eu
cd "$(dirname "$0")/.."

profile=$1
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
triple=$(rustc -vV | sed -n 's/^host: //p')
counts=$target/pgo/counts
counting=$target/pgo/counting

rm -rf "$counts"
mkdir -p "$target/pgo"
# With a target named, build scripts and macros are built without these flags: they would count, too.
RUSTFLAGS="${RUSTFLAGS:-} -Cprofile-generate=$counts" cargo build --locked --release --package gatepost --target "$triple"
cp "$target/$triple/release/gatepost" "$counting"

# What a sidecar does all day, and what it does in a flood. Each process writes its counts when it ends.
GATEPOST=$counting python3 -B bench --rounds 1 --seconds 2 \
  --only "good bad trusted flood random message body-100k connect tls http2 gatepost gatepost-uncached gatepost-unix gatepost-message gatepost-throttled"
"$LLVM_PROFDATA" merge --sparse --output "$profile" "$counts"
rm -rf "$counts" "$counting"

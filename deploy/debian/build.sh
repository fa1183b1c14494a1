#!/bin/sh
# Makes the Debian package and lays it into target/dist.
#
# BINARY names a binary that is there already; without it the release profile is built. CARGO_TARGET_DIR is where target is. Further
# arguments are cargo-deb's. What goes where is said in crates/gatepost/Cargo.toml.
set -eu
umask 022
cd "$(dirname "$0")/../.."

# Where `make cargo-tools` puts what cargo needs for this.
PATH=$(pwd)/target/tools/bin:$PATH
target=${CARGO_TARGET_DIR:-target}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH CARGO_TARGET_DIR="$target"

if [ -z "${BINARY:-}" ]; then
  make --no-print-directory binary
else
  mkdir -p "$target/release"
  cp "$BINARY" "$target/release/gatepost"
fi
made=$target/release/made
mkdir -p "$made"
"$target/release/gatepost" man > "$made/gatepost.1"
"$target/release/gatepost" completions bash > "$made/gatepost.bash"
"$target/release/gatepost" completions zsh > "$made/_gatepost"
"$target/release/gatepost" completions fish > "$made/gatepost.fish"
mkdir -p "$target/dist"
cargo deb --quiet --no-build --strip --package gatepost --output "$target/dist/" "$@"
(cd "$target/dist" && sha256sum gatepost* > SHA256SUMS)

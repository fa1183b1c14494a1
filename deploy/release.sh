#!/bin/sh
# Lays what is given out into target/dist: the binary without its symbols, those beside it, a bill of materials (CycloneDX), how it was built, and
# the SHA-256 sums of all of them. With PGO, the profile that it was built with, too.
#
# BINARY names a binary that is there already; without it the release profile is built. PGO is what it is in the Makefile. CARGO_TARGET_DIR is where
# target is.
set -eu
umask 022
cd "$(dirname "$0")/.."

# Where `make cargo-tools` puts what cargo needs for this.
PATH=$(pwd)/target/tools/bin:$PATH
target=${CARGO_TARGET_DIR:-target}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
revision=${GATEPOST_REVISION:-$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)}
# The time of the last commit is the time of everything that is made of it.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH

machine=$(uname -m)
name=gatepost-$version-$machine-linux
again="make release"
where="in whichever folder"
if [ -n "${PGO:-}" ]; then
  again="make release PGO=$name.profdata"
  where="in a folder of the same name"
fi

if [ -z "${BINARY:-}" ]; then
  make --no-print-directory binary PGO="${PGO:-}"
  BINARY=$target/release/gatepost
  built="make binary${PGO:+ PGO=$name.profdata}"
  # Where `make binary` leaves it; the one that PGO names may be in the folder that goes.
  profile=${PGO:+$target/pgo/gatepost.profdata}
else
  built="from a binary that was there"
  profile=${PGO:-}
fi

dist=$target/dist
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# It may be one of those that go.
if [ -n "$profile" ]; then cp "$profile" "$work/profile"; fi
rm -rf "$dist"
mkdir -p "$dist"
if [ -n "$profile" ]; then install -m 644 "$work/profile" "$dist/$name.profdata"; fi

objcopy --only-keep-debug --compress-debug-sections=zlib "$BINARY" "$dist/$name.debug"
strip -o "$dist/$name" "$BINARY"
(cd "$dist" && objcopy --add-gnu-debuglink="$name.debug" "$name")
chmod 644 "$dist/$name.debug"

# The tool writes beside the manifest of every package of the workspace: of a copy, so that the checkout stays clean. Its path is taken out.
bom=$work/bom
mkdir "$bom"
cp -R Cargo.toml Cargo.lock crates tests "$bom"
cargo cyclonedx --quiet --manifest-path "$bom/crates/gatepost/Cargo.toml" --format json --spec-version 1.5 \
  --override-filename sbom >&2
sed "s|$bom|/gatepost|g" "$bom/crates/gatepost/sbom.json" > "$dist/$name.cdx.json"

cat > "$dist/$name.build.txt" <<BUILD
gatepost $version, revision $revision
$built
$(rustc --version), $(cc --version | head -n 1)
$(getconf GNU_LIBC_VERSION)
SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH

To build it again: the same revision, the same versions of rustc, cc and cmake, then \`$again\`; $where. Then
\`sha256sum --check SHA256SUMS\` says whether it is the same.
BUILD

find "$dist" -type f -exec touch --date "@$SOURCE_DATE_EPOCH" {} +
(cd "$dist" && sha256sum "$name"* > SHA256SUMS)
ls -l "$dist" >&2

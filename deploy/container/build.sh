#!/bin/sh
# Puts a binary into an image: `build.sh BINARY NAME`, from the top of the repository or anywhere else. Nothing is fetched. The same binary, built
# with the same podman, gives the same digest.
#
# PODMAN is podman with its options, or buildah. CONTEXT is the folder that deploy/Dockerfile is built in, MOST the most bytes that the image's
# files may take together.
set -eu
binary=$(realpath "$1")
name=$2
cd "$(dirname "$0")/../.."

context=${CONTEXT:-.}
most=${MOST:-40000000}
revision=${GATEPOST_REVISION:-$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH

deploy/container/root.sh "$binary" "$context/target/image"
size=$(find "$context/target/image" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }')
if [ "$size" -gt "$most" ]; then
  echo "the image would have $size bytes, which is more than $most" >&2
  exit 1
fi
${PODMAN:-podman} build --quiet --no-cache --layers=false --file deploy/Dockerfile --build-arg ROOT=ready --build-arg "REVISION=$revision" \
  --timestamp "$SOURCE_DATE_EPOCH" --tag "$name" "$context"
echo "$name: $size bytes in files" >&2

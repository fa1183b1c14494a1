#!/bin/sh
# Fills a folder with the root file system of the image: `root.sh BINARY FOLDER`.
#
# The binary is linked dynamically, as everywhere else, and what it needs of glibc comes with it. The same binary and folder make the
# same bytes: no owner, time or umask of this machine gets in. SOURCE_DATE_EPOCH (0) is the time of every file.
set -eu
umask 022

binary=$1
root=$2
deploy=$(dirname "$0")/..
authorities=/etc/ssl/certs/ca-certificates.crt

# From 2.34 on names are looked up in /etc/hosts and by DNS without a library that is loaded later, which nobody would see here.
glibc=$(getconf GNU_LIBC_VERSION | cut -d ' ' -f 2)
if [ "$(printf '2.34\n%s\n' "$glibc" | sort -V | head -n 1)" != 2.34 ]; then
  echo "glibc $glibc is older than 2.34" >&2
  exit 1
fi
if [ ! -s "$authorities" ]; then
  echo "please install: ca-certificates ($authorities is missing)" >&2
  exit 1
fi

rm -rf "$root"
mkdir -p "$root/usr/bin" "$root/etc/gatepost" "$root/etc/ssl/certs" "$root/usr/share/doc/gatepost"
strip -o "$root/usr/bin/gatepost" "$binary"

# The loader and the libraries, where the loader looks for them; `linux-vdso.so.1` is the kernel's. A static binary has none.
libraries=$(ldd "$root/usr/bin/gatepost" | sed -nE 's|.*[[:space:]](/[^ ]+) \(0x[0-9a-f]+\)$|\1|p')
if ldd "$root/usr/bin/gatepost" | grep -F 'not found' >&2; then exit 1; fi
for library in $libraries; do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done

cp -L "$authorities" "$root$authorities"
cp "$deploy/etc/gatepost.yaml" "$deploy/etc/policy.lua" "$root/etc/gatepost"
cp "$deploy/../LICENSE" "$root/usr/share/doc/gatepost"
printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n' > "$root/etc/passwd"
printf 'root:x:0:\nnonroot:x:65532:\n' > "$root/etc/group"

find "$root" -type d -exec chmod 755 {} +
find "$root" -type f -exec chmod 644 {} +
chmod 755 "$root/usr/bin/gatepost"
for library in $libraries; do chmod 755 "$root$library"; done
find "$root" -exec touch --no-dereference --date "@${SOURCE_DATE_EPOCH:-0}" {} +

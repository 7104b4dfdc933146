#!/usr/bin/env bash
# A Debian for 64-bit Arm with Python, only unpacked, never installed: what qemu-aarch64 -L runs.
#   unpack_python.sh 3.11 FOLDER
# Debian or Ubuntu: dpkg --add-architecture arm64; apt-get update
set -euo pipefail
version=$1
root=$2
[ ! -x "$root/usr/bin/python$version" ] || exit 0

packages=()
for name in "python$version-minimal" "libpython$version-minimal" "libpython$version-stdlib" "libpython$version-dev" \
  libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libssl3 libffi8 libbz2-1.0 liblzma5; do
  packages+=("$name:arm64")
done
mkdir -p "$root.packages" "$root"
(cd "$root.packages" && apt-get download -qq "${packages[@]}") || {
  echo "unpack_python: cannot download arm64 packages: dpkg --add-architecture arm64, apt-get update (and Python $version there)" >&2
  exit 1
}
for package in "$root".packages/*.deb; do dpkg -x "$package" "$root"; done

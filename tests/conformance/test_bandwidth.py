"""`bandwidth` after `bridge`: limits apply in both directions and families, and are removed with the attachment."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.support import DUAL, Refused, addresses, host_veth, network
from tests.netns.cni import CNI, with_prev
from tests.netns.node import Host, Node, Pod

AMOUNT = 150_000  # bytes
BITS, BURST = 4_000_000, 160_000
INGRESS, EGRESS = {"ingressRate": BITS, "ingressBurst": BURST}, {"egressRate": BITS, "egressBurst": BURST}
BOTH = INGRESS | EGRESS
# Refused by the kernel: at this rate its clock cannot distinguish a burst of one byte from zero.
IMPOSSIBLE = {"egressRate": 100, "egressBurst": 8}


def limited(version: str = "1.1.0", **limits: int) -> dict:
    """The plugin's configuration, with limits as a runtime passes them."""
    conf = {"cniVersion": version, "name": "net", "type": "bandwidth", "capabilities": {"bandwidth": True}}
    return {**conf, "runtimeConfig": {"bandwidth": limits}}


def connected(cni: CNI, pod: Pod, version: str = "1.1.0", **variables: str) -> dict:
    """The result of `bridge` for the pod, dual stack."""
    return cni.add(network(DUAL, version=version), pod, **variables)


def ifbs(node: Node) -> set[str]:
    """The names of the node's ifb links."""
    return {name for name, one in node.links().items() if one.get("linkinfo", {}).get("info_kind") == "ifb"}


def shaping(node: Node) -> tuple:
    """Every part of the node's state that limits traffic."""
    return ifbs(node), node.run(["tc", "qdisc"]).stdout


def transfer(source: Host, target: Host, address: str) -> float:
    """Send AMOUNT bytes over TCP to a server at `address` of `target`; the seconds until the last byte has arrived."""
    with target.socket(address, "tcp") as listener, source.socket(address, "tcp") as sender:
        listener.bind((address, 7001))
        listener.listen()
        sender.settimeout(20)
        sender.connect((address, 7001))
        connection, _ = listener.accept()
        with connection, ThreadPoolExecutor(1) as pool:
            connection.settimeout(20)
            began = time.monotonic()
            sending = pool.submit(sender.sendall, bytes(AMOUNT))
            received = 0
            while received < AMOUNT:
                received += len(connection.recv(65536))
            took = time.monotonic() - began
            sending.result()
    return took


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_without_limits_the_result_is_passed_on(cni: CNI, node: Node, pod: Pod, version: str) -> None:
    """Without key or capability the result is prevResult, and nothing is set in the kernel."""
    result = connected(cni, pod, version)
    before = shaping(node)
    assert cni.add(with_prev(limited(version), result), pod) == result
    assert shaping(node) == before


@pytest.mark.parametrize("limits", [{}, BOTH], ids=["without limits", "with limits"])
def test_without_prev_result_add_is_an_error(cni: CNI, pod: Pod, limits: dict, refused: Refused) -> None:
    """A chained plugin without prevResult has nothing to limit and returns an error."""
    with refused():
        cni.add(limited(**limits), pod)


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
@pytest.mark.parametrize("direction", ["ingress", "egress"])
@pytest.mark.parametrize("place", ["runtimeConfig", "top"])
def test_limits_hold(cni: CNI, node: Node, pod: Pod, family: int, direction: str, place: str) -> None:
    """Traffic to the pod (ingress) or from it takes at least as long as the limit requires; the burst is unlimited."""
    prev = connected(cni, pod)
    limits = {f"{direction}Rate": BITS, f"{direction}Burst": BURST}
    conf = limited(**limits) if place == "runtimeConfig" else {**limited(), **limits}
    result = cni.add(with_prev(conf, prev), pod)
    assert addresses(result) == addresses(prev)
    assert result["interfaces"][: len(prev["interfaces"])] == prev["interfaces"]
    inside, gateway = addresses(result)[family], prev["ips"][family]["gateway"]
    assert pod.reaches(gateway, timeout=15)
    took = transfer(node, pod, inside) if direction == "ingress" else transfer(pod, node, gateway)
    assert took >= 0.9 * (AMOUNT * 8 - BURST) / BITS


def test_limits_of_the_configuration_come_before_the_runtimes(cni: CNI, node: Node, pod: Pod) -> None:
    """A key at the top level, even 0, overrides runtimeConfig."""
    prev = connected(cni, pod)
    before = shaping(node)
    cni.add(with_prev({**limited(**BOTH), "ingressRate": 0}, prev), pod)
    assert shaping(node) == before


@pytest.mark.parametrize(
    "limits",
    [
        {"ingressRate": 8000},
        {"egressBurst": 8000},
        {"ingressRate": "1M", "ingressBurst": 8},
        {"ingressRate": -8, "ingressBurst": 8},
        {"ingressRate": 8000, "ingressBurst": 34359738360},
    ],
    ids=["rate without burst", "burst without rate", "a string", "negative", "burst too large"],
)
def test_bad_limits_are_refused(cni: CNI, node: Node, pod: Pod, limits: dict, refused: Refused) -> None:
    """ADD fails before it changes anything."""
    prev = connected(cni, pod)
    before = shaping(node)
    with refused():
        cni.add(with_prev(limited(**limits), prev), pod)
    assert shaping(node) == before


def test_a_failed_add_leaves_nothing(cni: CNI, node: Node, pod: Pod, refused: Refused) -> None:
    """If the second limit cannot be set, the first is removed."""
    prev = connected(cni, pod)
    before = shaping(node)
    with refused():
        cni.add(with_prev(limited(**INGRESS, **IMPOSSIBLE), prev), pod)
    assert shaping(node) == before


def test_two_interfaces_of_a_container(cni: CNI, node: Node, pod: Pod) -> None:
    """Two interfaces of one container can both be limited."""
    for ifname in ("eth0", "eth1"):
        prev = connected(cni, pod, ifname=ifname)
        cni.add(with_prev(limited(**BOTH), prev), pod, ifname=ifname)
    assert len(ifbs(node)) == 2


@pytest.mark.parametrize("broken", ["nothing", "no prevResult", "no namespace", "namespace vanished", "bad limits"])
def test_del_leaves_nothing(cni: CNI, node: Node, pod: Pod, other: Pod, broken: str) -> None:
    """DEL removes the limits of the attachment and keeps another pod's. A repeated DEL succeeds."""
    kept = cni.add(with_prev(limited(**BOTH), connected(cni, other)), other)
    before = ifbs(node)
    prev: Mapping | None = cni.add(with_prev(limited(**BOTH), connected(cni, pod)), pod)
    conf, variables = limited(**BOTH), {}
    match broken:
        case "no prevResult":
            prev = None
        case "no namespace":
            variables = {"netns": None}
        case "namespace vanished":
            pod.vanish()
        case "bad limits":
            conf = limited(ingressRate=8000)
    for _ in range(2):
        cni.delete(conf, pod, prev, **variables)
    assert ifbs(node) == before
    cni.check(limited(**BOTH), other, kept)


DAMAGES = {
    "ingress limit removed": (INGRESS, "tc qdisc del dev VETH root"),
    "ingress limit changed": (
        INGRESS,
        "tc qdisc change dev VETH root handle 1: tbf rate 9mbit burst 20000 limit 32500",
    ),
    "ingress queue changed": (
        INGRESS,
        "tc qdisc change dev VETH root handle 1: tbf rate 4mbit burst 20000 limit 99999",
    ),
    "egress limit removed": (EGRESS, "tc qdisc del dev IFB root"),
    "egress limit changed": (EGRESS, "tc qdisc change dev IFB root handle 1: tbf rate 9mbit burst 20000 limit 32500"),
    "egress filter removed": (EGRESS, "tc filter del dev VETH ingress"),
    "egress filter's place removed": (EGRESS, "tc qdisc del dev VETH ingress"),
    "ifb removed": (EGRESS, "ip link del IFB"),
    "ifb down": (EGRESS, "ip link set IFB down"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_check_fails_when(cni: CNI, node: Node, pod: Pod, damage: str, refused: Refused) -> None:
    """CHECK passes after ADD, and fails when any part of a limit is missing or different."""
    limits, line = DAMAGES[damage]
    prev = connected(cni, pod)
    result = cni.add(with_prev(limited(**limits), prev), pod)
    cni.check(limited(**limits), pod, result)
    line = line.replace("VETH", host_veth(prev))
    node.run(["sh", "-ec", line.replace("IFB", next(iter(ifbs(node)), ""))])
    with refused():
        cni.check(limited(**limits), pod, result)


def test_gc_removes_what_is_stale(cni: CNI, node: Node, pod: Pod, other: Pod) -> None:
    """GC deletes the ifb of an attachment that is not on the list and keeps the others."""
    cni.add(with_prev(limited(**BOTH), connected(cni, pod)), pod)
    kept = cni.add(with_prev(limited(**BOTH), connected(cni, other)), other)
    pod.vanish()
    cni.gc(limited(), other)
    assert len(ifbs(node)) == 1
    cni.check(limited(**BOTH), other, kept)


def test_status(cni: CNI) -> None:
    """STATUS succeeds with empty output when an ADD would succeed."""
    cni.status(limited(**BOTH))

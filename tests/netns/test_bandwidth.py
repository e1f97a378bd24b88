"""`bandwidth` on real links: the qdiscs it configures, and their effect on packets."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.netns.cni import CNI, CNIFailure, Cnitool
from tests.netns.node import Host, Node
from tests.netns.shaping_tools import BOTH, EGRESS, INGRESS, Link, ifbs, qdiscs, state


@pytest.fixture
def link(cni: CNI) -> Link:
    """A pod's link, without limits."""
    return Link(cni)


def pairs(ingress_rate: int, ingress_burst: int, egress_rate: int, egress_burst: int) -> dict[str, int]:
    """Limits for both directions."""
    rates = {"ingressRate": ingress_rate, "egressRate": egress_rate}
    return {**rates, "ingressBurst": ingress_burst, "egressBurst": egress_burst}


LIMITS = {
    "1 and 2 Mbit": pairs(1_000_000, 800_000, 2_000_000, 1_600_000),
    "smallest": pairs(8, 8, 16, 9),
    "odd": pairs(12_345, 10_007, 99_999_999, 7_654_321),
    "slow": pairs(12_345, 10_000, 64_000, 12_800),
    "10 Gbit": pairs(10**10, 8 * 10**7, 10**10, 10**9),
    "more than 32 bits": pairs(4 * 10**10, 10**9, 10**12, 10**9),
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_token_buckets_equal_those_of_the_reference(link: Link, reference: CNI, limits: dict) -> None:
    """The kernel lists the same token buckets, on the same links, as after the reference plugin's ADD."""
    node, shown = link.node, []
    for cni in (reference, link.cni):
        result = link.add(cni, **limits)
        (ifb,) = ifbs(node)
        assert result["interfaces"][:-1] == link.result["interfaces"]
        assert result["interfaces"][-1] == {"name": ifb, "mac": node.links()[ifb]["address"]}
        assert {key: result[key] for key in ("ips", "routes")} == {key: link.result[key] for key in ("ips", "routes")}
        shown.append([qdiscs(node, link.end)["tbf"]["options"], qdiscs(node, ifb)["tbf"]["options"]])
        assert set(qdiscs(node, link.end)) == {"tbf", "ingress"}
        one = node.links()[ifb]
        assert (one["mtu"], one.get("txqlen", 0), "UP" in one["flags"]) == (1500, 0, True)
        link.delete(result, **limits)
    assert shown[0] == shown[1]


def test_the_ifb_s_alias_names_its_owner(link: Link) -> None:
    """Its alias is the attachment; its MTU is that of the host veth."""
    link.node.run(["ip", "link", "set", link.end, "mtu", "1300"])
    link.add(**EGRESS)
    (ifb,) = ifbs(link.node)
    assert link.node.links()[ifb]["ifalias"] == "v1:net:poda:eth0"
    assert link.node.links()[ifb]["mtu"] == 1300


def test_one_direction_alone(link: Link) -> None:
    """An unlimited direction gets neither bucket nor ifb, and the result lists an ifb only if there is one."""
    result = link.add(**INGRESS)
    assert (set(qdiscs(link.node, link.end)), ifbs(link.node)) == ({"tbf"}, [])
    assert result["interfaces"] == link.result["interfaces"]
    other = Link(link.cni, "podb")
    other.add(**EGRESS)
    assert set(qdiscs(link.node, other.end)) == {"ingress"}
    assert len(ifbs(link.node)) == 1


def test_two_interfaces_of_a_container(link: Link) -> None:
    """Each has its own limits, and the DEL of one keeps those of the other."""
    second = Link(link.cni, ifname="eth1", pod=link.pod)
    first_result, second_result = link.add(**BOTH), second.add(**{**BOTH, "egressRate": 3_000_000})
    assert len(ifbs(link.node)) == 2
    link.delete(first_result, **BOTH)
    second.check(second_result, **{**BOTH, "egressRate": 3_000_000})
    assert len(ifbs(link.node)) == 1


def test_repeated_add_replaces(link: Link) -> None:
    """The limits of the last ADD are in force, whether it has more limits than the one before, fewer or others."""
    for limits in (BOTH, BOTH, INGRESS, EGRESS, {**BOTH, "ingressRate": 8_000_000, "egressBurst": 320_000}):
        result = link.add(**limits)
        link.check(result, **limits)
        assert ("tbf" in qdiscs(link.node, link.end)) == ("ingressRate" in limits)
        assert ("ingress" in qdiscs(link.node, link.end)) == ("egressRate" in limits)
        assert len(ifbs(link.node)) == ("egressRate" in limits)


def test_a_foreign_root_qdisc_is_not_replaced(link: Link) -> None:
    """If the link has a root qdisc that is not ours, ADD fails and leaves it."""
    link.node.run(["tc", "qdisc", "add", "dev", link.end, "root", "handle", "7:", "pfifo"])
    before = state(link.node)
    with pytest.raises(CNIFailure, match="it has a queueing discipline already: pfifo 7:"):
        link.add(**BOTH)
    assert state(link.node) == before


def test_redirect_on_an_existing_clsact_qdisc(link: Link) -> None:
    """If the link has a clsact qdisc, the redirect filter is added to it; DEL keeps clsact and its other filters."""
    other = ["protocol", "ip", "pref", "9", "u32", "match", "ip", "dst", "10.9.9.9/32", "classid", "1:9"]
    link.node.run(["tc", "qdisc", "add", "dev", link.end, "clsact"])
    link.node.run(["tc", "filter", "add", "dev", link.end, "ingress", *other])
    before = state(link.node)
    result = link.add(**BOTH)
    link.check(result, **BOTH)
    link.delete(result, **BOTH)
    assert state(link.node) == before


AMOUNT = 200_000  # bytes


def transfer(source: Host, target: Host, address: str) -> float:
    """Send AMOUNT bytes by TCP to a server at `address` on `target`; return the seconds until the last byte arrived."""
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


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_transfers_are_limited(link: Link, family: int, direction: str) -> None:
    """A transfer passes through its direction's bucket, is delayed, and is at most a tenth faster than the rate."""
    node, pod = link.node, link.pod
    link.add(**BOTH)
    (ifb,) = ifbs(node)
    inside = link.result["ips"][family]["address"].split("/")[0]
    outside = link.result["ips"][family]["gateway"]
    assert pod.reaches(outside)
    before = {name: qdiscs(node, name)["tbf"] for name in (link.end, ifb)}
    took = transfer(node, pod, inside) if direction == "ingress" else transfer(pod, node, outside)
    after = {name: qdiscs(node, name)["tbf"] for name in (link.end, ifb)}
    sent = {name: after[name]["bytes"] - before[name]["bytes"] for name in after}
    waited = {name: after[name]["overlimits"] - before[name]["overlimits"] for name in after}
    busy, idle = (link.end, ifb) if direction == "ingress" else (ifb, link.end)
    assert AMOUNT < sent[busy] < 2 * AMOUNT
    assert waited[busy] > 0
    assert 0 < sent[idle] < AMOUNT  # the acknowledgements
    # Everything beyond the burst is delayed, so even on a fast machine the transfer cannot take less time.
    bits = {"ingress": INGRESS, "egress": EGRESS}[direction]
    assert took >= 0.9 * (AMOUNT * 8 - bits[f"{direction}Burst"]) / bits[f"{direction}Rate"]


@pytest.mark.parametrize("limits", [INGRESS, EGRESS], ids=["ingress", "egress"])
def test_packets_flow_after_del(link: Link, limits: dict) -> None:
    """DEL removes the limits and leaves the pod connected, in both families."""
    result = link.add(**limits)
    assert link.pod.reaches("10.1.2.1")
    link.delete(result, **limits)
    assert link.pod.reaches("10.1.2.1")
    assert link.pod.reaches("fd00:1::1")


def test_the_example_conflist(node: Node, bin_dir: Path, reference_bin: Path) -> None:
    """limited.conflist with cnitool: ADD, CHECK and DEL of a pod with limits and of one without leave nothing."""
    tool = Cnitool(node, reference_bin / "cnitool", (bin_dir,))
    tool.write(json.loads((ROOT / "docs" / "conflists" / "limited.conflist").read_text()))
    slow, fast = node.pod("slow"), node.pod("fast")
    cases = [(slow, {"bandwidth": BOTH}), (fast, {})]
    for pod, capabilities in cases:
        result = tool.ok("add", "limited", pod, capabilities=capabilities)
        tool.ok("check", "limited", pod, capabilities=capabilities)
        assert result["interfaces"][1]["name"] in node.links()
        assert ("tbf" in qdiscs(node, result["interfaces"][1]["name"])) == (pod is slow)
        assert pod.reaches("10.27.0.1")
    assert len(ifbs(node)) == 1
    for pod, capabilities in cases:
        tool.ok("del", "limited", pod, capabilities=capabilities)
    assert {name for name in node.links() if name not in ("lo", "limited0")} == set()

"""`bandwidth` failures: CHECK detects damage, a failed ADD undoes its changes."""

import json
import sys

import pytest

from tests.conftest import ROOT
from tests.netns.cni import CNI, CNIFailure, with_prev
from tests.netns.node import Node
from tests.netns.shaping_tools import BOTH, EGRESS, FASTER, INGRESS, Link, ifbs, limited, state


@pytest.fixture
def link(cni: CNI) -> Link:
    """A pod's link, without limits."""
    return Link(cni)


FILTER = "tc filter del dev END ingress; tc filter add dev END ingress prio 1"
EVERYTHING, ONE_HOST = "u32 match u32 0 0", "u32 match u32 0x0a090909 0xffffffff at 16"
OURS = "tbf rate 4mbit burst 20000 limit 32500"
DAMAGES = {
    "no bucket": ("tc qdisc del dev END root", "has no token bucket"),
    "another qdisc": ("tc qdisc replace dev END root handle 2: pfifo", "has no token bucket"),
    "rate": (f"tc qdisc change dev END root handle 1: {OURS.replace('4mbit', '3mbit')}", "Rate doesn't match"),
    "limit": (f"tc qdisc change dev END root handle 1: {OURS.replace('32500', '32501')}", "Limit doesn't match"),
    "burst": (f"tc qdisc change dev END root handle 1: {OURS.replace('20000', '21000')}", "Buffer doesn't match"),
    "no ingress qdisc": ("tc qdisc del dev END ingress", "has no ingress qdisc"),
    "no filter": ("tc filter del dev END ingress", "has no filter"),
    "no ifb": ("ip link del IFB", "not found"),
    "ifb down": ("ip link set IFB down", "is down"),
    "no bucket on the ifb": ("tc qdisc del dev IFB root", "has no token bucket"),
    "rate on the ifb": ("tc qdisc change dev IFB root handle 1: tbf rate 1mbit burst 20000 limit 26250", "Rate"),
    "redirected elsewhere": (
        f"ip link add other type ifb; {FILTER} protocol all {EVERYTHING} action mirred egress redirect dev other",
        "are not redirected to",
    ),
    "IPv4 alone": (f"{FILTER} protocol ip {EVERYTHING} action mirred egress redirect dev IFB", "has no filter"),
    "one host": (f"{FILTER} protocol all {ONE_HOST} action mirred egress redirect dev IFB", "has no filter"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_check_fails_when(link: Link, damage: str) -> None:
    """CHECK passes after ADD, and reports each damage; a repeated ADD repairs all but foreign qdiscs and filters."""
    node = link.node
    result = link.add(**BOTH)
    link.check(result, **BOTH)
    line, message = DAMAGES[damage]
    node.run(["sh", "-ec", line.replace("END", link.end).replace("IFB", ifbs(node)[0])])
    with pytest.raises(CNIFailure) as caught:
        link.check(result, **BOTH)
    assert message in caught.value.text
    assert caught.value.code == 999
    if damage not in ("another qdisc", "redirected elsewhere", "IPv4 alone", "one host"):
        link.check(link.add(**BOTH), **BOTH)


def test_check_compares_with_the_current_configuration(link: Link) -> None:
    """CHECK fails if any of the four numbers differs from the limits in force."""
    result = link.add(**BOTH)
    for key, value in BOTH.items():
        with pytest.raises(CNIFailure) as caught:
            link.check(result, **{**BOTH, key: value * 2})
        assert "Buffer doesn't match" in caught.value.text
        assert ("Rate doesn't match" in caught.value.text) == key.endswith("Rate")


def test_check_of_what_the_reference_added(link: Link, reference: CNI) -> None:
    """CHECK passes for limits that the reference plugin added, and fails if they are damaged."""
    result = link.add(reference, **BOTH)
    link.check(result, **BOTH)
    link.node.run(["tc", "qdisc", "del", "dev", ifbs(link.node)[0], "root"])
    with pytest.raises(CNIFailure, match="has no token bucket"):
        link.check(result, **BOTH)


def test_wrong_links_are_refused(link: Link) -> None:
    """A link that is not a veth, does not exist or is not in prevResult fails with the reference's error; no change."""
    node, pod = link.node, link.pod
    pod.run(["ip", "link", "add", "br9", "type", "bridge"])
    before = state(node)
    unlisted = {**link.result, "interfaces": [one for one in link.result["interfaces"] if one["name"] != link.end]}
    cases = [
        ({**link.result, "interfaces": []}, {}, "no interfaces provided"),
        (link.result, {"ifname": "br9"}, "container interface br9 has no veth peer"),
        (link.result, {"ifname": "eth7"}, "container interface eth7 has no veth peer"),
        (unlisted, {}, "no veth peer of container interface found in host ns"),
        (link.result, {"netns": "/run/netns/nowhere"}, "/run/netns/nowhere: no such network namespace"),
    ]
    for prev, variables, message in cases:
        for verb in ("ADD", "CHECK"):
            with pytest.raises(CNIFailure) as caught:
                link.cni.call(verb, with_prev(limited(**BOTH), prev), pod, **variables)
            assert message in caught.value.text
    assert state(node) == before


def test_peer_in_another_namespace_is_refused(cni: CNI, node: Node) -> None:
    """ADD refuses a veth whose peer is in a third namespace, even if a link of the node has the peer's index."""
    one, two = node.pod("one"), node.pod("two")
    one.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far", "netns", "two"])
    index = two.links()["far"]["ifindex"]
    while max(entry["ifindex"] for entry in node.links().values()) < index:
        node.run(["ip", "link", "add", "type", "veth"])
    before = state(node)
    prev = {"cniVersion": "1.1.0", "interfaces": [{"name": "far"}, {"name": "eth0", "sandbox": one.path}]}
    with pytest.raises(CNIFailure, match=f"veth peer with index {index} is not in host ns"):
        cni.add(with_prev(limited(**BOTH), prev), one)
    assert state(node) == before


@pytest.mark.parametrize("before", [{}, BOTH, INGRESS, FASTER], ids=["fresh", "both", "ingress", "faster egress"])
@pytest.mark.parametrize("wanted", [BOTH, INGRESS, EGRESS], ids=["both", "ingress", "egress"])
def test_add_undoes_itself_whichever_request_is_refused(link: Link, before: dict, wanted: dict) -> None:
    """For each kernel request of an ADD: if it is refused, the limits are as before."""
    if before:
        link.add(**before)
    story = refuse_each(link, wanted)
    assert [one for one in story if one["left"]] == []
    if not before:
        # A query, a bucket; and for egress an ifb, its settings, its bucket, an ingress qdisc, the filter.
        assert len(story) - 1 == 1 + ("ingressRate" in wanted) + 5 * ("egressRate" in wanted)


@pytest.mark.parametrize("wanted", [BOTH, INGRESS, EGRESS], ids=["both", "ingress", "egress"])
def test_add_undoes_taking_over(link: Link, reference: CNI, wanted: dict) -> None:
    """If an ADD that replaces the reference plugin's limits fails at any request, those are in force again."""
    link.add(reference, **BOTH)
    story = refuse_each(link, wanted)
    assert len(story) >= 4
    assert [one for one in story if one["left"]] == []


def refuse_each(link: Link, wanted: dict) -> list[dict]:
    """Run ADDs on the node, each with another request refused, the last with none; return what each changed."""
    conf = with_prev(limited(**wanted), link.result)
    argv = [sys.executable, ROOT / "tests" / "netns" / "refuse_shaping.py", link.pod.path]
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    story = json.loads(link.node.run(argv, stdin=json.dumps(conf), env=env).stdout)
    assert story[-1]["status"] == 0, "the ADD that is not disturbed succeeds"
    return story

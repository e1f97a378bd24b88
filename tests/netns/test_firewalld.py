"""`firewall` where firewalld filters, the real one: pods are sources of its zone, and what they send gets through."""

import json
from collections.abc import Iterator

import pytest

from tests.netns import firewalld_tools
from tests.netns.cni import CNI, CNIFailure, with_prev
from tests.netns.firewalld_tools import cmd, sources, told
from tests.netns.nft_tools import nft
from tests.netns.node import OUTSIDE_V4, OUTSIDE_V6, Node, wait_until
from tests.netns.test_firewall import POD_V4, POD_V6, Member

BOTH = {f"{POD_V4}/32", f"{POD_V6}/128"}
OTHERS = {"10.1.2.3/32", "fd00:1::3/128"}


@pytest.fixture
def pod(cni: CNI, node: Node) -> Member:
    """A pod with 10.1.2.2 and fd00:1::2, and a world that knows the way back to it."""
    outside = node.outside()
    made = Member(cni, "poda")
    assert wait_until(lambda: outside.reaches(POD_V4))
    return made


@pytest.fixture
def bus(node: Node, pod: Member) -> Iterator[None]:
    """A system bus; there is nothing on it."""
    with firewalld_tools.bus(node):
        yield


@pytest.fixture
def firewalld(bus: None, node: Node) -> Iterator[None]:
    """firewalld with its default zone, started when there are pods."""
    with firewalld_tools.real(node):
        yield


@pytest.mark.parametrize("backend", ["", "firewalld"])
def test_pods_reach_the_world(firewalld: None, pod: Member, node: Node, backend: str) -> None:
    """firewalld rejects what a pod sends, until it is a source of the zone "trusted"; a DEL ends that."""
    assert not pod.pod.reaches(OUTSIDE_V4, timeout=1)
    assert not pod.pod.reaches(OUTSIDE_V6, timeout=1)
    assert pod.add(backend=backend) == pod.result
    assert sources(node) == BOTH
    assert pod.pod.reaches(OUTSIDE_V4)
    assert pod.pod.reaches(OUTSIDE_V6)
    pod.check(backend=backend)
    pod.cni.status(pod.conf(backend=backend))
    pod.add(backend=backend)
    pod.delete(backend=backend)
    assert sources(node) == set()
    assert not pod.pod.reaches(OUTSIDE_V4, timeout=1)
    pod.delete(backend=backend)


def test_after_a_reload_check_fails_and_an_add_repairs(firewalld: None, pod: Member, node: Node) -> None:
    """A reload takes away what is not permanent; a subnet that is permanently in the zone is as good as addresses."""
    pod.add()
    cmd(node, "--reload")
    with pytest.raises(CNIFailure, match=f"does not have the source {POD_V4}/32"):
        pod.check()
    pod.add()
    pod.check()
    for subnet in ("10.1.2.0/24", "fd00:1::/64"):
        cmd(node, "--permanent", "--zone=trusted", f"--add-source={subnet}")
    cmd(node, "--reload")
    assert pod.pod.reaches(OUTSIDE_V4)
    pod.check()


def test_another_zone(firewalld: None, pod: Member, node: Node) -> None:
    """As configured; one that firewalld does not have is an error of the configuration, and nothing is left."""
    pod.add(firewalldZone="internal")
    assert (sources(node, "internal"), sources(node)) == (BOTH, set())
    pod.check(firewalldZone="internal")
    with pytest.raises(CNIFailure, match="does not have the source 10.1.2.2/32"):
        pod.check()
    pod.add()  # the configuration was changed under the running pod
    assert (sources(node, "internal"), sources(node)) == (set(), BOTH)
    pod.delete(firewalldZone="internal")
    assert sources(node) == set()
    before = node.ruleset()
    for verb in (pod.add, lambda **keys: pod.cni.status(pod.conf(**keys))):
        with pytest.raises(CNIFailure, match='"firewalldZone": expected a zone that firewalld has') as caught:
            verb(firewalldZone="nowhere")
        assert caught.value.code == 7
    assert node.ruleset() == before


def test_what_the_administrator_has_put_elsewhere_stays_there(firewalld: None, pod: Member, node: Node) -> None:
    """The ADD fails, names zone and command, and takes back what it has done."""
    cmd(node, "--zone=drop", f"--add-source={POD_V6}/128")
    with pytest.raises(CNIFailure) as caught:
        pod.add()
    assert caught.value.msg == f'{POD_V6}/128 is a source of firewalld\'s zone "drop" already'
    assert "firewall-cmd --zone=drop --remove-source" in caught.value.text
    assert (sources(node), sources(node, "drop")) == (set(), {f"{POD_V6}/128"})
    assert "poda" not in node.ruleset()


def test_what_a_dead_pod_left_in_another_zone_is_taken_over(firewalld: None, pod: Member, node: Node) -> None:
    """IPAM gave the address to this pod, whoever had it."""
    pod.add(firewalldZone="internal")
    heir = node.pod("heir")
    pod.cni.add(with_prev(pod.conf(), pod.result), heir)
    assert (sources(node, "internal"), sources(node)) == (set(), BOTH)
    pod.delete(firewalldZone="internal")  # late: the address is somebody else's by now
    assert sources(node) == BOTH


@pytest.mark.parametrize("how", ["no prevResult", "no namespace", "broken", "GC"])
def test_delete_in_whatever_state(firewalld: None, pod: Member, node: Node, how: str) -> None:
    """By owner; other pods and other sources stay."""
    other = Member(pod.cni, "podb")
    cmd(node, "--zone=trusted", "--add-source=198.51.100.0/24")
    for member in (pod, other):
        member.add()
    match how:
        case "no prevResult":
            pod.delete(prev=False)
        case "no namespace":
            pod.pod.vanish()
            pod.cni.delete(pod.conf(), pod.pod, None, netns=None)
        case "broken":
            pod.delete(prev=False, backend=7, firewalldZone=[], ingressPolicy=7)
        case "GC":
            pod.cni.gc(pod.conf(), other.pod)
    assert sources(node) == {*OTHERS, "198.51.100.0/24"}
    other.check()


def test_policies_hold_beside_firewalld(firewalld: None, pod: Member, node: Node) -> None:
    """They are in a table of their own, which firewalld does not know."""
    pod.add(ingressPolicy="isolated")
    pod.check(ingressPolicy="isolated")
    cmd(node, "--reload")
    assert "goto isolated" in node.ruleset()


def test_a_named_backend_leaves_firewalld_alone(firewalld: None, pod: Member, node: Node) -> None:
    """Who names one has taken care of firewalld."""
    for backend in ("iptables", "nftables"):
        cmd(node, "--zone=trusted", f"--add-source={POD_V4}/32")
        pod.add(backend=backend)
        pod.check(backend=backend)
        pod.delete(backend=backend)
        assert sources(node) == {f"{POD_V4}/32"}
        cmd(node, "--zone=trusted", f"--remove-source={POD_V4}/32")


def test_each_suite_checks_and_deletes_what_the_other_added(
    firewalld: None, pod: Member, node: Node, reference: CNI
) -> None:
    """Both name the same source of the same zone."""
    for adder, other in ((pod.cni, reference), (reference, pod.cni)):
        pod.add(adder)
        assert sources(node) == BOTH
        pod.check(other)
        pod.delete(other)
        assert sources(node) == set()
        pod.delete(adder)


def test_a_firewalld_that_knows_what_the_references_tests_have(bus: None, pod: Member, node: Node) -> None:
    """An old one does not know how to find a source."""
    with firewalld_tools.fake(node):
        for keys in ({"backend": "firewalld"}, {}):
            assert pod.add(**keys) == pod.result
            pod.check(**keys)
            pod.cni.status(pod.conf(**keys))
            pod.add(**keys)
            pod.delete(**keys)
    added = [f"addSource trusted {source}" for source in sorted(BOTH)]
    removed = [f"removeSource trusted {source}" for source in sorted(BOTH)]
    calls = [line for line in told(node) if line.startswith(("add", "remove"))]
    assert sorted(calls) == sorted(2 * (added + added + removed))


def test_a_bus_without_firewalld_changes_nothing(bus: None, pod: Member, node: Node) -> None:
    """As on most nodes; only one that was told to use firewalld can not do without."""
    pod.add()
    pod.check()
    pod.cni.status(pod.conf())
    pod.delete()
    with pytest.raises(CNIFailure, match="firewalld is not on the system bus") as caught:
        pod.add(backend="firewalld")
    assert caught.value.code == 11
    with pytest.raises(CNIFailure, match="firewalld is not on the system bus") as caught:
        pod.cni.status(pod.conf(backend="firewalld"))
    assert caught.value.code == 50
    pod.delete(backend="firewalld")


def test_a_firewalld_that_filters_and_can_not_be_asked(pod: Member, node: Node) -> None:
    """What it left, or that of another mount namespace: pods would be cut off silently. An empty table is nothing."""
    nft(node, "add table inet firewalld")
    pod.add()
    pod.cni.status(pod.conf())
    nft(node, "add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; }")
    for verb, code in ((pod.add, 11), (pod.check, 11), (lambda: pod.cni.status(pod.conf()), 50)):
        with pytest.raises(CNIFailure, match="is not on the system bus") as caught:
            verb()
        assert caught.value.code == code
    pod.add(backend="nftables")
    pod.delete()


def test_the_bus_is_where_the_runtime_says(bus: None, pod: Member, node: Node) -> None:
    """DBUS_SYSTEM_BUS_ADDRESS, as the reference's library has it."""
    node.run(["mv", firewalld_tools.BUS, "/run/elsewhere"])
    conf = with_prev(pod.conf(backend="firewalld"), pod.result)
    environ = pod.cni.environ("ADD", pod.pod) | {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/run/elsewhere"}
    with firewalld_tools.fake(node, "unix:path=/run/elsewhere"):
        assert pod.cni.answer("firewall", environ, json.dumps(conf))["ips"] == pod.result["ips"]

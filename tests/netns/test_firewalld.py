"""`firewall` with a real firewalld: pods become sources of a zone, and their traffic passes."""

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
    """A pod with 10.1.2.2 and fd00:1::2, and an outside host with a route back to it."""
    outside = node.outside()
    made = Member(cni, "poda")
    assert wait_until(lambda: outside.reaches(POD_V4))
    return made


@pytest.fixture
def bus(node: Node, pod: Member) -> Iterator[None]:
    """A system bus without any service on it."""
    with firewalld_tools.bus(node):
        yield


@pytest.fixture
def firewalld(bus: None, node: Node) -> Iterator[None]:
    """firewalld with its default zone, started after the pods exist."""
    with firewalld_tools.real(node):
        yield


@pytest.mark.parametrize("backend", ["", "firewalld"])
def test_pods_reach_the_outside(firewalld: None, pod: Member, node: Node, backend: str) -> None:
    """firewalld rejects the pod's traffic unless the pod is a source of the zone "trusted"; DEL removes the source."""
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


def test_check_fails_after_a_reload_and_the_next_add_repairs(firewalld: None, pod: Member, node: Node) -> None:
    """A reload drops sources that are not permanent; a permanent source for the subnet counts like the addresses."""
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
    """The configured zone is used; a zone that firewalld does not have is a configuration error and changes nothing."""
    pod.add(firewalldZone="internal")
    assert (sources(node, "internal"), sources(node)) == (BOTH, set())
    pod.check(firewalldZone="internal")
    with pytest.raises(CNIFailure, match="does not have the source 10.1.2.2/32"):
        pod.check()
    pod.add()  # the configuration changed while the pod was running
    assert (sources(node, "internal"), sources(node)) == (set(), BOTH)
    pod.delete(firewalldZone="internal")
    assert sources(node) == set()
    before = node.ruleset()
    for verb in (pod.add, lambda **keys: pod.cni.status(pod.conf(**keys))):
        with pytest.raises(CNIFailure, match='"firewalldZone": expected a zone that firewalld has') as caught:
            verb(firewalldZone="nowhere")
        assert caught.value.code == 7
    assert node.ruleset() == before


def test_add_refuses_an_address_that_the_administrator_put_into_another_zone(
    firewalld: None, pod: Member, node: Node
) -> None:
    """ADD fails, names the zone and the command to run, and undoes its changes."""
    cmd(node, "--zone=drop", f"--add-source={POD_V6}/128")
    with pytest.raises(CNIFailure) as caught:
        pod.add()
    assert caught.value.msg == f'{POD_V6}/128 is a source of firewalld\'s zone "drop" already'
    assert "firewall-cmd --zone=drop --remove-source" in caught.value.text
    assert (sources(node), sources(node, "drop")) == (set(), {f"{POD_V6}/128"})
    assert "poda" not in node.ruleset()


def test_add_takes_over_a_source_that_a_deleted_pod_left_in_another_zone(
    firewalld: None, pod: Member, node: Node
) -> None:
    """IPAM assigned the address to this pod, so a previous owner's entry is stale."""
    pod.add(firewalldZone="internal")
    heir = node.pod("heir")
    pod.cni.add(with_prev(pod.conf(), pod.result), heir)
    assert (sources(node, "internal"), sources(node)) == (set(), BOTH)
    pod.delete(firewalldZone="internal")  # a late DEL: the address belongs to another pod by now
    assert sources(node) == BOTH


@pytest.mark.parametrize("how", ["no prevResult", "no namespace", "broken", "GC"])
def test_del_removes_the_sources_in_any_state(firewalld: None, pod: Member, node: Node, how: str) -> None:
    """The owner identifies the sources; those of other pods and other tools stay."""
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


def test_policies_survive_a_reload_of_firewalld(firewalld: None, pod: Member, node: Node) -> None:
    """Policies are in a table of their own, which firewalld does not manage."""
    pod.add(ingressPolicy="isolated")
    pod.check(ingressPolicy="isolated")
    cmd(node, "--reload")
    assert "goto isolated" in node.ruleset()


def test_a_named_backend_leaves_firewalld_alone(firewalld: None, pod: Member, node: Node) -> None:
    """A configuration that names a backend takes responsibility for firewalld itself."""
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
    """Both suites add the same source to the same zone."""
    for adder, other in ((pod.cni, reference), (reference, pod.cni)):
        pod.add(adder)
        assert sources(node) == BOTH
        pod.check(other)
        pod.delete(other)
        assert sources(node) == set()
        pod.delete(adder)


def test_a_firewalld_with_only_the_methods_of_the_reference_tests(bus: None, pod: Member, node: Node) -> None:
    """An old firewalld lacks the method that finds the zone of a source."""
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
    """This is the common case; only the backend "firewalld" requires the service."""
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


def test_rules_of_a_firewalld_that_is_not_on_the_bus_are_an_error(pod: Member, node: Node) -> None:
    """If firewalld filters but is not on the bus, ADD fails rather than cut off the pod; an empty table is ignored."""
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


def test_the_runtime_can_set_the_address_of_the_bus(bus: None, pod: Member, node: Node) -> None:
    """DBUS_SYSTEM_BUS_ADDRESS, as for the reference plugin's library."""
    node.run(["mv", firewalld_tools.BUS, "/run/elsewhere"])
    conf = with_prev(pod.conf(backend="firewalld"), pod.result)
    environ = pod.cni.environ("ADD", pod.pod) | {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/run/elsewhere"}
    with firewalld_tools.fake(node, "unix:path=/run/elsewhere"):
        assert pod.cni.answer("firewall", environ, json.dumps(conf))["ips"] == pod.result["ips"]

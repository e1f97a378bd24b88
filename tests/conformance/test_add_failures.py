"""An ADD that fails returns an error and leaves nothing behind.

The specification leaves the cleanup to the DEL that follows. In practice nothing should be left before that either,
since the DEL may come late. The two are tested separately.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.support import (
    DUAL,
    GATEWAY_V4,
    V4,
    V6,
    Refused,
    StandIn,
    host_local,
    layer2,
    leases,
    mentions,
    network,
    on_bridge,
    traces,
)
from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node, Pod

TINY = {"subnet": "10.1.3.0/30"}  # one address besides the gateway


def _exhaust(cni: CNI, node: Node, pod: Pod, folder: Path) -> dict:
    cni.add(network(host_local(TINY), name="other", bridge="br1"), node.pod("first"))
    return network(host_local(V4, TINY, dataDir="/var/lib/cni/networks"), name="other")


def _plain_file(cni: CNI, node: Node, pod: Pod, folder: Path) -> dict:
    node.path("/run/file").write_text("no namespace")
    return {"netns": "/run/file"}


def _own_namespace(cni: CNI, node: Node, pod: Pod, folder: Path) -> dict:
    node.run(["ip", "netns", "attach", "self", str(node.pid)])
    return {"netns": "/run/netns/self"}


def _taken_ifname(cni: CNI, node: Node, pod: Pod, folder: Path) -> dict:
    pod.run(["ip", "link", "add", "eth0", "type", "bridge"])
    return network()


def _no_bridge(cni: CNI, node: Node, pod: Pod, folder: Path) -> dict:
    node.run(["ip", "link", "add", "br0", "type", "veth", "peer", "name", "br0peer"])
    return network()


def _other_address(cni: CNI, node: Node, pod: Pod, folder: Path) -> dict:
    node.run(["ip", "link", "add", "br0", "type", "bridge"])
    node.run(["ip", "addr", "add", "10.77.0.1/24", "dev", "br0"])
    return network()


def _empty_ipam(cni: CNI, node: Node, pod: Pod, folder: Path) -> dict:
    StandIn(folder).answers(add={"cniVersion": "1.1.0"})
    return network({"type": "stand-in"})


def _mute_ipam(cni: CNI, node: Node, pod: Pod, folder: Path) -> dict:
    StandIn(folder).script("exit 3")
    return network({"type": "stand-in"})


# Cause of the failure -> a configuration, variables of the call, or a function that prepares the node.
CAUSES: dict[str, Callable[..., dict] | dict] = {
    "netns is nowhere": {"netns": "/run/netns/nowhere"},
    "netns is a plain file": _plain_file,
    "netns is the node's own": _own_namespace,
    "ifname is taken": _taken_ifname,
    "bridge name is no bridge's": _no_bridge,
    "bridge has another address": _other_address,
    "bridge name is too long": network(bridge="a-name-of-over-15"),
    "hairpin with promiscuous mode": network(hairpinMode=True, promiscMode=True),
    "mac is none": network(runtimeConfig={"mac": "zz"}),
    "addresses are exhausted": _exhaust,
    "ipam is not found": network({"type": "no-such-ipam"}),
    "ipam answers no address": _empty_ipam,
    "ipam dies mute": _mute_ipam,
    "ipam without container interface": network(disableContainerInterface=True),
    "route is unreachable": network(host_local(routes=[{"dst": "10.9.0.0/16", "gw": "10.200.0.1"}])),
    "masquerade backend is unknown": network(ipMasq=True, ipMasqBackend="ipfwadm"),
    "result fits no old version": layer2("0.2.0"),
}


@pytest.fixture(params=CAUSES)
def failing(request: pytest.FixtureRequest, with_stand_in: CNI, pod: Pod, tmp_path: Path) -> tuple[dict, dict]:
    """The configuration of an ADD that cannot succeed, and its variables."""
    cause = CAUSES[request.param]
    made = cause(with_stand_in, pod.node, pod, tmp_path) if callable(cause) else cause
    return (network(), made) if "netns" in made else (made, {})


def test_failed_add_leaves_nothing(
    with_stand_in: CNI, node: Node, pod: Pod, failing: tuple[dict, dict], refused: Refused
) -> None:
    """After the error there is no new link, address, lease, rule or bridge."""
    conf, variables = failing
    before = traces(node, pod)
    with refused():
        with_stand_in.add(conf, pod, **variables)
    assert traces(node, pod) == before


def test_failed_add_and_del_leave_nothing_of_the_pod(
    with_stand_in: CNI, node: Node, pod: Pod, failing: tuple[dict, dict], refused: Refused
) -> None:
    """The DEL after a failed ADD removes everything of the pod; the bridge, which belongs to the network, may stay."""
    conf, variables = failing
    before = traces(node, pod)
    ports = on_bridge(node)
    with refused():
        with_stand_in.add(conf, pod, **variables)
    try:
        with_stand_in.delete(conf, pod, **variables)
    except CNIFailure as error:  # what cannot be configured or executed may be refused again
        assert error.msg  # noqa: PT017
    after = traces(node, pod)
    assert after["leases"] == before["leases"]
    assert on_bridge(node) == ports
    assert not mentions(node, pod.name)
    if "ifname is taken" not in repr(conf):
        assert set(after["links of poda"]) <= set(before["links of poda"])


def test_interface_that_was_there_stays(cni: CNI, pod: Pod, refused: Refused) -> None:
    """An ADD that is refused because the interface name is taken does not change that interface."""
    pod.run(["ip", "link", "add", "eth0", "type", "bridge"])
    with refused():
        cni.add(network(), pod)
    assert pod.links()["eth0"]["linkinfo"]["info_kind"] == "bridge"


def test_bridge_that_was_there_stays(cni: CNI, node: Node, pod: Pod, other: Pod, refused: Refused) -> None:
    """A failed ADD to a bridge in use removes neither the bridge nor its address, and its pods stay connected."""
    cni.add(network(), other)
    with refused():
        cni.add(network(host_local(routes=[{"dst": "10.9.0.0/16", "gw": "10.200.0.1"}])), pod)
    assert node.addresses("br0") == {f"{GATEWAY_V4}/24"}
    assert other.reaches(GATEWAY_V4)


def test_add_succeeds_after_a_failed_one(cni: CNI, pod: Pod, refused: Refused) -> None:
    """After a failed ADD, its DEL and the removal of the cause, ADD succeeds."""
    broken = network(host_local(routes=[{"dst": "10.9.0.0/16", "gw": "10.200.0.1"}]))
    with refused():
        cni.add(broken, pod)
    cni.delete(broken, pod)
    assert cni.add(network(), pod)["ips"]


def test_lease_is_given_back_when_the_second_family_is_exhausted(
    ipam: CNI, node: Node, pod: Pod, other: Pod, refused: Refused
) -> None:
    """An IPAM ADD that gets its first address but not its second keeps neither."""
    conf = network(host_local(V4, {"subnet": "fd00:1::/126", "rangeStart": "fd00:1::2", "rangeEnd": "fd00:1::2"}))
    ipam.add(conf, other)
    with refused():
        ipam.add(conf, pod)
    assert leases(node).keys() == {"10.1.2.2", "fd00:1::2"}
    assert not any(owner.startswith(pod.name) for owner in leases(node).values())


def test_own_namespace_is_refused_before_any_work(cni: CNI, ipam: CNI, node: Node) -> None:
    """CNI_NETNS that is the plugin's own namespace is error 8, and neither a link nor a lease is created."""
    node.run(["ip", "netns", "attach", "self", str(node.pid)])
    before = traces(node)
    for plugin in (cni, ipam):
        with pytest.raises(CNIFailure) as caught:
            plugin.call("ADD", network(DUAL), containerid="poda", netns="/run/netns/self", ifname="eth0")
        assert caught.value.code == 8
    assert traces(node) == before


def test_addresses_are_named_when_they_are_exhausted(ipam: CNI, node: Node, pod: Pod, other: Pod) -> None:
    """The error for an exhausted range names the range."""
    conf = network(host_local(TINY))
    ipam.add(conf, pod)
    with pytest.raises(CNIFailure) as caught:
        ipam.add(conf, other)
    assert "10.1.3." in caught.value.text
    assert set(leases(node)) == {"10.1.3.2"}


def test_both_families_or_none(cni: CNI, node: Node, pod: Pod, refused: Refused) -> None:
    """A pod whose IPv6 address is unavailable gets no IPv4 address and no lease for one."""
    with refused():
        cni.add(network(host_local(V4, {**V6, "rangeStart": "fd00:2::9"})), pod)
    assert leases(node) == {}

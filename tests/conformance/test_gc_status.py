"""GC removes what no valid attachment owns; STATUS reports whether an ADD can succeed (spec section 2)."""

import pytest

from tests.conformance.support import (
    DUAL,
    Refused,
    StandIn,
    container_interface,
    host_local,
    host_veth,
    layer2,
    leases,
    mentions,
    network,
    on_bridge,
)
from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node, Pod

FULL = host_local({"subnet": "10.1.3.0/30"}, statusWhenFull="unavailable")  # one address besides the gateway


def test_gc_keeps_what_is_valid(cni: CNI, node: Node, pod: Pod, other: Pod) -> None:
    """Attachments on the list keep leases, links and rules, and pass CHECK."""
    conf = network(DUAL, ipMasq=True, macspoofchk=True)
    results = [(p, cni.add(conf, p)) for p in (pod, other)]
    cni.gc(conf, pod, other)
    for p, result in results:
        cni.check(conf, p, result)
        assert p.reaches("10.1.2.1")
    assert len(leases(node)) == 4


def test_gc_releases_stale_leases(cni: CNI, node: Node, pod: Pod, other: Pod) -> None:
    """A GC of the interface plugin reaches the IPAM plugin: leases of attachments not on the list are released."""
    cni.add(network(DUAL), pod)
    cni.add(network(DUAL), other)
    pod.vanish()
    cni.gc(network(DUAL), other)
    assert set(leases(node)) == {"10.1.2.3", "fd00:1::3"}


def test_gc_of_the_ipam_plugin_releases_stale_leases(ipam: CNI, node: Node, pod: Pod, other: Pod) -> None:
    """The same for the IPAM plugin called directly; a valid container id with another ifname does not count."""
    ipam.add(network(), pod)
    ipam.add(network(), other)
    ipam.add(network(), other, ifname="eth1")
    ipam.gc(network(), (other.name, "eth1"))
    assert set(leases(node)) == {"10.1.2.4"}


@pytest.mark.parametrize("nothing", [[], None], ids=["empty", "null"])
def test_gc_with_nothing_valid_releases_everything(cni: CNI, node: Node, pod: Pod, nothing: list | None) -> None:
    """An empty list makes every attachment stale; runtimes in Go write an empty list as null."""
    cni.add(network(), pod)
    pod.vanish()
    cni.call("GC", network() | {"cni.dev/valid-attachments": nothing})
    assert leases(node) == {}


def test_gc_removes_stale_links(cni: CNI, node: Node, pod: Pod, other: Pod) -> None:
    """The link of a stale attachment is deleted, even if its namespace still exists."""
    cni.add(network(), pod)
    kept = cni.add(network(), other)
    cni.gc(network(), other)
    assert on_bridge(node) == {host_veth(kept)}


@pytest.mark.parametrize("feature", ["ipMasq", "macspoofchk"])
def test_gc_removes_stale_rules(cni: CNI, node: Node, pod: Pod, other: Pod, feature: str) -> None:
    """Masquerade and anti-spoofing of stale attachments are removed, those of valid ones stay."""
    conf = network(**{feature: True})
    stale = container_interface(cni.add(conf, pod), pod)["mac"]
    valid = container_interface(cni.add(conf, other), other)["mac"]
    pod.vanish()
    cni.gc(conf, other)
    assert mentions(node, "10.1.2.2", stale) == []
    assert mentions(node, "10.1.2.3", valid)


def test_gc_leaves_other_networks_alone(cni: CNI, node: Node, pod: Pod, other: Pod) -> None:
    """The list is for one network: attachments of another network on another bridge stay."""
    conf, neighbour = network(), network(host_local({"subnet": "10.7.0.0/24"}), name="net2", bridge="br1")
    cni.add(conf, pod)
    result = cni.add(neighbour, other)
    cni.gc(conf)
    cni.check(neighbour, other, result)


def test_gc_leaves_foreign_ports_alone(cni: CNI, node: Node, pod: Pod) -> None:
    """A bridge port that another program added is never removed."""
    cni.add(network(), pod)
    node.run(["ip", "link", "add", "uplink", "type", "veth", "peer", "name", "far"])
    node.run(["ip", "link", "set", "uplink", "master", "br0"])
    cni.gc(network())
    assert "uplink" in on_bridge(node)


def test_gc_without_a_list_removes_nothing(cni: CNI, node: Node, pod: Pod) -> None:
    """Without the key of valid attachments no attachment counts as stale."""
    result = cni.add(network(), pod)
    try:
        cni.call("GC", network())
    except CNIFailure as refused:
        assert refused.msg  # noqa: PT017 (both are correct: to refuse, or to do nothing)
    cni.check(network(), pod, result)


def test_gc_before_any_add(cni: CNI) -> None:
    """On a fresh node there is nothing to collect, and GC succeeds."""
    cni.gc(network())
    cni.gc(layer2())


def test_gc_is_forwarded(with_stand_in: CNI, stand_in: StandIn) -> None:
    """The delegated plugin is called with GC and the same list (MUST, section 2)."""
    stand_in.answers()
    with_stand_in.gc(network({"type": "stand-in"}), ("poda", "eth0"))
    assert stand_in.calls() == ["GC"]
    assert stand_in.stdin("GC")["cni.dev/valid-attachments"] == [{"containerID": "poda", "ifname": "eth0"}]


@pytest.mark.parametrize("conf", [network(), network(DUAL), layer2()], ids=["v4", "dual stack", "layer 2"])
def test_status_of_a_fresh_node(cni: CNI, conf: dict) -> None:
    """STATUS succeeds with empty output when an ADD would succeed."""
    cni.status(conf)


def test_status_changes_nothing(cni: CNI, node: Node) -> None:
    """STATUS creates no bridge and leases no address."""
    cni.status(network())
    assert "br0" not in node.links()
    assert leases(node) == {}


def test_status_is_50_when_addresses_are_exhausted(cni: CNI, ipam: CNI, pod: Pod) -> None:
    """Without a free address STATUS is error 50 from the IPAM plugin, and from the interface plugin that uses it."""
    cni.status(network(FULL))
    result = cni.add(network(FULL), pod)
    for plugin in (ipam, cni):
        with pytest.raises(CNIFailure) as caught:
            plugin.status(network(FULL))
        assert caught.value.code == 50
    cni.delete(network(FULL), pod, result)
    cni.status(network(FULL))


def test_status_of_a_full_node(cni: CNI, ipam: CNI, pod: Pod) -> None:
    """A node without free addresses is ready unless configured otherwise: its running pods must not be evicted."""
    full = network(host_local({"subnet": "10.1.3.0/30"}))
    cni.add(full, pod)
    for plugin in (ipam, cni):
        plugin.status(full)


def test_status_is_forwarded(with_stand_in: CNI, stand_in: StandIn) -> None:
    """The delegated plugin's STATUS error is returned."""
    error = {"code": 51, "msg": "the lease server is away", "details": "since noon"}
    stand_in.answers(errors={"STATUS": error})
    with pytest.raises(CNIFailure) as caught:
        with_stand_in.status(network({"type": "stand-in"}))
    assert (caught.value.code, caught.value.msg, caught.value.details) == tuple(error.values())


def test_status_without_its_ipam_plugin_is_an_error(cni: CNI, refused: Refused) -> None:
    """A plugin whose IPAM plugin is not installed is not ready."""
    with refused():
        cni.status(network({"type": "no-such-ipam"}))

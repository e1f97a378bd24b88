"""VLANs on a bridge: the gateway's link, intact or damaged; foreign bridges; CHECK; changed configurations."""

import json

import pytest

from linux.ownership import group_of
from tests.conformance.support import GATEWAY_V4, host_local, host_veth, layer2, network
from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Host, Node

pytestmark = pytest.mark.usefixtures("vlan_filtering")

NATIVE = ["PVID", "Egress Untagged"]
TAGGED = network(vlan=100)
LINK = "br0.100"


def shell(host: Host, line: str) -> None:
    """Run a shell command."""
    host.run(["sh", "-ec", line])


def vlans(node: Node, link: str) -> dict[int, list[str]]:
    """The VLANs of a bridge port: ID -> flags."""
    shown = json.loads(node.run(["bridge", "-j", "vlan", "show", "dev", link]).stdout)
    return {one["vlan"]: one.get("flags", []) for entry in shown for one in entry["vlans"]}


def filters(node: Node) -> bool:
    """Whether the bridge filters VLANs."""
    return bool(node.links()["br0"]["linkinfo"]["info_data"]["vlan_filtering"])


def inner_end(node: Node) -> str:
    """The bridge port that is the peer of the gateway's link."""
    return node.links()[LINK]["link"]


def refused(cni: CNI, conf: dict, pod: object) -> CNIFailure:
    """The error of an ADD, which must be error 7."""
    with pytest.raises(CNIFailure) as caught:
        cni.add(conf, pod)
    assert caught.value.code == 7
    return caught.value


def test_the_gateway_is_only_in_its_vlan(cni: CNI, node: Node) -> None:
    """Its port has neither the pods' trunk VLANs nor the preserved default VLAN; the pod reaches the gateway."""
    pod = node.pod("poda")
    conf = network(vlan=100, vlanTrunk=[{"id": 42}], preserveDefaultVlan=True)
    result = cni.add(conf, pod)
    assert vlans(node, inner_end(node)) == {100: NATIVE}
    assert vlans(node, host_veth({"interfaces": result["interfaces"][:3]})) == {
        1: ["Egress Untagged"],
        42: [],
        100: NATIVE,
    }
    assert pod.reaches(GATEWAY_V4)
    cni.check(conf, pod, result)
    shell(node, f"bridge vlan add dev {inner_end(node)} vid 42")  # as an earlier release did
    with pytest.raises(CNIFailure, match="VLAN 42 is on the port, but not configured"):
        cni.check(conf, pod, result)
    cni.add(conf, node.pod("podb"))
    cni.check(conf, pod, result)


DAMAGES = {
    "left the bridge": ("ip link set INNER nomaster", 'is not a port of "br0"'),
    "other end is down": ("ip link set INNER down", "is down"),
    "link is down": (f"ip link set {LINK} down", f'VLAN interface "{LINK}" is down'),
    "not in the VLAN": ("bridge vlan del dev INNER vid 100", "VLAN 100 is not native on the port"),
    "in another VLAN": ("bridge vlan add dev INNER vid 200", "VLAN 200 is on the port, but not configured"),
    "gone": (f"ip link del {LINK}", f'VLAN interface "{LINK}" does not exist'),
}


def test_a_damaged_gateway_link_is_detected_and_repaired(cni: CNI, node: Node) -> None:
    """CHECK names the damage; after the next ADD pods reach the gateway again, at an unchanged MAC."""
    pod, other = node.pod("poda"), node.pod("podb")
    result = cni.add(TAGGED, pod)
    mac = node.links()[LINK]["address"]
    for damage, sentence in DAMAGES.values():
        shell(node, damage.replace("INNER", inner_end(node)))
        with pytest.raises(CNIFailure) as caught:
            cni.check(TAGGED, pod, result)
        assert sentence in caught.value.text, damage
        cni.add(TAGGED, other)
        cni.check(TAGGED, pod, result)
        assert node.links()[LINK]["address"] == mac
        assert pod.reaches(GATEWAY_V4, timeout=30), damage
        assert vlans(node, inner_end(node)) == {100: NATIVE}
        cni.delete(TAGGED, other)


def half_made(node: Node, network_name: str = "net") -> None:
    """Create what an ADD leaves if it is killed before it completes the gateway's link."""
    node.run(
        ["ip", "link", "add", LINK, "group", str(group_of(network_name)), "type", "veth", "peer", "name", "inner0"]
    )


def test_an_incomplete_gateway_link_is_completed_or_deleted(cni: CNI, node: Node) -> None:
    """The next ADD completes it; DEL and GC delete it, unless it is complete or of another network."""
    pod = node.pod("poda")
    half_made(node)
    cni.delete(TAGGED, pod)
    assert LINK not in node.links()
    half_made(node)
    cni.gc(TAGGED)
    assert LINK not in node.links()
    half_made(node, "other")
    cni.delete(TAGGED, pod)
    cni.gc(TAGGED)
    assert LINK in node.links()
    result = cni.add(TAGGED, pod)
    assert inner_end(node) == "inner0"
    assert pod.reaches(GATEWAY_V4)
    cni.check(TAGGED, pod, result)
    cni.delete(TAGGED, pod)
    cni.gc({**TAGGED, "name": "other"})
    cni.gc(TAGGED)
    assert LINK in node.links()


FOREIGN = {
    "another bridge's": "ip link add br1 type bridge; ip link add br0.100 type veth peer x; ip link set x master br1",
    "no veth": "ip link add br0.100 type bridge",
    "in another namespace": "ip link add br0.100 type veth peer name x netns podb",
}


def test_a_foreign_link_is_not_used_for_the_gateway(cni: CNI, node: Node) -> None:
    """ADD returns error 7 if a link of that name has no peer on the bridge, and does not change it."""
    pod, _ = node.pod("poda"), node.pod("podb")
    for line in FOREIGN.values():
        shell(node, line)
        assert f'"{LINK}" exists, but its peer is not a port of "br0"' in refused(cni, TAGGED, pod).msg
        assert "br0" not in node.links(), "nothing is left of the failed ADD"
        shell(node, f"ip link del {LINK}")


def test_an_administrators_802_1q_device_carries_the_gateway(cni: CNI, node: Node) -> None:
    """It works if the bridge itself is in the VLAN; else the error has the command that adds it."""
    pod = node.pod("poda")
    shell(node, f"ip link add br0 type bridge vlan_filtering 1; ip link add link br0 name {LINK} type vlan id 100")
    shell(node, "bridge vlan add dev br0 vid 100 self")
    result = cni.add(TAGGED, pod)
    assert pod.reaches(GATEWAY_V4)
    cni.check(TAGGED, pod, result)
    shell(node, "bridge vlan del dev br0 vid 100 self")
    assert "bridge vlan add dev br0 vid 100 self" in refused(cni, TAGGED, node.pod("podb")).msg


def test_vlan_filtering_is_not_enabled_if_it_disconnects_foreign_ports(cni: CNI, node: Node) -> None:
    """Foreign ports communicate over VLAN 50: ADD fails rather than disconnect them; it works once they are in it."""
    ends = [node.pod("left"), node.pod("right")]
    shell(node, "ip link add br0 type bridge; ip link set br0 up")
    for number, end in enumerate(ends, 1):
        shell(
            node,
            f"ip link add p{number} type veth peer name eth0 netns {end.name}; ip link set p{number} master br0 up",
        )
        shell(end, "ip link set eth0 up; ip link add link eth0 name eth0.50 type vlan id 50; ip link set eth0.50 up")
        shell(end, f"ip addr add 10.50.0.{number}/24 dev eth0.50")
    assert ends[0].reaches("10.50.0.2")
    pod = node.pod("poda")
    for conf, key in ((TAGGED, "vlan"), (layer2(vlanTrunk=[]), "vlanTrunk")):
        assert (
            f'"{key}" needs VLAN filtering, which is off on "br0" and would disconnect "p1"'
            in refused(cni, conf, pod).msg
        )
    assert not filters(node)
    assert ends[0].reaches("10.50.0.2")
    shell(node, "for p in p1 p2; do bridge vlan add dev $p vid 50; done; ip link set br0 type bridge vlan_filtering 1")
    cni.delete(TAGGED, pod, cni.add(TAGGED, pod))
    assert ends[0].reaches("10.50.0.2")


def test_vlan_filtering_is_not_enabled_if_it_disconnects_a_vlan_device(cni: CNI, node: Node) -> None:
    """ADD fails rather than disconnect the node's own device in VLAN 50 of the bridge."""
    shell(node, "ip link add br0 type bridge; ip link add link br0 name host50 type vlan id 50")
    assert 'would disconnect "host50"' in refused(cni, TAGGED, node.pod("poda")).msg
    assert not filters(node)


def test_vlan_filtering_is_enabled_on_a_bridge_without_foreign_ports(cni: CNI, node: Node) -> None:
    """ADD enables VLAN filtering on an administrator's bridge with no foreign ports, and reverts that if it fails."""
    shell(node, "ip link add br0 type bridge; ip link set br0 up")
    pod, other = node.pod("poda"), node.pod("podb")
    unreachable = host_local(routes=[{"dst": "198.51.100.0/24", "gw": "203.0.113.1"}])
    with pytest.raises(CNIFailure, match="route to 198.51.100.0/24"):
        cni.add(network(unreachable, vlan=100), pod)
    assert not filters(node)
    assert LINK not in node.links()
    untagged = cni.add(layer2(name="plain"), other)
    result = cni.add(TAGGED, pod)
    assert filters(node)
    cni.check(TAGGED, pod, result)
    cni.check(layer2(name="plain"), other, untagged)
    third = node.pod("podc")
    with pytest.raises(CNIFailure, match="route to 198.51.100.0/24"):
        cni.add(network(unreachable, vlan=100), third)
    cni.check(TAGGED, pod, result)


def test_check_detects_disabled_vlan_filtering(cni: CNI, node: Node) -> None:
    """Without filtering pods of two VLANs would reach each other: CHECK fails, and the next ADD enables it again."""
    pod, other = node.pod("poda"), node.pod("podb")
    result = cni.add(TAGGED, pod)
    shell(node, "ip link set br0 type bridge vlan_filtering 0")
    with pytest.raises(CNIFailure, match='Bridge "br0" does not filter VLANs'):
        cni.check(TAGGED, pod, result)
    cni.add(network(host_local({"subnet": "10.1.3.0/24"}), name="two", vlan=200), other)
    cni.check(TAGGED, pod, result)


def test_the_default_vlan_is_that_of_the_bridge(cni: CNI, node: Node) -> None:
    """With vlan_default_pvid 5 an empty trunk keeps the pod in VLAN 5, and `vlan` removes it from VLAN 5."""
    shell(node, "ip link add br0 type bridge vlan_filtering 1 vlan_default_pvid 5")
    expected = {
        "poda": (layer2(vlanTrunk=[]), {5: NATIVE}),
        "podb": (layer2(vlanTrunk=[{"id": 7}]), {5: NATIVE, 7: []}),
        "podc": (layer2(vlan=7), {7: NATIVE}),
        "podd": (layer2(vlan=7, preserveDefaultVlan=True), {5: ["Egress Untagged"], 7: NATIVE}),
    }
    for name, (conf, wanted) in expected.items():
        pod = node.pod(name)
        result = cni.add(conf, pod)
        assert vlans(node, host_veth(result)) == wanted
        cni.check(conf, pod, result)


def test_a_trunk_of_all_vlans(cni: CNI, node: Node) -> None:
    """The port has them all, and CHECK finds them, although the kernel needs several messages to list them."""
    conf = layer2(vlan=100, vlanTrunk=[{"minID": 1, "maxID": 4094}])
    pod = node.pod("poda")
    result = cni.add(conf, pod)
    cni.check(conf, pod, result)
    shell(node, f"bridge vlan del dev {host_veth(result)} vid 4094")
    with pytest.raises(CNIFailure, match="VLAN 4094 is not tagged on the port"):
        cni.check(conf, pod, result)


def test_a_vlan_added_to_a_network_with_pods(cni: CNI, node: Node) -> None:
    """The gateway would be on two links: error 7; with forceAddress it is moved. Likewise if `vlan` is removed."""
    old, new = node.pod("old"), node.pod("new")
    for first, second, on, there in ((network(), TAGGED, LINK, "br0"), (TAGGED, network(), "br0", LINK)):
        result = cni.add(first, old)
        error = refused(cni, second, new)
        assert f'"vlan": 10.1.2.1/24 cannot be on "{on}", because "{there}" has 10.1.2.1/24' in error.msg
        cni.check(first, old, result)
        moved = cni.add({**second, "forceAddress": True}, new)
        assert (node.addresses(on), node.addresses(there)) == ({"10.1.2.1/24"}, set())
        assert new.reaches(GATEWAY_V4)
        cni.check(second, new, moved)
        for pod in (old, new):
            cni.delete(first, pod)
        shell(node, f"ip addr flush dev {on}")

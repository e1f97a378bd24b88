"""A node with `vxlan`: its device, the three entries for each peer, what is repaired and what is deleted."""

import json

import pytest

from tests.netns.cluster_tools import NO_PODS, OWN, network, own_routes, pods_left, record, refused
from tests.netns.cni import CNI
from tests.netns.node import Node

MAC, MAC_2, MAC_3 = ("02:24:0a:f4:01:00", "02:24:0a:f4:02:00", "02:24:0a:f4:03:00")


@pytest.fixture
def ready(node: Node) -> Node:
    """A node with a default route through wan0."""
    node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    return node


def vtep(node: Node, name: str = "slash24.1") -> dict:
    """The device as `ip` shows it."""
    return node.links()[name]


def entries(node: Node, device: str = "slash24.1") -> dict[str, set]:
    """Neighbour entries, FDB entries and routes of the device."""
    neighbours = [one for v in ("-4", "-6") for one in node.ip(v, "neigh", "show", "dev", device, "nud", "permanent")]
    told = json.loads(node.run(["bridge", "-j", "fdb", "show", "dev", device]).stdout)
    routes = [one for v in ("-4", "-6") for one in node.ip(v, "route", "show", "dev", device, "proto", "24")]
    return {
        "neighbours": {(one["dst"], one["lladdr"]) for one in neighbours},
        "forwarding": {(e["mac"], e["dst"]) for e in told if "self" in e["flags"] and e["state"] == "permanent"},
        "routes": {(one["dst"], one["gateway"], "onlink" in one["flags"]) for one in routes},
    }


def ways_to(*peers: tuple[int, str, str]) -> dict[str, set]:
    """The entries expected for these peers: number, MAC and underlay address of each."""
    return {
        "neighbours": {(n, mac) for number, mac, _ in peers for n in (f"10.244.{number}.0", f"fd00:244:0:{number}::")},
        "forwarding": {(mac, underlay) for _, mac, underlay in peers},
        "routes": {
            (f"{n}/{length}", n, True)
            for number, _, _ in peers
            for n, length in ((f"10.244.{number}.0", 24), (f"fd00:244:0:{number}::", 64))
        },
    }


def test_the_default_device(cni: CNI, ready: Node) -> None:
    """VNI 1, port 4789, no learning, on the default route's link with its IPv4 address; computed MAC and MTU."""
    pod, conf = ready.pod("pod"), network("vxlan")
    result = cni.add(conf, pod)
    device = vtep(ready)
    data = device["linkinfo"]["info_data"]
    wanted = {"id": 1, "port": 4789, "link": "wan0", "local": "192.0.2.1", "learning": False}
    assert {key: data[key] for key in wanted} == wanted
    assert (device["address"], device["mtu"], "UP" in device["flags"]) == (MAC, 1450, True)
    assert ready.addresses("slash24.1") == {"10.244.1.0/32", "fd00:244:0:1::/128"}
    assert ready.sysctl("ipv6/conf/slash24.1/accept_ra") == "0"
    assert pod.links()["eth0"]["mtu"] == 1450
    cni.check(conf, pod, result)
    cni.status(conf)


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"device": "flannel.1", "port": 8472}, {"ifname": "flannel.1", "port": 8472}),
        ({"vni": 0}, {"ifname": "slash24.0", "id": 0}),
        ({"vni": 9999999}, {"ifname": "slash24.9999999", "id": 9999999}),
        ({"vni": 16777215}, {"ifname": "sl24.16777215", "id": 16777215}),
        ({"parent": "lan0"}, {"link": "lan0", "local": "198.51.100.1", "mtu": 1350}),
        ({"localAddress": "198.51.100.1"}, {"link": "lan0", "local": "198.51.100.1"}),
        ({"localAddress": "2001:db8:1::1"}, {"link": "wan0", "local6": "2001:db8:1::1", "mtu": 1430}),
        ({"localAddress": "2001:DB8:1:0::1"}, {"link": "wan0", "local6": "2001:db8:1::1"}),
        ({"localAddress": "198.51.100.9", "parent": "lan0"}, {"link": "lan0", "local": "198.51.100.9"}),
        ({"vtepMAC": "02:00:00:AA:BB:CC"}, {"address": "02:00:00:aa:bb:cc"}),
        ({"podCIDRs": OWN[1:]}, {"address": "02:26:b0:6c:b9:39"}),
        ({"mtu": 1300}, {"mtu": 1300}),
        ({"mtu": 9000}, {"mtu": 1450}),
    ],
    ids=json.dumps,
)
def test_keys_of_the_device(cni: CNI, ready: Node, keys: dict, wanted: dict) -> None:
    """The device gets the value of each key; CHECK and STATUS pass."""
    ready.run(["ip", "link", "add", "lan0", "mtu", "1400", "type", "veth", "peer", "name", "lan1"])
    ready.run(["ip", "addr", "add", "198.51.100.1/24", "dev", "lan0"])
    ready.run(["ip", "addr", "add", "198.51.100.9/24", "dev", "lan0"])
    for link in ("lan0", "lan1"):
        ready.run(["ip", "link", "set", link, "up"])
    pod, conf = ready.pod("pod"), network("vxlan", **keys)
    result = cni.add(conf, pod)
    device = next(link for link in ready.links().values() if link.get("linkinfo", {}).get("info_kind") == "vxlan")
    found = device | device["linkinfo"]["info_data"]
    assert {key: found[key] for key in wanted} == wanted
    assert pod.links()["eth0"]["mtu"] == keys.get("mtu", device["mtu"])
    cni.check(conf, pod, result)
    cni.status(conf)
    cni.delete(conf, pod, result)


def test_the_parent_is_the_link_of_the_ipv6_default_route(cni: CNI, node: Node) -> None:
    """If there is no IPv4 default route; a default route in a table without a rule is ignored."""
    node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2", "table", "77"])
    pod = node.pod("pod")
    for verb, code in (("ADD", 11), ("STATUS", 50)):
        error = refused(cni, verb, network("vxlan"), pod)
        assert (error.code, "no default route" in error.text, '"parent"' in error.text) == (code, True, True)
    assert set(node.links()) == {"lo", "wan0"}
    node.run(["ip", "addr", "flush", "dev", "wan0"])
    node.run(["ip", "addr", "add", "2001:db8:1::1/64", "dev", "wan0", "nodad"])
    node.run(["ip", "route", "add", "default", "via", "2001:db8:1::2"])
    cni.add(network("vxlan"), pod)
    data = vtep(node)["linkinfo"]["info_data"]
    assert (data["link"], data["local6"], vtep(node)["mtu"]) == ("wan0", "2001:db8:1::1", 1430)


@pytest.mark.parametrize(
    ("keys", "code", "named"),
    [
        ({"vni": 16777216}, 7, '"vni"'),
        ({"vni": -1}, 7, '"vni"'),
        ({"port": 0}, 7, '"port"'),
        ({"device": "a name"}, 7, '"device"'),
        ({"parent": "eth9"}, 11, '"eth9"'),
        ({"localAddress": "198.51.100.9"}, 11, "198.51.100.9"),
        ({"localAddress": "here"}, 7, '"localAddress"'),
        ({"vtepMAC": "here"}, 7, '"vtepMAC"'),
        ({"directRouting": 1}, 7, '"directRouting"'),
        ({"txChecksum": "off"}, 7, '"txChecksum"'),
        ({"notrack": 1}, 7, '"notrack"'),
        ({"removeDevice": "yes"}, 7, '"removeDevice"'),
        ({"device": "wan0"}, 999, "wan0"),
    ],
    ids=str,
)
def test_an_invalid_value_is_reported(cni: CNI, ready: Node, keys: dict, code: int, named: str) -> None:
    """The message names the key or its value; neither a pod nor a bridge is left."""
    pod, conf = ready.pod("pod"), network("vxlan", **keys)
    error = refused(cni, "ADD", conf, pod)
    assert (error.code, named in error.text) == (code, True), error
    assert pods_left(ready, pod) == NO_PODS
    assert "cbr0" not in ready.links()
    cni.delete(conf, pod)


def test_each_peer_has_a_neighbour_an_fdb_entry_and_a_route(cni: CNI, ready: Node) -> None:
    """Over either underlay, with a computed or configured MAC; a removed peer's are deleted, a moved peer's change."""
    pod, conf = ready.pod("pod"), network("vxlan", peers=[record(2), record(3, vtepMAC="02:00:00:00:00:33")])
    result = cni.add(conf, pod)
    assert entries(ready) == ways_to((2, MAC_2, "192.0.2.2"), (3, "02:00:00:00:00:33", "192.0.2.3"))
    cni.check(conf, pod, result)
    moved = network("vxlan", peers=[record(3, link="198.51.100")])
    cni.add(moved, ready.pod("second"))
    assert entries(ready) == ways_to((3, MAC_3, "198.51.100.3"))
    over6 = network("vxlan", peers=[record(2)], localAddress="2001:db8:1::1")
    cni.add(over6, ready.pod("third"))
    assert entries(ready) == ways_to((2, MAC_2, "2001:db8:1::2"))
    v6only = network("vxlan", peers=[record(2, podCIDRs=["fd00:244:0:2::/64"])], localAddress="192.0.2.1")
    cni.add(v6only, ready.pod("fourth"))
    assert entries(ready)["forwarding"] == {("02:26:14:42:d9:9b", "192.0.2.2")}


def test_direct_routing_is_used_for_peers_on_the_link(cni: CNI, ready: Node) -> None:
    """Switched on and off again; a peer on the link in one family is routed directly in that family only."""
    near, far = record(2), record(3, link="198.51.100")
    cni.add(network("vxlan", peers=[near, far], directRouting=True), ready.pod("one"))
    assert entries(ready) == ways_to((3, MAC_3, "198.51.100.3"))
    routes = own_routes(ready)
    assert routes["10.244.2.0/24"] == ("192.0.2.2", "wan0")
    assert routes["fd00:244:0:2::/64"] == ("2001:db8:1::2", "wan0")
    half = record(2, addresses=["192.0.2.2", "2001:db8:77::2"])
    cni.add(network("vxlan", peers=[half], directRouting=True), ready.pod("two"))
    assert own_routes(ready)["10.244.2.0/24"] == ("192.0.2.2", "wan0")
    assert own_routes(ready)["fd00:244:0:2::/64"] == ("fd00:244:0:2::", "slash24.1")
    cni.add(network("vxlan", peers=[near, far]), ready.pod("three"))
    assert entries(ready) == ways_to((2, MAC_2, "192.0.2.2"), (3, MAC_3, "198.51.100.3"))


DAMAGE = {
    "route": (["ip", "route", "del", "10.244.2.0/24"], "10.244.2.0/24"),
    "IPv6 route": (["ip", "-6", "route", "del", "fd00:244:0:2::/64"], "fd00:244:0:2::/64"),
    "neighbour": (["ip", "neigh", "del", "10.244.2.0", "dev", "slash24.1"], "neighbour 10.244.2.0"),
    "forwarding": (["bridge", "fdb", "del", MAC_2, "dev", "slash24.1", "dst", "192.0.2.2"], MAC_2),
    "device": (["ip", "link", "del", "slash24.1"], "slash24.1 is missing"),
    "device down": (["ip", "link", "set", "slash24.1", "down"], "down"),
    "MTU": (["ip", "link", "set", "slash24.1", "mtu", "1400"], "mtu 1400"),
    "MAC": (["ip", "link", "set", "slash24.1", "address", "02:00:00:00:00:01"], "MAC"),
    "address": (["ip", "addr", "del", "10.244.1.0/32", "dev", "slash24.1"], "10.244.1.0/32"),
    "strange address": (["ip", "addr", "add", "10.1.1.1/32", "dev", "slash24.1"], "10.1.1.1/32"),
    "filter": (["nft", "delete", "table", "inet", "slash24_vtep_net"], "slash24_vtep_net"),
    "masquerade": (["nft", "delete", "table", "inet", "slash24_egress_net"], "slash24_egress_net"),
    "another device": (
        ["sh", "-c", "ip link del slash24.1; ip link add slash24.1 type vxlan id 9 dstport 4789 local 192.0.2.1"],
        "VNI 9",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_check_reports_drift_and_the_next_add_repairs_it(cni: CNI, ready: Node, what: str) -> None:
    """For each part of the overlay, deleted or changed; running pods pass CHECK again."""
    damage, named = DAMAGE[what]
    conf = network("vxlan", peers=[record(2), record(3)])
    pod, second = ready.pod("pod"), ready.pod("second")
    result = cni.add(conf, pod)
    ready.run(damage)
    error = refused(cni, "CHECK", {**conf, "prevResult": result}, pod)
    assert named in error.text, error
    cni.add(conf, second)
    cni.check(conf, pod, result)
    assert entries(ready) == ways_to((2, MAC_2, "192.0.2.2"), (3, MAC_3, "192.0.2.3"))
    assert vtep(ready)["address"] == MAC


def test_the_mac_is_the_same_after_a_reboot(cni: CNI, ready: Node, bin_dir) -> None:
    """It is computed, so a node that starts without any state gets the same one."""
    conf = network("vxlan")
    cni.add(conf, ready.pod("one"))
    before = vtep(ready)["address"]
    ready.run(["sh", "-c", "ip link del slash24.1; ip link del cbr0; rm -rf /run/cni"])
    # All but an agent's socket: without it, the agent would be unreachable for a moment.
    ready.run(["find", "/run/slash24", "-type", "f", "-not", "-name", "cni.sock*", "-delete"])
    cni.add(conf, ready.pod("two"))
    assert vtep(ready)["address"] == before == MAC


def test_a_device_keeps_its_mac(cni: CNI, ready: Node) -> None:
    """With "keep", also when it is made anew with other parameters; without a device, the MAC is computed."""
    theirs = ["ip", "link", "add", "flannel.1", "address", "02:00:00:00:00:77", "type", "vxlan", "id", "1"]
    ready.run([*theirs, "dstport", "8472", "local", "192.0.2.9"])
    conf = network("vxlan", device="flannel.1", vtepMAC="keep")
    pod = ready.pod("one")
    result = cni.add(conf, pod)
    assert vtep(ready, "flannel.1")["address"] == "02:00:00:00:00:77"
    cni.check(conf, pod, result)
    ready.run(["ip", "link", "del", "flannel.1"])
    cni.add(conf, ready.pod("two"))
    assert vtep(ready, "flannel.1")["address"] == MAC


def test_tx_checksum_off(cni: CNI, ready: Node) -> None:
    """The offload is left alone by default and disabled if configured; CHECK reports that it is enabled again."""
    pod, conf = ready.pod("pod"), network("vxlan", txChecksum=False)
    cni.add(network("vxlan"), ready.pod("plain"))
    result = cni.add(conf, pod)
    cni.check(conf, pod, result)
    ready.run(["ip", "link", "del", "slash24.1"])
    cni.add(network("vxlan"), ready.pod("again"))  # a new device has it on
    error = refused(cni, "CHECK", {**conf, "prevResult": result}, pod)
    assert "slash24.1 has tx-checksumming enabled" in error.text


@pytest.mark.parametrize(
    ("keys", "valid", "stays"),
    [
        ({"removeDevice": True}, False, False),
        ({"removeDevice": True}, True, True),
        ({"removeDevice": False}, False, True),
        ({}, False, True),
    ],
    ids=str,
)
def test_gc_deletes_the_overlay_only_if_configured(cni: CNI, ready: Node, keys: dict, valid: bool, stays: bool) -> None:
    """And only without a valid attachment; DEL never does. Routes of other programs and other networks stay."""
    ready.run(["ip", "route", "add", "10.244.99.0/24", "via", "192.0.2.7"])
    other = network("kubenet", name="other", bridge="cbr1", podCIDRs=["10.9.1.0/24"], clusterCIDRs=["10.9.0.0/16"],
                    peers=[record(4, podCIDRs=["10.9.4.0/24"])])  # fmt: skip
    cni.add(other, ready.pod("other"))
    conf, pod = network("vxlan", peers=[record(2), record(3)], directRouting=True, **keys), ready.pod("pod")
    result = cni.add(conf, pod)
    if not valid:
        cni.delete(conf, pod, result)
    assert "slash24.1" in ready.links()
    cni.gc(conf, *([pod] if valid else []))
    assert ("slash24.1" in ready.links()) is stays
    assert ("10.244.2.0/24" in own_routes(ready)) is stays
    tables = {line.split()[2] for line in ready.ruleset().splitlines() if line.startswith("table")}
    mine = {"slash24_vtep_net", "slash24_egress_net"}
    assert tables & mine == (mine if stays else set())
    assert "slash24_egress_other" in tables
    assert "10.244.99.0/24" in ready.routes()
    assert own_routes(ready)["10.9.4.0/24"] == ("192.0.2.4", "wan0")
    if not stays:
        cni.gc(conf)
        again = cni.add(conf, pod)
        cni.check(conf, pod, again)


def test_gc_leaves_a_device_that_is_not_ours(cni: CNI, ready: Node) -> None:
    """A vxlan device of that name that another program created and that no ADD of ours has adopted."""
    ready.run(["ip", "link", "add", "slash24.1", "type", "vxlan", "id", "1", "dstport", "4789", "local", "192.0.2.1"])
    cni.gc(network("vxlan", removeDevice=True))
    assert "slash24.1" in ready.links()

"""Clusters with obstacles in the underlay or on the nodes: every pod and node still reaches every other."""

import socket
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.netns.node import Node, ask, wait_until
from tests.system.kube_proxy import MODES, Service
from tests.system.reachability import (
    PORT,
    Party,
    check_sources_strictly,
    parties,
    pass_own_addresses_alone,
    unreached,
)
from tests.system.underlay import CLUSTER, LINKS, ROUTER, Member, Underlay

SERVICES = {"pod": ("10.96.0.1", "fd00:96::1"), "node": ("10.96.0.2", "fd00:96::2")}


# -- underlays ------------------------------------------------------------------------------------------------------


def crowd(member: Member) -> None:
    """Add other software's links to a node: Docker's and libvirt's bridges with their rules, and a second NIC, down."""
    node = member.node
    for bridge, number in (("docker0", 17), ("virbr0", 122)):
        node.run(["ip", "link", "add", bridge, "type", "bridge"])
        node.run(["ip", "link", "set", bridge, "up"])
        node.run(["ip", "addr", "add", f"172.{number}.0.1/16", "dev", bridge])
        node.run(["ip", "addr", "add", f"fd{number:02x}::1/64", "dev", bridge, "nodad"])
        outward = f"-s 172.{number}.0.0/16 ! -d 172.{number}.0.0/16 ! -o {bridge} -j MASQUERADE"
        node.run([*f"iptables -t nat -A POSTROUTING {outward}".split()])
        for rule in (f"-o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED", f"-i {bridge} ! -o {bridge}"):
            node.run([*f"iptables -A FORWARD {rule} -j ACCEPT".split()])
    node.run(["ip", "link", "add", "eth1", "type", "veth", "peer", "name", "nowhere"])
    node.run(["ip", "addr", "add", f"192.168.77.{member.number}/24", "dev", "eth1"])
    node.run(["ip", "addr", "add", f"{member.addresses[0]}/25", "dev", "eth1"])


def many_addresses(underlay: Underlay, member: Member) -> None:
    """Put a VIP before the link's own address, and add temporary, deprecated and duplicate IPv6 addresses."""
    node, (v4, v6) = member.node, member.addresses
    v4_net, v6_net = v4.removesuffix(str(member.number)), v6.removesuffix(str(member.number))
    gateway = f"{v4_net}{ROUTER}"
    for words in (
        f"addr del {v4}/24 dev eth0",
        f"addr add {v4_net}2{member.number:02}/32 dev eth0",
        f"addr add {v4}/24 dev eth0",
        f"addr add {v4_net}1{member.number:02}/24 dev eth0",
        f"route replace default via {gateway}",
        f"addr add {v6_net}f:{member.number}/128 dev eth0 nodad",
        f"addr add {v6_net}d:{member.number}/64 dev eth0 nodad preferred_lft 0",
    ):
        node.run(["ip", *words.split()])
    node.run(["sysctl", "-qw", "net.ipv6.conf.eth0.use_tempaddr=2", "net.ipv6.conf.eth0.accept_dad=1"])
    node.run(["ip", "addr", "add", f"{v6_net}c:{member.number}/64", "dev", "eth0", "mngtmpaddr", "nodad"])
    link = next(link for link, nets in LINKS.items() if v6_net in nets)
    underlay.fabric.run(["ip", "addr", "replace", f"{v6_net}e:1/64", "dev", link, "nodad"])
    node.run(["ip", "addr", "add", f"{v6_net}e:1/64", "dev", "eth0"])
    flags = [["temporary"], ["deprecated"], ["dadfailed"]]
    shown = ["ip", "-6", "-o", "addr", "show", "dev", "eth0"]
    assert wait_until(lambda: all(one[0] in node.run(shown).stdout for one in flags)), node.run(shown).stdout


# -- services and sources --------------------------------------------------------------------------------------------


def without_service(sources: Sequence[Party], endpoint: Party, addresses: tuple[str, str]) -> list[str]:
    """Each source that does not reach an endpoint at the addresses of its Service."""
    problems = []
    for source in sources:
        for own, address in zip(endpoint.addresses, addresses, strict=True):
            for kind in ("tcp", "udp"):
                try:
                    ask(source.host, endpoint.host, own, PORT, kind, to=(address, 443))
                except OSError as error:
                    problems.append(f"{source.name} to the service {address} of {endpoint.name} by {kind}: {error}")
    return problems


def bound(source: Party, target: Party, place: int) -> str:
    """The source address that a pod sees if a node connects from its underlay address."""
    address = target.addresses[place]
    assert source.host.reaches(address, timeout=10)
    with source.host.socket(address, "tcp") as caller, target.host.socket(address, "tcp") as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        caller.bind((source.addresses[place], 0))
        listener.bind((address, PORT))
        listener.listen()
        caller.connect((address, PORT))
        with listener.accept()[0] as connection:
            return connection.getpeername()[0]


# -- the clusters ---------------------------------------------------------------------------------------------------

KINDS = {
    "vxlan": ("vxlan", "right", {}),
    "vxlan over IPv6": ("vxlan", "right", {}),
    "vxlan and direct routes": ("vxlan", "right", {"directRouting": True}),
    "kubenet": ("kubenet", "left", {}),
}
CASES = [("vxlan", mode, marks) for mode in MODES for marks in (True, False)]
CASES += [(kind, "iptables", True) for kind in KINDS if kind != "vxlan"]


def id_of(case: tuple) -> str:
    """The test ID of a case."""
    kind, mode, marks = case
    return f"{kind}, {mode}{'' if marks else ' without a network of pods'}"


@pytest.mark.parametrize("case", CASES, ids=id_of)
def test_every_pod_and_node_reaches_every_other(underlay: Underlay, case: tuple[str, str, bool]) -> None:
    """At every address of pods, nodes and Services; pods see each other's own addresses.

    The nodes have rp_filter=1, more addresses than in their records, and other software's bridges and rules. Where all
    pods' packets are tunnelled, the underlay passes only nodes' addresses.
    """
    kind, mode, marks = case
    plugin, third, keys = KINDS[kind]
    members = [underlay.join(link) for link in ("left", "left", third)]
    check_sources_strictly(underlay)
    for member in members:
        crowd(member)
        many_addresses(underlay, member)
        local = {"localAddress": member.addresses["IPv6" in kind]} if plugin == "vxlan" else {}
        member.configure(plugin, members, **keys, **local)
    if kind in ("vxlan", "vxlan over IPv6"):
        pass_own_addresses_alone(underlay)
    everybody = parties(members)
    endpoints = {"pod": everybody[-1], "node": everybody[1]}
    services = [
        Service(address, 443, endpoint, PORT)
        for what, party in endpoints.items()
        for address, endpoint in zip(SERVICES[what], party.addresses, strict=True)
    ]
    for member in members:
        MODES[mode](member.node, services, CLUSTER if marks else ())
    assert unreached(everybody, everybody) == []
    if mode != "ipvs":
        problems = [without_service(everybody, party, SERVICES[what]) for what, party in endpoints.items()]
        assert problems == [[], []]
    for member, party in zip(members, everybody[3:], strict=True):
        member.check(party.host)


@pytest.mark.parametrize("masked", [True, False], ids=["ipMasq", "no ipMasq"])
def test_a_node_reaches_pods_from_its_underlay_address(underlay: Underlay, *, masked: bool) -> None:
    """Pods of other nodes see the address of its VTEP, even if `nonMasqueradeCIDRs` contains the nodes."""
    members = [underlay.join("left"), underlay.join("right")]
    check_sources_strictly(underlay)
    pass_own_addresses_alone(underlay)
    for member in members:
        networks = ["192.0.0.0/8", "198.51.100.0/24", "2001:db8::/32"]
        member.configure("vxlan", members, ipMasq=masked, nonMasqueradeCIDRs=networks)
    one, two, pod, other = parties(members)
    for place, (here, there) in enumerate((("10.244.1.0", "10.244.2.0"), ("fd00:244:0:1::", "fd00:244:0:2::"))):
        assert bound(one, other, place) == here
        assert bound(two, pod, place) == there
        assert bound(one, pod, place) == one.addresses[place]


def test_nodes_configured_by_router_advertisement(underlay: Underlay) -> None:
    """An IPv6-only network: addresses and default routes come from advertisements, and stay when nodes forward."""
    members = []
    for link in ("left", "right"):
        member = underlay.join(link)
        node, prefix = member.node, LINKS[link][1]
        node.run(["ip", "addr", "flush", "dev", "eth0", "scope", "global"])
        node.run(["ip", "route", "flush", "default"])
        node.run(["ip", "-6", "route", "flush", "default"])
        node.run(["sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=1"])

        def is_up(node: Node = node, link: str = link, prefix: str = prefix) -> bool:
            underlay.fabric.advertise(link, prefix)
            return bool(node.addresses("eth0")) and "default6" in node.routes()

        assert wait_until(is_up)
        address = node.addresses("eth0").pop().partition("/")[0]
        members.append(replace(member, addresses=(address, address)))
    for member in members:
        member.configure("vxlan", members)
        for record in member.conf["peers"]:
            record["addresses"] = record["addresses"][:1]
    underlay.members[:] = members
    pass_own_addresses_alone(underlay)
    everybody = parties(members)
    assert unreached(everybody, everybody) == []

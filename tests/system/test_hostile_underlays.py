"""Clusters where the network between nodes, or what else is on a node, is in the way: everybody reaches everybody."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from tests.netns.node import Host, Node, ask, wait_until
from tests.system.kube_proxy import MODES, Service
from tests.system.underlay import CLUSTER, LINKS, ROUTER, Member, Underlay

PORT = 8000
SERVICES = {"pod": ("10.96.0.1", "fd00:96::1"), "node": ("10.96.0.2", "fd00:96::2")}


# -- underlays ------------------------------------------------------------------------------------------------------


def pass_own_addresses_alone(underlay: Underlay) -> None:
    """As clouds do: what does not come from an address of the sending node is dropped."""
    rules = ["add table bridge cloud", "add chain bridge cloud from { type filter hook prerouting priority 0; }"]
    for member in underlay.members:
        own = [one.partition("/")[0] for one in member.node.addresses("eth0")]
        for ip, addresses in (
            ("ip", ["0.0.0.0", *(one for one in own if ":" not in one)]),
            ("ip6", ["::", "fe80::/10", *(one for one in own if ":" in one)]),
        ):
            allowed = f"{ip} saddr != {{ {', '.join(addresses)} }}"
            rules.append(f"add rule bridge cloud from iifname n{member.number} {allowed} counter drop")
    underlay.fabric.run(["nft", "-f", "-"], stdin="\n".join([*rules, ""]))


def check_sources_strictly(underlay: Underlay) -> None:
    """rp_filter=1 on every node, on the links there are and on those to come."""
    for member in underlay.members:
        for link in ("all", "default", "eth0"):
            member.node.run(["sysctl", "-qw", f"net.ipv4.conf.{link}.rp_filter=1"])


def crowd(member: Member) -> None:
    """Other people's things on a node: bridges of Docker and libvirt with their rules, a second NIC that is down."""
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
    """A link with a VIP in front of its address, and IPv6 addresses that are temporary, deprecated and a duplicate."""
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


# -- who reaches whom -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Party:
    """A pod or a node of the cluster: who it is, where, and its addresses of IPv4 and IPv6."""

    name: str
    host: Host
    member: Member
    addresses: tuple[str, str]
    is_pod: bool


def parties(members: Sequence[Member]) -> list[Party]:
    """The nodes, and a new pod on each."""
    found = [Party(f"node {m.number}", m.node, m, m.addresses, is_pod=False) for m in members]
    for member in members:
        pod = member.add("pod")
        addresses = (member.address(pod, 4), member.address(pod, 6))
        found.append(Party(f"pod {member.number}", pod, member, addresses, is_pod=True))
    return found


def unreached(sources: Sequence[Party], targets: Sequence[Party]) -> list[str]:
    """Who does not reach whom by ICMP, TCP or UDP; and which pod sees another address than the other pod's own."""
    problems = []
    for source in sources:
        for target in targets:
            if source is target:
                continue
            for place, address in enumerate(target.addresses):
                # Links of new pods may still be looking for duplicates of their addresses: ping waits for that.
                if not source.host.reaches(address, timeout=10):
                    problems.append(f"{source.name} to {target.name}: no echo from {address}")
                for kind in ("tcp", "udp"):
                    what = f"{source.name} to {target.name} by {kind} to {address}"
                    try:
                        seen = ask(source.host, target.host, address, PORT, kind)
                    except OSError as error:
                        problems.append(f"{what}: {error}")
                    else:
                        if source.is_pod and target.is_pod and seen != source.addresses[place]:
                            problems.append(f"{what}: seen as {seen}")
    return problems


def without_service(sources: Sequence[Party], endpoint: Party, addresses: tuple[str, str]) -> list[str]:
    """Who does not reach an endpoint by the addresses of its service."""
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
    """Whom a pod sees, if a node speaks to it from its address on the underlay."""
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
    """The name of a case."""
    kind, mode, marks = case
    return f"{kind}, {mode}{'' if marks else ' without a network of pods'}"


@pytest.mark.parametrize("case", CASES, ids=id_of)
def test_everybody_reaches_everybody(underlay: Underlay, case: tuple[str, str, bool]) -> None:
    """Every pod and node every address of pods, nodes and services; pods see each other's addresses.

    The nodes check sources strictly, have more addresses than their records, and others' bridges and rules; if pods'
    packets are tunnelled, the network passes nodes' addresses alone.
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
def test_a_node_speaks_to_pods_from_any_of_its_addresses(underlay: Underlay, *, masked: bool) -> None:
    """They see the address of its VTEP; also where nodes are in a network that pods reach under their own address."""
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


def test_nodes_by_router_advertisement(underlay: Underlay) -> None:
    """A network of IPv6 alone: addresses and default routes come by advertisement, and stay when nodes forward."""
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

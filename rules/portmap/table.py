"""The table `inet slash24_portmap`: maps from host ports to pods, fixed rules, and chains that attachments add."""

from collections.abc import Collection, Sequence
from functools import lru_cache

from linux.nftables import messages, uapi
from linux.nftables.expressions import (
    ADDRESS_BYTES,
    DROP,
    RETURN,
    cmp_neq,
    ct,
    ct_status_dnat,
    dnat,
    fib_type_local,
    goto,
    ifname,
    iifname,
    in_network,
    ip_daddr,
    ip_saddr,
    l4proto,
    l4proto_is,
    lookup,
    map_lookup,
    mark_clear,
    mark_has,
    masquerade,
    nfproto,
    th_dport,
    vmap,
)
from linux.nftables.messages import INET_PROTO, INET_SERVICE, IP_ADDR, VERDICT, Element, Hook, Set, TableName
from linux.nftables.pod_table import Chain, Rule, Table
from rules.portmap.iptables_nat import MARK_BIT
from spec.addresses import Address

TYPE_CHECKING = False  # as type checkers know it, without an import of typing
if TYPE_CHECKING:
    from rules.conditions.condition import Condition

_PORT = (INET_PROTO, INET_SERVICE)
TRANSPORTS = {"tcp": 6, "udp": 17, "sctp": 132}
_LOOPBACK = bytes([127, 0, 0, 0])
_VERSIONS = (4, 6)


TARGETS = {
    (version, exact): Set(f"{'hosts' if exact else 'ports'}{version}", key, (IP_ADDR[version], INET_SERVICE))
    for version in _VERSIONS
    for exact, key in ((True, (IP_ADDR[version], *_PORT)), (False, _PORT))
}
"""Where a port leads, by IP version and whether it is `exact`: of one address of the node."""

_CONDITIONAL = {
    (version, exact): Set(f"conditional_{'hosts' if exact else 'ports'}{version}", key, (VERDICT,))
    for version in _VERSIONS
    for exact, key in ((True, (IP_ADDR[version], *_PORT)), (False, _PORT))
}

MASQUERADES = {
    version: Set(f"answers{version}", (IP_ADDR[version], *_PORT, INET_SERVICE), (VERDICT,)) for version in _VERSIONS
}
"""The chain that decides what is masqueraded, by the pod's address, protocol and port, and the node's port."""

SERVICES = {version: Set(f"services{version}", (IP_ADDR[version],)) for version in _VERSIONS}
"""Addresses that an IPVS proxy holds for services: host ports are not forwarded there."""

SERVICES_OWNER = "services"
"""The owner of their elements."""

# masquerade
FROM_ANYWHERE = Chain("from-anywhere", (Rule("everybody", (masquerade(),)),))


def conditional_map(version: int, *, exact: bool) -> Set:
    """The map to the chains that hold conditions."""
    return _CONDITIONAL[version, exact]


def conditional_chain(version: int, conditions: "Sequence[Condition]", *, exact: bool) -> Chain:
    """The chain for ports with these conditions, all of which must hold; its name holds a digest of them."""
    import hashlib

    from rules.conditions.condition import combined

    text = " ".join(condition.text for condition in conditions)
    digest = hashlib.sha256(f"{version} {text}".encode()).hexdigest()[:16]
    # meta nfproto ipv4 ip saddr 198.51.100.0/24 goto exact
    holds = [
        Rule("conditions hold", (*nfproto(version), *expressions, goto("exact" if exact else "any")))
        for expressions in combined(conditions)
    ]
    # goto wildcard
    fails = (Rule("otherwise", (goto("wildcard"),)),) if exact else ()
    return Chain(f"{'host' if exact else 'port'}-if-{digest}", (*holds, *fails))


@lru_cache(maxsize=32)  # many pods, few subnets
def masquerading_chain(subnet: Address) -> Chain:
    """The chain that masquerades packets from this subnet, and for IPv4 from the node's own loopback."""
    version = subnet.version
    # ip saddr 10.1.2.0/24 masquerade
    from_subnet = (*nfproto(version), ip_saddr(version), *in_network(subnet.packed, subnet.prefix), masquerade())
    rules = [Rule("own subnet", from_subnet)]
    if version == 4:
        # ip saddr 127.0.0.0/8 masquerade
        rules.append(Rule("the node itself", (*nfproto(4), ip_saddr(4), *in_network(_LOOPBACK, 8), masquerade())))
    return Chain(f"from-{subnet.cidr.replace(':', '_')}", tuple(rules))


def _port(register: int = uapi.NFT_REG32_00) -> list[bytes]:
    """meta l4proto . th dport"""
    return [l4proto(register), th_dport(register + 1)]


def _address_and_port(version: int) -> list[bytes]:
    """ip daddr . meta l4proto . th dport"""
    return [*nfproto(version), ip_daddr(version), *_port(_after_address(version))]


def _after_address(version: int) -> int:
    """The register after an address that is loaded into the first."""
    return uapi.NFT_REG32_00 + ADDRESS_BYTES[version] // 4


def _conditional(*, exact: bool) -> list[Rule]:
    """Look up whether a port has conditions."""
    key = {version: _address_and_port(version) if exact else [*nfproto(version), *_port()] for version in _VERSIONS}
    # ip daddr . meta l4proto . th dport vmap @conditional_hosts4
    # meta nfproto ipv4 meta l4proto . th dport vmap @conditional_ports4
    return [
        Rule(f"conditions v{version}", (*key[version], vmap(_CONDITIONAL[version, exact].name)))
        for version in _VERSIONS
    ]


def _forwarding(*, exact: bool) -> list[Rule]:
    """Forward packets to a port."""
    key = {version: _address_and_port(version) if exact else _port() for version in _VERSIONS}
    # dnat ip to ip daddr . meta l4proto . th dport map @hosts4
    # dnat ip to meta l4proto . th dport map @ports4
    return [
        Rule(
            f"forward v{version}",
            (*key[version], map_lookup(TARGETS[version, exact].name), dnat(version, _after_address(version))),
        )
        for version in _VERSIONS
    ]


def _masquerading() -> list[Rule]:
    """Look up what is masqueraded, a rule for each protocol: without one, nft cannot print `ct original proto-dst`."""
    # ip daddr . meta l4proto . tcp dport . ct original proto-dst vmap @answers4
    return [
        Rule(
            f"{name} v{version}",
            (
                *l4proto_is(number),
                *_address_and_port(version),
                ct(uapi.NFT_CT_PROTO_DST, _after_address(version) + 2, direction=uapi.IP_CT_DIR_ORIGINAL),
                vmap(MASQUERADES[version].name),
            ),
        )
        for name, number in TRANSPORTS.items()
        for version in _VERSIONS
    ]


def _loopback_guard() -> tuple[Rule, ...]:
    """Drop packets from outside with loopback addresses: links route them (route_localnet) for ports at 127.0.0.1."""
    from_outside = (iifname(), cmp_neq(ifname("lo")))
    return (
        # iifname != "lo" ip saddr 127.0.0.0/8 drop
        Rule("from loopback", (*from_outside, *nfproto(4), ip_saddr(4), *in_network(_LOOPBACK, 8), DROP)),
        # iifname != "lo" ip daddr 127.0.0.0/8 drop
        Rule("to loopback", (*from_outside, *nfproto(4), ip_daddr(4), *in_network(_LOOPBACK, 8), DROP)),
    )


# fib daddr type local goto to-the-node
_ENTRY = (Rule("to the node", (*fib_type_local(uapi.NFTA_FIB_F_DADDR), goto("to-the-node"))),)


def to_the_node(marked: Collection[int]) -> Chain:
    """The chain for packets to the node; of the `marked` IP versions it passes on only those that iptables marked."""
    # ip daddr @services4 return
    services = [
        Rule(
            f"services v{version}",
            (*nfproto(version), ip_daddr(version), lookup(SERVICES[version].name), RETURN),
        )
        for version in _VERSIONS
    ]
    # meta nfproto ipv4 meta mark & 0x00001000 == 0x00000000 return
    unmarked = [
        Rule(marking_comment(version), (*nfproto(version), *mark_has(MARK_BIT, inverted=True), RETURN))
        for version in _VERSIONS
        if version in marked
    ]
    # meta mark set meta mark & 0xffffefff
    clearing = [Rule("the mark has served", tuple(mark_clear(MARK_BIT)))] if unmarked else []
    # goto hostports
    return Chain("to-the-node", (*services, *unmarked, *clearing, Rule("host ports", (goto("hostports"),))))


def marking_comment(version: int) -> str:
    """The comment of the rule that leaves unmarked packets of an IP version to iptables."""
    return f"iptables has v{version}"


def pod_of(element: Element) -> bytes:
    """The packed address of the pod in an element; b"" in one for conditions or a service."""
    for version, masquerades in MASQUERADES.items():
        if element.set == masquerades.name:
            return element.key[: ADDRESS_BYTES[version]]
    return element.value[:-4]


_FIXED = (
    Chain("any", tuple(_forwarding(exact=False))),
    # goto any
    Chain("wildcard", (*_conditional(exact=False), Rule("without conditions", (goto("any"),)))),
    # goto wildcard
    Chain("exact", (*_forwarding(exact=True), Rule("any address", (goto("wildcard"),)))),
    # goto exact
    Chain("hostports", (*_conditional(exact=True), Rule("without conditions", (goto("exact"),)))),
)
# type filter hook prerouting priority raw
LOOPBACK = Chain("loopback", _loopback_guard(), Hook("filter", uapi.NF_INET_PRE_ROUTING, uapi.NF_IP_PRI_RAW))
"""Makes it harmless that a link routes 127.0.0.0/8."""

_BASE = (
    Chain("answers", tuple(_masquerading())),
    LOOPBACK,
    # After kube-proxy, which is at dstnat: packets that it translates do not reach later chains.
    # type nat hook prerouting priority dstnat + 5
    Chain("prerouting", _ENTRY, Hook("nat", uapi.NF_INET_PRE_ROUTING, uapi.NF_IP_PRI_NAT_DST + 5)),
    # type nat hook output priority -95
    Chain("output", _ENTRY, Hook("nat", uapi.NF_INET_LOCAL_OUT, uapi.NF_IP_PRI_NAT_DST + 5)),
    Chain(
        "postrouting",
        # ct status dnat goto answers
        (Rule("sent on", (*ct_status_dnat(), goto("answers"))),),
        Hook("nat", uapi.NF_INET_POST_ROUTING, uapi.NF_IP_PRI_NAT_SRC),  # type nat hook postrouting priority srcnat
    ),
)


@lru_cache
def table(marked: frozenset[int]) -> Table:
    """The table if iptables marks the packets of these IP versions (rules/portmap/iptables_nat.py).

    Chains come before those that lead to them: the kernel makes them in this order.
    """
    return Table(
        TableName(messages.INET, "slash24_portmap"),
        "slash24: ports of the node lead to pods",
        (*TARGETS.values(), *_CONDITIONAL.values(), *MASQUERADES.values(), *SERVICES.values()),
        (*_FIXED, to_the_node(marked), *_BASE),
        subject=pod_of,
    )


TABLE = table(frozenset())
"""The table if iptables marks nothing: for callers that do not use the rules of `to-the-node`."""

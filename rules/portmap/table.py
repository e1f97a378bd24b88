"""The table of host ports: its maps, its fixed rules, and the chains that attachments bring with them."""

from collections.abc import Collection, Sequence
from functools import lru_cache

from linux.nftables import messages
from linux.nftables.expressions import (
    DROP,
    GOTO,
    RETURN,
    destination_address,
    destination_and_port,
    destination_in,
    destination_translated,
    differs,
    in_set,
    incoming_link,
    marked,
    masquerade,
    of_protocol,
    of_version,
    original_port,
    port,
    source_in,
    to_this_host,
    translate_destination,
    unmark,
    value_of,
    verdict,
    verdict_of,
)
from linux.nftables.messages import Element, Hook, Set, TableName
from linux.nftables.pod_table import Chain, Rule, Table
from rules.portmap.after_iptables import BIT
from spec.addresses import Address

TYPE_CHECKING = False  # as type checkers know it, without an import of typing
if TYPE_CHECKING:
    from rules.conditions.expressions import Condition

_PROTO, _SERVICE = 12, 13  # nft's numbers of its types inet_proto and inet_service; a concatenation has 6 bits for each
_ADDRESS = {4: 7, 6: 8}
_ADDRESS_BYTES = {4: 4, 6: 16}
_PORT, _PORT_BYTES = _PROTO << 6 | _SERVICE, 8
TRANSPORTS = {"tcp": 6, "udp": 17, "sctp": 132}
_LOOPBACK = bytes([127, 0, 0, 0])
_VERSIONS = (4, 6)


def _map(name: str, key: int, key_bytes: int, version: int = 0) -> Set:
    """A map to an address and port of this IP version, or (0) to verdicts."""
    if not version:
        return Set(name, key, key_bytes, byte_order=0, verdicts=True)
    data, data_bytes = _ADDRESS[version] << 6 | _SERVICE, _ADDRESS_BYTES[version] + 4
    return Set(name, key, key_bytes, byte_order=0, data_type=data, data_bytes=data_bytes)


def _with_address(version: int) -> tuple[int, int]:
    """The type of address . protocol . port, and its bytes."""
    return _ADDRESS[version] << 12 | _PORT, _ADDRESS_BYTES[version] + _PORT_BYTES


TARGETS = {
    (version, exact): _map(f"{'hosts' if exact else 'ports'}{version}", *key, version)
    for version in _VERSIONS
    for exact, key in ((True, _with_address(version)), (False, (_PORT, _PORT_BYTES)))
}
"""Where a port leads, by IP version and whether of one address of the node."""

_CONDITIONAL = {
    (version, exact): _map(f"conditional_{'hosts' if exact else 'ports'}{version}", *key)
    for version in _VERSIONS
    for exact, key in ((True, _with_address(version)), (False, (_PORT, _PORT_BYTES)))
}

MASQUERADES = {
    version: _map(
        f"answers{version}", _ADDRESS[version] << 18 | _PORT << 6 | _SERVICE, _ADDRESS_BYTES[version] + _PORT_BYTES + 4
    )
    for version in _VERSIONS
}
"""By the pod's address, protocol and port, and the port of the node: the chain that knows who is to be masqueraded."""

SERVICES = {
    version: Set(f"services{version}", _ADDRESS[version], _ADDRESS_BYTES[version], byte_order=2)
    for version in _VERSIONS
}
"""Addresses of services (rules/portmap/service_addresses.py): host ports are not at those."""

SERVICES_OWNER = "services"
"""What their elements have in an owner's place."""

FROM_ANYWHERE = Chain("from-anywhere", (Rule("everybody", (masquerade(),)),))


def conditional_map(version: int, *, exact: bool) -> Set:
    """The map to the chains of conditions."""
    return _CONDITIONAL[version, exact]


def conditional_chain(version: int, conditions: "Sequence[Condition]", *, exact: bool) -> Chain:
    """The chain for ports with these conditions, all of which must hold; its name is a digest of them."""
    import hashlib

    from rules.conditions.expressions import combined

    text = " ".join(condition.text for condition in conditions)
    digest = hashlib.sha256(f"{version} {text}".encode()).hexdigest()[:16]
    # IP SADDR ... goto exact
    holds = [
        Rule("conditions hold", (*of_version(version), *expressions, verdict(GOTO, "exact" if exact else "any")))
        for expressions in combined(conditions)
    ]
    # goto wildcard
    fails = (Rule("otherwise", (verdict(GOTO, "wildcard"),)),) if exact else ()
    return Chain(f"{'host' if exact else 'port'}-if-{digest}", (*holds, *fails))


@lru_cache(maxsize=32)  # many pods, few subnets
def masquerading_chain(subnet: Address) -> Chain:
    """The chain that masquerades what comes from this subnet, and for IPv4 from the node's own loopback."""
    version = subnet.version
    # ip saddr 10.1.2.0/24 masquerade
    from_subnet = (*of_version(version), *source_in(version, subnet.packed, subnet.prefix), masquerade())
    rules = [Rule("own subnet", from_subnet)]
    if version == 4:
        # ip saddr 127.0.0.0/8 masquerade
        rules.append(Rule("the node itself", (*of_version(4), *source_in(4, _LOOPBACK, 8), masquerade())))
    return Chain(f"from-{subnet.cidr.replace(':', '_')}", tuple(rules))


def _conditional(*, exact: bool) -> list[Rule]:
    """Rules that look whether a port has conditions."""
    key = {
        version: destination_and_port(version) if exact else [*of_version(version), *port()] for version in _VERSIONS
    }
    # ip daddr . meta l4proto . th dport vmap @conditional_hosts4
    # meta nfproto ipv4 meta l4proto . th dport vmap @conditional_ports4
    return [
        Rule(f"conditions v{version}", (*key[version], verdict_of(_CONDITIONAL[version, exact].name)))
        for version in _VERSIONS
    ]


def _forwarding(*, exact: bool) -> list[Rule]:
    """Rules that send on what reaches a port."""
    key = {version: destination_and_port(version) if exact else port() for version in _VERSIONS}
    # dnat ip to ip daddr . meta l4proto . th dport map @hosts4
    # dnat ip to meta l4proto . th dport map @ports4
    return [
        Rule(
            f"forward v{version}",
            (*key[version], value_of(TARGETS[version, exact].name), translate_destination(version)),
        )
        for version in _VERSIONS
    ]


def _masquerading() -> list[Rule]:
    """Rules that look who is to be masqueraded: nft knows what the ports of a connection are by its protocol only."""
    # meta l4proto tcp ip daddr . meta l4proto . th dport . ct original proto-dst vmap @answers4
    return [
        Rule(
            f"{name} v{version}",
            (
                *of_protocol(number),
                *destination_and_port(version),
                original_port(version),
                verdict_of(MASQUERADES[version].name),
            ),
        )
        for name, number in TRANSPORTS.items()
        for version in _VERSIONS
    ]


def _strangers() -> tuple[Rule, ...]:
    """Rules that drop what claims to be of the node's loopback: to reach ports by 127.0.0.1 a link may route that."""
    from_outside = (incoming_link(), differs(b"lo".ljust(16, b"\0")))
    return (
        # iifname != "lo" ip saddr 127.0.0.0/8 drop
        Rule("from loopback", (*from_outside, *of_version(4), *source_in(4, _LOOPBACK, 8), verdict(DROP))),
        # iifname != "lo" ip daddr 127.0.0.0/8 drop
        Rule("to loopback", (*from_outside, *destination_in(4, _LOOPBACK, 8), verdict(DROP))),
    )


# fib daddr type local goto to-the-node
_ENTRY = (Rule("to the node", (*to_this_host(), verdict(GOTO, "to-the-node"))),)


def to_the_node(after_iptables: Collection[int]) -> Chain:
    """The chain that lets packets go on: of these IP versions only those that iptables has left to others."""
    # ip daddr @services4 return
    services = [
        Rule(
            f"services v{version}",
            (*of_version(version), destination_address(version), in_set(SERVICES[version].name), verdict(RETURN)),
        )
        for version in _VERSIONS
    ]
    # meta nfproto ipv4 meta mark & 0x1000 == 0 return
    kept = [
        Rule(after(version), (*of_version(version), *marked(BIT, inverted=True), verdict(RETURN)))
        for version in _VERSIONS
        if version in after_iptables
    ]
    # meta mark set meta mark & 0xffffefff
    seen = [Rule("the mark has served", tuple(unmark(BIT)))] if kept else []
    return Chain("to-the-node", (*services, *kept, *seen, Rule("host ports", (verdict(GOTO, "hostports"),))))


def after(version: int) -> str:
    """The comment of the rule by which packets of an IP version wait for iptables."""
    return f"iptables has v{version}"


def leads_to(found: Element) -> bytes:
    """The packed address of the pod that an element is about; b"" for that of conditions or a service."""
    for version, masquerades in MASQUERADES.items():
        if found.set == masquerades.name:
            return found.key[: _ADDRESS_BYTES[version]]
    return found.value[:-4]


_FIXED = (
    Chain("any", tuple(_forwarding(exact=False))),
    Chain("wildcard", (*_conditional(exact=False), Rule("without conditions", (verdict(GOTO, "any"),)))),
    Chain("exact", (*_forwarding(exact=True), Rule("any address", (verdict(GOTO, "wildcard"),)))),
    Chain("hostports", (*_conditional(exact=True), Rule("without conditions", (verdict(GOTO, "exact"),)))),
)
LOOPBACK = Chain("loopback", _strangers(), Hook("filter", 0, -300))  # type filter hook prerouting priority raw
"""What makes it harmless that a link routes 127.0.0.0/8."""

_BASE = (
    Chain("answers", tuple(_masquerading())),
    LOOPBACK,
    # Behind kube-proxy, which is at dstnat: what it translates is seen by no chain after it.
    Chain("prerouting", _ENTRY, Hook("nat", 0, -95)),  # type nat hook prerouting priority dstnat + 5
    Chain("output", _ENTRY, Hook("nat", 3, -95)),  # type nat hook output priority -95
    Chain(
        "postrouting",
        # ct status dnat goto answers
        (Rule("sent on", (*destination_translated(), verdict(GOTO, "answers"))),),
        Hook("nat", 4, 100),  # type nat hook postrouting priority srcnat
    ),
)


@lru_cache
def table(after_iptables: frozenset[int]) -> Table:
    """The table where packets of these IP versions need the mark of rules/portmap/after_iptables.py.

    Chains stand before those that lead to them: the kernel makes them in this order.
    """
    return Table(
        TableName(messages.INET, "slash24_portmap"),
        "slash24: ports of the node lead to pods",
        (*TARGETS.values(), *_CONDITIONAL.values(), *MASQUERADES.values(), *SERVICES.values()),
        (*_FIXED, to_the_node(after_iptables), *_BASE),
        subject=leads_to,
    )


TABLE = table(frozenset())
"""The same where none needs it: for whatever is not about its rules."""

"""The chains that follow from the configuration: metadata, node_access, log_egress, log_ingress.

A rule is identified by its comment, so whatever it depends on is in there.
"""

from collections.abc import Iterator
from socket import IPPROTO_ICMP, IPPROTO_ICMPV6

from linux.nftables.cache import Chain, Rule
from linux.nftables.expressions import (
    ACCEPT,
    cmp_eq,
    cmp_range,
    goto,
    ip_daddr,
    ip_saddr,
    l4proto_is,
    lookup,
    nfproto,
    th_dport,
)
from linux.nftables.statements import limit, log
from policy.settings import PROTOCOLS, NodePorts, Settings
from rules.policy.names import DENIED_EGRESS_CHAIN, EXEMPT, LOG_EGRESS, LOG_INGRESS, METADATA, NODE_ACCESS
from spec.addresses import pack

METADATA_SERVICES = {4: "169.254.169.254", 6: "fd00:ec2::254"}
_NAMES = {number: name for name, number in PROTOCOLS.items()}
_LOGGED_A_SECOND, _LOGGED_AT_ONCE = 10, 20


def chains(settings: Settings) -> list[Chain]:
    """Those that every kernel can have."""
    return [Chain(METADATA, tuple(_metadata(settings))), Chain(NODE_ACCESS, tuple(_node_access(settings)))]


def log_chains(settings: Settings) -> list[Chain]:
    """Those that need the kernel to have nflog."""
    names = ((LOG_EGRESS, "egress "), (LOG_INGRESS, "ingress "))
    return [Chain(name, tuple(_logged(settings, prefix))) for name, prefix in names]


def _metadata(settings: Settings) -> Iterator[Rule]:
    if settings.metadata_deny:
        for version, address in METADATA_SERVICES.items():
            # ip daddr 169.254.169.254 ip saddr != @exempt4 goto denied_egress
            # ip6 daddr fd00:ec2::254 ip6 saddr != @exempt6 goto denied_egress
            to_service = (*nfproto(version), ip_daddr(version), cmp_eq(pack(address)))
            others = (ip_saddr(version), lookup(EXEMPT[version].name, inverted=True))
            yield Rule(f"metadataAccess deny v{version}", (*to_service, *others, goto(DENIED_EGRESS_CHAIN)))


def _node_access(settings: Settings) -> Iterator[Rule]:
    if settings.node_access is None:
        return
    # meta l4proto icmp accept
    yield Rule("nodeAccess ICMP", (*l4proto_is(IPPROTO_ICMP), ACCEPT))
    # meta l4proto ipv6-icmp accept
    yield Rule("nodeAccess ICMPv6", (*l4proto_is(IPPROTO_ICMPV6), ACCEPT))
    for ports in settings.node_access:
        yield _to_node(ports)
    # goto denied_egress
    yield Rule("nodeAccess nothing else", (goto(DENIED_EGRESS_CHAIN),))


def _to_node(ports: NodePorts) -> Rule:
    name = _NAMES.get(ports.protocol, str(ports.protocol))
    # meta l4proto tcp accept
    expressions = [*l4proto_is(ports.protocol)]
    if (ports.first, ports.last) == (0, 0):
        return Rule(f"nodeAccess {name}", (*expressions, ACCEPT))
    first, last = ports.first.to_bytes(2, "big"), ports.last.to_bytes(2, "big")
    if first == last:
        # tcp dport 53 accept
        return Rule(f"nodeAccess {name}/{ports.first}", (*expressions, th_dport(), cmp_eq(first), ACCEPT))
    # tcp dport 30000-32767 accept
    in_range = (*expressions, th_dport(), cmp_range(first, last))
    return Rule(f"nodeAccess {name}/{ports.first}-{ports.last}", (*in_range, ACCEPT))


def _logged(settings: Settings, prefix: str) -> Iterator[Rule]:
    if settings.log_group is not None:
        # limit rate 10/second burst 20 packets log prefix "egress " group 24
        # limit rate 10/second burst 20 packets log prefix "ingress " group 24
        rate = limit(_LOGGED_A_SECOND, burst=_LOGGED_AT_ONCE)
        yield Rule(f"log group {settings.log_group}", (rate, log(settings.log_group, prefix)))

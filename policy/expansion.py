"""From a rule of a policy to rules of nftables, and the sets that these refer to.

A rule becomes one for each way to match the peer with each way to match the port. All networks of a rule are one set,
and so are all its single ports.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from socket import IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP

from policy import networks
from policy.compiled import (
    ADDRESSES4,
    ADDRESSES6,
    ALLOW,
    DROP,
    INGRESS,
    NAMED4,
    NAMED6,
    NETWORKS4,
    NETWORKS6,
    RETURN,
    SERVICES,
    TO_NODE,
    ChainRule,
)
from policy.naming import comment_of, describe, name_of
from policy.objects import (
    ACCEPT,
    DENY,
    EVERYTHING,
    PASS,
    SCTP,
    TCP,
    UDP,
    NetworkPeer,
    NodePeer,
    Peer,
    PodPeer,
    Ports,
    Rule,
    Selector,
)

NUMBERS = {TCP: IPPROTO_TCP, UDP: IPPROTO_UDP, SCTP: IPPROTO_SCTP}
ALL_PODS = PodPeer(EVERYTHING, namespaces=EVERYTHING)
_VERDICTS = {ACCEPT: ALLOW, DENY: DROP, PASS: RETURN}
_ADDRESSES = {4: ADDRESSES4, 6: ADDRESSES6}
_NETWORKS = {4: NETWORKS4, 6: NETWORKS6}
_NAMED = {4: NAMED4, 6: NAMED6}


@dataclass(frozen=True, slots=True)
class Named:
    """Ports that pods call by one of these names: (name, protocol, "": any). `peer`: None: pods of this node."""

    peer: PodPeer | None
    names: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class SetSpec:
    """What is in a set: the addresses of a peer, the ports that pods give a name, or these elements for ever."""

    kind: str
    source: PodPeer | NodePeer | Named | frozenset[bytes]
    version: int = 0

    @property
    def name(self) -> str:
        """The name of the set."""
        if isinstance(self.source, frozenset):
            return name_of(self.kind, tuple(sorted(self.source)))
        return name_of(self.kind, _content(self.source))

    @property
    def comment(self) -> str:
        """What is in it, for people."""
        if isinstance(self.source, Named):
            names = ", ".join(f"{name}/{protocol}" if protocol else name for name, protocol in self.source.names)
            pods = describe(self.source.peer) if self.source.peer else "pods of this node"
            return comment_of(f"port {names} of {pods}")
        return "" if isinstance(self.source, frozenset) else comment_of(describe(self.source))


def expanded(rule: Rule, direction: str, version: int, comment: str, sets: dict[str, SetSpec]) -> Iterator[ChainRule]:
    """A policy's rule as rules of a chain of a direction, for an IP version. Adds what they refer to to `sets`."""

    def using(spec: SetSpec) -> str:
        name = spec.name
        sets[name] = spec
        return name

    verdict = _VERDICTS[rule.action]
    numbers = [{}] if rule.ports is None else list(_numbers(rule.ports, using))
    names = tuple(sorted({(one.name, one.protocol) for one in rule.ports or () if one.name}))
    for peer in _peers(rule.peers, direction, version):
        peers = "" if peer is None or not numbers else using(peer)
        for match in numbers:
            yield ChainRule(verdict, version=version if peers else 0, peers=peers, comment=comment, **match)
        named = _named_ports(peer, names, direction)
        if named:
            ports, whole = using(SetSpec(_NAMED[version], named, version)), named.peer is None or named.peer is ALL_PODS
            peers = using(peer) if peer and whole else ""
            yield ChainRule(verdict, version=version, peers=peers, ports=ports, comment=comment)


def _named_ports(peer: SetSpec | None, names: tuple[tuple[str, str], ...], direction: str) -> Named | None:
    """The named ports that match with a peer. Where the peer is the pod with the port, they match the peer as well."""
    if not names or direction == TO_NODE:
        return None
    if direction == INGRESS:
        return Named(None, names)
    if peer and isinstance(peer.source, PodPeer):
        return Named(peer.source, names)
    return None if peer and isinstance(peer.source, NodePeer) else Named(ALL_PODS, names)


def _peers(peers: tuple[Peer, ...] | None, direction: str, version: int) -> list[SetSpec | None]:
    """The sets that have a rule's peers; None: everybody. All networks are one set."""
    if peers is None:
        return [None]
    found = networks.intervals((peer for peer in peers if isinstance(peer, NetworkPeer)), version)
    if networks.is_everything(found, version):
        return [None]
    nets = [SetSpec(_NETWORKS[version], networks.packed(found, version), version)] if found else []
    kinds = (PodPeer, NodePeer) if direction != TO_NODE else (NodePeer,)  # no pod is its own node
    others = dict.fromkeys(peer for peer in peers if isinstance(peer, kinds))
    return [*nets, *(SetSpec(_ADDRESSES[version], peer, version) for peer in others)]


def _numbers(ports: Iterable[Ports], using: Callable[[SetSpec], str]) -> Iterator[dict]:
    """The ways to match a rule's ports by number: all single ones as one set, then ranges."""
    found = dict.fromkeys((NUMBERS[one.protocol], one.first, one.last) for one in ports if not one.name)
    whole = {protocol for protocol, first, _ in found if not first}
    rest = [one for one in found if one[0] not in whole]
    single = [one for one in rest if one[1] == one[2]]
    if len(single) > 1:
        elements = frozenset(bytes((protocol,)) + port.to_bytes(2, "big") for protocol, port, _ in single)
        yield {"ports": using(SetSpec(SERVICES, elements))}
        rest = [one for one in rest if one[1] != one[2]]
    for protocol in sorted(whole):
        yield {"protocol": protocol}
    yield from ({"protocol": protocol, "first": first, "last": last} for protocol, first, last in rest)


def _content(source: PodPeer | NodePeer | Named) -> tuple[object, ...]:
    """The same as tuples, whose text is quick to make."""
    if isinstance(source, Named):
        return (source.peer and _content(source.peer), source.names)
    if isinstance(source, NodePeer):
        return ("nodes", _requirements(source.nodes))
    spaces = ("named", source.namespace) if source.namespaces is None else _requirements(source.namespaces)
    return ("pods", _requirements(source.pods), spaces)


def _requirements(selector: Selector) -> tuple[object, ...]:
    return tuple((one.key, one.operator, one.values) for one in selector.requirements)

"""What the rules say of a packet: walks a `Compiled` as the kernel walks its tables, and says why."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from socket import IPPROTO_ICMP, IPPROTO_ICMPV6
from typing import NamedTuple

from policy.compiled import (
    DROP,
    EGRESS,
    INGRESS,
    JUMP,
    NAMED4,
    NAMED6,
    NETWORKS4,
    NETWORKS6,
    RETURN,
    AddressSet,
    ChainRule,
    Compiled,
)
from spec.addresses import pack

METADATA = frozenset(map(pack, ("169.254.169.254", "fd00:ec2::254")))
"""Addresses of the metadata services of clouds."""

_CONTROL = (IPPROTO_ICMP, IPPROTO_ICMPV6)


class Packet(NamedTuple):
    """The first packet of a connection: packed addresses, as the filters see them (services are translated before).

    `protocol`: IPPROTO_*; `port`: of the destination, 0 for protocols without.
    """

    source: bytes
    destination: bytes
    protocol: int
    port: int = 0


class Verdict(NamedTuple):
    """Whether a packet passes, and why: the policy and its rule, or what isolates the pod."""

    is_allowed: bool
    why: str


class _Match(NamedTuple):
    """A rule, ready to be compared with packets. `target`: the rules of the chain that it jumps to."""

    version: int
    peers: Callable[[bytes], bool] | None
    services: Callable[[bytes], bool] | None
    is_named: bool
    protocol: int
    first: int
    last: int
    verdict: str
    target: "list[_Match]"
    comment: str


def _allow(why: str) -> Verdict:
    return Verdict(is_allowed=True, why=why)


def _deny(why: str) -> Verdict:
    return Verdict(is_allowed=False, why=why)


def _nowhere(_: bytes) -> bool:
    return False


class Judge:
    """Decides packets, some microseconds each. `metadata_deny`, `node_access`: as in policy.settings.Settings.

    `node_access`: what pods may reach on their node, as (protocol, first, last), last 0: all ports; None:
    everything. `is_own_node`: whether a packed address is one of this node's own.
    """

    def __init__(
        self,
        compiled: Compiled,
        *,
        metadata_deny: bool = False,
        node_access: Sequence[tuple[int, int, int]] | None = None,
        is_own_node: Callable[[bytes], bool] = _nowhere,
    ) -> None:
        self._compiled = compiled
        self._pods = {pack(address): one for address, one in compiled.pods.items()}
        self._exempt = frozenset(map(pack, compiled.metadata_exempt))
        self._metadata_deny = metadata_deny
        self._node_access = node_access
        self._is_own_node = is_own_node
        self._chains: dict[str, list[_Match]] = {}
        self._tests: dict[str, Callable[[bytes], bool]] = {}

    def decide(self, packet: Packet) -> Verdict:
        """What becomes of the first packet of a connection."""
        source, destination, _, _ = packet
        if self._is_own_node(source):
            return _allow("from this node")
        sender = self._pods.get(source)
        if sender and self._metadata_deny and destination in METADATA and source not in self._exempt:
            return _deny(f"{EGRESS} of {sender.pod}: metadataAccess is deny")
        if self._is_own_node(destination):
            return self._to_node(packet) if sender else _allow("to this node, not from one of its pods")
        if sender and source == destination:
            return _allow("a pod reaches itself")
        reasons = []
        receiver = self._pods.get(destination)
        for pod, chain, direction, peer in (
            (sender, sender.egress if sender else "", EGRESS, destination),
            (receiver, receiver.ingress if receiver else "", INGRESS, source),
        ):
            if chain:
                verdict, why = self._walk(self._chain(chain), packet, peer)
                if verdict == DROP:
                    return _deny(f"{direction} of {pod.pod}: {why}")
                reasons.append(f"{direction} of {pod.pod}: {why}")
        return _allow("; ".join(reasons) or "not isolated")

    def _to_node(self, packet: Packet) -> Verdict:
        sender, why = self._pods[packet.source], "not isolated"
        if sender.to_node:
            verdict, why = self._walk(self._chain(sender.to_node), packet, packet.destination)
            if verdict == DROP:
                return _deny(f"{EGRESS} of {sender.pod} to its node: {why}")
        if self._node_access is not None and packet.protocol not in _CONTROL:
            listed = [(first, last) for protocol, first, last in self._node_access if protocol == packet.protocol]
            if not any(last == 0 or first <= packet.port <= last for first, last in listed):
                return _deny(f"{EGRESS} of {sender.pod} to its node: not in nodeAccess")
        return _allow(f"{EGRESS} of {sender.pod} to its node: {why}")

    def _walk(self, rules: list[_Match], packet: Packet, peer: bytes) -> tuple[str, str]:
        """The verdict and the rule that gave it; RETURN if none has decided."""
        _, destination, protocol, port = packet
        service = bytes((protocol, port >> 8, port & 255))
        version = 4 if len(destination) == 4 else 6
        for rule in rules:
            if rule.version and rule.version != version:
                continue
            if rule.peers and not rule.peers(peer):
                continue
            if rule.services and not rule.services(destination + service if rule.is_named else service):
                continue
            if rule.protocol and (rule.protocol != protocol or (rule.last and not rule.first <= port <= rule.last)):
                continue
            if rule.verdict != JUMP:
                return rule.verdict, rule.comment
            verdict, why = self._walk(rule.target, packet, peer)
            if verdict != RETURN:
                return verdict, f"{rule.comment} {why}".strip()
        return RETURN, ""

    def _chain(self, name: str) -> list[_Match]:
        rules = self._chains.get(name)
        if rules is None:
            rules = self._chains[name] = [self._match(rule) for rule in self._compiled.chains[name].rules]
        return rules

    def _match(self, rule: ChainRule) -> _Match:
        return _Match(
            rule.version,
            self._test(rule.peers) if rule.peers else None,
            self._test(rule.ports) if rule.ports else None,
            bool(rule.ports) and self._compiled.sets[rule.ports].kind in (NAMED4, NAMED6),
            rule.protocol,
            rule.first,
            rule.last,
            rule.verdict,
            self._chain(rule.target) if rule.verdict == JUMP else [],
            rule.comment,
        )

    def _test(self, name: str) -> Callable[[bytes], bool]:
        if name not in self._tests:
            self._tests[name] = _membership(self._compiled.sets[name])
        return self._tests[name]


def decide(
    compiled: Compiled,
    packet: Packet,
    *,
    metadata_deny: bool = False,
    node_access: Sequence[tuple[int, int, int]] | None = None,
    is_own_node: Callable[[bytes], bool] = _nowhere,
) -> Verdict:
    """The same for a single packet; for many, `Judge` is faster."""
    settings = {"metadata_deny": metadata_deny, "node_access": node_access, "is_own_node": is_own_node}
    return Judge(compiled, **settings).decide(packet)


def _membership(one: AddressSet) -> Callable[[bytes], bool]:
    """Whether a packed value is in a set: an element of it, or in one of its intervals."""
    if one.kind not in (NETWORKS4, NETWORKS6):
        return one.elements.__contains__
    size = 4 if one.kind == NETWORKS4 else 16
    ends = sorted((element[:size], element[size:]) for element in one.elements)
    firsts = [first for first, _ in ends]

    def has(address: bytes) -> bool:
        at = bisect_right(firsts, address) - 1
        return at >= 0 and address <= ends[at][1]

    return has

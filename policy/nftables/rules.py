"""The rules of chains, each under its nft text.

A rule of a chain for INGRESS compares its peers with the source, one for EGRESS and TO_NODE with the destination. Ports
are always the packet's destination.
"""

from collections.abc import Iterator, Mapping, Sequence

from linux.netlink.attributes import attributes_of, payloads_of
from linux.nftables import messages, uapi
from linux.nftables.cache import Rule
from linux.nftables.expressions import (
    ACCEPT,
    CONCATENATION,
    RETURN,
    cmp_eq,
    cmp_range,
    goto,
    ip_daddr,
    ip_saddr,
    jump,
    l4proto,
    l4proto_is,
    lookup,
    nfproto,
    th_dport,
)
from linux.nftables.messages import Step
from policy import compiled
from policy.compiled import ALLOW, DROP, EGRESS, INGRESS, JUMP, NAMED4, NAMED6, TO_NODE, Chain, ChainRule
from policy.nftables.texts import comment
from rules.policy.names import DENIED_EGRESS_CHAIN, DENIED_INGRESS_CHAIN, NODE_ACCESS, TABLE, TO_INGRESS

_FIRST = CONCATENATION[0]
_NAMED = {4: NAMED4, 6: NAMED6}
_REGISTERS = {
    (b"payload\0", uapi.NFTA_PAYLOAD_DREG),
    (b"meta\0", uapi.NFTA_META_DREG),
    (b"lookup\0", uapi.NFTA_LOOKUP_SREG),
    (b"cmp\0", uapi.NFTA_CMP_SREG),
    (b"range\0", uapi.NFTA_RANGE_SREG),
    (b"immediate\0", uapi.NFTA_IMMEDIATE_DREG),
}
_VERDICTS = {
    # accept
    (INGRESS, ALLOW): ACCEPT,
    # goto denied_ingress
    (INGRESS, DROP): goto(DENIED_INGRESS_CHAIN),
    # goto to_ingress
    (EGRESS, ALLOW): goto(TO_INGRESS),
    # goto denied_egress
    (EGRESS, DROP): goto(DENIED_EGRESS_CHAIN),
    # goto node_access
    (TO_NODE, ALLOW): goto(NODE_ACCESS),
    # goto denied_egress
    (TO_NODE, DROP): goto(DENIED_EGRESS_CHAIN),
    **{(direction, compiled.RETURN): RETURN for direction in (INGRESS, EGRESS, TO_NODE)},
}


def creation(chains: Mapping[str, Chain], kinds: Mapping[str, str]) -> list[Step]:
    """Steps that add chains, and make their rules those that they should have, whatever they held.

    `kinds`: of the sets that they use. The chains may jump to each other in any order.
    """
    steps = []
    for name in chains:
        steps += [messages.add_chain(TABLE, name), messages.flush_chain(TABLE, name)]
    for name, chain in chains.items():
        for rule in rules_of(chain, kinds):
            steps.append(messages.add_rule(TABLE, name, rule.expressions, rule.comment or None))
    return steps


def rules_of(chain: Chain, kinds: Mapping[str, str]) -> list[Rule]:
    """The rules of a chain. Raises KeyError: a set is not in `kinds`."""
    return [Rule(comment(rule.comment), tuple(_expressions(chain.direction, rule, kinds))) for rule in chain.rules]


def are_like(found: Sequence[bytes], wanted: Sequence[Rule]) -> bool:
    """Whether rules as the kernel lists them do what is wanted, whatever it adds to what it was sent.

    Registers are not compared: the kernel lists those that have two numbers by the other one.
    """
    return len(found) == len(wanted) and all(map(_is_like, found, wanted))


def _is_like(found: bytes, wanted: Rule) -> bool:
    there, due = _decoded(found), _decoded(b"".join(wanted.expressions))
    if [name for name, _ in there] != [name for name, _ in due]:
        return False
    return all(
        held.get(kind) == value
        for (_, held), (name, body) in zip(there, due, strict=True)
        for kind, value in body.items()
        if (name, kind) not in _REGISTERS
    )


def _decoded(expressions: bytes) -> list[tuple[bytes, dict[int, bytes]]]:
    """The name and the attributes of each expression."""
    found = (attributes_of(one) for one in payloads_of(expressions))
    return [(one[uapi.NFTA_EXPR_NAME], attributes_of(one.get(uapi.NFTA_EXPR_DATA, b""))) for one in found]


def _expressions(direction: str, rule: ChainRule, kinds: Mapping[str, str]) -> Iterator[bytes]:
    if rule.version:
        # meta nfproto ipv4
        yield from nfproto(rule.version)
    if rule.peers:
        # ip saddr @peers, ip daddr @peers
        yield (ip_saddr if direction == INGRESS else ip_daddr)(rule.version)
        yield lookup(rule.peers)
    if rule.ports:
        yield from _in_ports(rule, kinds[rule.ports])
    elif rule.protocol:
        yield from _to_port(rule)
    yield _verdict(direction, rule)


def _in_ports(rule: ChainRule, kind: str) -> Iterator[bytes]:
    if kind == _NAMED.get(rule.version):
        # ip daddr . meta l4proto . th dport @named
        after = _FIRST + messages.IP_ADDR[rule.version].size // 4
        yield from (ip_daddr(rule.version, uapi.NFT_REG_1), l4proto(after), th_dport(after + 1))
    else:
        # meta l4proto . th dport @ports
        yield from (l4proto(uapi.NFT_REG_1), th_dport(_FIRST + 1))
    yield lookup(rule.ports)


def _to_port(rule: ChainRule) -> Iterator[bytes]:
    # meta l4proto tcp
    yield from l4proto_is(rule.protocol)
    if (rule.first, rule.last) == (0, 0):
        return
    yield th_dport()
    first, last = rule.first.to_bytes(2, "big"), rule.last.to_bytes(2, "big")
    # tcp dport 80, tcp dport 8000-8080
    yield cmp_eq(first) if first == last else cmp_range(first, last)


def _verdict(direction: str, rule: ChainRule) -> bytes:
    if rule.verdict == JUMP:
        # jump CHAIN
        return jump(rule.target)
    return _VERDICTS[direction, rule.verdict]

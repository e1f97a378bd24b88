"""nftables as found: rules, elements and chains that the kernel lists.

Answers are walked as bytes, because they may hold expressions and annotations of other programs which pyroute2 can not
decode, and thousands of elements of which one is wanted. Numbers are those of <linux/netfilter/nf_tables.h>.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyroute2.netlink.nfnetlink.nftsocket import (
    NFT_MSG_GETCHAIN,
    NFT_MSG_GETRULE,
    NFT_MSG_GETSETELEM,
    nft_chain_msg,
    nft_rule_msg,
    nft_set_elem_list_msg,
)

from linux.attributes import attributes_of, payloads_of
from linux.netlink import Netlink, NetlinkError
from linux.nft import Element, TableName, kind, message
from linux.nft_elements import split
from linux.nft_expressions import ACCEPT, DESTINATION_AT, NETWORK_HEADER, SOURCE_AT

_BODY = 20  # bytes of the netlink and nfnetlink headers before the attributes
_ENOENT = 2


@dataclass(frozen=True)
class FoundRule:
    """A rule as the kernel holds it: handle, chain, comment ("" if none), and the bytes of its expressions."""

    handle: int
    chain: str
    comment: str
    expressions: bytes


def list_rules(netlink: Netlink, table: TableName, chain: str | None = None) -> list[FoundRule]:
    """The rules of a table, or of one chain, in order; none if there is no such table or chain."""
    request = message(nft_rule_msg, table.family, table=table.name, chain=chain)
    rules = []
    for body in netlink.dump_raw(request, kind(NFT_MSG_GETRULE)):
        found = attributes_of(body[_BODY:])
        # Old kernels do not know the filter and list everything.
        if _text(found.get(1)) == table.name and chain in (None, _text(found.get(2))):
            handle = int.from_bytes(found[3], "big")
            rules.append(FoundRule(handle, _text(found.get(2)), _comment(found.get(7)), found.get(4, b"")))
    return rules


def list_elements(netlink: Netlink, table: TableName, set_name: str, needles: Sequence[bytes]) -> list[Element]:
    """The elements of a set whose bytes contain any of `needles`; none if there is no such set."""
    request = message(nft_set_elem_list_msg, table.family, table=table.name, set=set_name)
    try:
        bodies = netlink.dump_raw(request, kind(NFT_MSG_GETSETELEM))
    except NetlinkError as error:
        if error.errno != _ENOENT:
            raise
        return []
    return [
        _element(set_name, data)
        for body in bodies
        if any(needle in body for needle in needles)
        for data in payloads_of(attributes_of(body[_BODY:]).get(3, b""))
        if any(needle in data for needle in needles)
    ]


def list_encoded_elements(netlink: Netlink, table: TableName, set_name: str) -> list[bytes] | None:
    """All elements of a set as linux/nft_elements.py writes them; None if there is no such set."""
    request = message(nft_set_elem_list_msg, table.family, table=table.name, set=set_name)
    try:
        bodies = netlink.dump_raw(request, kind(NFT_MSG_GETSETELEM))
    except NetlinkError as error:
        if error.errno != _ENOENT:
            raise
        return None
    return [one for body in bodies for one in split(attributes_of(body[_BODY:]).get(3, b""))]


def chain_uses(netlink: Netlink, table: TableName, chain: str) -> int | None:
    """How many rules are in a chain or lead to it, plus elements that lead to it; None if there is no such chain."""
    request = message(nft_chain_msg, table.family, table=table.name, name=chain)
    try:
        return netlink.get(request, kind(NFT_MSG_GETCHAIN), nft_chain_msg).get_attr("NFTA_CHAIN_USE")
    except NetlinkError as error:
        if error.errno != _ENOENT:
            raise
        return None


def target_chain(rule: FoundRule) -> str:
    """The chain that a rule jumps or goes to, or ""."""
    for name, body in _expressions(rule):
        if name == "immediate":
            return _verdict_chain(body.get(2, b""))
    return ""


def accepts(rule: FoundRule) -> bool:
    """Whether what fits the rule is accepted."""
    for name, body in _expressions(rule):
        if name == "immediate":
            code = attributes_of(attributes_of(body.get(2, b"")).get(2, b"")).get(1, b"")
            return code == ACCEPT.to_bytes(4, "big")
    return False


def match_info(rule: FoundRule, match: str) -> bytes:
    """The structure of a match of iptables in a rule, b"" if it has no such match."""
    infos = (body.get(3, b"") for name, body in _expressions(rule) if name == "match" and _text(body.get(1)) == match)
    return next(infos, b"")


def source_network(rule: FoundRule, version: int) -> tuple[bytes, bytes] | None:
    """The (address, mask) with which a rule compares the source address of an IP packet; None if it does not.

    The address may be cut short behind a prefix of whole bytes, as nft and iptables write it; the mask is as long.
    """
    return _network_at(rule, SOURCE_AT[version])


def destination_network(rule: FoundRule, version: int) -> tuple[bytes, bytes] | None:
    """The same of the destination address."""
    return _network_at(rule, DESTINATION_AT[version])


def _network_at(rule: FoundRule, at: int) -> tuple[bytes, bytes] | None:
    looked_at, mask = False, b""
    for name, body in _expressions(rule):
        if name == "payload":
            base, offset = (int.from_bytes(body.get(kind, b""), "big") for kind in (2, 3))
            looked_at, mask = (base, offset) == (NETWORK_HEADER, at), b""
        elif name == "bitwise" and looked_at:
            mask = attributes_of(body.get(4, b"")).get(1, b"")
        elif name == "cmp" and looked_at:
            address = attributes_of(body.get(3, b"")).get(1, b"")
            return address, mask or b"\xff" * len(address)
    return None


def is_in(address: bytes, network: tuple[bytes, bytes]) -> bool:
    """Whether a packed address is in (address, mask), both of which may be cut short behind a prefix."""
    return all(given & mask == wanted for given, wanted, mask in zip(address, *network, strict=False))


def _expressions(rule: FoundRule) -> Iterator[tuple[str, dict[int, bytes]]]:
    """The expressions of a rule: name, attributes."""
    for data in payloads_of(rule.expressions):
        found = attributes_of(data)
        yield _text(found.get(1)), attributes_of(found.get(2, b""))


def _verdict_chain(data: bytes) -> str:
    """The chain in the verdict that an element or an immediate expression holds, or ""."""
    return _text(attributes_of(attributes_of(data).get(2, b"")).get(2))


def _element(set_name: str, data: bytes) -> Element:
    found = attributes_of(data)
    key = attributes_of(found[1]).get(1, b"")
    content = found.get(2, b"")
    return Element(set_name, key, _comment(found.get(6)), _verdict_chain(content), attributes_of(content).get(1, b""))


def _comment(annotations: bytes | None) -> str:
    """The comment in the annotations that nft keeps with an object: type, length, value, the comment being type 0."""
    at = 0
    while annotations and at + 2 <= len(annotations):
        kind, length = annotations[at], annotations[at + 1]
        if kind == 0:
            return _text(annotations[at + 2 : at + 2 + length])
        at += 2 + length
    return ""


def _text(data: bytes | None) -> str:
    return (data or b"").split(b"\0", 1)[0].decode("utf-8", "replace")

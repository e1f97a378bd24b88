"""nftables as found: rules, elements and chains that the kernel lists.

Answers are walked as bytes: they may hold expressions and annotations of other programs, and thousands of elements of
which one is wanted. Numbers are those of <linux/netfilter/nf_tables.h>.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from sys import byteorder

from linux.netlink.attributes import attributes_of, payloads_of
from linux.netlink.socket import Netlink, NetlinkError
from linux.nftables.address_elements import split
from linux.nftables.expressions import ACCEPT, DESTINATION_AT, NETWORK_HEADER, SOURCE_AT
from linux.nftables.messages import (
    BODY,
    GETCHAIN,
    GETRULE,
    GETSETELEM,
    GETTABLE,
    Element,
    Hook,
    TableName,
    kind,
    message,
    of,
    of_chain,
    of_element,
)

_ENOENT, _EAGAIN = 2, 11
_META_MARK = 3
_FAMILY_AT = 16  # of nfgen_family in an answer: behind the netlink header
_NOT_EQUAL = 1  # NFT_CMP_NEQ
_LISTING_PAUSES = tuple(0.001 * 2**attempt for attempt in range(12))  # seconds; 4 in all


@dataclass(frozen=True)
class FoundRule:
    """A rule as the kernel holds it: handle, chain, comment ("" if none), and the bytes of its expressions."""

    handle: int
    chain: str
    comment: str
    expressions: bytes


def list_rules(
    netlink: Netlink, table: TableName, chain: str | None = None, *, containing: bytes = b""
) -> list[FoundRule]:
    """The rules of a table, or of one chain, in order; none if there is no such table or chain.

    `containing`: only those in whose message these bytes stand (a comment, say), which is quicker.
    """
    request = of(table) if chain is None else of(table, chain)
    rules = []
    for body in netlink.dump_raw(request, kind(GETRULE)):
        if containing not in body:
            continue
        found = attributes_of(body, BODY)
        # Old kernels do not know the filter and list everything.
        if _text(found.get(1)) == table.name and chain in (None, _text(found.get(2))):
            handle = int.from_bytes(found[3], "big")
            rules.append(FoundRule(handle, _text(found.get(2)), _comment(found.get(7)), found.get(4, b"")))
    return rules


def dump_elements(netlink: Netlink, table: TableName, set_name: str) -> list[bytes] | None:
    """All elements of a set, in a few runs of bytes; None if there is no such set. Raises NetlinkError."""
    found = _listing(netlink, table, set_name)
    return found and found[0]


def list_encoded_elements(netlink: Netlink, table: TableName, set_name: str) -> list[bytes] | None:
    """The same one by one, as linux/nftables/address_elements.py writes them."""
    found = _listing(netlink, table, set_name)
    return found and found[1]


def _listing(netlink: Netlink, table: TableName, set_name: str) -> tuple[list[bytes], list[bytes]] | None:
    """All elements of a set: in the runs in which the kernel lists them, and one by one.

    The kernel lists a set piece by piece, and goes on behind as many elements as it has listed. If it moves them to a
    larger or smaller hash table meanwhile, in another order, some are listed twice and as many are not. So none is
    missing where none is there twice; else the set is listed again. Raises NetlinkError (EAGAIN) if that never ends.
    """
    for pause in _LISTING_PAUSES:
        try:
            bodies = netlink.dump_raw(of(table, set_name), kind(GETSETELEM))
        except NetlinkError as error:
            if error.errno != _ENOENT:
                raise
            return None
        runs = [run for body in bodies if (run := attributes_of(body, BODY).get(3))]
        elements = [element for run in runs for element in split(run)]
        if len(set(elements)) == len(elements):
            return runs, elements
        time.sleep(pause)
    raise NetlinkError(_EAGAIN, f"nftables: the elements of set {set_name} of table {table} never stay where they are")


def list_elements(netlink: Netlink, table: TableName, set_name: str, needles: Sequence[bytes]) -> list[Element]:
    """The elements of a set whose bytes contain any of `needles`; none if there is no such set."""
    return matching(set_name, dump_elements(netlink, table, set_name) or (), needles)


def matching(set_name: str, runs: Iterable[bytes], needles: Sequence[bytes]) -> list[Element]:
    """The elements in runs of them whose bytes contain any of `needles`."""
    return [
        element_of(set_name, data)
        for run in runs
        if any(needle in run for needle in needles)
        for data in payloads_of(run)
        if any(needle in data for needle in needles)
    ]


def find_element(netlink: Netlink, table: TableName, set_name: str, key: bytes) -> Element | None:
    """The element of a set with this key; None if there is none."""
    found = _get(netlink, of_element(table, set_name, key), GETSETELEM)
    return next((element_of(set_name, data) for data in payloads_of(found.get(3, b""))), None) if found else None


def table_flags(netlink: Netlink, table: TableName) -> int | None:
    """The flags of a table (1: dormant); None if there is none."""
    found = _get(netlink, of(table), GETTABLE)
    return None if found is None else _number(found.get(2))


def list_tables(netlink: Netlink) -> list[TableName]:
    """The tables of all families."""
    bodies = netlink.dump_raw(message(0), kind(GETTABLE))
    return [TableName(body[_FAMILY_AT], _text(attributes_of(body, BODY).get(1))) for body in bodies]


def list_base_chains(netlink: Netlink, table: TableName) -> list[tuple[str, Hook, int]]:
    """The base chains of a table: name, where packets enter, and the verdict on those that no rule decides on."""
    found = (attributes_of(body, BODY) for body in netlink.dump_raw(of(table), kind(GETCHAIN)))
    return [(_text(chain.get(3)), *_hook(chain)) for chain in found if _text(chain.get(1)) == table.name and 4 in chain]


def list_chains(netlink: Netlink, table: TableName) -> list[str]:
    """The names of the chains of a table; none if there is no such table."""
    found = (attributes_of(body, BODY) for body in netlink.dump_raw(of(table), kind(GETCHAIN)))
    return [_text(chain.get(3)) for chain in found if _text(chain.get(1)) == table.name]


def chain_uses(netlink: Netlink, table: TableName, chain: str) -> int | None:
    """How many rules are in a chain or lead to it, plus elements that lead to it; None if there is no such chain."""
    found = _get(netlink, of_chain(table, chain), GETCHAIN)
    return None if found is None else _number(found.get(6))


def find_hook(netlink: Netlink, table: TableName, chain: str) -> tuple[Hook, int] | None:
    """Where packets enter a base chain, and what becomes of those that no rule decides on; None if there is none."""
    found = _get(netlink, of_chain(table, chain), GETCHAIN)
    return _hook(found) if found and 4 in found else None


def _hook(chain: dict[int, bytes]) -> tuple[Hook, int]:
    place = attributes_of(chain[4])
    priority = int.from_bytes(place.get(2, b""), "big", signed=True)
    return Hook(_text(chain.get(7)), _number(place.get(1)), priority), _number(chain.get(5))


def _get(netlink: Netlink, request: bytes, message_type: int) -> dict[int, bytes] | None:
    """The attributes of one object, None if there is none."""
    try:
        return attributes_of(netlink.get_raw(request, kind(message_type)), BODY)
    except NetlinkError as error:
        if error.errno != _ENOENT:
            raise
        return None


def _number(data: bytes | None) -> int:
    return int.from_bytes(data or b"", "big")


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


def target_info(rule: FoundRule, target: str) -> bytes:
    """The structure of a target of iptables in a rule, b"" if it has no such target."""
    infos = (body.get(3, b"") for name, body in _expressions(rule) if name == "target" and _text(body.get(1)) == target)
    return next(infos, b"")


def bit_marked(rule: FoundRule) -> int:
    """The bits that a rule adds to the mark of packets, all others left alone, by nftables' own expressions; or 0."""
    kept, added = b"", b""
    for name, body in _expressions(rule):
        if name == "bitwise":
            kept, added = (attributes_of(body.get(number, b"")).get(1, b"") for number in (4, 5))
        elif name == "meta" and _number(body.get(2)) == _META_MARK and 3 in body:  # a register to set it from
            bits = int.from_bytes(added, byteorder)
            return bits if int.from_bytes(kept, byteorder) == ~bits & 0xFFFFFFFF else 0
    return 0


def conntrack_bits(rule: FoundRule) -> dict[int, int]:
    """Of `ct state established,related`: the bits of which one has to be set, by the NFT_CT_* that they are of."""
    found, key, mask = {}, None, b""
    for name, body in _expressions(rule):
        if name == "ct":
            key, mask = _number(body.get(2)), b""
        elif name == "bitwise":
            mask = attributes_of(body.get(4, b"")).get(1, b"")
        elif name == "cmp" and key is not None:
            zero = not any(attributes_of(body.get(3, b"")).get(1, b"\1"))
            if zero and mask and _number(body.get(2)) == _NOT_EQUAL:
                found[key] = int.from_bytes(mask, byteorder)
            key = None
    return found


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


def element_of(set_name: str, data: bytes) -> Element:
    """The element of a set in what a list of them has of it."""
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

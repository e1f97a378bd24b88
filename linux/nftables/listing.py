"""Reading nftables: the tables, chains, rules and elements that the kernel lists.

Answers are parsed only as far as needed: they may hold expressions and comments of other programs, and thousands of
elements of which one is wanted.
"""

import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from errno import EAGAIN, ENOENT
from sys import byteorder

from linux.netlink.attributes import attributes_of, payloads_of
from linux.netlink.socket import Netlink, NetlinkError
from linux.nftables import uapi
from linux.nftables.address_elements import split
from linux.nftables.expressions import DADDR_OFFSET, SADDR_OFFSET
from linux.nftables.messages import (
    BODY,
    Element,
    Hook,
    Set,
    TableName,
    all_tables,
    message_type,
    of_chain,
    of_element,
    of_elements,
    of_rules,
    of_set,
    of_table,
    set_numbers,
)

_ATTRIBUTE_HEADER = 4
_FAMILY_AT = 16  # of nfgen_family in an answer: after the netlink header
_ACCEPT, _DROP = uapi.NF_ACCEPT.to_bytes(4, "big"), uapi.NF_DROP.to_bytes(4, "big")
_REFUSING = ("DROP", "REJECT")  # targets of x_tables
_LISTING_PAUSES = tuple(0.001 * 2**attempt for attempt in range(12))  # seconds; 4 in all


@dataclass(frozen=True)
class FoundRule:
    """A rule that the kernel listed: handle, chain, comment ("" if none), and its expressions, encoded."""

    handle: int
    chain: str
    comment: str
    expressions: bytes


def list_rules(
    netlink: Netlink, table: TableName, chain: str | None = None, *, containing: bytes = b""
) -> list[FoundRule]:
    """The rules of a table, or of one chain, in order; none if there is no such table or chain.

    `containing`: only rules whose message contains these bytes, a comment for example, which is faster.
    """
    request = of_rules(table, chain)
    rules = []
    for body in netlink.dump(request, message_type(uapi.NFT_MSG_GETRULE)):
        if containing not in body:
            continue
        found = attributes_of(body, BODY)
        # Old kernels ignore the table and chain of the request, and list all rules.
        if _text(found.get(uapi.NFTA_RULE_TABLE)) != table.name:
            continue
        in_chain = _text(found.get(uapi.NFTA_RULE_CHAIN))
        if chain in (None, in_chain):
            handle = int.from_bytes(found[uapi.NFTA_RULE_HANDLE], "big")
            comment = _comment(found.get(uapi.NFTA_RULE_USERDATA))
            rules.append(FoundRule(handle, in_chain, comment, found.get(uapi.NFTA_RULE_EXPRESSIONS, b"")))
    return rules


def list_elements(netlink: Netlink, table: TableName, set_name: str) -> list[bytes] | None:
    """All elements of a set, encoded as linux/nftables/address_elements.py does; None if there is no such set.

    The kernel lists a set page by page, and each page skips as many elements as were listed before. If it moves them to
    a larger or smaller hash table meanwhile, in another order, some are listed twice and as many are not. So a list
    without duplicates is complete; any other is read again. Raises NetlinkError (EAGAIN) if that never ends.
    """
    for pause in _LISTING_PAUSES:
        try:
            bodies = netlink.dump(of_elements(table, set_name), message_type(uapi.NFT_MSG_GETSETELEM))
        except NetlinkError as error:
            if error.errno != ENOENT:
                raise
            return None
        pages = (attributes_of(body, BODY).get(uapi.NFTA_SET_ELEM_LIST_ELEMENTS, b"") for body in bodies)
        elements = [element for page in pages for element in split(page)]
        if len(set(elements)) == len(elements):
            return elements
        time.sleep(pause)
    raise NetlinkError(EAGAIN, f"nftables: elements of set {set_name} of table {table} kept moving; try again")


def find_element(netlink: Netlink, table: TableName, set_name: str, key: bytes) -> Element | None:
    """The element of a set with this key; None if there is none."""
    found = _get(netlink, of_element(table, set_name, key), uapi.NFT_MSG_GETSETELEM)
    elements = split(found.get(uapi.NFTA_SET_ELEM_LIST_ELEMENTS, b"")) if found else ()
    return next((decoded(set_name, element) for element in elements), None)


@dataclass(frozen=True)
class Counted:
    """An element that a rule added: its key, what its counter counted, and the seconds until it expires (0: never)."""

    key: bytes
    packets: int
    bytes: int
    expires: float


def find_elements(netlink: Netlink, places: Sequence[tuple[TableName, str, bytes]]) -> list[Element | None]:
    """The same for many (table, set, key) at once, which takes a quarter of the time."""
    bodies = netlink.get_many([of_element(*place) for place in places], message_type(uapi.NFT_MSG_GETSETELEM))
    found: list[Element | None] = []
    for (_, name, _), body in zip(places, bodies, strict=True):
        elements = split(attributes_of(body, BODY).get(uapi.NFTA_SET_ELEM_LIST_ELEMENTS, b"")) if body else ()
        found.append(decoded(name, elements[0]) if elements else None)
    return found


def list_counted(netlink: Netlink, table: TableName, set_name: str) -> list[Counted] | None:
    """All elements of a set with their counters; None if there is no such set.

    Of an element that is listed twice (see `list_elements`), or that was counted meanwhile, the last one counts; a few
    may be missing. Raises NetlinkError.
    """
    try:
        bodies = netlink.dump(of_elements(table, set_name), message_type(uapi.NFT_MSG_GETSETELEM))
    except NetlinkError as error:
        if error.errno != ENOENT:
            raise
        return None
    pages = (attributes_of(body, BODY).get(uapi.NFTA_SET_ELEM_LIST_ELEMENTS, b"") for body in bodies)
    counted = (_counted(attributes_of(element, _ATTRIBUTE_HEADER)) for page in pages for element in split(page))
    return list({one.key: one for one in counted}.values())


def _counted(found: dict[int, bytes]) -> Counted:
    counter = attributes_of(attributes_of(found.get(uapi.NFTA_SET_ELEM_EXPR, b"")).get(uapi.NFTA_EXPR_DATA, b""))
    packets, octets = (_number(counter.get(kind)) for kind in (uapi.NFTA_COUNTER_PACKETS, uapi.NFTA_COUNTER_BYTES))
    expires = _number(found.get(uapi.NFTA_SET_ELEM_EXPIRATION)) / 1000
    return Counted(
        attributes_of(found[uapi.NFTA_SET_ELEM_KEY]).get(uapi.NFTA_DATA_VALUE, b""), packets, octets, expires
    )


def set_is_like(netlink: Netlink, table: TableName, wanted: Set) -> bool | None:
    """Whether a set has the types and flags that it should have; None if there is no such set."""
    found = _get(netlink, of_set(table, wanted.name), uapi.NFT_MSG_GETSET)
    return None if found is None else is_like(found, wanted)


def is_like(found: Mapping[int, bytes], wanted: Set) -> bool:
    """Whether the attributes of a set are of the types and flags that it should have."""
    due = set_numbers(wanted)
    due.pop(uapi.NFTA_SET_DATA_LEN, None)  # follows from the type; of verdicts the kernel tells its own
    return all(_number(found.get(kind)) == number for kind, number in due.items())


def list_sets(netlink: Netlink, table: TableName) -> dict[str, dict[int, bytes]]:
    """The attributes of the sets and maps of a table, by name; none if there is no such table."""
    try:
        bodies = netlink.dump(of_table(table), message_type(uapi.NFT_MSG_GETSET))
    except NetlinkError as error:
        if error.errno != ENOENT:
            raise
        return {}
    found = (attributes_of(body, BODY) for body in bodies)
    return {_text(one[uapi.NFTA_SET_NAME]): one for one in found if _text(one.get(uapi.NFTA_SET_TABLE)) == table.name}


def table_flags(netlink: Netlink, table: TableName) -> int | None:
    """The flags of a table (NFT_TABLE_F_*: 1 is dormant); None if there is no such table."""
    found = _get(netlink, of_table(table), uapi.NFT_MSG_GETTABLE)
    return None if found is None else _number(found.get(uapi.NFTA_TABLE_FLAGS))


def list_tables(netlink: Netlink) -> list[TableName]:
    """The tables of all families."""
    bodies = netlink.dump(all_tables(), message_type(uapi.NFT_MSG_GETTABLE))
    return [TableName(body[_FAMILY_AT], _text(attributes_of(body, BODY).get(uapi.NFTA_TABLE_NAME))) for body in bodies]


def list_base_chains(netlink: Netlink, table: TableName) -> list[tuple[str, Hook, int]]:
    """The base chains of a table: name, where packets enter, and the policy (NF_*)."""
    found = _chains(netlink, table)
    return [(_text(chain.get(uapi.NFTA_CHAIN_NAME)), *_hook(chain)) for chain in found if uapi.NFTA_CHAIN_HOOK in chain]


def list_chains(netlink: Netlink, table: TableName) -> list[str]:
    """The names of the chains of a table; none if there is no such table."""
    return [_text(chain.get(uapi.NFTA_CHAIN_NAME)) for chain in _chains(netlink, table)]


def _chains(netlink: Netlink, table: TableName) -> list[dict[int, bytes]]:
    bodies = netlink.dump(of_table(table), message_type(uapi.NFT_MSG_GETCHAIN))
    found = (attributes_of(body, BODY) for body in bodies)
    return [chain for chain in found if _text(chain.get(uapi.NFTA_CHAIN_TABLE)) == table.name]


def chain_uses(netlink: Netlink, table: TableName, chain: str) -> int | None:
    """The use count of a chain: its rules, and the rules and elements that refer to it; None if it does not exist."""
    found = _get(netlink, of_chain(table, chain), uapi.NFT_MSG_GETCHAIN)
    return None if found is None else _number(found.get(uapi.NFTA_CHAIN_USE))


def chain_marks(netlink: Netlink, requests: Sequence[bytes], *, without_uses: Container[int] = ()) -> list[bytes]:
    """What changes if a chain is made anew, gets or loses rules, or moves; b"" for a chain that does not exist.

    `requests`: of `messages.of_chain`. `without_uses`: the places of those whose use count does not matter.
    """
    bodies = netlink.get_many(requests, message_type(uapi.NFT_MSG_GETCHAIN))
    return [
        b"" if body is None else _without_uses(body) if place in without_uses else body[BODY:]
        for place, body in enumerate(bodies)
    ]


def _without_uses(body: bytes) -> bytes:
    found = attributes_of(body, BODY)
    return found[uapi.NFTA_CHAIN_HANDLE] + found.get(uapi.NFTA_CHAIN_HOOK, b"")


def find_hook(netlink: Netlink, table: TableName, chain: str) -> tuple[Hook, int] | None:
    """Where packets enter a base chain, and its policy (NF_*); None if there is no such base chain."""
    found = _get(netlink, of_chain(table, chain), uapi.NFT_MSG_GETCHAIN)
    return _hook(found) if found and uapi.NFTA_CHAIN_HOOK in found else None


def _hook(chain: dict[int, bytes]) -> tuple[Hook, int]:
    place = attributes_of(chain[uapi.NFTA_CHAIN_HOOK])
    priority = int.from_bytes(place.get(uapi.NFTA_HOOK_PRIORITY, b""), "big", signed=True)
    hook = Hook(_text(chain.get(uapi.NFTA_CHAIN_TYPE)), _number(place.get(uapi.NFTA_HOOK_HOOKNUM)), priority)
    return hook, _number(chain.get(uapi.NFTA_CHAIN_POLICY))


def _get(netlink: Netlink, request: bytes, number: int) -> dict[int, bytes] | None:
    """The attributes of one object, None if there is none."""
    try:
        return attributes_of(netlink.get(request, message_type(number)), BODY)
    except NetlinkError as error:
        if error.errno != ENOENT:
            raise
        return None


def _number(data: bytes | None) -> int:
    return int.from_bytes(data or b"", "big")


def target_chain(rule: FoundRule) -> str:
    """The chain that a rule jumps or goes to, or ""."""
    for name, body in _expressions(rule):
        if name == "immediate":
            return _verdict_chain(body.get(uapi.NFTA_IMMEDIATE_DATA, b""))
    return ""


def accepts(rule: FoundRule) -> bool:
    """Whether the verdict of a rule is accept."""
    for name, body in _expressions(rule):
        if name == "immediate":
            return _verdict(body.get(uapi.NFTA_IMMEDIATE_DATA, b"")).get(uapi.NFTA_VERDICT_CODE) == _ACCEPT
    return False


def match_names(rule: FoundRule) -> set[str]:
    """The names of the matches of x_tables in a rule."""
    return {_text(body.get(uapi.NFTA_MATCH_NAME)) for name, body in _expressions(rule) if name == "match"}


def link_names(rule: FoundRule) -> set[str]:
    """The names of links, or beginnings of them, that a rule wants a packet to come or to go by."""
    found, is_name = set(), False
    for name, body in _expressions(rule):
        if name == "meta":
            is_name = _number(body.get(uapi.NFTA_META_KEY)) in (uapi.NFT_META_IIFNAME, uapi.NFT_META_OIFNAME)
        elif name == "cmp" and is_name:
            found.add(_text(_value(body, uapi.NFTA_CMP_DATA)))
            is_name = False
    return found


def refuses(rule: FoundRule) -> bool:
    """Whether the verdict of a rule is to drop or to reject."""
    for name, body in _expressions(rule):
        if name == "reject" or (name == "target" and _text(body.get(uapi.NFTA_TARGET_NAME)) in _REFUSING):
            return True
        if name == "immediate":
            return _verdict(body.get(uapi.NFTA_IMMEDIATE_DATA, b"")).get(uapi.NFTA_VERDICT_CODE) == _DROP
    return False


def is_unconditional(rule: FoundRule) -> bool:
    """Whether the verdict of a rule applies to every packet that gets to it."""
    for name, body in _expressions(rule):
        is_comment = name == "match" and _text(body.get(uapi.NFTA_MATCH_NAME)) == "comment"
        if name not in ("counter", "log", "immediate", "reject", "target") and not is_comment:
            return False
    return True


def match_info(rule: FoundRule, match: str) -> bytes:
    """The structure of a match of x_tables in a rule, b"" if it has no such match."""
    for name, body in _expressions(rule):
        if name == "match" and _text(body.get(uapi.NFTA_MATCH_NAME)) == match:
            return body.get(uapi.NFTA_MATCH_INFO, b"")
    return b""


def target_info(rule: FoundRule, target: str) -> bytes:
    """The structure of a target of x_tables in a rule, b"" if it has no such target."""
    for name, body in _expressions(rule):
        if name == "target" and _text(body.get(uapi.NFTA_TARGET_NAME)) == target:
            return body.get(uapi.NFTA_TARGET_INFO, b"")
    return b""


def bit_marked(rule: FoundRule) -> int:
    """The bits that a rule sets in the mark of packets, all others left alone, by nftables' own expressions; or 0."""
    kept, added = b"", b""
    for name, body in _expressions(rule):
        if name == "bitwise":
            kept, added = (_value(body, number) for number in (uapi.NFTA_BITWISE_MASK, uapi.NFTA_BITWISE_XOR))
        elif name == "meta" and _number(body.get(uapi.NFTA_META_KEY)) == uapi.NFT_META_MARK:
            if uapi.NFTA_META_SREG not in body:
                continue
            bits = int.from_bytes(added, byteorder)
            return bits if int.from_bytes(kept, byteorder) == ~bits & 0xFFFFFFFF else 0
    return 0


def conntrack_bits(rule: FoundRule) -> dict[int, int]:
    """What a rule like `ct state established,related` matches: for each NFT_CT_*, the bits of which one must be set."""
    found, key, mask = {}, None, b""
    for name, body in _expressions(rule):
        if name == "ct":
            key, mask = _number(body.get(uapi.NFTA_CT_KEY)), b""
        elif name == "bitwise":
            mask = _value(body, uapi.NFTA_BITWISE_MASK)
        elif name == "cmp" and key is not None:
            is_zero = not any(_value(body, uapi.NFTA_CMP_DATA) or b"\1")
            if is_zero and mask and _number(body.get(uapi.NFTA_CMP_OP)) == uapi.NFT_CMP_NEQ:
                found[key] = int.from_bytes(mask, byteorder)
            key = None
    return found


def source_network(rule: FoundRule, version: int) -> tuple[bytes, bytes] | None:
    """The (address, mask) with which a rule compares the source address of an IP packet; None if it does not.

    Both may be cut short after a prefix of whole bytes, as nft and iptables write them.
    """
    return _network_at(rule, SADDR_OFFSET[version])


def destination_network(rule: FoundRule, version: int) -> tuple[bytes, bytes] | None:
    """The same of the destination address."""
    return _network_at(rule, DADDR_OFFSET[version])


def _network_at(rule: FoundRule, offset: int) -> tuple[bytes, bytes] | None:
    place = (uapi.NFT_PAYLOAD_NETWORK_HEADER, offset)
    is_loaded, mask = False, b""
    for name, body in _expressions(rule):
        if name == "payload":
            base, at = body.get(uapi.NFTA_PAYLOAD_BASE), body.get(uapi.NFTA_PAYLOAD_OFFSET)
            is_loaded, mask = (_number(base), _number(at)) == place, b""
        elif name == "bitwise" and is_loaded:
            mask = _value(body, uapi.NFTA_BITWISE_MASK)
        elif name == "cmp" and is_loaded:
            address = _value(body, uapi.NFTA_CMP_DATA)
            return address, mask or b"\xff" * len(address)
    return None


def is_in(address: bytes, network: tuple[bytes, bytes]) -> bool:
    """Whether a packed address is in (address, mask), both of which may be cut short after a prefix."""
    return all(given & mask == wanted for given, wanted, mask in zip(address, *network, strict=False))


def _expressions(rule: FoundRule) -> Iterator[tuple[str, dict[int, bytes]]]:
    """The expressions of a rule: name, attributes."""
    for data in payloads_of(rule.expressions):
        found = attributes_of(data)
        yield _text(found.get(uapi.NFTA_EXPR_NAME)), attributes_of(found.get(uapi.NFTA_EXPR_DATA, b""))


def _value(body: dict[int, bytes], number: int) -> bytes:
    """A value in an expression, b"" if there is none."""
    return attributes_of(body.get(number, b"")).get(uapi.NFTA_DATA_VALUE, b"")


def _verdict(data: bytes) -> dict[int, bytes]:
    return attributes_of(attributes_of(data).get(uapi.NFTA_DATA_VERDICT, b""))


def _verdict_chain(data: bytes) -> str:
    """The chain in the verdict that an element or an immediate expression holds, or ""."""
    return _text(_verdict(data).get(uapi.NFTA_VERDICT_CHAIN))


def decoded(set_name: str, element: bytes) -> Element:
    """An encoded element of a set."""
    found = attributes_of(element, _ATTRIBUTE_HEADER)
    key = attributes_of(found[uapi.NFTA_SET_ELEM_KEY]).get(uapi.NFTA_DATA_VALUE, b"")
    owner = _comment(found.get(uapi.NFTA_SET_ELEM_USERDATA))
    leads_to = found.get(uapi.NFTA_SET_ELEM_DATA, b"")
    value = attributes_of(leads_to).get(uapi.NFTA_DATA_VALUE, b"")
    return Element(set_name, key, owner, _verdict_chain(leads_to), value)


def _comment(annotations: bytes | None) -> str:
    """The comment in the userdata of an object: a list of type, length and value, where nft's comments are type 0."""
    at = 0
    while annotations and at + 2 <= len(annotations):
        kind, length = annotations[at], annotations[at + 1]
        if kind == 0:
            return _text(annotations[at + 2 : at + 2 + length])
        at += 2 + length
    return ""


def _text(data: bytes | None) -> str:
    return (data or b"").split(b"\0", 1)[0].decode("utf-8", "replace")

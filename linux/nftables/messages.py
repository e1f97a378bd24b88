"""nftables transactions: steps that add and delete tables, chains, rules, sets and elements, each a netlink message.

The expressions of rules are in linux/nftables/expressions.py; linux/nftables/listing.py reads back what is there.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from errno import EPROTO
from functools import lru_cache

from linux.netlink.attributes import attribute, attributes_of, nested, text
from linux.netlink.socket import (
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    Netlink,
    NetlinkError,
)
from linux.nftables import uapi
from linux.nftables.expressions import IFNAMSIZ, be32, verdict_data
from spec.suite import current

INET, IP, BRIDGE, IP6 = uapi.NFPROTO_INET, uapi.NFPROTO_IPV4, uapi.NFPROTO_BRIDGE, uapi.NFPROTO_IPV6
FAMILY_NAMES = {INET: "inet", IP: "ip", BRIDGE: "bridge", IP6: "ip6"}

BODY = 20
"""Bytes of the netlink and nfnetlink headers before the attributes of an answer."""

_BATCH = struct.pack("!BBH", 0, 0, uapi.NFNL_SUBSYS_NFTABLES)  # struct nfgenmsg of the messages around a transaction
_HEADER = struct.Struct("!BBH")
_SEQUENCE, _SEQUENCE_AT = struct.Struct("=I"), 8
_BE64 = struct.Struct("!Q")
_ELEMENTS_BYTES = 60000  # of elements in a message: in an attribute whose length has 16 bits
_TYPE_BITS = 6  # of each part in the type of a concatenation (nft's TYPE_BITS)
_HOST_ENDIAN, _BIG_ENDIAN, _MIXED = 1, 2, 0  # nft's enum byteorder
_SET_COMMENT = 7  # NFTNL_UDATA_SET_COMMENT
_COMMENT = 0  # NFTNL_UDATA_*_COMMENT, the type of a comment among what nft keeps with an object


@dataclass(frozen=True)
class TableName:
    """Which table: its family (INET, IP, BRIDGE, IP6) and its name."""

    family: int
    name: str

    def __str__(self) -> str:
        return f"{FAMILY_NAMES[self.family]} {self.name}"


@dataclass(frozen=True)
class Hook:
    """Where packets enter a base chain: type "nat" or "filter", hook number (NF_INET_*, NF_BR_*), priority."""

    type: str
    number: int
    priority: int


@dataclass(frozen=True)
class Datatype:
    """A type of keys and data: nft's number for it (TYPE_*), its size in bytes and its byte order."""

    number: int
    size: int
    byte_order: int = _BIG_ENDIAN


IPV4_ADDR, IPV6_ADDR, ETHER_ADDR = Datatype(7, 4), Datatype(8, 16), Datatype(9, 6)
INET_PROTO, INET_SERVICE, IFNAME = Datatype(12, 1), Datatype(13, 2), Datatype(41, IFNAMSIZ, _HOST_ENDIAN)
DEVGROUP = Datatype(35, 4, _HOST_ENDIAN)
VERDICT = Datatype(uapi.NFT_DATA_VERDICT, 0)
IP_ADDR = {4: IPV4_ADDR, 6: IPV6_ADDR}


@dataclass(frozen=True)
class Set:
    """A set, or with `data` a map, as nft writes its type: `ifname . ipv4_addr`, `ipv4_addr : verdict`.

    `intervals`: its elements are the first key of each interval and the first key after it. `timeouts`: its elements
    may expire, after `timeout` seconds unless they say otherwise (0: never). `size`: most elements (0: any number).
    `dynamic`: rules add elements. `comment`: what is in it, for people.
    """

    name: str
    key: tuple[Datatype, ...]
    data: tuple[Datatype, ...] = ()
    intervals: bool = False
    timeouts: bool = False
    timeout: int = 0
    size: int = 0
    dynamic: bool = False
    comment: str = ""


@dataclass(frozen=True)
class Element:
    """An element of a set: its key, the comment that names its owner, and in a map the chain it goes to or a value.

    `timeout`: seconds after which it expires, in a set with timeouts; 0: as the set says. Listings do not have it.
    """

    set: str
    key: bytes
    owner: str
    chain: str = ""
    value: bytes = b""
    timeout: int = 0


@dataclass(frozen=True)
class Step:
    """One message of a transaction (NFT_MSG_*, NLM_F_*), and in words what it does, for the error if it fails."""

    what: str
    kind: int
    flags: int
    message: bytes


def commit(netlink: Netlink, steps: Sequence[Step], *, generation: int | None = None, changes: int = 1) -> None:
    """Do all steps or none of them; raises NetlinkError that names the first step refused.

    With `generation`, the kernel refuses the transaction (ERESTART) if the ruleset has changed since `generation()`
    returned that number. `changes`: number of callers batched into this transaction, for Suite.on_batch.
    """
    condition = b"" if generation is None else be32(uapi.NFNL_BATCH_GENID, generation)
    _transact(netlink, steps, condition, end=[(_BATCH, uapi.NFNL_MSG_BATCH_END)])
    if on_batch := current().on_batch:
        on_batch("nft", changes)


def dry_run(netlink: Netlink, steps: Sequence[Step]) -> None:
    """Have the kernel check all steps without doing them; raises NetlinkError that names the first step refused."""
    _transact(netlink, steps, b"", end=[])  # the kernel rolls back a transaction without NFNL_MSG_BATCH_END


def _transact(netlink: Netlink, steps: Sequence[Step], condition: bytes, *, end: Sequence[tuple[bytes, int]]) -> None:
    requests = [netlink.encode(_BATCH + condition, uapi.NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST)]
    for number, step in enumerate(steps, 1):
        # The kernel reports every error, and success only for the last step: that proves that it took the transaction.
        flags = NLM_F_REQUEST | step.flags | (NLM_F_ACK if number == len(steps) else 0)
        requests.append(netlink.encode(step.message, message_type(step.kind), flags))
    requests += [netlink.encode(message, number, NLM_F_REQUEST) for message, number in end]
    answers = netlink.transact(requests, first_error_suffices=True)
    for sequence, error in answers:
        if error:
            number = sequence - _SEQUENCE.unpack_from(requests[0], _SEQUENCE_AT)[0]
            what = steps[number - 1].what if 0 < number <= len(steps) else "transaction"
            raise NetlinkError(error.errno, f"nftables: {what}: {error.strerror}")
    if not answers:
        raise NetlinkError(EPROTO, "nftables: the kernel did not answer")


def generation(netlink: Netlink) -> int:
    """The generation of the ruleset in this namespace: every transaction of any process increments it."""
    return generation_and_author(netlink)[0]


def generation_and_author(netlink: Netlink) -> tuple[int, int]:
    """The same, and the number of the calling thread as the kernel puts it into announcements.

    That is the one that it has in the first PID namespace; 0 if the kernel does not say.
    """
    found = attributes_of(netlink.get(bytes(_HEADER.size), message_type(uapi.NFT_MSG_GETGEN)), BODY)
    number, author = (found.get(kind, b"") for kind in (uapi.NFTA_GEN_ID, uapi.NFTA_GEN_PROC_PID))
    return int.from_bytes(number, "big"), int.from_bytes(author, "big")


def sync(netlink: Netlink) -> None:
    """Wait until the last transaction that `generation` counts is in force; raises NetlinkError.

    nf_tables_commit first increments the generation, then switches to the new rules: a dump in between shows the old
    rules under the new number. An empty transaction waits for the current one, and changes nothing.
    """
    marks = (uapi.NFNL_MSG_BATCH_BEGIN, uapi.NFNL_MSG_BATCH_END)
    netlink.transact([netlink.encode(_BATCH, number, NLM_F_REQUEST) for number in marks])


def message_type(number: int) -> int:
    """The netlink message type of an nftables message (NFT_MSG_*)."""
    return uapi.NFNL_SUBSYS_NFTABLES << 8 | number


def _message(family: int, *attributes: bytes) -> bytes:
    return _HEADER.pack(family, 0, 0) + b"".join(attributes)


def all_tables() -> bytes:
    """A request that is about the tables of all families."""
    return _message(0)


def of_table(table: TableName) -> bytes:
    """A message about a table."""
    return _message(table.family, text(uapi.NFTA_TABLE_NAME, table.name))


def of_chain(table: TableName, chain: str) -> bytes:
    """A message about a chain."""
    return _message(table.family, text(uapi.NFTA_CHAIN_TABLE, table.name), text(uapi.NFTA_CHAIN_NAME, chain))


def of_rules(table: TableName, chain: str | None = None) -> bytes:
    """A message about the rules of a chain, or of a whole table."""
    in_chain = [] if chain is None else [text(uapi.NFTA_RULE_CHAIN, chain)]
    return _message(table.family, text(uapi.NFTA_RULE_TABLE, table.name), *in_chain)


def of_set(table: TableName, name: str) -> bytes:
    """A message about a set."""
    return _message(table.family, text(uapi.NFTA_SET_TABLE, table.name), text(uapi.NFTA_SET_NAME, name))


def of_elements(table: TableName, set_name: str, *elements: bytes) -> bytes:
    """A message about elements of a set, or if none are given about all of them."""
    head = _head_of_elements(table.family, table.name, set_name)
    return head + nested(uapi.NFTA_SET_ELEM_LIST_ELEMENTS, *elements) if elements else head


@lru_cache(64)  # few sets, many elements
def _head_of_elements(family: int, table: str, set_name: str) -> bytes:
    names = (text(uapi.NFTA_SET_ELEM_LIST_TABLE, table), text(uapi.NFTA_SET_ELEM_LIST_SET, set_name))
    return _message(family, *names)


def of_element(table: TableName, set_name: str, key: bytes) -> bytes:
    """A message about the element with this key."""
    return of_elements(table, set_name, nested(uapi.NFTA_LIST_ELEM, _encoded_key(key)))


def _userdata(attribute_type: int, comment: str | None) -> bytes:
    return b"" if comment is None else attribute(attribute_type, _tlv(_COMMENT, comment.encode() + b"\0"))


def _tlv(kind: int, data: bytes) -> bytes:
    return bytes([kind, len(data)]) + data


def add_table(table: TableName, comment: str | None) -> Step:
    """Add a table; if there is one, it stays as it is."""
    request = of_table(table) + _userdata(uapi.NFTA_TABLE_USERDATA, comment)
    return Step(f"add table {table}", uapi.NFT_MSG_NEWTABLE, NLM_F_CREATE, request)


def wake_table(table: TableName) -> Step:
    """Have the chains of a table that is dormant see packets again."""
    request = of_table(table) + be32(uapi.NFTA_TABLE_FLAGS, 0)
    return Step(f"wake table {table}", uapi.NFT_MSG_NEWTABLE, 0, request)


def delete_table(table: TableName) -> Step:
    """Delete a table with all that is in it; ENOENT if there is none."""
    return Step(f"delete table {table}", uapi.NFT_MSG_DELTABLE, 0, of_table(table))


def add_chain(table: TableName, chain: str, hook: Hook | None = None) -> Step:
    """Add a chain, with a hook a base chain with policy accept; EEXIST if there is one with another hook."""
    request = of_chain(table, chain)
    if hook:
        place = (be32(uapi.NFTA_HOOK_HOOKNUM, hook.number), be32(uapi.NFTA_HOOK_PRIORITY, hook.priority))
        request += nested(uapi.NFTA_CHAIN_HOOK, *place)
        request += be32(uapi.NFTA_CHAIN_POLICY, uapi.NF_ACCEPT) + text(uapi.NFTA_CHAIN_TYPE, hook.type)
    return Step(f"add chain {chain} to table {table}", uapi.NFT_MSG_NEWCHAIN, NLM_F_CREATE, request)


def delete_chain(table: TableName, chain: str) -> Step:
    """Delete a chain with its rules; EBUSY while a rule or an element refers to it."""
    return Step(f"delete chain {chain} of table {table}", uapi.NFT_MSG_DELCHAIN, 0, of_chain(table, chain))


def flush_chain(table: TableName, chain: str) -> Step:
    """Delete all rules of a chain."""
    return Step(f"flush chain {chain} of table {table}", uapi.NFT_MSG_DELRULE, 0, of_rules(table, chain))


def add_rule(
    table: TableName,
    chain: str,
    expressions: Iterable[bytes],
    comment: str | None,
    *,
    first: bool = False,
    protocol: int = 0,
) -> Step:
    """Append a rule to a chain, or put it `first`; adding twice makes two.

    `protocol`: the transport protocol that the rule matches, which matches of x_tables for some protocols require.
    """
    request = of_rules(table, chain) + nested(uapi.NFTA_RULE_EXPRESSIONS, *expressions)
    request += _userdata(uapi.NFTA_RULE_USERDATA, comment)
    if protocol:
        compat = (be32(uapi.NFTA_RULE_COMPAT_PROTO, protocol), be32(uapi.NFTA_RULE_COMPAT_FLAGS, 0))
        request += nested(uapi.NFTA_RULE_COMPAT, *compat)
    flags = NLM_F_CREATE if first else NLM_F_CREATE | NLM_F_APPEND
    return Step(f"add a rule to chain {chain} of table {table}", uapi.NFT_MSG_NEWRULE, flags, request)


def delete_rule(table: TableName, chain: str, handle: int) -> Step:
    """Delete one rule."""
    request = of_rules(table, chain) + attribute(uapi.NFTA_RULE_HANDLE, handle.to_bytes(8, "big"))
    return Step(f"delete a rule of chain {chain} of table {table}", uapi.NFT_MSG_DELRULE, 0, request)


def add_set(table: TableName, new: Set) -> Step:
    """Add a set or a map; if there is one, it stays as it is."""
    numbers = set_numbers(new)
    numbers[uapi.NFTA_SET_ID] = 1  # mandatory, though rules refer to sets by name
    request = of_set(table, new.name) + b"".join(be32(*number) for number in numbers.items())
    if new.size:
        request += nested(uapi.NFTA_SET_DESC, be32(uapi.NFTA_SET_DESC_SIZE, new.size))
    if new.timeout:
        request += _milliseconds(uapi.NFTA_SET_TIMEOUT, new.timeout)
    # For nft alone, which reads it there to print the keys of a set that it has not made: NFTNL_UDATA_SET_KEYBYTEORDER.
    byte_order = _SEQUENCE.pack(new.key[0].byte_order if len(new.key) == 1 else _MIXED)
    comment = _tlv(_SET_COMMENT, new.comment.encode() + b"\0") if new.comment else b""
    request += attribute(uapi.NFTA_SET_USERDATA, _tlv(0, byte_order) + comment)
    return Step(f"add set {new.name} to table {table}", uapi.NFT_MSG_NEWSET, NLM_F_CREATE, request)


def set_numbers(new: Set) -> dict[int, int]:
    """Flags, types and sizes of a set as attributes (NFTA_SET_*)."""
    flags = {
        uapi.NFT_SET_INTERVAL: new.intervals,
        uapi.NFT_SET_MAP: bool(new.data),
        uapi.NFT_SET_TIMEOUT: new.timeouts or new.timeout,
        uapi.NFT_SET_EVAL: new.dynamic,
    }
    numbers = {
        uapi.NFTA_SET_FLAGS: sum(flag for flag, is_set in flags.items() if is_set),
        uapi.NFTA_SET_KEY_TYPE: _type_number(new.key),
        uapi.NFTA_SET_KEY_LEN: type_size(new.key),
    }
    if new.data:
        numbers |= {
            uapi.NFTA_SET_DATA_TYPE: _type_number(new.data),
            uapi.NFTA_SET_DATA_LEN: type_size(new.data),
        }
    return numbers


def _milliseconds(kind: int, seconds: int) -> bytes:
    return attribute(kind, _BE64.pack(1000 * seconds))


def _type_number(parts: Sequence[Datatype]) -> int:
    """nft's number for a type of keys or data."""
    number = 0
    for part in parts:
        number = number << _TYPE_BITS | part.number
    return number


def type_size(parts: Sequence[Datatype]) -> int:
    """In a concatenation, each part is padded to 4 bytes."""
    return parts[0].size if len(parts) == 1 else sum(part.size + 3 & ~3 for part in parts)


def padded(parts: Sequence[Datatype], packed: bytes) -> bytes:
    """A key of a concatenation as the kernel has it, each part padded to 4 bytes, from its parts joined as they are.

    A key of one part stays as it is. Raises ValueError if `packed` is not as long as the parts together.
    """
    if len(packed) != sum(part.size for part in parts):
        raise ValueError(f"key {packed.hex()} has {len(packed)} bytes, expected {sum(part.size for part in parts)}")
    if len(parts) == 1:
        return packed
    key, at = b"", 0
    for part in parts:
        key += packed[at : at + part.size] + bytes(-part.size & 3)
        at += part.size
    return key


def delete_set(table: TableName, name: str) -> Step:
    """Delete a set with its elements; EBUSY while a rule refers to it, ENOENT if there is none."""
    return Step(f"delete set {name} of table {table}", uapi.NFT_MSG_DELSET, 0, of_set(table, name))


def add_encoded_elements(table: TableName, set_name: str, elements: Sequence[bytes]) -> Iterator[Step]:
    """Add encoded elements (linux/nftables/address_elements.py), in as many steps as needed; existing ones stay."""
    what = f"add elements to set {set_name} of table {table}"
    for request in _in_portions(table, set_name, elements):
        yield Step(what, uapi.NFT_MSG_NEWSETELEM, NLM_F_CREATE, request)


def delete_encoded_elements(table: TableName, set_name: str, elements: Sequence[bytes]) -> Iterator[Step]:
    """Delete encoded elements; ENOENT if one is not there."""
    what = f"delete elements of set {set_name} of table {table}"
    for request in _in_portions(table, set_name, elements):
        yield Step(what, uapi.NFT_MSG_DELSETELEM, 0, request)


def _in_portions(table: TableName, set_name: str, elements: Sequence[bytes]) -> Iterator[bytes]:
    at, size = 0, 0
    for number, element in enumerate(elements):
        size += len(element)
        if size > _ELEMENTS_BYTES:
            yield of_elements(table, set_name, *elements[at:number])
            at, size = number, len(element)
    if at < len(elements):
        yield of_elements(table, set_name, *elements[at:])


def add_element(table: TableName, element: Element, *, must_be_new: bool = True) -> Step:
    """Add an element; EEXIST if its key is there (it may have another owner), ENOENT if its chain is not.

    Unless it `must_be_new`: if its key is there, it stays as it is; EEXIST (in older kernels EBUSY) if it leads
    elsewhere or has another value.
    """
    what = f"add an element to set {element.set} of table {table}"
    request = of_elements(table, element.set, encoded(element))
    flags = NLM_F_CREATE | NLM_F_EXCL if must_be_new else NLM_F_CREATE
    return Step(what, uapi.NFT_MSG_NEWSETELEM, flags, request)


def delete_element(table: TableName, element: Element) -> Step:
    """Delete the element with this key, whoever owns it; ENOENT if there is none."""
    what = f"delete an element of set {element.set} of table {table}"
    return Step(what, uapi.NFT_MSG_DELSETELEM, 0, of_element(table, element.set, element.key))


def encoded(element: Element) -> bytes:
    """An element of a list of elements, in bytes."""
    data = b""
    if element.chain:
        data = nested(uapi.NFTA_SET_ELEM_DATA, verdict_data(uapi.NFT_GOTO, element.chain))
    elif element.value:
        data = nested(uapi.NFTA_SET_ELEM_DATA, attribute(uapi.NFTA_DATA_VALUE, element.value))
    expires = _milliseconds(uapi.NFTA_SET_ELEM_TIMEOUT, element.timeout) if element.timeout else b""
    comment = _userdata(uapi.NFTA_SET_ELEM_USERDATA, element.owner or None)
    return nested(uapi.NFTA_LIST_ELEM, _encoded_key(element.key), data, expires, comment)


def _encoded_key(key: bytes) -> bytes:
    return nested(uapi.NFTA_SET_ELEM_KEY, attribute(uapi.NFTA_DATA_VALUE, key))

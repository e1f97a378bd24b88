"""nftables, the vocabulary of change: transactions of steps, each a message in bytes.

Numbers are those of <linux/netfilter/nf_tables.h> and <linux/netfilter/nfnetlink.h>. The rules' expressions are in
linux/nftables/expressions.py, what is read back in linux/nftables/listing.py.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

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
from linux.nftables.expressions import ACCEPT, GOTO, big_endian, verdict_data
from spec.suite import current

INET, IP, BRIDGE, IP6 = 1, 2, 7, 10
FAMILY_NAMES = {INET: "inet", IP: "ip", BRIDGE: "bridge", IP6: "ip6"}

NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN, DELCHAIN, NEWRULE, GETRULE, DELRULE = range(9)
NEWSET, _, DELSET, NEWSETELEM, GETSETELEM, DELSETELEM, _, GETGEN = range(9, 17)
"""Types of messages, NFT_MSG_*."""

BODY = 20
"""Bytes of the netlink and nfnetlink headers before the attributes of an answer."""

_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_MARKER = struct.pack("!BBH", 0, 0, _SUBSYSTEM)  # struct nfgenmsg of what is around a transaction
_BATCH_GENERATION = 1
_HEADER = struct.Struct("!BBH")
_SEQUENCE, _SEQUENCE_AT = struct.Struct("=I"), 8
_VERDICT_TYPE = 0xFFFFFF00
_SET_INTERVAL, _SET_MAP = 4, 8
_EPROTO = 71
_ELEMENTS_A_MESSAGE = 1000  # at 44 bytes at most, in an attribute whose length has 16 bits


@dataclass(frozen=True)
class TableName:
    """Which table: its family (INET, IP, BRIDGE, IP6) and its name."""

    family: int
    name: str

    def __str__(self) -> str:
        return f"{FAMILY_NAMES[self.family]} {self.name}"


@dataclass(frozen=True)
class Hook:
    """Where packets enter a base chain: type "nat" or "filter", hook number, priority."""

    type: str
    number: int
    priority: int


@dataclass(frozen=True)
class Set:
    """A set, or a map to verdicts: `key_type` as nft numbers types, `key_bytes` with each part padded to 4.

    `intervals`: its elements are the first key of each interval and the first behind it. `data_type` and `data_bytes`:
    it is a map to values of that type.
    """

    name: str
    key_type: int
    key_bytes: int
    byte_order: int
    verdicts: bool = False
    intervals: bool = False
    data_type: int = 0
    data_bytes: int = 0


@dataclass(frozen=True)
class Element:
    """An element of a set: its key, the comment that names its owner, and in a map the chain it goes to or a value."""

    set: str
    key: bytes
    owner: str
    chain: str = ""
    value: bytes = b""


@dataclass(frozen=True)
class Step:
    """One message of a transaction, and in words what it does, for the error that says it failed."""

    what: str
    kind: int
    flags: int
    message: bytes


def commit(netlink: Netlink, steps: Sequence[Step], *, generation: int | None = None, changes: int = 1) -> None:
    """Do all steps or none of them; raises NetlinkError that names the first step refused.

    With `generation`, the transaction is refused (ERESTART) if any ruleset change was committed since `generation()`
    answered that number: what was decided on the rules as they were then is done to the rules as they were then.
    `changes`: the number of callers whose changes are in the transaction, for Suite.on_batch.
    """
    condition = b"" if generation is None else big_endian(_BATCH_GENERATION, generation)
    _transact(netlink, steps, condition, end=[(_MARKER, _BATCH_END)])
    if on_batch := current().on_batch:
        on_batch("nft", changes)


def rehearse(netlink: Netlink, steps: Sequence[Step]) -> None:
    """Have the kernel try all steps and take them back; raises NetlinkError that names the first step refused."""
    _transact(netlink, steps, b"", end=[])  # a transaction whose end never comes is abandoned


def _transact(netlink: Netlink, steps: Sequence[Step], condition: bytes, *, end: Sequence[tuple[bytes, int]]) -> None:
    requests = [netlink.encode(_MARKER + condition, _BATCH_BEGIN, NLM_F_REQUEST)]
    for number, step in enumerate(steps, 1):
        # Errors are always told; success only for the last step, which proves that the kernel took the transaction in.
        flags = NLM_F_REQUEST | step.flags | (NLM_F_ACK if number == len(steps) else 0)
        requests.append(netlink.encode(step.message, kind(step.kind), flags))
    requests += [netlink.encode(message, number, NLM_F_REQUEST) for message, number in end]
    answers = netlink.transact(requests)
    for sequence, error in answers:
        if error:
            number = sequence - _SEQUENCE.unpack_from(requests[0], _SEQUENCE_AT)[0]
            what = steps[number - 1].what if 0 < number <= len(steps) else "transaction"
            raise NetlinkError(error.errno, f"nftables: {what}: {error.strerror}")
    if not answers:
        raise NetlinkError(_EPROTO, "nftables: the kernel did not answer")


def generation(netlink: Netlink) -> int:
    """The number of the ruleset's state in this namespace: it changes with every transaction of anybody, by one."""
    answer = netlink.get_raw(bytes(_HEADER.size), kind(GETGEN))
    return int.from_bytes(attributes_of(answer, BODY)[1], "big")


def settle(netlink: Netlink) -> None:
    """Wait until the transaction that the kernel has counted last is in force; raises NetlinkError.

    nf_tables_commit counts first, and switches to the new rules then: whoever looks between the two is shown what was
    under the number of what comes. An empty transaction waits for the end of others', and changes nothing.
    """
    netlink.transact([netlink.encode(_MARKER, number, NLM_F_REQUEST) for number in (_BATCH_BEGIN, _BATCH_END)])


def kind(message_type: int) -> int:
    """The netlink message type of an nftables message type."""
    return _SUBSYSTEM << 8 | message_type


def message(family: int, *attributes: bytes) -> bytes:
    """A message about what is of this family."""
    return _HEADER.pack(family, 0, 0) + b"".join(attributes)


def of(table: TableName, *names: str) -> bytes:
    """A message that names a table, and what of it: a chain of which rules are meant, a set."""
    return message(table.family, text(1, table.name), *(text(number, name) for number, name in enumerate(names, 2)))


def of_chain(table: TableName, chain: str) -> bytes:
    """A message that names a chain itself."""
    return of(table) + text(3, chain)


def annotation(comment: str | None) -> bytes:
    """A comment as nft keeps it with an object: type 0, length, text. b"" if there is none."""
    return b"" if comment is None else _annotation(comment.encode() + b"\0")


def _annotation(data: bytes) -> bytes:
    return bytes([0, len(data)]) + data


def _commented(number: int, comment: str | None) -> bytes:
    return b"" if comment is None else attribute(number, annotation(comment))


def add_table(table: TableName, comment: str | None) -> Step:
    """Add a table; nothing if it is there (its comment is not changed then)."""
    return Step(f"add table {table}", NEWTABLE, NLM_F_CREATE, of(table) + _commented(6, comment))


def delete_table(table: TableName) -> Step:
    """Delete a table with all that is in it; ENOENT if there is none."""
    return Step(f"delete table {table}", DELTABLE, 0, of(table))


def add_chain(table: TableName, chain: str, hook: Hook | None = None) -> Step:
    """Add a chain, with a hook a base chain of policy accept; nothing if it is there, EEXIST if with another hook."""
    request = of_chain(table, chain)
    if hook:
        place = nested(4, big_endian(1, hook.number), big_endian(2, hook.priority))
        request += place + big_endian(5, ACCEPT) + text(7, hook.type)
    return Step(f"add chain {chain} to table {table}", NEWCHAIN, NLM_F_CREATE, request)


def delete_chain(table: TableName, chain: str) -> Step:
    """Delete a chain with its rules; EBUSY while a rule or an element leads to it."""
    return Step(f"delete chain {chain} of table {table}", DELCHAIN, 0, of_chain(table, chain))


def flush_chain(table: TableName, chain: str) -> Step:
    """Delete all rules of a chain."""
    return Step(f"flush chain {chain} of table {table}", DELRULE, 0, of(table, chain))


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

    `protocol`: the one that the rule asks for, where it has a match of x_tables that is for some protocols only.
    """
    request = of(table, chain) + nested(4, *expressions) + _commented(7, comment)
    if protocol:
        request += nested(5, big_endian(1, protocol), big_endian(2, 0))
    flags = NLM_F_CREATE if first else NLM_F_CREATE | NLM_F_APPEND
    return Step(f"add a rule to chain {chain} of table {table}", NEWRULE, flags, request)


def delete_rule(table: TableName, chain: str, handle: int) -> Step:
    """Delete one rule."""
    request = of(table, chain) + attribute(3, handle.to_bytes(8, "big"))
    return Step(f"delete a rule of chain {chain} of table {table}", DELRULE, 0, request)


def add_set(table: TableName, new: Set) -> Step:
    """Add a set or a map to verdicts; nothing if it is there."""
    flags = _SET_MAP if new.verdicts or new.data_bytes else _SET_INTERVAL if new.intervals else 0
    data = ((6, _VERDICT_TYPE if new.verdicts else new.data_type), (7, new.data_bytes)) if flags & _SET_MAP else ()
    # The id is demanded, though rules find their sets by name.
    numbers = ((3, flags), (4, new.key_type), (5, new.key_bytes), *data, (10, 1))
    # The byte order is not the kernel's business: nft reads it there to print the keys of a set it did not make itself.
    byte_order = attribute(13, _annotation(_SEQUENCE.pack(new.byte_order)))
    request = of(table, new.name) + b"".join(big_endian(*number) for number in numbers) + byte_order
    return Step(f"add set {new.name} to table {table}", NEWSET, NLM_F_CREATE, request)


def delete_set(table: TableName, name: str) -> Step:
    """Delete a set with its elements; EBUSY while a rule looks into it, ENOENT if there is none."""
    return Step(f"delete set {name} of table {table}", DELSET, 0, of(table, name))


def add_encoded_elements(table: TableName, set_name: str, elements: Sequence[bytes]) -> Iterator[Step]:
    """Add encoded elements (linux/nftables/address_elements.py), in as many steps as needed; existing ones stay."""
    what = f"add elements to set {set_name} of table {table}"
    for at in range(0, len(elements), _ELEMENTS_A_MESSAGE):
        request = of(table, set_name) + nested(3, *elements[at : at + _ELEMENTS_A_MESSAGE])
        yield Step(what, NEWSETELEM, NLM_F_CREATE, request)


def add_element(table: TableName, element: Element) -> Step:
    """Add an element; EEXIST if its key is there (no owner loses one unnoticed), ENOENT if its chain is not."""
    what = f"add an element to set {element.set} of table {table}"
    request = of(table, element.set) + nested(3, encoded(element))
    return Step(what, NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL, request)


def delete_element(table: TableName, element: Element) -> Step:
    """Delete the element with this key, whosever it is; ENOENT if there is none."""
    what = f"delete an element of set {element.set} of table {table}"
    return Step(what, DELSETELEM, 0, of_element(table, element.set, element.key))


def of_element(table: TableName, set_name: str, key: bytes) -> bytes:
    """A message that names an element by its key."""
    return of(table, set_name) + nested(3, nested(1, encoded_key(key)))


def encoded(element: Element) -> bytes:
    """An element with what it leads to and its comment, as an element of the list of them."""
    content = b""
    if element.chain:
        content = nested(2, verdict_data(GOTO, element.chain))
    elif element.value:
        content = nested(2, attribute(1, element.value))
    return nested(1, encoded_key(element.key), content, attribute(6, annotation(element.owner)))


def encoded_key(key: bytes) -> bytes:
    """A key as an element has it."""
    return nested(1, attribute(1, key))

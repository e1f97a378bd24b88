"""nftables, the vocabulary of change: transactions of steps, in messages of pyroute2.

Numbers are those of <linux/netfilter/nf_tables.h> and <linux/netfilter/nfnetlink.h>. The rules' expressions are in
linux/nft_expressions.py, what is read back in linux/nft_found.py.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pyroute2.netlink import nlmsg
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES, nfgen_msg
from pyroute2.netlink.nfnetlink.nftsocket import (
    NFT_MSG_DELCHAIN,
    NFT_MSG_DELRULE,
    NFT_MSG_DELSET,
    NFT_MSG_DELSETELEM,
    NFT_MSG_DELTABLE,
    NFT_MSG_GETGEN,
    NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWRULE,
    NFT_MSG_NEWSET,
    NFT_MSG_NEWSETELEM,
    NFT_MSG_NEWTABLE,
    nft_chain_msg,
    nft_gen_msg,
    nft_rule_msg,
    nft_set_elem_list_msg,
    nft_set_msg,
    nft_table_msg,
)

from linux.netlink import (
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    Netlink,
    NetlinkError,
)
from linux.nft_expressions import ACCEPT, GOTO

INET, IP, BRIDGE, IP6 = 1, 2, 7, 10
FAMILY_NAMES = {INET: "inet", IP: "ip", BRIDGE: "bridge", IP6: "ip6"}

_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_VERDICT_TYPE = 0xFFFFFF00
_EPROTO = 71
_ELEMENTS_A_MESSAGE = 1000  # at 44 bytes at most, in an attribute whose length has 16 bits


class _EncodedElements(nfgen_msg):
    """The message that adds elements; pyroute2's would encode each of thousands on its own."""

    prefix = "NFTA_SET_ELEM_LIST_"
    nla_map = (
        ("NFTA_SET_ELEM_LIST_UNSPEC", "none"),
        ("NFTA_SET_ELEM_LIST_TABLE", "asciiz"),
        ("NFTA_SET_ELEM_LIST_SET", "asciiz"),
        ("NFTA_SET_ELEM_LIST_ELEMENTS", "cdata"),
    )


class _BatchMarker(nfgen_msg):
    """The message around a transaction; pyroute2's has no room for the generation."""

    nla_map = (("NFNL_BATCH_UNSPEC", "none"), ("NFNL_BATCH_GENID", "be32"))


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
    message: nlmsg


def commit(netlink: Netlink, steps: Sequence[Step], *, generation: int | None = None) -> None:
    """Do all steps or none of them; raises NetlinkError that names the first step refused.

    With `generation`, the transaction is refused (ERESTART) if any ruleset change was committed since `generation()`
    answered that number: what was decided on the rules as they were then is done to the rules as they were then.
    """
    attributes = [] if generation is None else [("NFNL_BATCH_GENID", generation)]
    _transact(netlink, steps, attributes, end=[(_batch([]), _BATCH_END)])


def rehearse(netlink: Netlink, steps: Sequence[Step]) -> None:
    """Have the kernel try all steps and take them back; raises NetlinkError that names the first step refused."""
    _transact(netlink, steps, [], end=[])  # a transaction whose end never comes is abandoned


def _transact(netlink: Netlink, steps: Sequence[Step], attributes: list, *, end: Sequence[tuple[nlmsg, int]]) -> None:
    what: dict[int, str] = {}
    requests = [netlink.encode(_batch(attributes), _BATCH_BEGIN, NLM_F_REQUEST)]
    for number, step in enumerate(steps, 1):
        # Errors are always told; success only for the last step, which proves that the kernel took the transaction in.
        flags = NLM_F_REQUEST | step.flags | (NLM_F_ACK if number == len(steps) else 0)
        requests.append(netlink.encode(step.message, kind(step.kind), flags))
        what[step.message["header"]["sequence_number"]] = step.what
    requests += [netlink.encode(message, number, NLM_F_REQUEST) for message, number in end]
    answers = netlink.transact(requests)
    for sequence, error in answers:
        if error:
            raise NetlinkError(error.errno, f"nftables: {what.get(sequence, 'transaction')}: {error.strerror}")
    if not answers:
        raise NetlinkError(_EPROTO, "nftables: the kernel did not answer")


def generation(netlink: Netlink) -> int:
    """The number of the ruleset's state in this namespace: it changes with every transaction of anybody."""
    return netlink.get(nfgen_msg(), kind(NFT_MSG_GETGEN), nft_gen_msg).get_attr("NFTA_GEN_ID")


def _batch(attributes: list) -> nlmsg:
    marker = _BatchMarker()
    marker["res_id"] = NFNL_SUBSYS_NFTABLES
    marker["attrs"] = attributes
    return marker


def kind(message_type: int) -> int:
    """The netlink message type of an nftables message type."""
    return NFNL_SUBSYS_NFTABLES << 8 | message_type


def message(cls: type[nlmsg], family: int, **attributes: object) -> nlmsg:
    """A message of pyroute2's class, its attributes by short name (`table=` for NFTA_CHAIN_TABLE); None is left out."""
    made = cls()
    made["nfgen_family"] = family
    made["attrs"] = [(cls.prefix + name.upper(), value) for name, value in attributes.items() if value is not None]
    return made


def add_table(table: TableName, comment: str | None) -> Step:
    """Add a table; nothing if it is there (its comment is not changed then)."""
    request = message(nft_table_msg, table.family, name=table.name, userdata=comment)
    return Step(f"add table {table}", NFT_MSG_NEWTABLE, NLM_F_CREATE, request)


def delete_table(table: TableName) -> Step:
    """Delete a table with all that is in it; ENOENT if there is none."""
    return Step(f"delete table {table}", NFT_MSG_DELTABLE, 0, message(nft_table_msg, table.family, name=table.name))


def add_chain(table: TableName, chain: str, hook: Hook | None = None) -> Step:
    """Add a chain, with a hook a base chain of policy accept; nothing if it is there, EEXIST if with another hook."""
    options: dict[str, object] = {}
    if hook:
        place = {"attrs": [("NFTA_HOOK_HOOKNUM", hook.number), ("NFTA_HOOK_PRIORITY", hook.priority)]}
        options = {"hook": place, "policy": ACCEPT, "type": hook.type}
    request = message(nft_chain_msg, table.family, table=table.name, name=chain, **options)
    return Step(f"add chain {chain} to table {table}", NFT_MSG_NEWCHAIN, NLM_F_CREATE, request)


def delete_chain(table: TableName, chain: str) -> Step:
    """Delete a chain with its rules; EBUSY while a rule or an element leads to it."""
    request = message(nft_chain_msg, table.family, table=table.name, name=chain)
    return Step(f"delete chain {chain} of table {table}", NFT_MSG_DELCHAIN, 0, request)


def flush_chain(table: TableName, chain: str) -> Step:
    """Delete all rules of a chain."""
    request = message(nft_rule_msg, table.family, table=table.name, chain=chain)
    return Step(f"flush chain {chain} of table {table}", NFT_MSG_DELRULE, 0, request)


def add_rule(
    table: TableName, chain: str, expressions: Iterable[dict], comment: str | None, *, first: bool = False
) -> Step:
    """Append a rule to a chain, or put it `first`; adding twice makes two."""
    request = message(
        nft_rule_msg, table.family, table=table.name, chain=chain, expressions=list(expressions), userdata=comment
    )
    flags = NLM_F_CREATE if first else NLM_F_CREATE | NLM_F_APPEND
    return Step(f"add a rule to chain {chain} of table {table}", NFT_MSG_NEWRULE, flags, request)


def delete_rule(table: TableName, chain: str, handle: int) -> Step:
    """Delete one rule."""
    request = message(nft_rule_msg, table.family, table=table.name, chain=chain, handle=handle)
    return Step(f"delete a rule of chain {chain} of table {table}", NFT_MSG_DELRULE, 0, request)


def add_set(table: TableName, new: Set) -> Step:
    """Add a set or a map to verdicts; nothing if it is there."""
    # The byte order is not the kernel's business: nft reads it there to print the keys of a set it did not make itself.
    byte_order = struct.pack("=I", new.byte_order)
    map_of_verdicts = {"flags": ("NFT_SET_MAP",), "data_type": _VERDICT_TYPE, "data_len": 0}
    map_of_values = {"flags": ("NFT_SET_MAP",), "data_type": new.data_type, "data_len": new.data_bytes}
    plain = {"flags": ("NFT_SET_INTERVAL",) if new.intervals else ()}
    request = message(
        nft_set_msg,
        table.family,
        table=table.name,
        name=new.name,
        **(map_of_verdicts if new.verdicts else map_of_values if new.data_bytes else plain),
        key_type=new.key_type,
        key_len=new.key_bytes,
        id=1,  # demanded, though rules find their sets by name
        userdata=[("NFTNL_UDATA_SET_KEYBYTEORDER", byte_order)],
    )
    return Step(f"add set {new.name} to table {table}", NFT_MSG_NEWSET, NLM_F_CREATE, request)


def delete_set(table: TableName, name: str) -> Step:
    """Delete a set with its elements; EBUSY while a rule looks into it, ENOENT if there is none."""
    request = message(nft_set_msg, table.family, table=table.name, name=name)
    return Step(f"delete set {name} of table {table}", NFT_MSG_DELSET, 0, request)


def add_encoded_elements(table: TableName, set_name: str, elements: Sequence[bytes]) -> Iterator[Step]:
    """Add elements as linux/nft_elements.py encodes them, as many steps as they need; those that are there stay."""
    what = f"add elements to set {set_name} of table {table}"
    for at in range(0, len(elements), _ELEMENTS_A_MESSAGE):
        data = b"".join(elements[at : at + _ELEMENTS_A_MESSAGE])
        request = message(_EncodedElements, table.family, table=table.name, set=set_name, elements=data)
        yield Step(what, NFT_MSG_NEWSETELEM, NLM_F_CREATE, request)


def add_element(table: TableName, element: Element) -> Step:
    """Add an element; EEXIST if its key is there (no owner loses one unnoticed), ENOENT if its chain is not."""
    verdict = {"attrs": [("NFTA_VERDICT_CODE", GOTO), ("NFTA_VERDICT_CHAIN", element.chain)]}
    content = ("NFTA_DATA_VERDICT", verdict) if element.chain else ("NFTA_DATA_VALUE", element.value)
    data = [("NFTA_SET_ELEM_DATA", {"attrs": [content]})] if element.chain or element.value else []
    comment = ("NFTA_SET_ELEM_USERDATA", [("NFTNL_UDATA_SET_ELEM_COMMENT", element.owner)])
    request = _elements(table, element.set, [_key(element), *data, comment])
    what = f"add an element to set {element.set} of table {table}"
    return Step(what, NFT_MSG_NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL, request)


def delete_element(table: TableName, element: Element) -> Step:
    """Delete the element with this key, whosever it is; ENOENT if there is none."""
    request = _elements(table, element.set, [_key(element)])
    return Step(f"delete an element of set {element.set} of table {table}", NFT_MSG_DELSETELEM, 0, request)


def _key(element: Element) -> tuple[str, dict]:
    return ("NFTA_SET_ELEM_KEY", {"attrs": [("NFTA_DATA_VALUE", element.key)]})


def _elements(table: TableName, set_name: str, attributes: list) -> nlmsg:
    return message(
        nft_set_elem_list_msg, table.family, table=table.name, set=set_name, elements=[{"attrs": attributes}]
    )

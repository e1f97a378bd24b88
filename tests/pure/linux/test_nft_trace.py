"""Steps of traced packets, decoded from the kernel's messages; whatever else is in a datagram raises nothing."""

from hypothesis import given
from hypothesis import strategies as st

from linux.netlink.attributes import MESSAGE_HEADER, attribute, nested, text
from linux.nftables import uapi
from linux.nftables.expressions import be32
from linux.nftables.messages import INET, TableName, message_type
from linux.nftables.trace import Step, steps_in

TABLE = TableName(INET, "slash24_policy")


def message(*attributes: bytes, kind: int = uapi.NFT_MSG_TRACE, family: int = INET) -> bytes:
    """A message as the kernel sends it."""
    body = bytes([family, 0, 0, 0]) + b"".join(attributes)
    return MESSAGE_HEADER.pack(MESSAGE_HEADER.size + len(body), message_type(kind), 0, 0, 0) + body


def place(kind: int, rule: int = 0) -> tuple[bytes, ...]:
    """Where a step is."""
    found = (text(uapi.NFTA_TRACE_TABLE, TABLE.name), text(uapi.NFTA_TRACE_CHAIN, "forward"))
    handle = (attribute(uapi.NFTA_TRACE_RULE_HANDLE, rule.to_bytes(8, "big")),) if rule else ()
    return *found, *handle, be32(uapi.NFTA_TRACE_TYPE, kind), be32(uapi.NFTA_TRACE_ID, 7)


def verdict(code: int, chain: str = "") -> bytes:
    """The verdict of a rule."""
    target = (text(uapi.NFTA_VERDICT_CHAIN, chain),) if chain else ()
    return nested(uapi.NFTA_TRACE_VERDICT, be32(uapi.NFTA_VERDICT_CODE, code), *target)


def test_a_rule_that_jumps() -> None:
    """The first step has the headers, one after the other."""
    headers = (attribute(uapi.NFTA_TRACE_NETWORK_HEADER, b"ip"), attribute(uapi.NFTA_TRACE_TRANSPORT_HEADER, b"tcp"))
    links = (be32(uapi.NFTA_TRACE_IIF, 3), be32(uapi.NFTA_TRACE_OIF, 4), be32(uapi.NFTA_TRACE_MARK, 5))
    data = message(*place(uapi.NFT_TRACETYPE_RULE, 9), verdict(uapi.NFT_JUMP, "metadata"), *headers, *links)
    wanted = Step(TABLE, "forward", 9, "jump", "metadata", b"iptcp", 7, 3, 4, 5)
    assert list(steps_in(data)) == [wanted]
    assert not wanted.is_dropped


def test_the_end_of_a_chain() -> None:
    """By its policy, or by a rule that drops; several messages in one datagram, and messages of other kinds."""
    by_policy = message(*place(uapi.NFT_TRACETYPE_POLICY), be32(uapi.NFTA_TRACE_POLICY, uapi.NF_DROP))
    accepted = message(*place(uapi.NFT_TRACETYPE_POLICY), be32(uapi.NFTA_TRACE_POLICY, uapi.NF_ACCEPT))
    dropped = message(*place(uapi.NFT_TRACETYPE_RULE, 2), verdict(uapi.NF_DROP))
    returned = message(*place(uapi.NFT_TRACETYPE_RETURN), verdict(-1))
    others = message(*place(uapi.NFT_TRACETYPE_RULE), kind=uapi.NFT_MSG_NEWGEN) + message(family=77)
    steps = list(steps_in(by_policy + others + accepted + dropped + returned))
    assert [step.verdict for step in steps] == ["drop", "accept", "drop", "continue"]
    assert [step.is_dropped for step in steps] == [True, False, True, False]


def test_verdicts_with_a_number() -> None:
    """A queue's is in the upper bits; unknown ones keep their numbers."""
    data = b"".join(message(*place(uapi.NFT_TRACETYPE_RULE, 2), verdict(code)) for code in (3 | 5 << 16, -99))
    assert [step.verdict for step in steps_in(data)] == ["queue", "verdict -99"]


@given(st.binary(max_size=80), st.binary(max_size=40))
def test_any_bytes(attributes: bytes, after: bytes) -> None:
    """Of whatever length."""
    for step in steps_in(message(attributes) + after):
        assert step.table.family == INET

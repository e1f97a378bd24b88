"""The tables `inet slash24_trace` and `bridge slash24_trace`: they set the trace bit of one packet and its answers.

They belong to the socket that made them: the kernel deletes them when it is closed, also if this process is killed.
Kernels before 5.12 do not know that; there they are deleted at the end, and those of a killed run by the next one.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EBUSY, EEXIST, EINVAL, ENOENT, EOPNOTSUPP, EPERM
from socket import IPPROTO_UDP

from cli.exits import Failure
from cli.trace.probe import ANSWERS_MARK_AT, ICMP_HEADER, IP_HEADER, MARK_AT, TCP, TUNNEL_HEADERS, UDP, Probe
from cli.trace.runs import NAME
from linux.netlink.socket import NETLINK_NETFILTER, NLM_F_CREATE, Netlink, NetlinkError
from linux.nftables import messages, uapi
from linux.nftables.expressions import be32, cmp_eq, l4proto_is, payload, protocol_ip, th_dport
from linux.nftables.messages import Hook, Step, TableName
from linux.nftables.statements import immediate_value, limit, meta_set

_FIRST = -(1 << 31)
_A_SECOND = 10
_NUMBERS = {4: 1, 6: 58}  # ICMP, ICMPv6
_HOOKS = {
    # type filter hook prerouting priority -2147483648
    messages.INET: {"prerouting": uapi.NF_INET_PRE_ROUTING, "output": uapi.NF_INET_LOCAL_OUT},
    messages.BRIDGE: {"prerouting": uapi.NF_BR_PRE_ROUTING},
}


@contextmanager
def marked(probe: Probe) -> Iterator[list[str]]:
    """Have the probe traced in the namespace of the calling thread; yields a sentence for each thing that is not.

    Raises Failure if another trace runs.
    """
    with Netlink(NETLINK_NETFILTER) as netlink:
        made, problems = [], []
        try:
            for family in _HOOKS:
                table = TableName(family, NAME)
                try:
                    _make(netlink, table, probe)
                    made.append(table)
                except NetlinkError as error:
                    if error.errno in (EBUSY, EPERM):
                        raise Failure(f"another `slash24 trace` runs (it has the table {table}); try again") from error
                    why = f"rules of {messages.FAMILY_NAMES[family]} tables are not shown: the kernel cannot trace them"
                    problems.append(f"{why} ({error.strerror})")
            yield problems
        finally:
            for table in made:
                with suppress(NetlinkError):
                    messages.commit(netlink, [messages.delete_table(table)])


def _make(netlink: Netlink, table: TableName, probe: Probe) -> None:
    with _tolerating_absence():
        messages.commit(netlink, [messages.delete_table(table)])
    content = list(_content(table, probe))
    try:
        messages.commit(netlink, [_owned(table), *content])
    except NetlinkError as error:
        if error.errno not in (EINVAL, EOPNOTSUPP, EEXIST):
            raise
        messages.commit(netlink, [messages.add_table(table, None), *content])


@contextmanager
def _tolerating_absence() -> Iterator[None]:
    """Whatever is deleted need not be there."""
    try:
        yield
    except NetlinkError as error:
        if error.errno != ENOENT:
            raise


def _owned(table: TableName) -> Step:
    request = messages.of_table(table) + be32(uapi.NFTA_TABLE_FLAGS, uapi.NFT_TABLE_F_OWNER)
    return Step(f"add table {table}", uapi.NFT_MSG_NEWTABLE, NLM_F_CREATE, request)


def _content(table: TableName, probe: Probe) -> Iterator[Step]:
    for chain, number in _HOOKS[table.family].items():
        yield messages.add_chain(table, chain, Hook("filter", number, _FIRST))
        for match in _matches(probe):
            # meta nftrace set 1
            mark = (limit(_A_SECOND), immediate_value(b"\1"), meta_set(uapi.NFT_META_NFTRACE))
            yield messages.add_rule(table, chain, (*match, *mark), None)


def _matches(probe: Probe) -> Iterator[tuple[bytes, ...]]:
    """The packet, what answers it, errors that quote it, and a tunnel's datagrams that have one of these inside."""
    at, inner = MARK_AT[probe.protocol], IP_HEADER[probe.version] + MARK_AT[probe.protocol]
    of_protocol = (*protocol_ip(probe.version), *l4proto_is(probe.number))
    yield (*of_protocol, *_at(at, probe.mark))
    if probe.protocol == TCP:
        yield (*of_protocol, *_at(ANSWERS_MARK_AT, probe.answers_mark))
        yield (*l4proto_is(IPPROTO_UDP), *_at(inner + ANSWERS_MARK_AT - at + TUNNEL_HEADERS, probe.answers_mark))
    elif probe.protocol == UDP:
        yield (*of_protocol, th_dport(), cmp_eq(probe.source_port.to_bytes(2, "big")))
    errors = (*protocol_ip(probe.version), *l4proto_is(_NUMBERS[probe.version]))
    yield (*errors, *_at(ICMP_HEADER + inner, probe.mark))
    yield (*l4proto_is(IPPROTO_UDP), *_at(TUNNEL_HEADERS + inner, probe.mark))


def _at(offset: int, data: bytes) -> tuple[bytes, bytes]:
    return payload(uapi.NFT_PAYLOAD_TRANSPORT_HEADER, offset, len(data)), cmp_eq(data)

"""Ends the connections of this node's pods that the policies no longer allow.

Policies look at the first packet of a connection; the others pass because the kernel tracks it. So when a policy has
changed, what is tracked is judged again, as its first packet would be now: from the original source to who really
answers, after the translation of services and before masquerade. What is no longer allowed loses its entry, and its
next packet is taken for the first of a new connection, and denied.

An answer that is under way then looks like the first packet of a connection in the other direction, which may be
allowed. So the ends of what is to be cut, in both directions, first go into a set that the filters ask before the
policies. Protocols without ports have none to put there: for these, such an answer is a new connection.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

from linux import conntrack
from linux.connection import WITH_PORTS, Connection
from linux.netlink.socket import NETLINK_NETFILTER, Netlink
from linux.rtnl.addresses import list_addresses
from policy.compiled import Compiled
from policy.settings import Settings
from policy.verdicts import Judge, Packet
from spec.addresses import pack

_LOOPBACK = 127
_AT_ONCE = 2000  # connections that are ended together, so that few are kept in memory


class Flow(NamedTuple):
    """One direction of a connection, as its packets are between DNAT and SNAT: packed addresses, IPPROTO_*, ports."""

    source: bytes
    destination: bytes
    protocol: int
    source_port: int
    port: int


class Programmer(Protocol):
    """What is needed of policy.programming.Programmer."""

    settings: Settings

    def cut(self, flows: Sequence[Flow]) -> object:
        """Refuse packets of these flows for some time. Raises OSError."""


def cut(compiled: Compiled, addresses: frozenset[str] | None, programmer: Programmer) -> int:
    """End the connections of pods with these addresses (None: of all) that are no longer allowed; returns how many.

    `compiled` must be in force. In the network namespace of the calling thread. Connections from the node itself and
    those of a pod with itself stay. 100,000 connections of these pods take the processor a second or two. Raises
    OSError; if flows could not be refused, only when everything else is done.
    """
    pods = frozenset(pack(ip) for ip in compiled.pods if addresses is None or ip in addresses)
    if not pods:
        return 0
    is_own_node, ended, failure = own_addresses(), 0, None
    is_allowed = _asking(judge_of(compiled, programmer.settings, is_own_node))
    with Netlink(NETLINK_NETFILTER) as lister, Netlink(NETLINK_NETFILTER) as changer:
        tracked = conntrack.connections(lister, pods)
        denied = (one for one in tracked if not is_own_node(one.source) and not is_allowed(one))
        doomed = (one for one in denied if not _is_announced(changer, one, is_allowed))
        while part := list(islice(doomed, _AT_ONCE)):
            try:
                programmer.cut(flows_of(part))
            except OSError as error:
                # Then an answer may open some of them again; but with their entries all would go on.
                failure = failure or error
            ended += conntrack.delete(changer, part)
    if failure:
        raise failure
    return ended


def flows_of(connections: Iterable[Connection]) -> list[Flow]:
    """Both directions of each connection of a protocol with ports, unless it is one of TCP that has ended."""
    return [flow for one in connections if one.protocol in WITH_PORTS and not one.is_closed for flow in _flows(one)]


def own_addresses() -> Callable[[bytes], bool]:
    """Whether a packed address is one of the node's own, which may speak to its pods. Raises OSError."""
    with Netlink() as netlink:
        own = frozenset(pack(address.ip) for address in list_addresses(netlink))
    return lambda address: address in own or (len(address) == 4 and address[0] == _LOOPBACK)


def _flows(one: Connection) -> Iterator[Flow]:
    yield Flow(one.source, one.answered_by, one.protocol, one.source_port, one.answering_port)
    yield Flow(one.answered_by, one.source, one.protocol, one.answering_port, one.source_port)


def judge_of(compiled: Compiled, settings: Settings, is_own_node: Callable[[bytes], bool]) -> Judge:
    """Who decides on packets as the tables do that have been made of `compiled` and `settings`."""
    ports = settings.node_access
    node_access = None if ports is None else [(one.protocol, one.first, one.last) for one in ports]
    return Judge(compiled, metadata_deny=settings.metadata_deny, node_access=node_access, is_own_node=is_own_node)


def _asking(judge: Judge) -> Callable[[Connection], bool]:
    """Whether a connection may be opened. Each question is asked once: thousands may differ in the source port only."""
    known: dict[Packet, bool] = {}

    def is_allowed(one: Connection) -> bool:
        if one.source == one.answered_by:
            return True
        packet = Packet(one.source, one.answered_by, one.protocol, one.answering_port)
        verdict = known.get(packet)
        if verdict is None:
            verdict = known[packet] = judge.decide(packet).is_allowed
        return verdict

    return is_allowed


def _is_announced(netlink: Netlink, one: Connection, is_allowed: Callable[[Connection], bool]) -> bool:
    """Whether another connection that is allowed has announced this one, as FTP does for data: it is "related" then."""
    original = one.master
    master = conntrack.find(netlink, one.version, original) if original else None
    return master is not None and is_allowed(master)

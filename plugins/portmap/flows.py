"""UDP flows that go on to where a port led before: the kernel is told to forget them.

A failure is said on stderr and is none of the call's: the ports lead where they should for every new flow.
"""

from collections.abc import Callable, Iterable
from socket import inet_pton

from linux import conntrack
from linux.conntrack import Flow
from linux.errors import reason
from linux.netlink.socket import Netlink
from linux.rtnl.addresses import family_of, list_addresses
from plugins.portmap.conf import PROTOCOLS
from rules.portmap.ports import Forward
from spec.request import Request

_LOOPBACK = 127


def forget_flows_elsewhere(request: Request, forwards: Iterable[Forward]) -> None:
    """After an ADD: what came to these ports of the node before, and is not answered by the pod."""
    wanted = [forward for forward in forwards if forward.protocol == PROTOCOLS["udp"]]
    if not wanted:
        return
    try:
        with Netlink() as host:
            cidrs = [address.cidr.partition("/")[0] for address in list_addresses(host)]
    except OSError as error:
        request.say(f"portmap: old UDP flows are not forgotten: {reason(error)}")
        return
    own = {inet_pton(family_of(address), address) for address in cidrs}
    for forward in wanted:
        _forget(request, forward, lambda flow, to=forward: _came_here(flow, to, own) and not _to_pod(flow, to))


def forget_flows_to(request: Request, forwards: Iterable[Forward]) -> None:
    """After a DEL: what is still sent on to the pod."""
    for forward in dict.fromkeys(forwards):
        if forward.protocol == PROTOCOLS["udp"]:
            _forget(request, forward, lambda flow, to=forward: _to_pod(flow, to))


def _forget(request: Request, forward: Forward, doomed: Callable[[Flow], bool]) -> None:
    try:
        conntrack.forget_udp(forward.version, forward.host_port, doomed)
    except OSError as error:
        request.say(f"portmap: old UDP flows to {forward} are not forgotten: {reason(error)}")


def _came_here(flow: Flow, forward: Forward, own: set[bytes]) -> bool:
    """Whether a flow was to the port: a wildcard is any address of the node."""
    if forward.host:
        return flow.to == forward.host
    return flow.to in own or (flow.version == 4 and flow.to[0] == _LOOPBACK)


def _to_pod(flow: Flow, forward: Forward) -> bool:
    return (flow.answered_by, flow.answering_port) == (forward.pod, forward.pod_port)

"""The ports that are forwarded to a pod, and the UDP flows that still go where a port led before.

A failure to flush flows is logged and does not fail the call: every new flow goes where it should.
"""

from collections.abc import Callable, Iterable

from plugins.portmap.conf import PROTOCOLS, Mapping, PortmapConf
from rules.portmap.host_ports import Forward, HostPorts
from spec.addresses import Address, pack, parse_address
from spec.request import Request
from spec.result import Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from linux.connection import Connection
    from rules.conditions.condition import Condition

_LOOPBACK = 127


def host_ports_of(request: Request, conf: PortmapConf, pod: dict[int, Address], result: Result) -> HostPorts:
    """What to forward to a pod with these addresses (by IP version); versions that the pod lacks are left out."""
    masquerade_all = (4, 6) if conf.masquerade_all else _versions_without_route(result)
    subnets = pod if conf.snat else None
    return HostPorts(
        forwards_to(pod, conf.mappings), _conditions(conf), subnets, masquerade_all, is_listed=is_listed(request)
    )


def is_listed(request: Request) -> bool:
    """Whether programs may search for free host ports; not in Kubernetes, which chooses none and names every pod."""
    return "K8S_POD_NAME" not in request.args


def forwards_to(pod: dict[int, Address], mappings: tuple[Mapping, ...]) -> tuple[Forward, ...]:
    """The forwards of the mappings, one for each IP version that both the mapping and the pod have."""
    return tuple(
        Forward(version, one.host, one.protocol, one.host_port, pod[version].packed, one.container_port)
        for one in mappings
        for version in one.versions
        if version in pod
    )


def pod_addresses(request: Request, result: Result) -> dict[int, Address]:
    """By IP version, the first address of the pod's interface, or the first for which the result names no interface."""
    found: dict[int, Address] = {}
    for ip in result.ips:
        interface = result.interface_of(ip)
        if interface is None or (interface.name == request.ifname and interface.sandbox):
            address = parse_address(ip.address)
            found.setdefault(address.version, address)
    return found


def flush_flows_elsewhere(request: Request, forwards: Iterable[Forward]) -> None:
    """After an ADD: flush UDP flows to these host ports that are answered by anything but the pod."""
    udp = [forward for forward in forwards if forward.protocol == PROTOCOLS["udp"]]
    if not udp:
        return
    from linux.errors import reason

    try:
        node = _node_addresses()
    except OSError as error:
        request.log(f"portmap: failed to flush old UDP flows: {reason(error)}")
        return
    for forward in udp:
        _flush(request, forward, lambda flow, to=forward: _is_for_port(flow, to, node) and not _is_to_pod(flow, to))


def flush_flows_to(request: Request, forwards: Iterable[Forward]) -> None:
    """After a DEL: flush UDP flows that are still forwarded to the pod."""
    for forward in dict.fromkeys(forwards):
        if forward.protocol == PROTOCOLS["udp"]:
            _flush(request, forward, lambda flow, to=forward: _is_to_pod(flow, to))


def _versions_without_route(result: Result) -> tuple[int, ...]:
    """The IP version for which the result has no route, so that the pod can only answer its own subnet.

    A result without any route means nothing: some plugins leave routes out.
    """
    found = {6 if ":" in route.dst else 4 for route in result.routes}
    return tuple({4, 6} - found) if found else ()


def _conditions(conf: PortmapConf) -> "dict[int, tuple[Condition, ...]]":
    if not any(conf.conditions.values()):
        return {}
    from rules.conditions.parsing import parse

    return {version: parse(words, version) for version, words in conf.conditions.items()}


def _node_addresses() -> set[bytes]:
    from linux.netlink.socket import Netlink
    from linux.rtnl.addresses import list_addresses

    with Netlink() as host:
        return {pack(address.ip) for address in list_addresses(host)}


def _flush(request: Request, forward: Forward, is_stale: "Callable[[Connection], bool]") -> None:
    from linux import conntrack
    from linux.errors import reason

    try:
        conntrack.flush_udp(forward.version, forward.host_port, is_stale)
    except OSError as error:
        request.log(f"portmap: failed to flush old UDP flows to {forward}: {reason(error)}")


def _is_for_port(flow: "Connection", forward: Forward, node: set[bytes]) -> bool:
    """Whether a flow was sent to the port; without a host address, to the port of any address of the node."""
    if forward.host:
        return flow.to == forward.host
    return flow.to in node or (flow.version == 4 and flow.to[0] == _LOOPBACK)


def _is_to_pod(flow: "Connection", forward: Forward) -> bool:
    return (flow.answered_by, flow.answering_port) == (forward.pod, forward.pod_port)

"""What a configuration and the result of the plugins before come to: the forwards of one pod."""

from plugins.portmap.conf import Mapping, PortmapConf
from rules.portmap.ports import Forward, Wish
from spec.addresses import Address, parse_address
from spec.request import Request
from spec.result import Result

TYPE_CHECKING = False  # as type checkers know it, without an import of typing
if TYPE_CHECKING:
    from rules.conditions.expressions import Condition


def wish_of(request: Request, conf: PortmapConf, pod: dict[int, Address], result: Result) -> Wish:
    """The forwards to a pod with these addresses, by IP version; a version that it has not is left out."""
    everybody = (4, 6) if conf.masquerade_all else _without_route(result)
    subnets = pod if conf.snat else None
    return Wish(forwards(conf.mappings, pod), _conditions(conf), subnets, everybody, noted=is_noted(request))


def is_noted(request: Request) -> bool:
    """Whether programs may look for free host ports: not in Kubernetes, which chooses none and names every pod."""
    return "K8S_POD_NAME" not in request.args


def _without_route(result: Result) -> tuple[int, ...]:
    """The IP version of which a result has no route though it has some: the pod can answer its own subnet alone.

    A result without any route says nothing: there are plugins that leave them out.
    """
    found = {6 if ":" in route.dst else 4 for route in result.routes}
    return tuple({4, 6} - found) if found else ()


def _conditions(conf: PortmapConf) -> "dict[int, tuple[Condition, ...]]":
    if not any(conf.conditions.values()):
        return {}
    from rules.conditions.words import parse

    return {version: parse(words, version) for version, words in conf.conditions.items()}


def forwards(mappings: tuple[Mapping, ...], pod: dict[int, Address]) -> tuple[Forward, ...]:
    """The mappings, once for each IP version that both they and the pod have."""
    return tuple(
        Forward(version, one.host, one.protocol, one.host_port, pod[version].packed, one.container_port)
        for one in mappings
        for version in one.versions
        if version in pod
    )


def pod_addresses(request: Request, result: Result) -> dict[int, Address]:
    """The first address of each IP version that is on the pod's interface, or of which the result says no interface."""
    found: dict[int, Address] = {}
    for ip in result.ips:
        interface = result.interface_of(ip)
        if interface is None or (interface.name == request.ifname and interface.sandbox):
            address = parse_address(ip.address)
            found.setdefault(address.version, address)
    return found

"""The pod's interface: its sysctls, addresses and routes, set inside its namespace."""

from collections.abc import Collection, Sequence
from errno import EEXIST, EHOSTUNREACH
from socket import AF_INET, AF_INET6

from linux import sysctls
from linux.errors import step
from linux.netlink.socket import Netlink, NetlinkError
from linux.netns import entered
from linux.rtnl.addresses import add_address, address_request, delete_address, list_addresses
from linux.rtnl.links import announce_request, find_link_by_index, up_request
from linux.rtnl.routes import route_request
from linux.waiting import wait_until
from plugins.pod.conf import PodConf
from spec.addresses import family_of, is_unspecified
from spec.errors import CNIError, Code
from spec.request import Request
from spec.result import IPConfig, Result, Route

_DAD_SECONDS = 5
_USE_SECONDS = 0.2


def configure(netns: int, index: int, request: Request, conf: PodConf, result: Result) -> None:
    """Bring up the interface with the addresses and routes of `result`; raises CNIError.

    `netns`: a descriptor; `index`: the interface's in there. Without addresses (L2) it is only brought up.
    """
    name = request.ifname
    _require_one_prefix_each(result)
    with step(f'configure "{name}" in the container'), entered(netns), Netlink() as pod:
        families = {family_of(ip.address) for ip in result.ips}
        _set_accept_ra(name, conf, families)
        if AF_INET6 in families:
            _set_ipv6(name, conf)
        requests = [announce_request(pod, index)] if AF_INET in families else []
        requests += [address_request(pod, index, ip.address) for ip in result.ips]
        requests.append(up_request(pod, index))
        if conf.detect_duplicates:
            pod.send(requests, tolerated=(EEXIST,))
            _await_detection(pod, name, index)
            requests = []
        try:
            _send_with_routes(pod, index, requests, result)
        except NetlinkError as error:
            if error.errno != EHOSTUNREACH:
                raise
            _renew_addresses(pod, index, result)
            if conf.detect_duplicates:
                _await_detection(pod, name, index)
            _send_with_routes(pod, index, [], result)
        if AF_INET6 in families and not conf.detect_duplicates:
            _await_usable(pod, index)


def _require_one_prefix_each(result: Result) -> None:
    """Raises CNIError 7 for an IPv6 address with two prefix lengths: the kernel ignores the second."""
    given: dict[str, str] = {}
    for ip in result.ips:
        address = ip.address.partition("/")[0]
        other = given.setdefault(address, ip.address)
        if other != ip.address and family_of(address) == AF_INET6:
            raise CNIError(
                Code.INVALID_NETWORK_CONFIG,
                f"IPAM gave {other} and {ip.address}: an interface has each IPv6 address with one prefix length",
            )


def _send_with_routes(pod: Netlink, index: int, requests: list[bytes], result: Result) -> None:
    """Send the requests and those for the routes of the result in one batch. Raises NetlinkError."""
    routes = [route_request(pod, index, route, next_hop(result, route)) for route in result.routes]
    if not requests and not routes:
        return
    try:
        pod.send(requests + routes, tolerated=(EEXIST,))
    except NetlinkError as error:
        if error.place < len(requests):
            raise
        route = result.routes[error.place - len(requests)]
        raise NetlinkError(error.errno, f"route to {route.dst}: {error.strerror}") from error


def _renew_addresses(pod: Netlink, index: int, result: Result) -> None:
    """Remove and add the IPv6 addresses again, if the kernel has no route to an IPv6 gateway.

    When a link comes up, the kernel adds the routes to its IPv6 subnets without waiting for memory, and silently goes
    on without them if the allocation fails. Adding an address to a link that is up waits for memory and reports errors.
    """
    for ip in result.ips:
        if family_of(ip.address) == AF_INET6:
            delete_address(pod, index, ip.address)
            add_address(pod, index, ip.address)


def next_hop(result: Result, route: Route) -> str:
    """The gateway of a route of the result; "" if its destination is on the link (an unspecified `gw`)."""
    if is_unspecified(route.gw):
        return ""
    return route.gw or first_gateway(result, family_of(route.dst))


def first_gateway(result: Result, family: int) -> str:
    """The gateway of the first address of that family, or ""."""
    return next((ip.gateway for ip in result.ips if ip.gateway and family_of(ip.gateway) == family), "")


def default_routes(ips: Sequence[IPConfig], routes: Sequence[Route]) -> list[Route]:
    """A default route for each family that has a gateway and no default route in `routes`."""
    present = {family_of(route.dst) for route in routes if route.dst in ("0.0.0.0/0", "::/0")}
    families = {family_of(ip.gateway): ip.gateway for ip in reversed(ips) if ip.gateway}
    return [
        Route(dst="::/0" if family == AF_INET6 else "0.0.0.0/0", gw=gateway)
        for family, gateway in sorted(families.items())
        if family not in present
    ]


def _set_accept_ra(name: str, conf: PodConf, families: Collection[int]) -> None:
    """Set whether the interface accepts router advertisements, which any pod on the bridge can send (CVE-2020-10749).

    Unless `conf` decides, it does not if IPAM assigned IPv6 addresses or the node is its router; otherwise it may need
    them for autoconfiguration, and the kernel's default stays.
    """
    accepts = conf.accept_ra
    if accepts is None and (AF_INET6 in families or (families and conf.is_gateway)):
        accepts = False
    if accepts is not None:
        sysctls.try_write(f"ipv6/conf/{name}/accept_ra", "1" if accepts else "0")


def _set_ipv6(name: str, conf: PodConf) -> None:
    """Set the IPv6 sysctls before the interface comes up.

    ndisc_notify announces its addresses to neighbours that may have cached them with the MAC of an earlier pod; it is
    the counterpart of arp_notify.
    """
    sysctls.try_write(f"ipv6/conf/{name}/ndisc_notify", "1")
    if conf.detect_duplicates:
        sysctls.try_write(f"ipv6/conf/{name}/enhanced_dad", "1")
    sysctls.try_write(f"ipv6/conf/{name}/accept_dad", "1" if conf.detect_duplicates else "0")
    for link in ("lo", name):
        sysctls.ensure(f"ipv6/conf/{link}/disable_ipv6", "0")
    sysctls.write(f"ipv6/conf/{name}/keep_addr_on_down", "1")


def _await_usable(pod: Netlink, index: int) -> None:
    """Wait briefly until programs can use the IPv6 addresses, which a kernel thread enables if detection is off.

    On a link without carrier that only happens once it has one, so this gives up soon.
    """
    wait_until(
        lambda: not any(address.tentative for address in list_addresses(pod, index, AF_INET6) if address.is_global),
        seconds=_USE_SECONDS,
    )


def _await_detection(pod: Netlink, name: str, index: int) -> None:
    """Wait until no IPv6 address is tentative (RFC 4862, 5.4); raises CNIError for a duplicate, or after a timeout."""

    def is_done() -> bool:
        addresses = list_addresses(pod, index, AF_INET6)
        for address in addresses:
            if address.failed:
                raise CNIError(Code.INTERNAL, f'"{name}": another host on the link has address {address.cidr}')
        return not any(address.tentative for address in addresses)

    if not wait_until(is_done, seconds=_DAD_SECONDS):
        now = find_link_by_index(pod, index)
        if now and now.operstate == "UP":
            raise CNIError(Code.TRY_AGAIN_LATER, f'"{name}" still has tentative addresses after {_DAD_SECONDS} seconds')

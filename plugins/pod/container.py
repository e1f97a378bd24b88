"""The container's end: sysctls, addresses, routes, inside its namespace."""

from errno import EHOSTUNREACH, ENODEV
from socket import AF_INET6

from linux import sysctls
from linux.addresses import add_address, delete_address, family_of, list_addresses
from linux.errors import step
from linux.links import Link, find_link, set_up
from linux.netlink import Netlink, NetlinkError
from linux.netns import entered
from linux.routes import add_route
from linux.waiting import wait_until
from plugins.pod.conf import PodConf
from spec.errors import CNIError, Code
from spec.request import Request
from spec.result import Result, Route

_DAD_SECONDS = 5


def configure(netns: int, request: Request, conf: PodConf, result: Result) -> None:
    """Bring the container's link up with the addresses and routes of `result`; raises CNIError.

    `netns`: a descriptor. Without addresses (L2) the link is brought up and nothing else.
    """
    name = request.ifname
    with entered(netns), Netlink() as pod, step(f'configure "{name}" in the container'):
        link = find_link(pod, name)
        if link is None:
            raise NetlinkError(ENODEV, f'"{name}" is gone')
        if result.ips:
            _prepare(name, conf, has_ipv6=any(family_of(ip.address) == AF_INET6 for ip in result.ips))
        for ip in result.ips:
            add_address(pod, link.index, ip.address)
        set_up(pod, link.index)
        if conf.detect_duplicates:
            _await_addresses(pod, link)
        for route in result.routes:
            _add_route(pod, link, conf, result, route)


def _add_route(pod: Netlink, link: Link, conf: PodConf, result: Result, route: Route) -> None:
    """Install a route of the result; once more with renewed addresses if an IPv6 gateway is not on the link.

    When a link comes up, the kernel makes the routes to its IPv6 subnets of what memory there is at once, and goes on
    without them if there is none. It has to wait for memory, and tell, when an address is added to a link that is up.
    """
    gateway = route.gw or first_gateway(result, family_of(route.dst))
    try:
        add_route(pod, link.index, route, gateway)
    except NetlinkError as error:
        if error.errno != EHOSTUNREACH:
            raise
        for ip in result.ips:
            if family_of(ip.address) == AF_INET6:
                delete_address(pod, link.index, ip.address)
                add_address(pod, link.index, ip.address)
        if conf.detect_duplicates:
            _await_addresses(pod, link)
        add_route(pod, link.index, route, gateway)


def first_gateway(result: Result, family: int) -> str:
    """The gateway of the first address of that family, or ""."""
    return next((ip.gateway for ip in result.ips if ip.gateway and family_of(ip.gateway) == family), "")


def default_routes(result: Result) -> list[Route]:
    """A default route for each family that has a gateway and for which `result` has none."""
    present = {family_of(route.dst) for route in result.routes if route.dst in ("0.0.0.0/0", "::/0")}
    families = {family_of(ip.gateway): ip.gateway for ip in reversed(result.ips) if ip.gateway}
    return [
        Route(dst="::/0" if family == AF_INET6 else "0.0.0.0/0", gw=gateway)
        for family, gateway in sorted(families.items())
        if family not in present
    ]


def _prepare(name: str, conf: PodConf, *, has_ipv6: bool) -> None:
    """The sysctls of the link before it comes up: who announces what, and whether duplicates are looked for.

    arp_notify and ndisc_notify tell the neighbours, who may remember the address with the MAC of an earlier pod.
    """
    sysctls.try_write(f"ipv4/conf/{name}/arp_notify", "1")
    sysctls.try_write(f"ipv6/conf/{name}/ndisc_notify", "1")
    if conf.detect_duplicates:
        sysctls.try_write(f"ipv6/conf/{name}/enhanced_dad", "1")
    sysctls.try_write(f"ipv6/conf/{name}/accept_dad", "1" if conf.detect_duplicates else "0")
    if has_ipv6:
        for link in ("lo", name):
            sysctls.ensure(f"ipv6/conf/{link}/disable_ipv6", "0")
        sysctls.write(f"ipv6/conf/{name}/keep_addr_on_down", "1")


def _await_addresses(pod: Netlink, link: Link) -> None:
    """Wait until no IPv6 address is tentative (RFC 4862, 5.4); raises CNIError for a duplicate, or if time runs out."""

    def settled() -> bool:
        addresses = list_addresses(pod, link.index, AF_INET6)
        for address in addresses:
            if address.failed:
                raise CNIError(Code.INTERNAL, f'"{link.name}": another host on the link has address {address.cidr}')
        return not any(address.tentative for address in addresses)

    if not wait_until(settled, seconds=_DAD_SECONDS):
        now = find_link(pod, link.name)
        if now and now.operstate == "UP":
            raise CNIError(
                Code.TRY_AGAIN_LATER, f'"{link.name}" still has tentative addresses after {_DAD_SECONDS} seconds'
            )

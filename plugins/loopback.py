"""`loopback`: brings up a pod's `lo`. CNI_IFNAME is ignored: every namespace has one `lo`."""

from collections.abc import Iterator
from contextlib import contextmanager

from spec.errors import CNIError, Code
from spec.plugin import Plugin
from spec.request import Request
from spec.result import Interface, IPConfig, Result, check_expressible

NAME = "lo"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from linux.netlink.socket import Netlink
    from linux.rtnl.links import Link


def add(request: Request) -> Result:
    """ADD: bring `lo` up. The result is prevResult, or `lo` and its addresses without one."""
    from linux.netlink.socket import Netlink
    from linux.rtnl.links import set_down, set_up
    from plugins.failures import Undo

    previous = request.conf.prev_result
    with _inside(request, "set up"), Netlink() as pod, Undo() as undo:
        link = _loopback(pod)
        if not link.up:
            undo.callback(set_down, pod, link.index)
            set_up(pod, link.index)
        addresses = _addresses(pod, link)
        result = previous or _result(request, link, addresses)
        check_expressible(result, request.conf.cni_version)
        undo.pop_all()
    return result


def delete(request: Request) -> None:
    """DEL: take `lo` down, if the namespace still exists."""
    from linux.netlink.socket import Netlink
    from linux.netns import NoNetns
    from linux.rtnl.links import find_link, set_down

    try:
        with _inside(request, "take down"), Netlink() as pod:
            link = find_link(pod, NAME)
            if link and link.up:
                set_down(pod, link.index)
    except CNIError as error:
        if not isinstance(error.__cause__, NoNetns):
            raise


def check(request: Request) -> None:
    """CHECK: raises CNIError 999 unless `lo` is up and has the addresses of prevResult."""
    from linux.netlink.socket import Netlink

    result = request.conf.prev_result or Result()
    with _inside(request, "read"), Netlink() as pod:
        link = _loopback(pod)
        if not link.up:
            raise CNIError(Code.INTERNAL, "loopback interface is down")
        has = _addresses(pod, link)
    for ip in result.ips:
        interface = result.interface_of(ip)
        if interface is None or interface.name != NAME:
            continue
        if interface.sandbox and interface.sandbox != request.netns:
            sandbox = interface.sandbox
            message = f"Sandbox in prevResult {sandbox} doesn't match configured netns: {request.netns}"
            raise CNIError(Code.INTERNAL, message)
        if ip.address not in has:
            raise CNIError(Code.INTERNAL, f"Failed to match addr {ip.address} on interface {NAME}")
    if not has:
        raise CNIError(Code.INTERNAL, "loopback interface has no address")


@contextmanager
def _inside(request: Request, what: str) -> Iterator[None]:
    """Run the body in the pod's network namespace, and raise its OSErrors as CNIError."""
    from linux.errors import step
    from linux.netns import entered, opened

    with opened(request.netns, request.netns_fd) as netns, step(f'{what} "{NAME}"'), entered(netns):
        yield


def _loopback(pod: "Netlink") -> "Link":
    from errno import ENODEV

    from linux.netlink.socket import NetlinkError
    from linux.rtnl.links import find_link

    link = find_link(pod, NAME)
    if link is None:
        raise NetlinkError(ENODEV, "there is no such interface")
    return link


def _addresses(pod: "Netlink", link: "Link") -> list[str]:
    """In CIDR form. Raises CNIError 999 for one outside 127.0.0.0/8 and ::1: traffic to it would not leave the pod."""
    from linux.rtnl.addresses import list_addresses

    addresses = [address.cidr for address in list_addresses(pod, link.index)]
    for address in addresses:
        if not address.startswith("127.") and address != "::1/128":
            message = f'loopback interface found with non-loopback address "{address}"'
            raise CNIError(Code.INTERNAL, message)
    return addresses


def _result(request: Request, link: "Link", addresses: list[str]) -> Result:
    """A result with the first address of each family, IPv4 first."""
    firsts = [next((one for one in addresses if (":" in one) is is_ipv6), None) for is_ipv6 in (False, True)]
    return Result(
        interfaces=(Interface(name=NAME, mac=link.mac, sandbox=request.netns),),
        ips=tuple(IPConfig(address, interface=0) for address in firsts if address),
    )


PLUGIN = Plugin(type="loopback", add=add, delete=delete, check=check, reads_args=False)

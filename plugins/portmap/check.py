"""CHECK and STATUS."""

from linux import route_localnet
from linux.errors import reason, step
from linux.netlink.socket import Netlink
from linux.nftables import pod_table
from plugins.portmap.conf import PortmapConf
from plugins.portmap.forwards import pod_addresses, wish_of
from rules import reference
from rules.portmap import ports
from rules.portmap.table import TABLE
from spec.errors import CNIError, Code
from spec.request import Request
from spec.result import Result


def check_ports(request: Request, conf: PortmapConf, result: Result) -> None:
    """Raises CNIError 999 with everything that is not as configured; what the reference made is as good."""
    pod = pod_addresses(request, result)
    wish = wish_of(request, conf, pod, result)
    versions = {forward.version for forward in wish.forwards}
    if not versions:
        return
    with step("look at the forwarded ports"):
        problems = ports.missing(request.attachment, wish)
        if problems and reference.forwards_ports(request.attachment, versions):
            problems = []
        if conf.snat and 4 in versions:
            problems += _localnet_problems(pod[4].packed)
    if problems:
        raise CNIError(Code.INTERNAL, problems[0], "; ".join(problems[1:]))


def check_kernel() -> None:
    """Raises CNIError 50 if the kernel would not take the rules."""
    try:
        pod_table.dry_run(TABLE)
    except OSError as error:
        raise CNIError(Code.PLUGIN_NOT_AVAILABLE, f"the kernel can not forward ports: {reason(error)}") from error


def _localnet_problems(address: bytes) -> list[str]:
    with Netlink() as host:
        link = route_localnet.link_towards(host, address)
    if link and not route_localnet.is_routed(link.name):
        return [f"127.0.0.1 is not routed over {link.name}: route_localnet is 0"]
    return []

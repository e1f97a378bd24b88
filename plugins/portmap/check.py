"""CHECK and STATUS: are the ports forwarded, and can this kernel forward any?"""

from linux import route_localnet
from linux.errors import reason, step
from linux.netlink.socket import Netlink
from linux.nftables import pod_table
from plugins.portmap.conf import PortmapConf
from plugins.portmap.forwards import host_ports_of, pod_addresses
from rules import reference
from rules.portmap import host_ports
from rules.portmap.table import TABLE
from spec.errors import CNIError, Code, raise_problems
from spec.request import Request
from spec.result import Result


def check_ports(request: Request, conf: PortmapConf, result: Result) -> None:
    """Raises CNIError 999 with everything that differs from the configuration; the reference's rules count too."""
    pod = pod_addresses(request, result)
    wanted = host_ports_of(request, conf, pod, result)
    versions = {forward.version for forward in wanted.forwards}
    if not versions:
        return
    with step("read the forwarded ports"):
        problems = host_ports.problems(request.attachment, wanted)
        if problems and reference.forwards_ports(request.attachment, versions):
            problems = []
        if conf.snat and 4 in versions:
            problems += _localnet_problems(pod[4].packed)
    raise_problems(problems)


def check_kernel() -> None:
    """Raises CNIError 50 if the kernel does not accept the rules."""
    try:
        pod_table.dry_run(TABLE)
    except OSError as error:
        raise CNIError(Code.PLUGIN_NOT_AVAILABLE, f"the kernel cannot forward ports: {reason(error)}") from error


def _localnet_problems(address: bytes) -> list[str]:
    with Netlink() as host:
        link = route_localnet.link_towards(host, address)
    if link and not route_localnet.is_routed(link.name):
        return [f"127.0.0.1 is not routed over {link.name}: route_localnet is 0"]
    return []

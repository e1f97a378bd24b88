"""`portmap`: ports of the node lead to ports of a pod, after the plugin that gave the pod its addresses.

The configuration is that of the reference plugin; `docs/portmap.md` has every key. Most pods have no host ports, so
nothing that talks to the kernel is imported by ADD until there is one.
"""

from spec.plugin import Plugin
from spec.request import Request
from spec.result import Result


def add(request: Request) -> Result:
    """ADD (spec section 4): forward the ports, in place of those of an earlier ADD. The result is that of before."""
    from plugins.portmap.conf import parse

    conf = parse(request.conf.section)
    result = request.conf.require_prev_result("must be called as chained plugin")
    if conf.mappings:
        from plugins.portmap.add import add_ports

        add_ports(request, conf, result)
    elif is_exposed(result):
        from plugins.portmap.guard import guard

        guard(request)
    return result


def is_exposed(result: Result) -> bool:
    """Whether packets of 127.0.0.0/8 are routed over a link of the node that the result names (route_localnet).

    Read without the modules that talk to the kernel: most pods have no ports, and most nodes no such link.
    """
    for interface in result.interfaces:
        if not interface.sandbox and "/" not in interface.name:
            try:
                with open(f"/proc/sys/net/ipv4/conf/{interface.name}/route_localnet", "rb") as file:
                    if file.read(1) == b"1":
                        return True
            except (OSError, ValueError):
                continue
    return False


def delete(request: Request) -> None:
    """DEL: forward nothing; never fails for the configuration, which may have been changed since the ADD."""
    from plugins.portmap.delete import delete_ports

    delete_ports(request)
    if request.conf.prev_result and is_exposed(request.conf.prev_result):
        from plugins.portmap.guard import guard

        guard(request)


def check(request: Request) -> None:
    """CHECK: is everything as configured?"""
    from plugins.portmap.conf import parse

    conf = parse(request.conf.section)
    result = request.conf.require_prev_result()
    if conf.mappings:
        from plugins.portmap.check import check_ports

        check_ports(request, conf, result)


def gc(request: Request) -> None:
    """GC: forward nothing to pods that are gone."""
    from plugins.portmap.delete import sweep_ports
    from plugins.portmap.guard import guard_all

    sweep_ports(request)
    guard_all(request)


def status(request: Request) -> None:
    """STATUS: ready if the configuration can be used and the kernel would take the rules."""
    from plugins.portmap.check import check_kernel
    from plugins.portmap.conf import parse
    from plugins.portmap.guard import guard_all

    parse(request.conf.section)
    check_kernel()
    guard_all(request)


PLUGIN = Plugin(type="portmap", add=add, delete=delete, check=check, gc=gc, status=status, reads_args=False)

"""`portmap`: ports of the node lead to ports of a pod, after the plugin that gave the pod its addresses.

The configuration is that of the reference plugin; `docs/portmap.md` has every key. Most pods have no host ports, so
nothing that talks to the kernel is imported by ADD until there is one.
"""

from spec.plugin import Plugin
from spec.request import Request
from spec.result import Result


def add(request: Request) -> Result:
    """ADD (spec section 4): forward the ports, in place of those of an earlier ADD. The result is that of before."""
    from plugins.ports.conf import parse

    conf = parse(request.conf.section)
    result = request.conf.require_prev_result("must be called as chained plugin")
    if conf.mappings:
        from plugins.ports.add import add_ports

        add_ports(request, conf, result)
    return result


def delete(request: Request) -> None:
    """DEL: forward nothing; never fails for the configuration, which may have been changed since the ADD."""
    from plugins.ports.delete import delete_ports

    delete_ports(request)


def check(request: Request) -> None:
    """CHECK: is everything as configured?"""
    from plugins.ports.conf import parse

    conf = parse(request.conf.section)
    result = request.conf.require_prev_result()
    if conf.mappings:
        from plugins.ports.check import check_ports

        check_ports(request, conf, result)


def gc(request: Request) -> None:
    """GC: forward nothing to pods that are gone."""
    from plugins.ports.delete import sweep_ports

    sweep_ports(request)


def status(request: Request) -> None:
    """STATUS: ready if the configuration can be used and the kernel would take the rules."""
    from plugins.ports.check import check_kernel
    from plugins.ports.conf import parse

    parse(request.conf.section)
    check_kernel()


PLUGIN = Plugin(type="portmap", add=add, delete=delete, check=check, gc=gc, status=status, reads_args=False)

"""`portmap`: forwards ports of the node to a pod, chained after the plugin that gave the pod its addresses.

The configuration is that of the reference plugin; `docs/portmap.md` lists every key. Most pods have no host ports, so
ADD imports nothing that talks to the kernel without one.
"""

from spec.plugin import Plugin
from spec.request import Request
from spec.result import Result


def add(request: Request) -> Result:
    """ADD (spec section 4): forward the ports, replacing those of an earlier ADD; returns prevResult."""
    from plugins.portmap.conf import parse

    conf = parse(request.conf.section)
    result = request.conf.require_prev_result("must be called as chained plugin")
    if conf.mappings:
        from plugins.portmap.add import add_ports

        add_ports(request, conf, result)
    elif _exposes_loopback(result):
        _guard_loopback(request)
    return result


def delete(request: Request) -> None:
    """DEL: stop forwarding; ignores errors in the configuration, which may have changed since the ADD."""
    from plugins.portmap.delete import delete_ports

    delete_ports(request)
    if request.conf.prev_result and _exposes_loopback(request.conf.prev_result):
        _guard_loopback(request)


def check(request: Request) -> None:
    """CHECK."""
    from plugins.portmap.conf import parse

    conf = parse(request.conf.section)
    result = request.conf.require_prev_result()
    if conf.mappings:
        from plugins.portmap.check import check_ports

        check_ports(request, conf, result)


def gc(request: Request) -> None:
    """GC: stop forwarding to deleted pods."""
    from plugins.portmap.delete import sweep_ports

    sweep_ports(request)
    _guard_loopback_if_routed(request)


def status(request: Request) -> None:
    """STATUS: the configuration is valid, and the kernel accepts the rules."""
    from plugins.portmap.check import check_kernel
    from plugins.portmap.conf import parse

    parse(request.conf.section)
    check_kernel()
    _guard_loopback_if_routed(request)


def _exposes_loopback(result: Result) -> bool:
    """Whether a host interface of the result routes packets to 127.0.0.0/8 (its sysctl route_localnet).

    Read without the modules that talk to the kernel: most pods have no ports, and most nodes no such interface.
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


def _guard_loopback(request: Request) -> None:
    """Restore the rules that keep pods from the node's 127.0.0.1 if they are missing.

    Host ports need route_localnet, which would expose what listens there. `nft flush ruleset` removes the rules but
    not the sysctl, so every call that sees it set restores them, with or without ports. A failure is logged; it does
    not fail the call.
    """
    from linux.errors import reason
    from rules.portmap import host_ports

    try:
        if host_ports.guard_loopback():
            request.log("portmap: the rules that keep pods from the node's 127.0.0.1 were gone, and have been restored")
    except OSError as error:
        request.log(f"portmap: pods may reach the node's 127.0.0.1: {reason(error)}")


def _guard_loopback_if_routed(request: Request) -> None:
    """The same if any link of the node has route_localnet set."""
    from linux import route_localnet
    from linux.errors import reason

    try:
        is_routed = route_localnet.is_any_routed()
    except OSError as error:
        request.log(f"portmap: cannot tell whether pods may reach the node's 127.0.0.1: {reason(error)}")
        return
    if is_routed:
        _guard_loopback(request)


PLUGIN = Plugin(type="portmap", add=add, delete=delete, check=check, gc=gc, status=status, reads_args=False)

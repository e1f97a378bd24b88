"""`bandwidth`: limits how fast a pod's interface receives and sends, chained after the plugin that made it.

The configuration is that of the reference plugin; `docs/bandwidth.md` lists every key. Most pods have no limits, so
nothing that talks to the kernel is imported without one.
"""

from plugins.bandwidth.conf import parse
from spec.config import NetConf
from spec.errors import CNIError, is_shortage
from spec.plugin import Plugin
from spec.request import Request
from spec.result import Result
from spec.versions import SUPPORTED


def add(request: Request) -> Result:
    """ADD (spec section 4)."""
    limits = parse(request.conf)
    result = request.conf.require_prev_result("must be called as chained plugin")
    if limits.none:
        return result
    from plugins.bandwidth.add import add_shaping

    return add_shaping(request, limits, result)


def delete(request: Request) -> None:
    """DEL: ignores errors in the configuration, which may have changed since the ADD."""
    from plugins.bandwidth.conf import ifb_name, reference_ifb_name

    ifbs = (ifb_name(request.attachment), reference_ifb_name(request.attachment))
    if _may_have_limits(request.conf) or any(map(_may_exist, ifbs)):
        from plugins.bandwidth.delete import delete_shaping

        delete_shaping(request)


def check(request: Request) -> None:
    """CHECK."""
    limits = parse(request.conf)
    result = request.conf.require_prev_result()
    if not limits.none:
        from plugins.bandwidth.check import check_shaping

        check_shaping(request, limits, result)


def gc(request: Request) -> None:
    """GC."""
    from plugins.bandwidth.delete import sweep_shaping

    sweep_shaping(request)


def status(request: Request) -> None:
    """STATUS: the configuration is valid, and the kernel supports token buckets and ifb links."""
    parse(request.conf)
    from plugins.bandwidth.shaping import check_kernel

    check_kernel()


def _may_have_limits(conf: NetConf) -> bool:
    try:
        return not parse(conf).none
    except CNIError:
        return True


def _may_exist(link: str) -> bool:
    from socket import if_nametoindex

    try:
        return bool(if_nametoindex(link))
    except OSError as error:
        return is_shortage(error)


PLUGIN = Plugin(
    type="bandwidth",
    add=add,
    delete=delete,
    check=check,
    gc=gc,
    status=status,
    versions=SUPPORTED[SUPPORTED.index("0.3.0") :],
    reads_args=False,
)

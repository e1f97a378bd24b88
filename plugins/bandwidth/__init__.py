"""`bandwidth`: limits how fast a pod's interface receives and sends, after the plugin that made the interface.

The configuration is that of the reference plugin; `docs/bandwidth.md` has every key. Most pods have no limits, so
nothing that talks to the kernel is imported until there is one.
"""

from plugins.bandwidth.limits import Limit, Limits
from spec.config import NetConf, Section
from spec.errors import CNIError, is_shortage
from spec.plugin import Plugin
from spec.request import Request
from spec.result import Result
from spec.versions import SUPPORTED

_KEYS = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")
_RATE_HIGHEST = (1 << 64) - 1  # bits/s: what the reference reads
_BURST_HIGHEST = ((1 << 32) - 1) * 8 - 1  # bits: the kernel counts bytes of a bucket in 32 bits
_UNCHAINED = "must be called as chained plugin"


def add(request: Request) -> Result:
    """ADD (spec section 4)."""
    limits = parse(request.conf)
    result = request.conf.require_prev_result(_UNCHAINED)
    if limits.none:
        return result
    from plugins.bandwidth.add import add_shaping

    return add_shaping(request, limits, result)


def delete(request: Request) -> None:
    """DEL: never fails for the configuration, which may have been changed since the ADD."""
    from plugins.bandwidth.names import ifb_name, reference_ifb_name

    ifbs = (ifb_name(request.attachment), reference_ifb_name(request.attachment))
    if _wants_limits(request.conf) or any(map(_exists, ifbs)):
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
    """STATUS: ready if the configuration can be used and the kernel knows token buckets and ifb links."""
    parse(request.conf)
    from plugins.bandwidth.status import check_kernel

    check_kernel()


def parse(conf: NetConf) -> Limits:
    """The limits of a configuration. Raises CNIError 7.

    Of the two places the runtime's counts only if none of the keys stands at the top, not even with a 0: a limit in
    the configuration is the administrator's, which a pod's annotation must not lift.
    """
    section = _place(conf)
    return Limits(
        ingress=_limit(section, "ingressRate", "ingressBurst"),
        egress=_limit(section, "egressRate", "egressBurst"),
        section=section,
    )


def _place(conf: NetConf) -> Section:
    if any(conf.section.has(key) for key in _KEYS):
        return conf.section
    return conf.section.section("runtimeConfig").section("bandwidth")


def _limit(section: Section, rate_key: str, burst_key: str) -> Limit | None:
    rate = section.integer(rate_key, 0, low=0, high=_RATE_HIGHEST)
    if 0 < rate < 8:
        raise section.error(rate_key, f"0, or an integer of 8 to {_RATE_HIGHEST} bits/s (the kernel counts bytes)")
    burst = section.integer(burst_key, 0)
    if not 0 <= burst <= _BURST_HIGHEST:
        raise section.error(burst_key, f"an integer of 0 to {_BURST_HIGHEST} bits (burst cannot be more than 4GB)")
    if rate and not burst:
        raise section.error(burst_key, "an integer of more than 0 (if rate is set, burst must also be set)")
    if burst and not rate:
        raise section.error(rate_key, "an integer of more than 0 (if burst is set, rate must also be set)")
    return Limit(rate, burst) if rate else None


def _wants_limits(conf: NetConf) -> bool:
    """Whether there may be something on the host's end; what can not be read counts as yes."""
    try:
        return not parse(conf).none
    except CNIError:
        return True


def _exists(link: str) -> bool:
    from socket import if_nametoindex

    try:
        return bool(if_nametoindex(link))
    except OSError as error:
        return is_shortage(error)  # it may be there


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

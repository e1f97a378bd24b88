"""`firewall`: a pod's traffic is forwarded also on a node that drops what nobody accepts, and kept within its bridge.

The configuration is that of the reference plugin; `docs/firewall.md` has every key.
"""

from collections.abc import Callable

from plugins.firewall.conf import FirewallConf, firewalld_zone, parse
from spec.config import wrong_value
from spec.errors import CNIError, Code
from spec.identifiers import is_link_name
from spec.plugin import Plugin
from spec.request import Request
from spec.result import Result
from spec.versions import SUPPORTED, at_least

TYPE_CHECKING = False  # as type checkers know it, without an import of typing
if TYPE_CHECKING:
    from rules.firewall import PodRules


def add(request: Request) -> Result:
    """ADD (spec section 4): let the pod's traffic through. The result is that of the plugin before."""
    conf = parse(request.conf.section)
    result = request.conf.require_prev_result("missing prevResult from earlier plugin")
    if result.ips:
        pod = _pod_rules(conf, result)
        from linux.errors import step
        from plugins.firewall import zone
        from plugins.undo import Undo
        from rules import firewall

        by_firewalld = zone.decides(request, conf)
        with Undo() as undo, step("let the pod's traffic through"):
            former = firewall.released_by_delete(request.attachment) if by_firewalld else set()
            if by_firewalld:
                zone.trust(request, conf, pod.addresses, undo)
            firewall.ensure(request.attachment, pod)
            undo.keep()
        zone.distrust(request, conf.zone, former.difference(pod.addresses))
    return result


def delete(request: Request) -> None:
    """DEL: by owner; never fails for the configuration, which may have been changed since the ADD."""
    from linux.errors import step
    from rules import firewall

    result = request.conf.prev_result
    addresses = _addresses(result) if result else ()
    with step("stop letting the pod's traffic through"):
        _distrust(request, lambda: firewall.released_by_delete(request.attachment, addresses))
        firewall.delete(request.attachment, addresses)


def check(request: Request) -> None:
    """CHECK: is everything as configured?"""
    conf = parse(request.conf.section)
    result = request.conf.require_prev_result("missing prevResult from earlier plugin")
    if not result.ips:
        return
    from linux.errors import step
    from plugins.firewall import zone
    from rules import firewall

    pod = _pod_rules(conf, result)
    by_firewalld = zone.decides(request, conf)
    problems = zone.distrusting(request, conf, pod.addresses) if by_firewalld else []
    with step("look at what is let through"):
        problems += firewall.problems(request.attachment, pod, by_firewalld=by_firewalld and not problems)
    if problems:
        raise CNIError(Code.INTERNAL, problems[0], "; ".join(problems[1:]))


def gc(request: Request) -> None:
    """GC: let nothing through for pods that are gone."""
    from linux.errors import step
    from rules import firewall

    valid = request.valid_attachments
    with step("stop letting through the traffic of pods that are gone"):
        _distrust(request, lambda: firewall.released_by_sweep(request.conf.name, valid))
        firewall.sweep(request.conf.name, valid)


def status(request: Request) -> None:
    """STATUS: ready if the configuration can be used, firewalld can be reached where it decides, and the kernel would
    take the rules.
    """
    conf = parse(request.conf.section)
    from linux.errors import reason
    from plugins.firewall import zone
    from rules import firewall

    try:
        if zone.decides(request, conf):
            zone.require_zone(request, conf)
        firewall.dry_run()
    except CNIError as error:
        if error.code == Code.INVALID_NETWORK_CONFIG:
            raise
        raise CNIError(Code.PLUGIN_NOT_AVAILABLE, error.msg, error.details) from error
    except OSError as error:
        raise CNIError(Code.PLUGIN_NOT_AVAILABLE, f"the kernel can not filter: {reason(error)}") from error


def _distrust(request: Request, addresses: Callable[[], set[bytes]]) -> None:
    """Before their owner is forgotten: should it fail, the next DEL or GC still knows whose they are."""
    from plugins.firewall import zone

    name = firewalld_zone(request.conf.section)
    if name and zone.runs(request):
        zone.distrust(request, name, addresses())


def _pod_rules(conf: FirewallConf, result: Result) -> "PodRules":
    """The rules that the configuration and the result demand. Raises CNIError 7."""
    from rules.firewall import PodRules

    if conf.policy != "open" and not result.interfaces:
        message = f'interface needs to be set for ingress policy "{conf.policy}"'
        raise CNIError(Code.INVALID_NETWORK_CONFIG, message, '"prevResult": "interfaces": expected a bridge first')
    bridge = result.interfaces[0].name if conf.policy != "open" else ""
    if conf.policy != "open" and not is_link_name(bridge):
        raise wrong_value("prevResult.interfaces[0].name", "the bridge, as a link is called", bridge)
    return PodRules(_addresses(result), conf.policy, bridge, conf.admin_chain, make_chain=conf.backend == "iptables")


def _addresses(result: Result) -> tuple[bytes, ...]:
    """All addresses of a result, packed."""
    from spec.addresses import pack

    return tuple(dict.fromkeys(pack(ip.address.partition("/")[0]) for ip in result.ips))


PLUGIN = Plugin(
    type="firewall",
    add=add,
    delete=delete,
    check=check,
    gc=gc,
    status=status,
    versions=tuple(version for version in SUPPORTED if at_least(version, "0.4.0")),
    reads_args=False,
)

"""`firewall`: accepts a pod's traffic on nodes that drop forwarded packets by default, and isolates pods of bridges.

The configuration is that of the reference plugin; `docs/firewall.md` lists every key.
"""

from collections.abc import Callable

from plugins.firewall.conf import FirewallConf, firewalld_zone, parse
from spec.config import wrong_value
from spec.errors import CNIError, Code, raise_problems
from spec.identifiers import is_link_name
from spec.plugin import Plugin
from spec.request import Request
from spec.result import Result
from spec.versions import SUPPORTED, at_least

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rules.firewall import PodRules


def add(request: Request) -> Result:
    """ADD (spec section 4): accept the pod's traffic; returns prevResult."""
    conf = parse(request.conf.section)
    result = request.conf.require_prev_result("missing prevResult from earlier plugin")
    if result.ips:
        pod = _pod_rules(conf, result)
        from linux.errors import step
        from plugins.failures import Undo
        from plugins.firewall import zone
        from rules import firewall

        by_firewalld = zone.is_needed(request, conf)
        with Undo() as undo, step("accept the pod's traffic"):
            former = firewall.released_by_delete(request.attachment) if by_firewalld else set()
            if by_firewalld:
                zone.trust(request, conf, pod.addresses, undo)
            firewall.ensure(request.attachment, pod)
            undo.pop_all()
        zone.distrust(request, conf.zone, former.difference(pod.addresses))
    return result


def delete(request: Request) -> None:
    """DEL: deletes by owner; ignores errors in the configuration, which may have changed since the ADD."""
    from linux.errors import step
    from rules import firewall

    result = request.conf.prev_result
    addresses = _addresses(result) if result else ()
    with step("stop accepting the pod's traffic"):
        _distrust(request, lambda: firewall.released_by_delete(request.attachment, addresses))
        firewall.delete(request.attachment, addresses)


def check(request: Request) -> None:
    """CHECK."""
    conf = parse(request.conf.section)
    result = request.conf.require_prev_result("missing prevResult from earlier plugin")
    if not result.ips:
        return
    from linux.errors import step
    from plugins.firewall import zone
    from rules import firewall

    pod = _pod_rules(conf, result)
    by_firewalld = zone.is_needed(request, conf)
    problems = zone.missing(request, conf, pod.addresses) if by_firewalld else []
    with step("read the rules"):
        problems += firewall.problems(request.attachment, pod, by_firewalld=by_firewalld and not problems)
    raise_problems(problems)


def gc(request: Request) -> None:
    """GC: stop accepting the traffic of deleted pods."""
    from linux.errors import step
    from rules import firewall

    valid = request.valid_attachments
    with step("stop accepting the traffic of pods that are gone"):
        _distrust(request, lambda: firewall.released_by_sweep(request.conf.name, valid))
        firewall.sweep(request.conf.name, valid)


def status(request: Request) -> None:
    """STATUS: the configuration is valid, firewalld is reachable if it is needed, and the kernel accepts the rules."""
    conf = parse(request.conf.section)
    from linux.errors import reason
    from plugins.firewall import zone
    from rules import firewall

    try:
        if zone.is_needed(request, conf):
            zone.require_zone(request, conf)
        firewall.dry_run()
    except CNIError as error:
        if error.code == Code.INVALID_NETWORK_CONFIG:
            raise
        raise CNIError(Code.PLUGIN_NOT_AVAILABLE, error.msg, error.details) from error
    except OSError as error:
        raise CNIError(Code.PLUGIN_NOT_AVAILABLE, f"the kernel cannot filter: {reason(error)}") from error


def _distrust(request: Request, addresses: Callable[[], set[bytes]]) -> None:
    """Runs before the rules that name the owner are deleted: if it fails, the next DEL or GC tries again."""
    from plugins.firewall import zone

    name = firewalld_zone(request.conf.section)
    if name and zone.runs(request):
        zone.distrust(request, name, addresses())


def _pod_rules(conf: FirewallConf, result: Result) -> "PodRules":
    """The rules for this configuration and result. Raises CNIError 7."""
    from rules.firewall import PodRules

    if conf.policy != "open" and not result.interfaces:
        message = f'interface needs to be set for ingress policy "{conf.policy}"'
        raise CNIError(Code.INVALID_NETWORK_CONFIG, message, '"prevResult": "interfaces": expected a bridge first')
    bridge = result.interfaces[0].name if conf.policy != "open" else ""
    if conf.policy != "open" and not is_link_name(bridge):
        raise wrong_value("prevResult.interfaces[0].name", "the name of the bridge", bridge)
    return PodRules(_addresses(result), conf.policy, bridge, conf.admin_chain, make_chain=conf.backend == "iptables")


def _addresses(result: Result) -> tuple[bytes, ...]:
    """The addresses of the result, packed."""
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

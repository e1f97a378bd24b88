"""`firewall`: a pod's traffic is forwarded also on a node that drops what nobody accepts, and kept within its bridge.

The configuration is that of the reference plugin; `docs/firewall.md` has every key.
"""

from dataclasses import dataclass

from spec.config import Section
from spec.errors import CNIError, Code
from spec.plugin import Plugin
from spec.request import Request
from spec.result import Result
from spec.versions import SUPPORTED, at_least

TYPE_CHECKING = False  # as type checkers know it, without an import of typing
if TYPE_CHECKING:
    from linux.forwarding import Wish

_BACKENDS = ("", "iptables", "nftables")
_POLICIES = ("open", "same-bridge", "isolated")
_LONGEST_CHAIN = 28  # characters that iptables takes


@dataclass(frozen=True)
class FirewallConf:
    """`backend` "" if none is named; `admin_chain`: iptables' chain that comes first; `policy`: who may reach pods."""

    backend: str
    admin_chain: str
    policy: str


def add(request: Request) -> Result:
    """ADD (spec section 4): let the pod's traffic through. The result is that of the plugin before."""
    conf = parse(request.conf.section)
    result = request.conf.require_prev_result("missing prevResult from earlier plugin")
    _require_no_firewalld(request.conf.section, conf)
    if result.ips:
        from linux import forwarding
        from linux.errors import step

        with step("let the pod's traffic through"):
            forwarding.ensure(request.attachment, _wish(conf, result))
    return result


def delete(request: Request) -> None:
    """DEL: by owner; never fails for the configuration, which may have been changed since the ADD."""
    from linux import forwarding
    from linux.errors import step

    result = request.conf.prev_result
    with step("stop letting the pod's traffic through"):
        forwarding.delete(request.attachment, _addresses(result) if result else ())


def check(request: Request) -> None:
    """CHECK: is everything as configured?"""
    conf = parse(request.conf.section)
    result = request.conf.require_prev_result("missing prevResult from earlier plugin")
    if not result.ips:
        return
    from linux import forwarding
    from linux.errors import step

    with step("look at what is let through"):
        problems = forwarding.missing(request.attachment, _wish(conf, result))
    if problems:
        raise CNIError(Code.INTERNAL, problems[0], "; ".join(problems[1:]))


def gc(request: Request) -> None:
    """GC: let nothing through for pods that are gone."""
    from linux import forwarding
    from linux.errors import step

    with step("stop letting through the traffic of pods that are gone"):
        forwarding.sweep(request.conf.name, request.valid_attachments)


def status(request: Request) -> None:
    """STATUS: ready if the configuration can be used, and the kernel would take the rules."""
    conf = parse(request.conf.section)
    _require_no_firewalld(request.conf.section, conf)
    from linux import forwarding
    from linux.errors import reason

    try:
        forwarding.rehearse()
    except OSError as error:
        raise CNIError(Code.PLUGIN_NOT_AVAILABLE, f"the kernel can not filter: {reason(error)}") from error


def parse(section: Section) -> FirewallConf:
    """Read the keys. Raises CNIError 7."""
    section.string("firewalldZone")  # means something to firewalld alone
    if section.string("backend") == "firewalld":
        raise section.error("backend", '"iptables" or "nftables": there is no way to firewalld without D-Bus')
    conf = FirewallConf(
        backend=section.string("backend", choices=_BACKENDS),
        admin_chain=section.string("iptablesAdminChainName") or "CNI-ADMIN",
        policy=section.string("ingressPolicy", choices=("", *_POLICIES)) or "open",
    )
    name = conf.admin_chain
    if len(name) > _LONGEST_CHAIN or not (name.isascii() and name.isprintable()) or " " in name or name[0] in "-!":
        raise section.error("iptablesAdminChainName", f"at most {_LONGEST_CHAIN} characters, without white space")
    return conf


def _require_no_firewalld(section: Section, conf: FirewallConf) -> None:
    """Raises CNIError 7 where firewalld would reject what we accept, unless a backend is named, and so wanted."""
    if conf.backend:
        return
    from linux import forwarding
    from linux.errors import step

    with step("look for firewalld"):
        at_work = forwarding.is_firewalld_at_work()
    if at_work:
        raise section.error(
            "backend",
            '"iptables" or "nftables" on a node where firewalld filters (table inet firewalld), which rejects pods\' '
            "traffic unless its trusted zone has their subnet (firewall-cmd --zone=trusted --add-source=SUBNET)",
        )


def _wish(conf: FirewallConf, result: Result) -> "Wish":
    """What the configuration and the result come to."""
    from linux.forwarding import Wish

    if conf.policy != "open" and not result.interfaces:
        message = f'interface needs to be set for ingress policy "{conf.policy}"'
        raise CNIError(Code.INVALID_NETWORK_CONFIG, message, '"prevResult": "interfaces": expected a bridge first')
    bridge = result.interfaces[0].name if conf.policy != "open" else ""
    return Wish(_addresses(result), conf.policy, bridge, conf.admin_chain, make_chain=conf.backend == "iptables")


def _addresses(result: Result) -> tuple[bytes, ...]:
    """All addresses of a result, packed."""
    from linux.pod_address import pod_address

    return tuple(dict.fromkeys(pod_address(ip.address).packed for ip in result.ips))


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

"""`bridge`: pods as ports of a Linux bridge on the node, with or without addresses.

The configuration is that of the reference plugin; `docs/bridge.md` lists every key.
"""

from collections.abc import Sequence
from dataclasses import replace

from plugins.mac import requested_mac
from plugins.pod.conf import PodConf, policy_wait_of
from spec.config import NetConf, Section
from spec.delegate import delegate
from spec.errors import CNIError, Code
from spec.identifiers import is_link_name
from spec.links import link_name, mtu_of, require_suitable_mtu, suits_ipv6
from spec.plugin import Plugin
from spec.request import Request
from spec.result import Result

_MAX_VLAN = 4094


def add(request: Request) -> Result:
    """ADD (spec section 4)."""
    from plugins.pod.add import add_pod

    conf = parse(request)
    result = add_pod(request, conf)
    if conf.has_policies:
        from plugins.pod.policies import await_decision

        await_decision(request, conf.policy_wait, result)
    return result


def delete(request: Request) -> None:
    """DEL: ignores errors in the configuration, which may have changed since the ADD."""
    from plugins.pod.delete import delete_pod

    delete_pod(request, ipam_type=request.conf.ipam_type, gateway_link=_gateway_link(request.conf.section))


def check(request: Request) -> None:
    """CHECK."""
    from plugins.pod.check import check_pod

    check_pod(request, parse(request))


def gc(request: Request) -> None:
    """GC."""
    from plugins.pod.delete import sweep_pods

    sweep_pods(request, ipam_type=request.conf.ipam_type)


def status(request: Request) -> None:
    """STATUS: the configuration is valid, the kernel supports it, and IPAM is ready."""
    conf = parse(request)
    if conf.ip_masq:
        from rules import masquerade

        masquerade.check_ready()
    if conf.ipam_type:
        delegate(request, "STATUS", conf.ipam_type)


def parse(request: Request) -> PodConf:
    """Read the keys. Raises CNIError 7, or 4 for invalid CNI_ARGS."""
    conf = request.conf.section.derive(parse_section)
    mac = requested_mac(request)
    return replace(conf, mac=mac) if mac else conf


def parse_section(section: Section) -> PodConf:
    """As `parse`, from the configuration alone."""
    common = NetConf.parse(section)
    vlan = section.integer("vlan", 0, low=0, high=_MAX_VLAN)
    default_gateway = section.boolean("isDefaultGateway")
    section.string("ipMasqBackend", "", choices=("", "iptables", "nftables"))
    policy_wait = policy_wait_of(section)
    conf = PodConf(
        bridge=link_name(section, "bridge", "cni0"),
        ipam_type=common.ipam_type,
        is_gateway=section.boolean("isGateway") or default_gateway,
        is_default_gateway=default_gateway,
        force_address=section.boolean("forceAddress"),
        ip_masq=section.boolean("ipMasq"),
        mtu=mtu_of(section),
        hairpin=section.boolean("hairpinMode"),
        promiscuous=section.boolean("promiscMode"),
        vlan=vlan,
        trunk=_trunk(section),
        preserve_default_vlan=section.boolean("preserveDefaultVlan"),
        check_mac=section.boolean("macspoofchk"),
        check_sources=section.boolean("sourceAddressValidation") or policy_wait is not None,
        detect_duplicates=section.boolean("enabledad"),
        container_up=not section.boolean("disableContainerInterface"),
        isolated=section.boolean("portIsolation"),
        accept_ra=section.boolean("acceptRA", None),
        dns=common.dns,
        policy_wait=policy_wait,
    )
    if not suits_ipv6(conf.mtu):
        require_suitable_mtu(conf.mtu, _requested_addresses(section, conf.ipam_type))
    if conf.hairpin and conf.promiscuous:
        raise _conflict("cannot set hairpin mode and promiscuous mode at the same time", "hairpinMode", "promiscMode")
    if conf.ipam_type and not conf.container_up:
        raise _conflict(
            "cannot use IPAM when DisableContainerInterface flag is set", "ipam", "disableContainerInterface"
        )
    _check_gateway_name(conf)
    if conf.has_policies:
        _check_policies(conf)
    return conf


def _requested_addresses(section: Section, ipam_type: str) -> Sequence[str]:
    """The subnets and addresses in the IPAM configuration, if the IPAM plugin is one of this suite's."""
    if ipam_type == "static":
        from ipam.static import configured_subnets
    elif ipam_type == "host-local":
        from ipam.host_local import configured_subnets
    else:
        return ()
    return configured_subnets(section)


def _conflict(sentence: str, *keys: str) -> CNIError:
    return CNIError(Code.INVALID_NETWORK_CONFIG, sentence, "give only one of " + ", ".join(f'"{key}"' for key in keys))


def _check_gateway_name(conf: PodConf) -> None:
    """Raises CNIError 7 if the name of the VLAN's gateway link, which is derived from bridge and VLAN, is too long."""
    if conf.vlan and conf.is_gateway and not is_link_name(conf.gateway_link):
        raise CNIError(
            Code.INVALID_NETWORK_CONFIG,
            f'"bridge" and "vlan": the name of the gateway link, "{conf.gateway_link}", is longer than 15 bytes',
            f'shorten "bridge" to {14 - len(str(conf.vlan))} bytes',
        )


def _check_policies(conf: PodConf) -> None:
    """Raises CNIError 7 if not all packets of the pods can be routed by this node, which is where policies apply."""
    if conf.isolated:
        raise _conflict(
            '"policyWait": with network policies the node routes packets between pods, also between isolated ports',
            "policyWait",
            "portIsolation",
        )
    if conf.trunk is not None:
        raise _conflict('"policyWait": network policies are not enforced in trunked VLANs', "policyWait", "vlanTrunk")
    if not (conf.is_gateway and conf.ipam_type):
        raise CNIError(
            Code.INVALID_NETWORK_CONFIG,
            '"policyWait": the bridge must be the gateway of its pods, and give them addresses',
            "network policies are enforced where packets are routed: "
            'set "isGateway" or "isDefaultGateway", and "ipam"; or remove "policyWait"',
        )


def _gateway_link(section: Section) -> str:
    """The name of the VLAN's gateway link, "" if there is none or the configuration is invalid."""
    try:
        conf = section.derive(parse_section)
    except CNIError:
        return ""
    return conf.gateway_link if conf.vlan and conf.is_gateway else ""


def _trunk(section: Section) -> tuple[int, ...] | None:
    """The VLANs of `vlanTrunk`: a list of {id}, {minID, maxID} or both; None if the key is absent."""
    entries = section.sections("vlanTrunk")
    if entries is None:
        return None
    vlans: set[int] = set()
    for entry in entries:
        single = entry.integer("id", None, low=1, high=_MAX_VLAN)
        low = entry.integer("minID", None, low=1, high=_MAX_VLAN)
        high = entry.integer("maxID", None, low=1, high=_MAX_VLAN)
        if (low is None) != (high is None):
            given, missing = ("minID", "maxID") if high is None else ("maxID", "minID")
            raise entry.error(missing, f"an integer of 1 to {_MAX_VLAN}, since {given} is given")
        if low is not None and high is not None:
            if low > high:
                raise entry.error("minID", f"an integer of at most {high}, which is maxID")
            vlans.update(range(low, high + 1))
        if single is not None:
            vlans.add(single)
    return tuple(sorted(vlans))


PLUGIN = Plugin(type="bridge", add=add, delete=delete, check=check, gc=gc, status=status)

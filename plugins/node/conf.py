"""The configuration of a node: its subnets, its bridge, and which packets are masqueraded."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from plugins.node.records import NODE_FILE, Subnets, check_subnets, parse_networks, read_subnet_file
from plugins.pod.conf import policy_wait_of
from spec.addresses import parse_address
from spec.config import Section, absolute_path
from spec.errors import CNIError, Code
from spec.links import link_name, mtu_of, require_suitable_mtu
from spec.request import Request

HAIRPIN_VETH, PROMISCUOUS_BRIDGE, NO_HAIRPIN = "hairpin-veth", "promiscuous-bridge", "none"
DEFAULT_BRIDGE = "cbr0"


@dataclass(frozen=True)
class NodeConf:
    """The keys that `kubenet` and `vxlan` share, completed from the files.

    `subnets`: the node's own, one per family. `mtu` in bytes, 0 if it has to be determined. `inside`: networks to which
    pods are not masqueraded. `cluster`: the networks of all pods, () if unknown. `check_sources`: pods may only send
    from their own addresses. `policy_wait`: as in PodConf. `name`, `since`: as in a record, "" and 0 if unknown.
    """

    bridge: str
    subnets: tuple[str, ...]
    mtu: int
    hairpin_mode: str
    ip_masq: bool
    cluster: tuple[str, ...]
    inside: tuple[str, ...]
    check_sources: bool
    policy_wait: int | None = None
    name: str = ""
    since: int = 0

    @property
    def gateways(self) -> tuple[str, ...]:
        """The first address of each subnet, with the subnet's prefix length, for the bridge."""
        return tuple(parse_address(subnet).first_host.cidr for subnet in self.subnets)


def parse(request: Request) -> NodeConf:
    """As `parse_section`, of a call's configuration."""
    return parse_section(request.conf.section)


def parse_section(section: Section) -> NodeConf:
    """Read the configuration and the subnet file.

    Raises CNIError 7 (configuration) or 11 (the subnet file is missing or unreadable).
    """
    subnets = _subnets(section)
    cluster = parse_networks(section, "clusterCIDRs") or subnets.cluster
    mtu = mtu_of(section) or subnets.mtu
    require_suitable_mtu(mtu, subnets.subnets)
    policy_wait = policy_wait_of(section)
    return NodeConf(
        bridge=link_name(section, "bridge", DEFAULT_BRIDGE),
        subnets=subnets.subnets,
        mtu=mtu,
        hairpin_mode=section.string(
            "hairpinMode", HAIRPIN_VETH, choices=(HAIRPIN_VETH, PROMISCUOUS_BRIDGE, NO_HAIRPIN)
        ),
        ip_masq=section.boolean("ipMasq", default=True),
        cluster=cluster,
        inside=(*cluster, *parse_networks(section, "nonMasqueradeCIDRs")),
        # What a pod may send is found by its source address.
        check_sources=section.boolean("sourceAddressValidation") or policy_wait is not None,
        policy_wait=policy_wait,
    )


@contextmanager
def unavailable_if_retryable() -> Iterator[None]:
    """For STATUS: where an ADD would fail with "try again later" (11), raise "plugin not available" (50) instead."""
    try:
        yield
    except CNIError as error:
        if error.code != Code.TRY_AGAIN_LATER:
            raise
        raise CNIError(Code.PLUGIN_NOT_AVAILABLE, error.msg, error.details) from error


def ipam_of(section: Section, subnets: tuple[str, ...]) -> Mapping[str, object]:
    """The `ipam` for delegation: given keys are kept; missing type, ranges and routes are filled in."""
    given = section.raw("ipam") or {}
    present = {key.lower() for key in given}
    defaults = {
        "type": "host-local",
        "ranges": [[{"subnet": subnet}] for subnet in subnets],
        "routes": [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in subnets],
    }
    if "subnet" in present:
        del defaults["ranges"]
    return {**{key: value for key, value in defaults.items() if key not in present}, **given}


def _subnets(section: Section) -> Subnets:
    """From the configuration, else from the file."""
    for key in ("podCIDRs", "podCIDR"):
        inline = parse_networks(section, key)
        if inline:
            try:
                check_subnets(inline)
            except ValueError as error:
                raise section.error(key, str(error)) from error
            return Subnets(inline)
    return read_subnet_file(absolute_path(section, "subnetFile") or NODE_FILE)

"""The configuration of a node: its subnet, its bridge, the paths to the other nodes, and what is masqueraded."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from plugins.node import peers_seen
from plugins.node.records import (
    NODE_FILE,
    PEERS_FILE,
    Records,
    Subnets,
    check_subnets,
    parse_networks,
    parse_peers,
    read_peers_file,
    read_subnet_file,
)
from spec.addresses import parse_address
from spec.config import Section, absolute_path
from spec.errors import CNIError, Code
from spec.links import link_name, mtu_of, require_suitable_mtu
from spec.request import Request

HAIRPIN_VETH, PROMISCUOUS_BRIDGE, NO_HAIRPIN = "hairpin-veth", "promiscuous-bridge", "none"
DEFAULT_BRIDGE = "cbr0"


@dataclass(frozen=True)
class NodeConf:
    """The keys that `kubenet` and `vxlan` share, with what the files say filled in.

    `subnets`: the node's own, one a family. `mtu` in bytes, 0 where it is to be derived. `inside`: networks that pods
    reach under their own address. `cluster`: the networks of all pods, () where nobody said. `check_sources`: pods
    send from their own addresses alone.
    """

    bridge: str
    subnets: tuple[str, ...]
    mtu: int
    hairpin_mode: str
    ip_masq: bool
    cluster: tuple[str, ...]
    inside: tuple[str, ...]
    check_sources: bool

    @property
    def gateways(self) -> tuple[str, ...]:
        """The first address of each subnet, with the subnet's prefix length: what the bridge carries."""
        return tuple(parse_address(subnet).first_host.cidr for subnet in self.subnets)


def parse(request: Request) -> NodeConf:
    """Read the configuration and the files it names.

    Raises CNIError 7 (configuration), 11 (the subnet file is missing or unreadable).
    """
    section = request.conf.section
    subnets = _subnets(section)
    cluster = parse_networks(section, "clusterCIDRs") or subnets.cluster
    mtu = mtu_of(section) or subnets.mtu
    require_suitable_mtu(mtu, subnets.subnets)
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
        check_sources=section.boolean("sourceAddressValidation"),
    )


def read_peers(request: Request) -> Records:
    """The records of the other nodes, of the configuration and of the file; the node's own may be among them.

    Raises CNIError 7 (configuration), 11 (the file is unreadable; or missing, though the configuration names it, or
    though it had peers when it was last read).
    """
    section = request.conf.section
    path = absolute_path(section, "peersFile")
    if not path and not os.path.lexists(PEERS_FILE) and peers_seen.had_peers(request.conf.name):
        message = f'the peers file "{PEERS_FILE}" is missing, but had peers when it was last read'
        raise CNIError(Code.TRY_AGAIN_LATER, message, 'write it; {"peers": []} says that there are none any more')
    inline, filed = parse_peers(section), read_peers_file(path or PEERS_FILE, required=bool(path))
    from_default_file = not path and bool(filed.nodes or filed.left_out)
    return Records(inline + filed.nodes, filed.left_out, from_default_file)


def telling_status(action: Callable[[], object]) -> None:
    """Do what an ADD would begin with; where that says "try again later" (11), a STATUS says "not available" (50)."""
    try:
        action()
    except CNIError as error:
        if error.code != Code.TRY_AGAIN_LATER:
            raise
        raise CNIError(Code.PLUGIN_NOT_AVAILABLE, error.msg, error.details) from error


def ipam_of(section: Section, subnets: tuple[str, ...]) -> Mapping[str, object]:
    """The `ipam` to delegate with: what is given is kept; type, ranges and routes are filled in."""
    given = section.raw("ipam") or {}
    present = {key.lower() for key in given}
    filled = {
        "type": "host-local",
        "ranges": [[{"subnet": subnet}] for subnet in subnets],
        "routes": [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in subnets],
    }
    if "subnet" in present:
        del filled["ranges"]
    return {**{key: value for key, value in filled.items() if key not in present}, **given}


def _subnets(section: Section) -> Subnets:
    """Of the configuration, else of the file."""
    for key in ("podCIDRs", "podCIDR"):
        inline = parse_networks(section, key)
        if inline:
            try:
                check_subnets(inline)
            except ValueError as error:
                raise section.error(key, str(error)) from error
            return Subnets(inline)
    return read_subnet_file(absolute_path(section, "subnetFile") or NODE_FILE)

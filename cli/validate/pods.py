"""What a network's configuration says about pods, whichever of the suite's plugins makes it."""

from dataclasses import dataclass

from cli.facts.networks import Network
from plugins.node.conf import DEFAULT_BRIDGE, NodeConf
from plugins.node.conf import parse_section as parse_node
from plugins.node.tunnel import TunnelConf
from plugins.node.tunnel import parse_section as parse_tunnel
from spec.addresses import is_ipv6, parse_address
from spec.config import Section
from spec.errors import CNIError

OWN = ("bridge", "kubenet", "vxlan")


@dataclass(frozen=True)
class PodNetwork:
    """A network's pods.

    `kind`: type of the main plugin. `bridge`: of the pods, "" if it is unknown. `subnets`: of this node's pods, as
    CIDRs. `cluster`: of all pods, () if unknown. `is_routed`: whether this node is the pods' gateway. `is_vlan`:
    whether their bridge filters VLANs. `has_policies`: whether network policies are enforced. `chained`: the types of
    the other plugins. `node`, `tunnel`: the whole configuration, of kubenet and vxlan. `problem`: why it cannot be
    used, "" if it can.
    """

    name: str = ""
    kind: str = ""
    bridge: str = ""
    subnets: tuple[str, ...] = ()
    cluster: tuple[str, ...] = ()
    is_routed: bool = False
    is_vlan: bool = False
    has_policies: bool = False
    chained: tuple[str, ...] = ()
    node: NodeConf | None = None
    tunnel: TunnelConf | None = None
    problem: str = ""

    def has(self, version: int) -> bool:
        """Whether pods have addresses of that IP version, as far as is known."""
        return any(is_ipv6(subnet) == (version == 6) for subnet in self.subnets)


def read_pod_network(network: Network) -> PodNetwork:
    """As the plugins read it; what they refuse is its `problem`."""
    kind, chained = network.types[0], network.types[1:]
    main = Section({**network.plugins[0], "name": network.name, "cniVersion": network.stated})
    try:
        if kind == "bridge":
            return _of_bridge(network.name, main, chained)
        if kind in OWN:
            return _of_node(network.name, main, chained)
    except CNIError as error:
        bridge = main.raw("bridge") or (DEFAULT_BRIDGE if kind != "bridge" else "cni0")
        known = bridge if isinstance(bridge, str) else ""
        return PodNetwork(network.name, kind, known, chained=chained, problem=str(error))
    return PodNetwork(network.name, kind, chained=chained)


def _of_bridge(name: str, main: Section, chained: tuple[str, ...]) -> PodNetwork:
    """Raises CNIError."""
    from ipam import host_local, static
    from plugins.bridge import parse_section

    conf = parse_section(main)
    readers = {"host-local": host_local.configured_subnets, "static": static.configured_subnets}
    texts = readers[conf.ipam_type](main) if conf.ipam_type in readers else []
    return PodNetwork(
        name,
        "bridge",
        conf.bridge,
        tuple(dict.fromkeys(filter(None, map(_network, texts)))),
        is_routed=conf.is_gateway,
        is_vlan=conf.filters_vlans,
        has_policies=conf.has_policies,
        chained=chained,
    )


def _network(text: str) -> str:
    """The network of a CIDR, "" for other texts, which the plugin refuses."""
    try:
        return parse_address(text).unmapped.network.cidr
    except ValueError:
        return ""


def _of_node(name: str, main: Section, chained: tuple[str, ...]) -> PodNetwork:
    """Raises CNIError."""
    node = parse_node(main)
    return PodNetwork(
        name,
        kind := main.string("type"),
        node.bridge,
        node.subnets,
        node.cluster,
        is_routed=True,
        has_policies=node.policy_wait is not None,
        chained=chained,
        node=node,
        tunnel=parse_tunnel(main) if kind == "vxlan" else None,
    )

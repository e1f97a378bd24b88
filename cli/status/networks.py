"""The networks of this node: those that runtimes use, and those that pods are attached to."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cli.facts.attachments import AttachedPod
from cli.facts.leases import Lease, read_leases
from cli.facts.networks import Network, read_networks, used_of
from cli.status.picture import BRIDGE, KUBENET, VXLAN, Device, NetworkPicture, PodPicture, Subnet
from ipam.ranges import Range, parse_range_sets
from linux.netlink.socket import Netlink
from linux.rtnl.addresses import list_addresses
from linux.rtnl.links import find_link
from plugins.node import conf
from plugins.node.conf import DEFAULT_BRIDGE
from spec.addresses import Address, parse_address
from spec.config import Section
from spec.errors import CNIError
from spec.links import link_name

_CONTAINER = 13  # characters of a container ID, as crictl shows them
_COUNTABLE = 1 << 24  # addresses; a subnet with more is never full


@dataclass(frozen=True)
class Seen:
    """What was read of the node before. `held`: the tags of the pods whose policies are not in force yet.

    `node`: the name of this node's record, "" if unknown.
    """

    pods: Sequence[AttachedPod] = ()
    leases: Sequence[Lease] = ()
    held: Collection[str] = field(default_factory=frozenset)
    node: str = ""


def find_networks(folders: Iterable[str], seen: Seen) -> dict[str, Mapping[str, object] | None]:
    """The main plugin of each network of ours by its name, None if no configuration in these folders is about it.

    Of a folder's networks those that runtimes use, or that have pods. Raises OSError.
    """
    attached = dict.fromkeys(pod.network for pod in seen.pods)
    found: dict[str, Mapping[str, object] | None] = {}
    for folder in folders:
        networks = read_networks(folder)
        for network in networks:
            is_wanted = network is used_of(networks) or network.name in attached
            if is_wanted and _is_ours(network):
                found.setdefault(network.name, network.plugins[0])
    return found | {name: None for name in attached if name not in found}


def _is_ours(network: Network) -> bool:
    return not network.problem and network.main.string("type") in (BRIDGE, KUBENET, VXLAN)


def read_network(host: Netlink, name: str, plugin: Mapping[str, object] | None, seen: Seen) -> NetworkPicture:
    """A network with its pods and peers. Raises OSError."""
    attached = [pod for pod in seen.pods if pod.network == name]
    found = NetworkPicture(name, pods=tuple(_pod(pod, seen.held) for pod in attached))
    try:
        return _configured(host, found, Section(plugin), seen) if plugin else _bare(host, found, attached)
    except CNIError as error:
        mode = Section(plugin).string("type")
        return replace(_bare(host, found, attached), mode=mode, problems=(*found.problems, str(error)))


def _bare(host: Netlink, found: NetworkPicture, attached: Sequence[AttachedPod]) -> NetworkPicture:
    """A network of which only the pods are known."""
    bridges = Counter(pod.bridge for pod in attached if pod.bridge)
    return replace(found, bridge=_bridge(host, bridges.most_common(1)[0][0])) if bridges else found


def _configured(host: Netlink, found: NetworkPicture, section: Section, seen: Seen) -> NetworkPicture:
    """Raises CNIError, OSError."""
    mode = section.string("type")
    name = link_name(section, "bridge", "cni0" if mode == BRIDGE else DEFAULT_BRIDGE)
    found = replace(found, mode=mode, bridge=_bridge(host, name))
    section.section("ipam")  # is an object
    if mode == BRIDGE:
        return _with_subnets(found, section.raw("ipam") or {}, seen)
    from cli.status.peers import read_others

    node = replace(conf.parse_section(section), name=seen.node)
    found = _with_subnets(found, conf.ipam_of(section, node.subnets), seen)
    try:
        others = read_others(host, section, node, seen.node)
    except CNIError as error:
        return replace(found, problems=(*found.problems, str(error)))
    return replace(found, vtep=others.vtep, peers=others.peers, problems=(*found.problems, *others.problems))


def _with_subnets(found: NetworkPicture, ipam: Mapping[str, object], seen: Seen) -> NetworkPicture:
    """With the ranges of host-local, unless the runtime gives them with each call. Raises CNIError, OSError."""
    section = Section({"ipam": ipam})
    own = section.section("ipam")
    if own.string("type") != "host-local" or not (own.has("subnet") or own.has("ranges")):
        return found
    folder = own.string("dataDir")
    leases = read_leases(folder) if folder else seen.leases
    leased = [parse_address(lease.address) for lease in leases if lease.network == found.name]
    sets = parse_range_sets(section, one_per_family=False)
    subnets = tuple(_subnet(each, leased) for group in sets for each in group.ranges)
    full = [f"all addresses of {one.cidr} are leased" for one in subnets if one.size and one.used >= one.size]
    return replace(found, subnets=subnets, problems=(*found.problems, *full))


def _subnet(given: Range, leased: Sequence[Address]) -> Subnet:
    size = given.last - given.first + 1 - len(given.gateways)
    bits = 32 if given.version == 4 else 128
    network = Address(given.version, given.first, given.prefix)
    is_whole = size + len(given.gateways) >= (1 << (bits - given.prefix)) - 3  # network, broadcast and gateway
    used = sum(1 for address in leased if given.contains(address))
    return Subnet(network.network.cidr if is_whole else str(given), used, size if size < _COUNTABLE else 0)


def _bridge(host: Netlink, name: str) -> Device:
    link = find_link(host, name)
    if link is None:
        return Device(name, details="not there yet: the first pod makes it")
    addresses = tuple(one.cidr for one in list_addresses(host, link.index) if one.is_global)
    return Device(name, addresses, f"MTU {link.mtu}", () if link.up else ("it is down",))


def _pod(pod: AttachedPod, held: Collection[str]) -> PodPicture:
    name = pod.pod or pod.container[:_CONTAINER] or pod.tag
    waits = ("it is held: its network policies are not in force yet",) if pod.tag in held else ()
    return PodPicture(name, pod.addresses, pod.veth, (*pod.problems, *waits))

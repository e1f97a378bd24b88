"""Pods that run while something about their node changes: the bridge that they are on, or its MTU.

A pod is found by its host veth, which carries the pod's name (`linux/ownership.py`).
"""

import os
from collections.abc import Callable, Sequence

from ipam.host_local import DATA_DIR
from ipam.store import LeaseStore
from linux.bridge_lock import joining
from linux.errors import step
from linux.netlink.socket import Netlink
from linux.netns import entered
from linux.netns_ids import opened
from linux.ownership import group_of, is_of_network
from linux.rtnl.links import Link, attach_port, find_link_by_index, list_group, set_mtu
from plugins.node.conf import HAIRPIN_VETH, NodeConf
from plugins.node.gateways import ensure_gateways
from spec.addresses import Address, parse_address
from spec.config import Section
from spec.errors import CNIError

_NAMED = 5  # pods in a sentence
_LOCK_SECONDS = 5.0  # of the leases, for which an ADD that hangs could hold up everything else


def list_host_veths(host: Netlink, network: str) -> list[Link]:
    """The host veths of the network's pods. Raises NetlinkError."""
    links = list_group(host, group_of(network))
    return [link for link in links if link.kind == "veth" and is_of_network(link.alias, network)]


def keep(host: Netlink, network: str, node: NodeConf, bridge: Link, mtu: int, ipam: Section) -> tuple[str, ...]:
    """`rejoin` and `follow_mtu`; returns a sentence for everything that failed.

    `ipam`: that part of the main plugin's configuration. Raises nothing: a pod must not keep others from their network.
    """
    problems: list[str] = []
    for act in (
        lambda: rejoin(host, network, node, bridge, lambda: leased(network, ipam)),
        lambda: follow_mtu(host, network, mtu),
    ):
        try:
            problems += act()[1]
        except (CNIError, OSError) as error:
            problems.append(str(error))
    return tuple(problems)


def leased(network: str, ipam: Section) -> tuple[str, ...]:
    """The addresses that host-local has leased in a network; () if another plugin assigns addresses.

    Raises CNIError, OSError.
    """
    if ipam.string("type", "host-local") != "host-local":
        return ()
    store = LeaseStore(os.path.join(ipam.string("dataDir") or DATA_DIR, network), patience=_LOCK_SECONDS)
    if not store.exists():
        return ()
    with store.locked(writable=False) as leases:
        return leases.taken()


def rejoin(
    host: Netlink, network: str, node: NodeConf, bridge: Link, addresses: Callable[[], Sequence[str]]
) -> tuple[int, tuple[str, ...]]:
    """Make pods ports of the bridge again, as an ADD does, after the bridge was deleted; returns how many were not.

    Also returns sentences about those that could not be attached. The bridge gets the gateways of all `addresses`,
    which are those of pods: some may be of earlier subnets. Pods that are on another bridge stay there: an earlier
    configuration named it. Raises CNIError, OSError.
    """
    with step(f'list the pods of "{bridge.name}"'):
        lost = [veth for veth in list_host_veths(host, network) if not veth.master]
    if not lost:
        return 0, ()
    joined, problems = 0, []
    hairpin = node.hairpin_mode == HAIRPIN_VETH
    with step(f'attach pods to "{bridge.name}"'), joining():
        for veth in lost:
            try:
                attach_port(host, veth.index, bridge.index, alias=veth.alias, hairpin=hairpin, isolated=False)
                joined += 1
            except OSError as error:
                if find_link_by_index(host, veth.index):  # not if the pod is being deleted
                    problems.append(f'cannot attach "{veth.name}" to "{bridge.name}": {error.strerror}')
    ensure_gateways(host, bridge.name, _gateways(node, addresses()))
    return joined, tuple(problems)


def _gateways(node: NodeConf, addresses: Sequence[str]) -> list[str]:
    """The configured gateways (CIDR), and those of the addresses outside of the configured subnets.

    Earlier subnets had the length of the configured one, as far as anybody knows: pods could tell, but not be trusted.
    """
    subnets = {subnet.version: subnet for subnet in map(parse_address, node.subnets)}
    found = set(node.gateways)
    for address in map(parse_address, addresses):
        subnet = subnets.get(address.version)
        if subnet and not subnet.contains(address):
            found.add(Address(address.version, address.number, subnet.prefix).first_host.cidr)
    return sorted(found)


def follow_mtu(host: Netlink, network: str, mtu: int) -> tuple[int, tuple[str, ...]]:
    """Give the links of running pods, on both sides, an MTU of `mtu` bytes; returns how many pods have changed.

    Also returns sentences about those that could not be changed. A pod that has a smaller MTU than its host veth keeps
    it: somebody has set it. Raises CNIError.
    """
    with step("list the pods of the node"):
        different = [veth for veth in list_host_veths(host, network) if veth.mtu != mtu and veth.peer_is_elsewhere]
    if not different:
        return 0, ()
    changed, missing, problems = 0, [], []
    with step("find the namespaces of pods"), opened(host, {veth.peer_netns for veth in different}) as namespaces:
        for veth in different:
            if veth.peer_netns not in namespaces:
                missing.append(veth)
                continue
            try:
                _set_both(host, veth, namespaces[veth.peer_netns], mtu)
                changed += 1
            except OSError as error:
                if find_link_by_index(host, veth.index):  # not if the pod is being deleted
                    problems.append(f'cannot set the MTU of the pod of "{veth.name}" to {mtu}: {error.strerror}')
    if missing:
        problems.append(
            f"cannot set the MTU of pods to {mtu}: their namespaces are not found, host veths {_names(missing)}"
        )
    return changed, tuple(problems)


def _set_both(host: Netlink, veth: Link, netns: int, mtu: int) -> None:
    """Set the MTU of a veth pair: first on the side that may get larger packets afterwards."""
    grows = mtu > veth.mtu
    if grows:
        set_mtu(host, veth.index, mtu)
    try:
        with entered(netns), Netlink() as pod:
            inside = find_link_by_index(pod, veth.peer)
            if inside and (inside.mtu == veth.mtu or inside.mtu > mtu):
                set_mtu(pod, inside.index, mtu)
    except OSError:
        if grows:
            set_mtu(host, veth.index, veth.mtu)  # so that it is tried again
        raise
    if not grows:
        set_mtu(host, veth.index, mtu)


def _names(veths: Sequence[Link]) -> str:
    more = len(veths) - _NAMED
    return ", ".join(f'"{veth.name}"' for veth in veths[:_NAMED]) + (f" and {more} others" if more > 0 else "")

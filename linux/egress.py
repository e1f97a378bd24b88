"""Egress: what the pods of this node's subnets send beyond the cluster leaves with the node's address.

Traffic between pods, and from pods to nodes, is left alone. A connection's first packet costs three look-ups, however
many nodes there are.
"""

from collections.abc import Sequence
from functools import partial

from linux import nft, nft_whole
from linux.nft import Hook
from linux.nft_elements import of_addresses, of_networks
from linux.nft_expressions import destination_address, in_set, masquerade, source_address
from linux.nft_table import Chain, Rule
from linux.nft_whole import AddressSet, Whole, table_name

# Never beyond the node's own links: multicast, the broadcast that no router forwards, link-local IPv6. With
# br_netfilter, what pods send each other through the bridge comes by here too. (Link-local IPv4 does leave: clouds
# answer for 169.254.169.254, but not to pods.)
_NEVER_OUTSIDE = ("224.0.0.0/4", "255.255.255.255/32", "ff00::/8", "fe80::/10")


def ensure(network: str, own: Sequence[str], inside: Sequence[str], nodes: Sequence[str]) -> None:
    """Masquerade what `own` send to anybody who is neither in `own` or `inside` nor one of `nodes`.

    `own`, `inside`: CIDRs of both families, they may overlap; `nodes`: addresses. Nothing is written if nothing
    changed. Raises NetlinkError, OSError or ValueError for what is no address or network.
    """
    nft_whole.ensure(partial(_table, network, own, inside, nodes))


def delete(network: str) -> None:
    """Masquerade nothing for `network` any more; nothing to do is success. Raises NetlinkError."""
    nft_whole.delete(table_name(nft.INET, "egress", network))


def missing(network: str, own: Sequence[str], inside: Sequence[str], nodes: Sequence[str]) -> list[str]:
    """What of the work of `ensure` is not there, a sentence each; empty if all is well. Raises as `ensure`."""
    return nft_whole.missing(_table(network, own, inside, nodes))


def _table(network: str, own: Sequence[str], inside: Sequence[str], nodes: Sequence[str], mark: str = "") -> Whole:
    exempt = (*own, *inside, *_NEVER_OUTSIDE)
    return Whole(
        table_name(nft.INET, "egress", network),
        f"slash24: pods of {nft_whole.shown(network)} reach the world with the node's address",
        tuple(
            each
            for version in (4, 6)
            for each in (
                AddressSet(f"own{version}{mark}", version, of_networks(version, own), intervals=True),
                AddressSet(f"inside{version}{mark}", version, of_networks(version, exempt), intervals=True),
                AddressSet(f"nodes{version}{mark}", version, of_addresses(version, nodes)),
            )
        ),
        # type nat hook postrouting priority srcnat
        (Chain("postrouting", tuple(_rule(version, mark) for version in (4, 6)), Hook("nat", 4, 100)),),
    )


def _rule(version: int, mark: str) -> Rule:
    """ip saddr @own4 ip daddr != @inside4 ip daddr != @nodes4 masquerade"""
    return Rule(
        f"beyond the cluster, v{version}{mark}",
        (
            *source_address(version),
            in_set(f"own{version}{mark}"),
            destination_address(version),
            in_set(f"inside{version}{mark}", inverted=True),
            in_set(f"nodes{version}{mark}", inverted=True),
            masquerade(),
        ),
    )

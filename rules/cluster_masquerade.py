"""Cluster masquerade (table `inet slash24_egress_<network>`): which packets leave this node with the node's address.

Packets from this node's pods to outside the cluster are masqueraded: nothing there has a route back to a pod. With a
tunnel, so are packets that enter it and are not from a pod. Their source is mostly an address of the node on the
underlay, and the pod's node routes replies to it outside the tunnel: strict rp_filter drops the packet there, or the
reply is on the underlay with a pod's address.

The chain comes after those of iptables and kube-proxy (srcnat); the first chain that translates a packet is the last
that sees it. Packets with kube-proxy's mark must be masqueraded by kube-proxy, which then also clears the mark. If a
packet entered the tunnel with the mark, the outer datagram would have it too and be masqueraded: many kernels compute
a wrong checksum for such a datagram, and some packets would be lost.

Traffic between pods is not changed, nor is that from pods to the nodes that the caller names. The first packet of a
connection costs three lookups, however many nodes there are.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

from linux.nftables import messages, static_table, uapi
from linux.nftables.address_elements import of_addresses, of_networks
from linux.nftables.expressions import (
    cmp_eq,
    fib_type_local,
    ifname,
    ip_daddr,
    ip_saddr,
    lookup,
    masquerade,
    nfproto,
    oifname,
)
from linux.nftables.messages import Hook
from linux.nftables.pod_table import Chain, Rule
from linux.nftables.static_table import AddressChange, AddressSet, StaticTable, table_name

# Destinations on the node's own links: multicast, limited broadcast, link-local IPv6. With br_netfilter, packets that
# the bridge forwards between pods pass this chain too. (Link-local IPv4 is not here: clouds answer at 169.254.169.254,
# but not to pods.)
_LINK_SCOPED = ("224.0.0.0/4", "255.255.255.255/32", "ff00::/8", "fe80::/10")


@dataclass(frozen=True)
class Scope:
    """What to masquerade.

    `beyond`: packets from `own` to destinations outside `own`, `inside` and `nodes`. `tunnel`, the name of a device:
    packets that leave by it from outside `own` and `inside`, and the node's own packets from outside `own`. `own`,
    `inside`: CIDRs of both families, which may overlap; `nodes`: addresses.
    """

    own: Sequence[str]
    inside: Sequence[str]
    nodes: Sequence[str] = ()
    tunnel: str = ""
    beyond: bool = True


def ensure(network: str, scope: Scope) -> None:
    """Masquerade the packets in `scope`, and no others, for `network`; nothing is written if nothing changed.

    Raises NetlinkError, ValueError for an invalid address or network.
    """
    if scope.beyond or scope.tunnel:
        static_table.ensure(partial(_table, network, scope))
    else:
        static_table.delete(_name(network))


def changes(network: str, gone: Collection[str], new: Collection[str]) -> list[AddressChange]:
    """What `ensure` would change of the table, which must exist, for `nodes` that have gone and new ones."""
    return [
        AddressChange(_name(network), f"nodes{version}", of_addresses(version, gone), of_addresses(version, new))
        for version in (4, 6)
    ]


def delete(network: str) -> None:
    """Masquerade nothing for `network` any more; nothing to do is success. Raises NetlinkError."""
    static_table.delete(_name(network))


def problems(network: str, scope: Scope) -> list[str]:
    """What differs from the result of `ensure`, a sentence each; [] if all is well. Raises as `ensure`."""
    return static_table.problems(_table(network, scope)) if scope.beyond or scope.tunnel else []


def _name(network: str) -> messages.TableName:
    return table_name(messages.INET, "egress", network)


def _table(network: str, scope: Scope, suffix: str = "") -> StaticTable:
    exempt = (*scope.own, *scope.inside, *_LINK_SCOPED)
    rules = [_beyond(version, suffix) for version in (4, 6)] if scope.beyond else []
    if scope.tunnel:
        rules += [rule for version in (4, 6) for rule in _into(scope.tunnel, version, suffix)]
    return StaticTable(
        _name(network),
        f"slash24: pods of {static_table.comment_name(network)} reach the world with the node's address",
        tuple(
            each
            for version in (4, 6)
            for each in (
                AddressSet(f"own{version}{suffix}", version, of_networks(version, scope.own), intervals=True),
                AddressSet(f"inside{version}{suffix}", version, of_networks(version, exempt), intervals=True),
                AddressSet(f"nodes{version}{suffix}", version, of_addresses(version, scope.nodes)),
            )
        ),
        # type nat hook postrouting priority srcnat + 1
        (Chain("postrouting", tuple(rules), Hook("nat", uapi.NF_INET_POST_ROUTING, uapi.NF_IP_PRI_NAT_SRC + 1)),),
    )


def _beyond(version: int, suffix: str) -> Rule:
    """ip saddr @own4 ip daddr != @inside4 ip daddr != @nodes4 masquerade"""
    return Rule(
        f"beyond the cluster, v{version}{suffix}",
        (
            *nfproto(version),
            ip_saddr(version),
            lookup(f"own{version}{suffix}"),
            ip_daddr(version),
            lookup(f"inside{version}{suffix}", inverted=True),
            lookup(f"nodes{version}{suffix}", inverted=True),
            masquerade(),
        ),
    )


def _into(tunnel: str, version: int, suffix: str) -> tuple[Rule, Rule]:
    """oifname "slash24.1" ip saddr != @inside4 masquerade

    oifname "slash24.1" ip saddr != @own4 fib saddr type local masquerade

    (The second is for nodes whose own addresses are in a network that pods reach under their own address.)
    """
    leaving = (oifname(), cmp_eq(ifname(tunnel)), *nfproto(version), ip_saddr(version))
    return (
        Rule(
            f"into {tunnel} from no pod, v{version}{suffix}",
            (*leaving, lookup(f"inside{version}{suffix}", inverted=True), masquerade()),
        ),
        Rule(
            f"into {tunnel} from this node, v{version}{suffix}",
            (
                *leaving,
                lookup(f"own{version}{suffix}", inverted=True),
                *fib_type_local(uapi.NFTA_FIB_F_SADDR),
                masquerade(),
            ),
        ),
    )

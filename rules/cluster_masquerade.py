"""Egress: which packets leave this node with an address of its own.

What pods of this node's subnets send beyond the cluster is masqueraded: nobody there has a route back to a pod. With a
tunnel, what enters it from no pod is too. Its source, mostly an address of the node on the network beneath the tunnel,
is one that the pod's node reaches past the tunnel: strict rp_filter drops the packet there, or the answer leaves with a
pod's address on a network that may know none.

The chain stands behind those of iptables and kube-proxy (srcnat), of which each packet meets the first alone that
translates it. What kube-proxy has marked it must masquerade itself: there it also takes its mark away. Around a packet
that enters the tunnel with the mark, the datagram has the mark too, and would be masqueraded for it: kernels that give
such a datagram a wrong checksum are widespread, and some of it would get lost.

Traffic between pods is left alone, and what pods send to other nodes as far as the caller says. A connection's first
packet costs three look-ups, however many nodes there are.
"""

from collections.abc import Sequence
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
from linux.nftables.static_table import AddressSet, StaticTable, table_name

# Never beyond the node's own links: multicast, the broadcast that no router forwards, link-local IPv6. With
# br_netfilter, what pods send each other through the bridge comes by here too. (Link-local IPv4 does leave: clouds
# answer for 169.254.169.254, but not to pods.)
_NEVER_OUTSIDE = ("224.0.0.0/4", "255.255.255.255/32", "ff00::/8", "fe80::/10")


@dataclass(frozen=True)
class Egress:
    """What to masquerade.

    With `beyond`, what `own` send to anybody who is neither in `own` or `inside` nor one of `nodes`. With `tunnel`, the
    name of a device, what leaves by it and is neither from `own` nor from `inside`, or is of this node itself and not
    from `own`. `own`, `inside`: CIDRs of both families, they may overlap; `nodes`: addresses.
    """

    own: Sequence[str]
    inside: Sequence[str]
    nodes: Sequence[str] = ()
    tunnel: str = ""
    beyond: bool = True


def ensure(network: str, wanted: Egress) -> None:
    """Masquerade what is `wanted`, and nothing else for `network`; nothing is written if nothing changed.

    Raises NetlinkError, ValueError for what is no address or network.
    """
    if wanted.beyond or wanted.tunnel:
        static_table.ensure(partial(_table, network, wanted))
    else:
        static_table.delete(_name(network))


def delete(network: str) -> None:
    """Masquerade nothing for `network` any more; nothing to do is success. Raises NetlinkError."""
    static_table.delete(_name(network))


def missing(network: str, wanted: Egress) -> list[str]:
    """What of the work of `ensure` is not there, a sentence each; empty if all is well. Raises as `ensure`."""
    return static_table.missing(_table(network, wanted)) if wanted.beyond or wanted.tunnel else []


def _name(network: str) -> messages.TableName:
    return table_name(messages.INET, "egress", network)


def _table(network: str, wanted: Egress, mark: str = "") -> StaticTable:
    exempt = (*wanted.own, *wanted.inside, *_NEVER_OUTSIDE)
    rules = [_beyond(version, mark) for version in (4, 6)] if wanted.beyond else []
    if wanted.tunnel:
        rules += [rule for version in (4, 6) for rule in _into(wanted.tunnel, version, mark)]
    return StaticTable(
        _name(network),
        f"slash24: pods of {static_table.shown(network)} reach the world with the node's address",
        tuple(
            each
            for version in (4, 6)
            for each in (
                AddressSet(f"own{version}{mark}", version, of_networks(version, wanted.own), intervals=True),
                AddressSet(f"inside{version}{mark}", version, of_networks(version, exempt), intervals=True),
                AddressSet(f"nodes{version}{mark}", version, of_addresses(version, wanted.nodes)),
            )
        ),
        # type nat hook postrouting priority srcnat + 1
        (Chain("postrouting", tuple(rules), Hook("nat", uapi.NF_INET_POST_ROUTING, uapi.NF_IP_PRI_NAT_SRC + 1)),),
    )


def _beyond(version: int, mark: str) -> Rule:
    """ip saddr @own4 ip daddr != @inside4 ip daddr != @nodes4 masquerade"""
    return Rule(
        f"beyond the cluster, v{version}{mark}",
        (
            *nfproto(version),
            ip_saddr(version),
            lookup(f"own{version}{mark}"),
            ip_daddr(version),
            lookup(f"inside{version}{mark}", inverted=True),
            lookup(f"nodes{version}{mark}", inverted=True),
            masquerade(),
        ),
    )


def _into(tunnel: str, version: int, mark: str) -> tuple[Rule, Rule]:
    """oifname "slash24.1" ip saddr != @inside4 masquerade

    oifname "slash24.1" ip saddr != @own4 fib saddr type local masquerade

    (The second is for nodes whose own addresses are in a network that pods reach under their own address.)
    """
    leaving = (oifname(), cmp_eq(ifname(tunnel)), *nfproto(version), ip_saddr(version))
    return (
        Rule(
            f"into {tunnel} from no pod, v{version}{mark}",
            (*leaving, lookup(f"inside{version}{mark}", inverted=True), masquerade()),
        ),
        Rule(
            f"into {tunnel} from this node, v{version}{mark}",
            (
                *leaving,
                lookup(f"own{version}{mark}", inverted=True),
                *fib_type_local(uapi.NFTA_FIB_F_SADDR),
                masquerade(),
            ),
        ),
    )

"""Notrack (table `inet slash24_untracked_<network>`): the tunnel's own datagrams bypass connection tracking.

VXLAN gives every flow of pods its own source port, and replies go to the tunnel's port again: to connection tracking
each direction is a connection without replies. That costs a lookup for each datagram at both ends, and an entry for
each flow. Also, untracked datagrams are not changed by a masquerade rule for everything that leaves the node.
"""

from functools import partial

from linux.nftables import messages, static_table, uapi
from linux.nftables.expressions import cmp_eq, ip_daddr, ip_saddr, nfproto, notrack, udp_dport, udp_payload
from linux.nftables.messages import Hook
from linux.nftables.pod_table import Chain, Rule
from linux.nftables.static_table import StaticTable, table_name
from linux.rtnl.vxlan import Vtep
from rules.vtep_filter import VNI_BYTES, VNI_OFFSET
from spec.addresses import is_ipv6, pack


def ensure(network: str, vtep: Vtep) -> None:
    """Do not track datagrams from the VTEP's address and to it.

    Nothing is written if nothing changed. Raises NetlinkError.
    """
    static_table.ensure(partial(_table, network, vtep))


def delete(network: str) -> None:
    """Track all datagrams of `network` again; nothing to do is success. Raises NetlinkError."""
    static_table.delete(table_name(messages.INET, "untracked", network))


def problems(network: str, vtep: Vtep) -> list[str]:
    """What differs from the result of `ensure`, a sentence each; [] if all is well. Raises as `ensure`."""
    return static_table.problems(_table(network, vtep))


def _table(network: str, vtep: Vtep, _: str = "") -> StaticTable:
    version, local = 6 if is_ipv6(vtep.local) else 4, pack(vtep.local)
    vni = (udp_payload(VNI_OFFSET, VNI_BYTES), cmp_eq(vtep.vni.to_bytes(VNI_BYTES, "big")))
    to_port = (*udp_dport(vtep.port), *nfproto(version))
    # udp dport 4789 ip daddr 192.0.2.1 @th,96,24 0x1 notrack
    incoming = (*to_port, ip_daddr(version), cmp_eq(local), *vni, notrack())
    # udp dport 4789 ip saddr 192.0.2.1 @th,96,24 0x1 notrack
    outgoing = (*to_port, ip_saddr(version), cmp_eq(local), *vni, notrack())
    what = f"VNI {vtep.vni} on port {vtep.port}"
    return StaticTable(
        table_name(messages.INET, "untracked", network),
        f"slash24: the datagrams of {static_table.comment_name(network)} are not tracked",
        (),
        (
            # type filter hook output priority raw
            Chain(
                "output",
                (Rule(f"{what} from {vtep.local}", outgoing),),
                Hook("filter", uapi.NF_INET_LOCAL_OUT, uapi.NF_IP_PRI_RAW),
            ),
            # type filter hook prerouting priority raw
            Chain(
                "prerouting",
                (Rule(f"{what} to {vtep.local}", incoming),),
                Hook("filter", uapi.NF_INET_PRE_ROUTING, uapi.NF_IP_PRI_RAW),
            ),
        ),
    )

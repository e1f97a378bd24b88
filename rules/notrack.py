"""Untracked: the tunnel's own datagrams pass connection tracking by.

Every flow of pods has a source port of its own, and its answers come to the tunnel's port again: for connection
tracking each direction is a connection that is never answered. That costs a look-up a datagram at either end, and an
entry a flow. Nor can a masquerade that somebody set for whatever leaves the node change a datagram that is not tracked.
"""

from functools import partial

from linux.nftables import messages, static_table, uapi
from linux.nftables.expressions import cmp_eq, ip_daddr, ip_saddr, nfproto, notrack, udp_dport, udp_payload
from linux.nftables.messages import Hook
from linux.nftables.pod_table import Chain, Rule
from linux.nftables.static_table import StaticTable, table_name
from linux.rtnl.vxlan import Vtep
from rules.vtep_filter import VNI_AT, VNI_BYTES
from spec.addresses import is_ipv6, pack


def ensure(network: str, vtep: Vtep) -> None:
    """Let what the VTEP sends from its address, and what is sent to it there, pass untracked.

    Nothing is written if nothing changed. Raises NetlinkError.
    """
    static_table.ensure(partial(_table, network, vtep))


def delete(network: str) -> None:
    """Have everything of `network` tracked again; nothing to do is success. Raises NetlinkError."""
    static_table.delete(table_name(messages.INET, "untracked", network))


def missing(network: str, vtep: Vtep) -> list[str]:
    """What of the work of `ensure` is not there, a sentence each; empty if all is well. Raises as `ensure`."""
    return static_table.missing(_table(network, vtep))


def _table(network: str, vtep: Vtep, _: str = "") -> StaticTable:
    version, local = 6 if is_ipv6(vtep.local) else 4, pack(vtep.local)
    vni = (udp_payload(VNI_AT, VNI_BYTES), cmp_eq(vtep.vni.to_bytes(VNI_BYTES, "big")))
    to_port = (*udp_dport(vtep.port), *nfproto(version))
    # udp dport 4789 ip daddr 192.0.2.1 @th,96,24 0x1 notrack
    coming = (*to_port, ip_daddr(version), cmp_eq(local), *vni, notrack())
    # udp dport 4789 ip saddr 192.0.2.1 @th,96,24 0x1 notrack
    leaving = (*to_port, ip_saddr(version), cmp_eq(local), *vni, notrack())
    what = f"VNI {vtep.vni} on port {vtep.port}"
    return StaticTable(
        table_name(messages.INET, "untracked", network),
        f"slash24: the datagrams of {static_table.shown(network)} are not tracked",
        (),
        (
            # type filter hook output priority raw
            Chain(
                "output",
                (Rule(f"{what} from {vtep.local}", leaving),),
                Hook("filter", uapi.NF_INET_LOCAL_OUT, uapi.NF_IP_PRI_RAW),
            ),
            # type filter hook prerouting priority raw
            Chain(
                "prerouting",
                (Rule(f"{what} to {vtep.local}", coming),),
                Hook("filter", uapi.NF_INET_PRE_ROUTING, uapi.NF_IP_PRI_RAW),
            ),
        ),
    )

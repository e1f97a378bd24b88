"""VTEP filter: VXLAN datagrams for our network that no peer sent are dropped.

VXLAN itself takes frames from anybody who knows the VNI. A datagram of ours passes if it comes from the address of a
peer, by the parent link or by the one that leads to that peer; and never from the bridge of the pods or out of the
tunnel itself. So no pod gets into the tunnel of its own node, whatever source address it writes.

The same holds for what is only routed through this node. There a masquerade may follow, of whatever network, and the
other node would see this node's address: what this node lets pass, no other can tell from the tunnel's own. (A node
that carries the datagrams of two peers to each other lets them pass: they are from peers.) What goes to pods goes on:
a cluster inside of pods may have the same VNI and port. Those are what leaves by the pods' bridge or by the tunnel, and
what a bridge with br_netfilter shows that only forwards it between its ports.

Datagrams to this node are seen at the input hook: IPv4 is put together from its fragments by then. (Before connection
tracking there are whole datagrams only if something else asked for them.) A datagram passes if it shows that it is of
another VNI; what is too short to show its VNI does not: IPv6 fragments are put together behind the hook unless
connection tracking does it, what is routed through may be in fragments too, and a first fragment without the VXLAN
header would slip through.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from linux import kernel
from linux.nftables import messages, static_table, uapi
from linux.nftables.address_elements import of_addresses
from linux.nftables.expressions import (
    DROP,
    RETURN,
    cmp_eq,
    cmp_neq,
    fib_oif_exists,
    ifname,
    iifname,
    ip_saddr,
    jump,
    lookup,
    meta,
    nfproto,
    oifname,
    udp_dport,
    udp_payload,
)
from linux.nftables.messages import Hook
from linux.nftables.pod_table import Chain, Rule
from linux.nftables.static_table import AddressSet, StaticTable, table_name

VNI_AT = 4  # bytes behind the begin of the VXLAN header (RFC 7348, section 5)
VNI_BYTES = 3
_FROM_BRIDGE = (meta(uapi.NFT_META_IIFKIND), cmp_eq(ifname("bridge")))
_KNOWS_LINKS = (6, 1)
"""Kernels from this on let rules of the input and forward hooks ask by which link an address is reached."""


@dataclass(frozen=True)
class Tunnel:
    """Which datagrams are the tunnel's: UDP to `port`, with this `vni`, and who may send them.

    `peers`: addresses of VTEPs of both families. `parent`, `device`, `bridge`: names of the link by which the tunnel
    leaves, of the VTEP, of the pods' bridge.
    """

    vni: int
    port: int
    peers: Sequence[str]
    parent: str
    device: str
    bridge: str


def ensure(network: str, tunnel: Tunnel) -> None:
    """Drop the datagrams of `tunnel` that no peer sent. Other VNIs on the port are not touched.

    Nothing is written if nothing changed. Raises NetlinkError, OSError for what is no address.
    """
    static_table.ensure(partial(_table, network, tunnel))


def delete(network: str) -> None:
    """Filter nothing for `network` any more; nothing to do is success. Raises NetlinkError."""
    static_table.delete(table_name(messages.INET, "vtep", network))


def missing(network: str, tunnel: Tunnel) -> list[str]:
    """What of the work of `ensure` is not there, a sentence each; empty if all is well. Raises as `ensure`."""
    return static_table.missing(_table(network, tunnel))


def _table(network: str, tunnel: Tunnel, mark: str = "") -> StaticTable:
    return StaticTable(
        table_name(messages.INET, "vtep", network),
        f"slash24: only known nodes reach the pods of {static_table.shown(network)} by VXLAN",
        tuple(AddressSet(f"peers{version}{mark}", version, of_addresses(version, tunnel.peers)) for version in (4, 6)),
        (
            Chain("strangers", _strangers(tunnel, mark)),
            Chain("through", _through(tunnel)),
            # type filter hook forward priority raw
            Chain(
                "forward",
                (_to_chain(tunnel.port, "through"),),
                Hook("filter", uapi.NF_INET_FORWARD, uapi.NF_IP_PRI_RAW),
            ),
            # type filter hook input priority raw
            Chain(
                "input",
                (_to_chain(tunnel.port, "strangers"),),
                Hook("filter", uapi.NF_INET_LOCAL_IN, uapi.NF_IP_PRI_RAW),
            ),
        ),
    )


def _to_chain(port: int, chain: str) -> Rule:
    """udp dport 4789 jump strangers"""
    return Rule(f"port {port}", (*udp_dport(port), jump(chain)))


def _strangers(tunnel: Tunnel, mark: str) -> tuple[Rule, ...]:
    """Drop what no peer sent."""
    vni = tunnel.vni.to_bytes(VNI_BYTES, "big")
    return (
        # @th,96,24 != 0x1 return
        Rule(f"other VNIs than {tunnel.vni}", (udp_payload(VNI_AT, VNI_BYTES), cmp_neq(vni), RETURN)),
        # iifname "cbr0" drop
        *(Rule(f"from {link}", (iifname(), cmp_eq(ifname(link)), DROP)) for link in (tunnel.bridge, tunnel.device)),
        # ip saddr != @peers4 drop
        *(
            Rule(
                f"strangers, v{version}{mark}",
                (*nfproto(version), ip_saddr(version), lookup(f"peers{version}{mark}", inverted=True), DROP),
            )
            for version in (4, 6)
        ),
        _by_another_link(tunnel.parent),
    )


def _by_another_link(parent: str) -> Rule:
    """Drop what did not come by the way to its source; on an older kernel, what came from any bridge of pods."""
    if kernel.is_before(_KNOWS_LINKS):
        # iifkind "bridge" iifname != "eth0" drop
        return Rule(
            f"by another bridge than {parent}",
            (*_FROM_BRIDGE, iifname(), cmp_neq(ifname(parent)), DROP),
        )
    # iifname != "eth0" fib saddr . iif oif missing drop
    return Rule(
        f"by another link than {parent} or the sender's",
        (iifname(), cmp_neq(ifname(parent)), *fib_oif_exists(uapi.NFTA_FIB_F_SADDR, inverted=True), DROP),
    )


def _through(tunnel: Tunnel) -> tuple[Rule, ...]:
    """The same for what is routed through this node and not to pods."""
    return (
        # oifname "cbr0" return
        *(
            Rule(f"to pods by {link}", (oifname(), cmp_eq(ifname(link)), RETURN))
            for link in (tunnel.bridge, tunnel.device)
        ),
        *_between_neighbours(tunnel.parent),
        # jump strangers
        Rule("to nodes", (jump("strangers"),)),
    )


def _between_neighbours(parent: str) -> Iterator[Rule]:
    """Let pass what a bridge only forwards between its ports; an older kernel can not tell it from what is routed."""
    if not kernel.is_before(_KNOWS_LINKS):
        # iifkind "bridge" iifname != "eth0" fib daddr . iif oif exists return
        yield Rule(
            f"between neighbours on a bridge other than {parent}",
            (
                *_FROM_BRIDGE,
                iifname(),
                cmp_neq(ifname(parent)),
                *fib_oif_exists(uapi.NFTA_FIB_F_DADDR),
                RETURN,
            ),
        )

"""VTEP filter (table `inet slash24_vtep_<network>`): VXLAN datagrams of our network are dropped unless from a peer.

VXLAN accepts frames from any sender that knows the VNI. A datagram of ours passes if it comes from a peer's address, by
the parent link or by the link of the route to that peer; and never from the pods' bridge or out of the tunnel itself.
So a pod cannot send into the tunnel of its own node, whatever source address it uses.

The same holds for datagrams that this node routes. They may be masqueraded (by any network's rules), and the other node
would then see this node's address: only this node can distinguish them from the tunnel's own. (A node that routes
between two peers lets their datagrams pass: they are from peers.) Datagrams to pods pass: a cluster inside of pods may
use the same VNI and port. These are the ones that leave by the pods' bridge or by the tunnel, and those that a bridge
with br_netfilter forwards between its ports.

Datagrams to this node are filtered at the input hook: IPv4 fragments are reassembled by then. (Before connection
tracking they are only if something else enables that.) A datagram passes if its VNI is another one; if it is too short
to hold a VNI, it is filtered. IPv6 fragments are reassembled after the hook unless connection tracking does it, routed
datagrams may be fragments too, and a first fragment without the VXLAN header would otherwise pass.
"""

from collections.abc import Collection, Iterator, Sequence
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
from linux.nftables.static_table import AddressChange, AddressSet, StaticTable, table_name

VNI_OFFSET = 4  # bytes, in the VXLAN header (RFC 7348, section 5)
VNI_BYTES = 3
_FROM_BRIDGE = (meta(uapi.NFT_META_IIFKIND), cmp_eq(ifname("bridge")))
_FIB_OIF_SINCE = (6, 1)
"""The kernel since which `fib ... oif` works in the input and forward hooks."""


@dataclass(frozen=True)
class Tunnel:
    """The tunnel's datagrams, UDP to `port` with this `vni`, and the `peers` that may send them.

    `peers`: addresses of VTEPs of both families. `parent`, `device`, `bridge`: names of the underlay link, of the VTEP
    and of the pods' bridge.
    """

    vni: int
    port: int
    peers: Sequence[str]
    parent: str
    device: str
    bridge: str


def ensure(network: str, tunnel: Tunnel) -> None:
    """Drop the datagrams of `tunnel` that are not from a peer. Other VNIs on the port are not filtered.

    Nothing is written if nothing changed. Raises NetlinkError, ValueError or OSError for an invalid address.
    """
    static_table.ensure(partial(_table, network, tunnel))


def changes(network: str, gone: Collection[str], new: Collection[str]) -> list[AddressChange]:
    """What `ensure` would change of the table for peers that have gone and new ones, addresses of VTEPs."""
    name = table_name(messages.INET, "vtep", network)
    return [
        AddressChange(name, f"peers{version}", of_addresses(version, gone), of_addresses(version, new))
        for version in (4, 6)
    ]


def delete(network: str) -> None:
    """Filter nothing for `network` any more; nothing to do is success. Raises NetlinkError."""
    static_table.delete(table_name(messages.INET, "vtep", network))


def problems(network: str, tunnel: Tunnel) -> list[str]:
    """What differs from the result of `ensure`, a sentence each; [] if all is well. Raises as `ensure`."""
    return static_table.problems(_table(network, tunnel))


def _table(network: str, tunnel: Tunnel, suffix: str = "") -> StaticTable:
    return StaticTable(
        table_name(messages.INET, "vtep", network),
        f"slash24: only known nodes reach the pods of {static_table.comment_name(network)} by VXLAN",
        tuple(
            AddressSet(f"peers{version}{suffix}", version, of_addresses(version, tunnel.peers)) for version in (4, 6)
        ),
        (
            Chain("strangers", _strangers(tunnel, suffix)),
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
    """udp dport 4789 jump strangers

    udp dport 4789 jump through
    """
    return Rule(f"port {port}", (*udp_dport(port), jump(chain)))


def _strangers(tunnel: Tunnel, suffix: str) -> tuple[Rule, ...]:
    """Drop datagrams that are not from a peer."""
    vni = tunnel.vni.to_bytes(VNI_BYTES, "big")
    return (
        # @th,96,24 != 0x1 return
        Rule(f"other VNIs than {tunnel.vni}", (udp_payload(VNI_OFFSET, VNI_BYTES), cmp_neq(vni), RETURN)),
        # iifname "cbr0" drop
        *(Rule(f"from {link}", (iifname(), cmp_eq(ifname(link)), DROP)) for link in (tunnel.bridge, tunnel.device)),
        # ip saddr != @peers4 drop
        *(
            Rule(
                f"strangers, v{version}{suffix}",
                (*nfproto(version), ip_saddr(version), lookup(f"peers{version}{suffix}", inverted=True), DROP),
            )
            for version in (4, 6)
        ),
        _by_another_link(tunnel.parent),
    )


def _by_another_link(parent: str) -> Rule:
    """Drop datagrams that came by another link than that to their source; on older kernels, by any other bridge."""
    if kernel.is_before(_FIB_OIF_SINCE):
        # meta iifkind "bridge" iifname != "eth0" drop
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
    """The same for datagrams that this node routes, except those to pods."""
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
    """Skip datagrams that a bridge forwards between its ports, which older kernels cannot tell from routed ones."""
    if not kernel.is_before(_FIB_OIF_SINCE):
        # meta iifkind "bridge" iifname != "eth0" fib daddr . iif oif exists return
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

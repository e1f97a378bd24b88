"""Duplicates: frames that a bridge in promiscuous mode emits a second time are dropped.

Such a bridge takes in every frame of its pods as if it were the host's, beside forwarding it. Mostly the host sees that
it is not. But when br_netfilter hands bridged packets to the rules for routed ones, and those turn a service's address
into that of a pod on the same bridge, the bridge forwards the frame to that pod, and the host routes its copy there
too, by the bridge: with the bridge's MAC as the source, but still the sender's address. From its own MAC the bridge
should send no address of its pods but the gateways'.

Where br_netfilter does not do that (net.bridge.bridge-nf-call-iptables), no copy is routed; such frames are then the
only ones, and nothing is dropped.
"""

from collections.abc import Sequence

from linux import sysctls
from linux.nftables import messages, static_table, uapi
from linux.nftables.expressions import DROP, RETURN, cmp_eq, ether_saddr, in_network, ip_saddr, oifname, protocol_ip
from linux.nftables.messages import Hook
from linux.nftables.pod_table import Chain, Rule
from linux.nftables.static_table import StaticTable, table_name
from spec.addresses import parse_address
from spec.errors import is_shortage

_PODS_LINKS = b"veth"  # without a NUL: whatever begins so
_ROUTES_COPIES = {4: "bridge/bridge-nf-call-iptables", 6: "bridge/bridge-nf-call-ip6tables"}


def ensure(network: str, bridge_mac: str, gateways: Sequence[str]) -> None:
    """Drop frames to pods from `bridge_mac` ("0a:58:0a:f4:01:01") with an address of the subnets of `gateways`.

    `gateways`: the bridge's own addresses with their prefixes ("10.244.1.1/24"); frames from themselves pass. Those of
    an IP version of which there are no duplicates are left out. Nothing is written if nothing changed. Raises
    NetlinkError, ValueError for what is no address.
    """
    static_table.ensure(lambda _: _table(network, bridge_mac, gateways))


def delete(network: str) -> None:
    """Drop nothing for `network` any more; nothing to do is success. Raises NetlinkError."""
    static_table.delete(table_name(messages.BRIDGE, "dedup", network))


def missing(network: str, bridge_mac: str, gateways: Sequence[str]) -> list[str]:
    """What of the work of `ensure` is not there, a sentence each; empty if all is well. Raises as `ensure`."""
    return static_table.missing(_table(network, bridge_mac, gateways))


def _table(network: str, bridge_mac: str, gateways: Sequence[str]) -> StaticTable:
    mac = bridge_mac.lower()
    every = [gateway for gateway in sorted(set(gateways)) if _has_duplicates(parse_address(gateway).version)]
    passing = [_rule("gateway", mac, gateway.partition("/")[0], RETURN) for gateway in every]
    dropping = [_rule("duplicates in", mac, gateway, DROP) for gateway in every]
    return StaticTable(
        table_name(messages.BRIDGE, "dedup", network),
        f"slash24: pods of {static_table.shown(network)} get no frame twice from their promiscuous bridge",
        (),
        # type filter hook output priority filter
        (Chain("output", (*passing, *dropping), Hook("filter", uapi.NF_BR_LOCAL_OUT, uapi.NF_BR_PRI_FILTER_BRIDGED)),),
    )


def _has_duplicates(version: int) -> bool:
    """Whether bridged packets of this IP version meet the rules for routed ones; False without br_netfilter.

    Raises OSError if descriptors or memory are short.
    """
    try:
        return sysctls.read(_ROUTES_COPIES[version]) == "1"
    except OSError as error:
        if is_shortage(error):
            raise
        return False


def _rule(what: str, mac: str, source: str, verdict: bytes) -> Rule:
    """oifname "veth*" ether saddr 0a:58:0a:f4:01:01 ip saddr 10.244.1.0/24 drop"""
    subnet = parse_address(source).network
    return Rule(
        f"{what} {source} from {mac}",
        (
            oifname(),
            cmp_eq(_PODS_LINKS),
            ether_saddr(),
            cmp_eq(bytes.fromhex(mac.replace(":", ""))),
            *protocol_ip(subnet.version),
            ip_saddr(subnet.version),
            *in_network(subnet.packed, subnet.prefix),
            verdict,
        ),
    )

"""Hairpin duplicates (table `bridge slash24_dedup_<network>`): drops what a promiscuous bridge sends a second time.

Such a bridge also passes every frame of its pods up to the host. Mostly the host ignores them. But if br_netfilter
passes bridged packets to the rules for routed ones, and these translate a service's address to that of a pod on the
same bridge, the bridge forwards the frame to that pod, and the host routes its copy there too, through the bridge: with
the bridge's MAC as the source, but still the sender's IP address. From its own MAC the bridge should send only the
gateways' addresses, none of its pods'.

Without br_netfilter (net.bridge.bridge-nf-call-iptables) the host routes no copy; such frames are then the only ones,
and nothing is dropped.
"""

from collections.abc import Sequence

from linux import sysctls
from linux.nftables import messages, static_table, uapi
from linux.nftables.expressions import DROP, RETURN, cmp_eq, ether_saddr, in_network, ip_saddr, oifname, protocol_ip
from linux.nftables.messages import Hook
from linux.nftables.pod_table import Chain, Rule
from linux.nftables.static_table import StaticTable, table_name
from linux.rtnl.links import pack_mac
from spec.addresses import parse_address
from spec.errors import is_shortage

_HOST_VETHS = b"veth"  # without a NUL: all names that start with it
_BR_NETFILTER = {4: "bridge/bridge-nf-call-iptables", 6: "bridge/bridge-nf-call-ip6tables"}


def ensure(network: str, bridge_mac: str, gateways: Sequence[str]) -> None:
    """Drop frames to pods from `bridge_mac` ("0a:58:0a:f4:01:01") with an address of the subnets of `gateways`.

    `gateways`: the bridge's own addresses with their prefixes ("10.244.1.1/24"); frames from these addresses pass. An
    IP version without duplicates gets no rules. Nothing is written if nothing changed. Raises NetlinkError, ValueError
    for an invalid address.
    """
    static_table.ensure(lambda _: _table(network, bridge_mac, gateways))


def delete(network: str) -> None:
    """Drop nothing for `network` any more; nothing to do is success. Raises NetlinkError."""
    static_table.delete(table_name(messages.BRIDGE, "dedup", network))


def problems(network: str, bridge_mac: str, gateways: Sequence[str]) -> list[str]:
    """What differs from the result of `ensure`, a sentence each; [] if all is well. Raises as `ensure`."""
    return static_table.problems(_table(network, bridge_mac, gateways))


def _table(network: str, bridge_mac: str, gateways: Sequence[str]) -> StaticTable:
    mac = bridge_mac.lower()
    every = [gateway for gateway in sorted(set(gateways)) if _has_duplicates(parse_address(gateway).version)]
    passing = [_rule("gateway", mac, gateway.partition("/")[0], RETURN) for gateway in every]
    dropping = [_rule("duplicates in", mac, gateway, DROP) for gateway in every]
    return StaticTable(
        table_name(messages.BRIDGE, "dedup", network),
        f"slash24: pods of {static_table.comment_name(network)} get no frame twice from their promiscuous bridge",
        (),
        # type filter hook output priority filter
        (Chain("output", (*passing, *dropping), Hook("filter", uapi.NF_BR_LOCAL_OUT, uapi.NF_BR_PRI_FILTER_BRIDGED)),),
    )


def _has_duplicates(version: int) -> bool:
    """Whether bridged packets of this IP version pass the rules for routed ones; False without br_netfilter.

    Raises OSError if the process is out of file descriptors or memory.
    """
    try:
        return sysctls.read(_BR_NETFILTER[version]) == "1"
    except OSError as error:
        if is_shortage(error):
            raise
        return False


def _rule(what: str, mac: str, source: str, verdict: bytes) -> Rule:
    """oifname "veth*" ether saddr 0a:58:0a:f4:01:01 ip saddr 10.244.1.1 return

    oifname "veth*" ether saddr 0a:58:0a:f4:01:01 ip saddr 10.244.1.0/24 drop
    """
    subnet = parse_address(source).network
    return Rule(
        f"{what} {source} from {mac}",
        (
            oifname(),
            cmp_eq(_HOST_VETHS),
            ether_saddr(),
            cmp_eq(pack_mac(mac)),
            *protocol_ip(subnet.version),
            ip_saddr(subnet.version),
            *in_network(subnet.packed, subnet.prefix),
            verdict,
        ),
    )

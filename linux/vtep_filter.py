"""VTEP filter: VXLAN datagrams for our network from addresses that are no known VTEP are dropped.

VXLAN itself takes frames from anybody who knows the VNI. The rules see datagrams where they enter the node, at the
input hook: IPv4 is put together from its fragments by then, and nothing that is only routed through comes by. (Before
connection tracking there are whole datagrams only if something else asked for them.) A datagram passes if it shows that
it is of another VNI; what is too short to show its VNI does not: IPv6 fragments are put together behind the hook unless
connection tracking does it, and a first fragment without the VXLAN header would slip through.
"""

from collections.abc import Sequence
from functools import partial

from linux import nft, nft_whole
from linux.nft import Hook
from linux.nft_elements import of_addresses
from linux.nft_expressions import DROP, RETURN, in_set, source_address, udp_payload_differs, udp_to, verdict
from linux.nft_table import Chain, Rule
from linux.nft_whole import AddressSet, Whole, table_name

_VNI_AT = 4  # bytes behind the begin of the VXLAN header (RFC 7348, section 5)
_VNI_BYTES = 3


def ensure(network: str, vni: int, port: int, peers: Sequence[str]) -> None:
    """Let VXLAN datagrams of `vni` to UDP `port` in only from `peers` (addresses of VTEPs of both families).

    Other VNIs on the port are not touched. Nothing is written if nothing changed. Raises NetlinkError, OSError for what
    is no address.
    """
    nft_whole.ensure(partial(_table, network, vni, port, peers))


def delete(network: str) -> None:
    """Filter nothing for `network` any more; nothing to do is success. Raises NetlinkError."""
    nft_whole.delete(table_name(nft.INET, "vtep", network))


def missing(network: str, vni: int, port: int, peers: Sequence[str]) -> list[str]:
    """What of the work of `ensure` is not there, a sentence each; empty if all is well. Raises as `ensure`."""
    return nft_whole.missing(_table(network, vni, port, peers))


def _table(network: str, vni: int, port: int, peers: Sequence[str], mark: str = "") -> Whole:
    others = Rule(
        f"other VNIs than {vni} on port {port}",
        # udp dport 4789 @th,96,24 != 0x1 return
        (*udp_to(port), *udp_payload_differs(_VNI_AT, vni.to_bytes(_VNI_BYTES, "big")), verdict(RETURN)),
    )
    return Whole(
        table_name(nft.INET, "vtep", network),
        f"slash24: only known nodes reach the pods of {nft_whole.shown(network)} by VXLAN",
        tuple(AddressSet(f"peers{version}{mark}", version, of_addresses(version, peers)) for version in (4, 6)),
        # type filter hook input priority raw
        (Chain("input", (others, _strangers(4, port, mark), _strangers(6, port, mark)), Hook("filter", 1, -300)),),
    )


def _strangers(version: int, port: int, mark: str) -> Rule:
    """udp dport 4789 ip saddr != @peers4 drop"""
    return Rule(
        f"strangers on port {port}, v{version}{mark}",
        (*udp_to(port), *source_address(version), in_set(f"peers{version}{mark}", inverted=True), verdict(DROP)),
    )

"""The rules that exempt VXLAN datagrams from tracking. tests/system/test_vxlan_overlay.py covers the packets."""

import pytest

from linux.rtnl.vxlan import Vtep
from rules import notrack
from tests.netns.nft_tools import on, table
from tests.netns.node import Node

TABLE = "inet slash24_untracked_vxlan"


@pytest.mark.parametrize(("ip", "local"), [("ip", "192.0.2.1"), ("ip6", "2001:db8:1::1")])
def test_text(node: Node, ip: str, local: str) -> None:
    """Datagrams of this VNI to the tunnel's port, from or to the VTEP's address, are not tracked."""
    vtep = Vtep("slash24.1", 1, 4789, 1, local, "02:24:00:00:00:01", 1430, tx_checksum=True)
    on(node, notrack.ensure, "vxlan", vtep)
    ours = "VNI 1 on port 4789"
    assert (
        table(node, TABLE)
        == f"""\
table {TABLE} {{
	comment "slash24: the datagrams of vxlan are not tracked"
	chain output {{
		type filter hook output priority raw; policy accept;
		udp dport 4789 {ip} saddr {local} @th,96,24 0x1 notrack comment "{ours} from {local}"
	}}

	chain prerouting {{
		type filter hook prerouting priority raw; policy accept;
		udp dport 4789 {ip} daddr {local} @th,96,24 0x1 notrack comment "{ours} to {local}"
	}}
}}
"""
    )

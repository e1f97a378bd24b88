"""The pods' bridge before there is a pod: made and mended as an ADD would make it.

A bridge is made with an explicit MAC. Pods have it in their neighbour tables, so a bridge that is made again gets the
MAC that it had.
"""

from linux.bridge_lock import joining
from linux.errors import step
from linux.netlink.socket import Netlink
from linux.rtnl.links import Link, find_link_by_index, set_mac, set_mtu
from plugins.failures import Undo
from plugins.node.conf import NodeConf
from plugins.node.gateways import ensure_gateways
from plugins.node.pods import bridge_conf
from plugins.pod import host_bridge
from spec.addresses import family_of


def ensure_bridge(host: Netlink, node: NodeConf, mtu: int, mac: str = "") -> Link:
    """The bridge, up, with its gateway addresses, forwarding, with an MTU of `mtu` bytes and that MAC ("": any).

    Raises CNIError; a bridge that was created here is deleted again then, unless a pod has joined it.
    """
    with Undo() as undo:
        with joining():
            bridge = host_bridge.ensure_bridge(host, bridge_conf(node, mtu), undo)
        with step(f'set up "{node.bridge}"'):
            if mac and bridge.mac != mac:
                set_mac(host, bridge.index, mac)
            if bridge.mtu != mtu:
                set_mtu(host, bridge.index, mtu)
        ensure_gateways(host, node.bridge, node.gateways)
        with step("enable forwarding"):
            for family in sorted({family_of(gateway) for gateway in node.gateways}):
                host_bridge.enable_forwarding(host, family)
        with step(f'look up "{node.bridge}"'):
            bridge = find_link_by_index(host, bridge.index)
        if bridge is None:
            raise host_bridge.BridgeGone(node.bridge)
        undo.pop_all()
    return bridge

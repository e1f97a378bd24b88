"""The VLANs of a pod's port, and of the port of a gateway."""

from linux.netlink.socket import Netlink
from linux.rtnl.links import Link, add_vlan, delete_vlan, list_vlans
from plugins.pod.conf import PodConf

_DEFAULT_VLAN = 1
_PVID, _UNTAGGED = 0x2, 0x4
_NATIVE = _PVID | _UNTAGGED


def wanted(conf: PodConf, default: int) -> dict[int, bool]:
    """The VLANs of a port: id to whether it is the native (untagged) one; empty if `conf` asks for none.

    `default`: the VLAN in which the bridge has new ports, 0 for none.
    """
    if not conf.filters_vlans:
        return {}
    return {**dict.fromkeys(conf.trunk or (), False), conf.vlan or default or _DEFAULT_VLAN: True}


def set_port(host: Netlink, port: int, bridge: Link, conf: PodConf) -> None:
    """Give the new port just these VLANs, and the bridge's default one if that is to stay; raises NetlinkError."""
    vlans = wanted(conf, bridge.default_vlan)
    if vlans and bridge.default_vlan and not conf.preserve_default_vlan:
        delete_vlan(host, port, bridge.default_vlan)
    for vlan, native in vlans.items():
        add_vlan(host, port, vlan, native=native)


def set_gateway_port(host: Netlink, port: int, conf: PodConf) -> None:
    """Give the port of a gateway the VLAN of its pods and no other, whatever it has; raises NetlinkError."""
    has = list_vlans(host).get(port, {})
    for vlan in has:
        if vlan != conf.vlan:
            delete_vlan(host, port, vlan)
    if has.get(conf.vlan, 0) & _NATIVE != _NATIVE:
        add_vlan(host, port, conf.vlan, native=True)


def differences(host: Netlink, port: int, bridge: Link, conf: PodConf) -> list[str]:
    """Sentences on what the port lacks of `wanted`, and has beyond it."""
    vlans = wanted(conf, bridge.default_vlan)
    spared = {bridge.default_vlan} if conf.preserve_default_vlan else set()
    return _compare(list_vlans(host).get(port, {}), vlans, spared) if vlans else []


def at_gateway(host: Netlink, port: Link, conf: PodConf) -> list[str]:
    """The same of the port of a gateway."""
    return _compare(list_vlans(host).get(port.index, {}), {conf.vlan: True}, set())


def _compare(has: dict[int, int], wanted: dict[int, bool], spared: set[int]) -> list[str]:
    lacks = [
        f"VLAN {vlan} is not {'native' if is_native else 'tagged'} on the port"
        for vlan, is_native in wanted.items()
        if vlan not in has or (has[vlan] & _NATIVE == _NATIVE) != is_native
    ]
    return lacks + [f"VLAN {vlan} is on the port, and not configured" for vlan in has if vlan not in {*wanted, *spared}]

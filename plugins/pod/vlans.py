"""The VLANs of a pod's port."""

from linux.links import add_vlan, delete_vlan, list_vlans
from linux.netlink import Netlink
from plugins.pod.conf import PodConf

_DEFAULT_VLAN = 1
_PVID, _UNTAGGED = 0x2, 0x4


def wanted(conf: PodConf) -> dict[int, bool]:
    """The VLANs of a port: id to whether it is the native (untagged) one; empty if `conf` asks for none."""
    if not conf.filters_vlans:
        return {}
    return {**dict.fromkeys(conf.trunk or (), False), conf.vlan or _DEFAULT_VLAN: True}


def set_port(host: Netlink, port: int, conf: PodConf) -> None:
    """Give the port just these VLANs, and VLAN 1 beside them if it is to be preserved; raises NetlinkError."""
    vlans = wanted(conf)
    if not vlans:
        return
    if not conf.preserve_default_vlan:
        for vlan in list_vlans(host).get(port, {}):
            delete_vlan(host, port, vlan)
    for vlan, native in vlans.items():
        add_vlan(host, port, vlan, native=native)


def missing(host: Netlink, port: int, conf: PodConf) -> list[str]:
    """Sentences on what the port lacks of `wanted`."""
    vlans = wanted(conf)
    has = list_vlans(host).get(port, {}) if vlans else {}
    native = _PVID | _UNTAGGED
    return [
        f"VLAN {vlan} is not {'native' if is_native else 'tagged'} on the port"
        for vlan, is_native in vlans.items()
        if vlan not in has or (has[vlan] & native == native) != is_native
    ]

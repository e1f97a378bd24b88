"""The VLANs of a pod's bridge port, and of the gateway's."""

from linux.netlink.socket import Netlink
from linux.rtnl.links import Link, add_vlan, delete_vlan, list_vlans
from plugins.pod.conf import PodConf

_DEFAULT_VLAN = 1
_PVID, _UNTAGGED = 0x2, 0x4
_NATIVE = _PVID | _UNTAGGED


def desired(conf: PodConf, default: int) -> dict[int, bool]:
    """The VLANs of a port: id to whether it is the native (untagged) one; empty if `conf` has none.

    `default`: the VLAN that the bridge gives new ports (default_pvid), 0 for none.
    """
    if not conf.filters_vlans:
        return {}
    return {**dict.fromkeys(conf.trunk or (), False), conf.vlan or default or _DEFAULT_VLAN: True}


def set_port(host: Netlink, port: int, bridge: Link, conf: PodConf) -> None:
    """Give a new port its VLANs, and remove the bridge's default one unless it is preserved; raises NetlinkError."""
    vlans = desired(conf, bridge.default_vlan)
    if vlans and bridge.default_vlan and not conf.preserve_default_vlan:
        delete_vlan(host, port, bridge.default_vlan)
    for vlan, native in vlans.items():
        add_vlan(host, port, vlan, native=native)


def set_gateway_port(host: Netlink, port: int, conf: PodConf) -> None:
    """Give the gateway's port the VLAN of its pods, and remove all others; raises NetlinkError."""
    present = list_vlans(host).get(port, {})
    for vlan in present:
        if vlan != conf.vlan:
            delete_vlan(host, port, vlan)
    if present.get(conf.vlan, 0) & _NATIVE != _NATIVE:
        add_vlan(host, port, conf.vlan, native=True)


def differences(host: Netlink, port: int, bridge: Link, conf: PodConf) -> list[str]:
    """A sentence for each VLAN that the port lacks, or has but should not have."""
    vlans = desired(conf, bridge.default_vlan)
    preserved = {bridge.default_vlan} if conf.preserve_default_vlan else set()
    return _compare(list_vlans(host).get(port, {}), vlans, preserved) if vlans else []


def gateway_differences(host: Netlink, port: Link, conf: PodConf) -> list[str]:
    """The same for the gateway's port."""
    return _compare(list_vlans(host).get(port.index, {}), {conf.vlan: True}, set())


def _compare(present: dict[int, int], desired: dict[int, bool], preserved: set[int]) -> list[str]:
    missing = [
        f"VLAN {vlan} is not {'native' if is_native else 'tagged'} on the port"
        for vlan, is_native in desired.items()
        if vlan not in present or (present[vlan] & _NATIVE == _NATIVE) != is_native
    ]
    unexpected = [vlan for vlan in present if vlan not in {*desired, *preserved}]
    return missing + [f"VLAN {vlan} is on the port, but not configured" for vlan in unexpected]

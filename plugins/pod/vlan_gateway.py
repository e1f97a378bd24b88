"""The link that carries the gateway of a VLAN: a veth pair, `<bridge>.<vlan>` and a port of the bridge in that VLAN.

An 802.1Q device of that name, which an administrator has made on the bridge, does as well.
"""

from errno import EEXIST, ENODEV

from linux.bridge_lock import joining, taking_back
from linux.errors import step
from linux.netlink.socket import Netlink, NetlinkError
from linux.ownership import group_of
from linux.rtnl.links import (
    Link,
    attach_port,
    create_veth,
    delete_link,
    find_link,
    find_link_by_index,
    list_vlans,
    random_mac,
    set_alias,
    set_mac,
    set_up,
)
from plugins.failures import Undo
from plugins.pod import vlans
from plugins.pod.conf import PodConf
from plugins.pod.network import GATEWAY_MARK, refuse_advertisements, spare_detection, unless_used
from spec.errors import CNIError, Code


def ensure(host: Netlink, network: str, conf: PodConf, pod: Link, undo: Undo) -> Link:
    """The link, made or completed if need be; `pod`: the port of the pod on the bridge.

    Raises CNIError: somebody else's link has the name.
    """
    name = conf.gateway_link
    with step(f'set up VLAN interface "{name}"'), joining():
        bridge = _existing(find_link_by_index(host, pod.master), conf.bridge)
        link = find_link(host, name)
        if link is None and _create(host, network, conf, bridge):
            undo.callback(unless_used, host, bridge, lambda: _delete(host, name), but=pod.index)
            spare_detection(name)
        link = _existing(link or find_link(host, name), name)
        refuse_advertisements(host, link)
        _complete(host, conf, bridge, link)
    return link


def _create(host: Netlink, network: str, conf: PodConf, bridge: Link) -> bool:
    """Make the pair; until it has its alias, its group says whose it is. False if there is a link of that name."""
    name, inner = conf.gateway_link, "veth" + random_mac().replace(":", "")[:8]
    group = group_of(network)
    try:
        create_veth(host, name, inner, peer_netns=None, peer_mac=random_mac(), mtu=bridge.mtu, group=group)
    except NetlinkError as error:
        if error.errno != EEXIST or find_link(host, name) is None:
            raise
        return False
    set_mac(host, _existing(find_link(host, name), name).index, _mac(bridge.mac, conf.vlan))
    return True


def _mac(bridge: str, vlan: int) -> str:
    """The link's MAC, by the bridge's and the VLAN: a link that is made again has the one that pods remember."""
    first, second, third, *rest = bytes.fromhex(bridge.replace(":", ""))
    return bytes([(first ^ 4 | 2) & 0xFE, second ^ vlan >> 8, third ^ vlan & 0xFF, *rest]).hex(":")


def _complete(host: Netlink, conf: PodConf, bridge: Link, link: Link) -> None:
    """Do what is missing: an ADD may have been killed in the middle of this, or somebody has changed it."""
    if link.kind == "vlan":
        wrong = differences(host, conf, bridge)
        if wrong:
            raise CNIError(Code.INVALID_NETWORK_CONFIG, f'"vlan": {wrong[0]}', "; ".join(wrong[1:]))
    else:
        port = find_link_by_index(host, link.peer) if link.kind == "veth" and not link.peer_is_elsewhere else None
        if port is None or port.master not in (0, bridge.index):
            raise _foreign(conf, link)
        if port.master == 0 or not port.up:
            attach_port(host, port.index, bridge.index, alias=GATEWAY_MARK, hairpin=False, isolated=False)
        vlans.set_gateway_port(host, port.index, conf)
        if link.alias != GATEWAY_MARK:
            set_alias(host, link.index, GATEWAY_MARK)
    if not link.up:
        set_up(host, link.index)


def differences(host: Netlink, conf: PodConf, bridge: Link) -> list[str]:
    """What is not as it should be, a sentence each."""
    link = find_link(host, conf.gateway_link)
    if link is None:
        return [f'VLAN interface "{conf.gateway_link}" is not there']
    wrong = [] if link.up else [f'VLAN interface "{link.name}" is down']
    if link.kind == "vlan":
        if (link.peer, link.vlan) != (bridge.index, conf.vlan):
            return [*wrong, f'"{link.name}" is there already, and not VLAN {conf.vlan} of "{bridge.name}"']
        if conf.vlan not in list_vlans(host).get(bridge.index, {}):
            advice = f"bridge vlan add dev {bridge.name} vid {conf.vlan} self"
            wrong.append(
                f'"{bridge.name}" itself is not in VLAN {conf.vlan}, so that "{link.name}" gets nothing: {advice}'
            )
        return wrong
    port = find_link_by_index(host, link.peer) if link.kind == "veth" and not link.peer_is_elsewhere else None
    if port is None or port.master != bridge.index:
        return [*wrong, f'VLAN interface "{link.name}" leads to no port of "{bridge.name}"']
    if not port.up:
        wrong.append(f'Bridge port "{port.name}" of "{link.name}" is down')
    return wrong + [f'Bridge port "{port.name}" of "{link.name}": {one}' for one in vlans.at_gateway(host, port, conf)]


def delete_half_made(host: Netlink, network: str, name: str) -> None:
    """Delete the link if an ADD of this network was killed before it had completed it. Raises OSError."""
    if _is_half_made(find_link(host, name), network):
        with taking_back():
            link = find_link(host, name)
            if link and _is_half_made(link, network):
                delete_link(host, link.index)


def _is_half_made(link: Link | None, network: str) -> bool:
    return link is not None and link.kind == "veth" and not link.alias and link.group == group_of(network)


def _delete(host: Netlink, name: str) -> None:
    link = find_link(host, name)
    if link:
        delete_link(host, link.index)


def _existing(link: Link | None, name: str) -> Link:
    if link is None:
        raise NetlinkError(ENODEV, f'"{name}" is gone again')
    return link


def _foreign(conf: PodConf, link: Link) -> CNIError:
    return CNIError(
        Code.INVALID_NETWORK_CONFIG,
        f'"vlan": "{link.name}" is there already, and leads to no port of "{conf.bridge}"',
        f"it is a link of kind {link.kind!r} that somebody else has made: rename or delete it",
    )

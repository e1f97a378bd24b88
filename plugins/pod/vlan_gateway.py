"""The link that carries the gateway of a VLAN: a veth pair of `<bridge>.<vlan>` and a bridge port in that VLAN.

An 802.1Q device of that name, created on the bridge by an administrator, serves as well.
"""

from errno import EEXIST, ENODEV
from functools import partial

from linux.bridge_lock import joining, undoing
from linux.errors import step
from linux.netlink.socket import Netlink, NetlinkError
from linux.ownership import GATEWAY_GROUP, group_of
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
    set_group,
    set_mac,
    set_up,
)
from plugins.failures import Undo
from plugins.pod import vlans
from plugins.pod.conf import PodConf
from plugins.pod.host_bridge import GATEWAY_ALIAS, ignore_advertisements, skip_dad, unless_used
from spec.errors import CNIError, Code


def ensure(host: Netlink, network: str, conf: PodConf, pod: Link, undo: Undo) -> Link:
    """The link, created or completed if necessary; `pod`: the pod's port on the bridge.

    Raises CNIError if the name is taken by a link that cannot serve.
    """
    name = conf.gateway_link
    with step(f'set up VLAN interface "{name}"'), joining():
        bridge = _existing(find_link_by_index(host, pod.master), conf.bridge)
        link = find_link(host, name)
        if link is None and _create(host, network, conf, bridge):
            undo.callback(unless_used, host, bridge, partial(_delete, host, name), but=pod.index)
            skip_dad(name)
        link = _existing(link or find_link(host, name), name)
        ignore_advertisements(host, link)
        _complete(host, conf, bridge, link)
    return link


def _create(host: Netlink, network: str, conf: PodConf, bridge: Link) -> bool:
    """Create the pair; its group names the owner until it has its alias. False if a link of that name exists."""
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
    """The link's MAC, derived from the bridge's and the VLAN, so that a recreated link has the one that pods cached."""
    first, second, third, *rest = bytes.fromhex(bridge.replace(":", ""))
    return bytes([(first ^ 4 | 2) & 0xFE, second ^ vlan >> 8, third ^ vlan & 0xFF, *rest]).hex(":")


def _complete(host: Netlink, conf: PodConf, bridge: Link, link: Link) -> None:
    """Do what is missing: an ADD may have been killed halfway, or the link may have been changed."""
    if link.kind == "vlan":
        problems = differences(host, conf, bridge)
        if problems:
            raise CNIError(Code.INVALID_NETWORK_CONFIG, f'"vlan": {problems[0]}', "; ".join(problems[1:]))
    else:
        port = find_link_by_index(host, link.peer) if link.kind == "veth" and not link.peer_is_elsewhere else None
        if port is None or port.master not in (0, bridge.index):
            raise _foreign(conf, link)
        if port.master == 0 or not port.up:
            attach_port(host, port.index, bridge.index, alias=GATEWAY_ALIAS, hairpin=False, isolated=False)
        vlans.set_gateway_port(host, port.index, conf)
        if port.group != GATEWAY_GROUP:  # by which rules tell it from ports of pods
            set_group(host, port.index, GATEWAY_GROUP)
        if link.alias != GATEWAY_ALIAS:
            set_alias(host, link.index, GATEWAY_ALIAS)
    if not link.up:
        set_up(host, link.index)


def differences(host: Netlink, conf: PodConf, bridge: Link) -> list[str]:
    """A sentence for each difference from what `ensure` makes."""
    link = find_link(host, conf.gateway_link)
    if link is None:
        return [f'VLAN interface "{conf.gateway_link}" does not exist']
    problems = [] if link.up else [f'VLAN interface "{link.name}" is down']
    if link.kind == "vlan":
        if (link.peer, link.vlan) != (bridge.index, conf.vlan):
            return [*problems, f'"{link.name}" exists, but is not VLAN {conf.vlan} of "{bridge.name}"']
        if conf.vlan not in list_vlans(host).get(bridge.index, {}):
            command = f"bridge vlan add dev {bridge.name} vid {conf.vlan} self"
            problems.append(
                f'"{link.name}" receives nothing, because "{bridge.name}" is not in VLAN {conf.vlan}: run {command}'
            )
        return problems
    port = find_link_by_index(host, link.peer) if link.kind == "veth" and not link.peer_is_elsewhere else None
    if port is None or port.master != bridge.index:
        return [*problems, f'The peer of VLAN interface "{link.name}" is not a port of "{bridge.name}"']
    name = f'Bridge port "{port.name}" of "{link.name}"'
    problems += [] if port.up else [f"{name} is down"]
    return problems + [f"{name}: {one}" for one in vlans.gateway_differences(host, port, conf)]


def delete_incomplete(host: Netlink, network: str, name: str) -> None:
    """Delete the link if an ADD of this network was killed before completing it. Raises OSError."""
    if _is_incomplete(find_link(host, name), network):
        with undoing():
            link = find_link(host, name)
            if link and _is_incomplete(link, network):
                delete_link(host, link.index)


def _is_incomplete(link: Link | None, network: str) -> bool:
    return link is not None and link.kind == "veth" and not link.alias and link.group == group_of(network)


def _delete(host: Netlink, name: str) -> None:
    link = find_link(host, name)
    if link:
        delete_link(host, link.index)


def _existing(link: Link | None, name: str) -> Link:
    if link is None:
        raise NetlinkError(ENODEV, f'"{name}" has just been deleted')
    return link


def _foreign(conf: PodConf, link: Link) -> CNIError:
    return CNIError(
        Code.INVALID_NETWORK_CONFIG,
        f'"vlan": "{link.name}" exists, but its peer is not a port of "{conf.bridge}"',
        f"it is a link of kind {link.kind!r} that slash24 did not create: rename or delete it",
    )

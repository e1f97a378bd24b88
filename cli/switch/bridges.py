"""What kubenet and flannel did to their bridge and to the node's routes, which slash24 goes on with or undoes."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial
from socket import AF_INET

from cli.switch.files import Configurations, has_backup
from cli.switch.leftover import CONFIGURATION, FILTER, LINK, ROUTING, Leftover, command
from cli.switch.pods import Pod
from cli.switch.providers import KUBENET
from cli.switch.routing import route_leftover
from cli.switch.seen import Seen
from cli.switch.takeover import Takeover, own_bridges
from linux import sysctls
from linux.netlink.socket import Netlink
from linux.rtnl import tc, vxlan
from linux.rtnl.links import (
    Link,
    create_bridge,
    delete_link,
    find_link,
    list_ports,
    set_hairpin,
    set_promiscuous,
    set_up,
)
from linux.rtnl.peer_routes import PROTOCOL
from linux.rtnl.policy_routing import MAIN, AnyRoute, hand_over_route
from linux.rtnl.uapi import RTPROT_BOOT
from plugins.node.conf import HAIRPIN_VETH
from spec.addresses import parse_cidr
from spec.errors import CNIError
from state.files import read_file

_SUBNETS = "/run/flannel/subnet.env"
_NETWORKS = ("FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK")
_LIMITS = "htb"


def find_bridge(
    takeover: Takeover, seen: Seen, configurations: Configurations, pods: Sequence[Pod]
) -> Iterator[Leftover]:
    """What is to be done with the bridge of old pods."""
    link = next((one for one in seen.links if one.name == takeover.bridge and one.kind == "bridge"), None)
    is_ours = takeover.bridge in own_bridges(configurations)
    if takeover.provider is KUBENET:
        yield from _find_limits(seen, link)
        if is_ours:
            yield from _find_promiscuous(takeover, seen, link)
            yield from _find_proxy(takeover, seen, link, pods)
    is_used = is_ours or takeover.bridge in configurations.bridges_of_others(takeover.provider)
    if link and not is_used and not any(port.master == link.index for port in seen.links):
        lines = (command("ip", "link", "del", link.name),)
        yield Leftover(LINK, link.name, f"bridge {link.name}, without ports", lines, partial(_delete_bridge, link))


def _delete_bridge(link: Link) -> None:
    with Netlink() as host:
        now = find_link(host, link.name)
        if now and now.index == link.index:
            if list_ports(host, link.index):
                raise OSError(f"bridge {link.name} has ports now")
            delete_link(host, link.index)


def _find_limits(seen: Seen, link: Link | None) -> Iterator[Leftover]:
    for qdisc in seen.qdiscs:
        if link and qdisc.link == link.index and qdisc.kind == _LIMITS:
            line = command("tc", "qdisc", "del", "dev", link.name, "root")
            yield Leftover(FILTER, link.name, f"limits of pods on {link.name}", (line,), partial(_delete_qdisc, qdisc))


def _delete_qdisc(qdisc: tc.Qdisc) -> None:
    with Netlink() as host:
        tc.delete_qdiscs(host, [qdisc])


def _find_promiscuous(takeover: Takeover, seen: Seen, link: Link | None) -> Iterator[Leftover]:
    """kubenet's default, a promiscuous bridge, where ours is ports in hairpin mode."""
    if link is None or not link.promiscuous or takeover.own is None:
        return
    with suppress(CNIError):
        if takeover.own.main.string("hairpinMode", HAIRPIN_VETH) != HAIRPIN_VETH:
            return
    ports = [port for port in seen.links if port.master == link.index and not port.hairpin]
    lines = [command("bridge", "link", "set", "dev", port.name, "hairpin", "on") for port in ports]
    lines.append(command("ip", "link", "set", link.name, "promisc", "off"))
    sentence = f"promiscuous mode of {link.name}, in place of which its ports get hairpin mode"
    yield Leftover(LINK, f"{link.name} promisc", sentence, tuple(lines), partial(_to_hairpin, link))


def _to_hairpin(link: Link) -> None:
    with Netlink() as host:
        for port in list_ports(host, link.index):
            if not port.hairpin:
                set_hairpin(host, port.index)
        set_promiscuous(host, link.index, on=False)


def _find_proxy(takeover: Takeover, seen: Seen, link: Link | None, pods: Sequence[Pod]) -> Iterator[Leftover]:
    """Pods with links of their own are reached from the bridge only while the node answers ARP for them."""
    ports = {port.name for port in seen.links if link and port.master == link.index}
    alone = [pod for pod in pods if pod.link not in ports]
    key = f"net.ipv4.conf.{takeover.bridge}.proxy_arp"
    is_on = sysctls.read_if_there(_key(takeover.bridge)) == "1"
    if alone and not is_on:
        lines = [
            *([] if link else [command("ip", "link", "add", takeover.bridge, "type", "bridge")]),
            command("ip", "link", "set", takeover.bridge, "up"),
            command("sysctl", "-w", f"{key}=1", f"net.ipv4.neigh.{takeover.bridge}.proxy_delay=0"),
        ]
        sentence = f"{len(alone)} pods with links of their own, for which {takeover.bridge} is to answer ARP"
        yield Leftover(CONFIGURATION, key, sentence, tuple(lines), partial(_answer, takeover.bridge))
    elif is_on and not alone and has_backup(KUBENET):
        line = command("sysctl", "-w", f"{key}=0")
        sentence = f"{takeover.bridge} answers ARP for pods with links of their own, which are gone"
        yield Leftover(LINK, key, sentence, (line,), partial(sysctls.write, _key(takeover.bridge), "0"))


def _key(bridge: str) -> str:
    return f"ipv4/conf/{bridge}/proxy_arp"


def _answer(bridge: str) -> None:
    with Netlink() as host:
        create_bridge(host, bridge, mtu=0)
        link = find_link(host, bridge)
        if link:
            set_up(host, link.index)
    sysctls.write(_key(bridge), "1")
    sysctls.write(f"ipv4/neigh/{bridge}/proxy_delay", "0")


def find_flannel_routes(
    seen: Seen, takeover: Takeover | None, pods: Collection[Pod]
) -> Iterator[tuple[bool, Leftover]]:
    """flannel's routes within its network, over links that stay; and whether running pods need them.

    They go over to slash24 where its plugin vxlan keeps such routes, and are deleted otherwise.
    """
    networks = _flannel_networks()
    gone = {link.index for link in seen.links if link.name.startswith("flannel") and link.alias != vxlan.OWNER}
    vteps = {link.index for link in seen.links if link.alias == vxlan.OWNER}
    own = takeover.own if takeover else None
    for route in seen.routes:
        is_within = any(_is_within(route, network) for network in networks)
        if route.table != MAIN or route.protocol != RTPROT_BOOT or route.link in gone:
            continue
        if (route.link in vteps and route.via) or (is_within and route.via and own and "vxlan" in own.types):
            yield False, _handed_over(route, seen.link_name(route.link))
        elif is_within and (route.via or route.kind == "blackhole"):
            yield bool(pods), route_leftover(route, seen.link_name(route.link))


def _handed_over(route: AnyRoute, link: str) -> Leftover:
    words = route.words(link)
    kept = words.replace(f" proto {RTPROT_BOOT}", f" proto {PROTOCOL}")
    sentence = f"route {words}, which slash24 keeps from now on"
    line = command("ip", "-4" if route.family == AF_INET else "-6", "route", "replace", *kept.split())
    return Leftover(ROUTING, words, sentence, (line,), partial(_hand_over, route))


def _hand_over(route: AnyRoute) -> None:
    with Netlink() as host:
        hand_over_route(host, route, PROTOCOL)


def _is_within(route: AnyRoute, network: str) -> bool:
    with suppress(ValueError):
        return parse_cidr(network).contains(parse_cidr(route.dst))
    return False


def _flannel_networks() -> list[str]:
    with suppress(OSError):
        lines = read_file(_SUBNETS).decode("utf-8", "replace").splitlines()
        pairs = (line.partition("=") for line in lines)
        return [network for key, _, value in pairs if key in _NETWORKS for network in value.split(",")]
    return []

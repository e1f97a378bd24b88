"""The addresses by which the other nodes reach this one: as configured, as the registry says, or by the routes."""

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from daemon.config import AddressConf
from linux.netlink.socket import Netlink
from linux.rtnl.addresses import InterfaceAddress, list_addresses
from linux.rtnl.links import find_link
from linux.rtnl.routes import FAR, look_up
from spec.addresses import is_ipv6, parse_address


class NoAddress(Exception):
    """This node has no address that others could use; the text is a sentence."""


@dataclass(frozen=True)
class OwnAddresses:
    """The addresses, at most one per family, IPv4 first; and the indexes of the links that lead to other nodes."""

    ips: tuple[str, ...]
    links: tuple[int, ...] = ()


def find(
    host: Netlink,
    conf: AddressConf,
    *,
    granted: Sequence[str] = (),
    current: Collection[str] = (),
    excluded: Collection[str] = (),
) -> OwnAddresses:
    """This node's addresses. `granted`: those in the registry. `current`: those in use, which are kept if they last.

    `excluded`: names of links whose addresses are for pods only. Raises NoAddress, NetlinkError.
    """
    pods = {link.index for name in excluded if (link := find_link(host, name))}
    every = [one for one in list_addresses(host) if one.is_global and one.link not in pods]
    lasting = [one for one in every if is_lasting(one)]
    if conf.ips:
        return _with_links(conf.ips, every)
    if conf.interface:
        candidates, what = _on_link(host, conf.interface, lasting), f'link "{conf.interface}" has no address that lasts'
        return _with_links(_one_per_family(host, candidates, current), every, why_none=what)
    if conf.network:
        candidates, what = _in_network(conf.network, lasting), f"no link has an address in {conf.network} that lasts"
        return _with_links(_one_per_family(host, candidates, current), every, why_none=what)
    known = [ip for ip in granted if any(one.ip == ip for one in every)]
    if known:
        return _with_links(_first_per_family(known), every)
    return _with_links(_of_default_route(host, lasting, current), every, why_none="this node has no default route")


def is_lasting(address: InterfaceAddress) -> bool:
    """Whether an address is neither about to be removed nor still being checked."""
    return not (address.failed or address.tentative or address.deprecated or address.temporary)


def _with_links(ips: Sequence[str], every: Iterable[InterfaceAddress], *, why_none: str = "") -> OwnAddresses:
    if not ips:
        raise NoAddress(f'cannot determine the address of this node: {why_none}; set a key of "address"')
    links = dict.fromkeys(one.link for one in every if one.ip in ips)  # first, if there are too many to watch
    return OwnAddresses(tuple(ips), (*links, *dict.fromkeys(one.link for one in every if one.link not in links)))


def _on_link(host: Netlink, name: str, lasting: Iterable[InterfaceAddress]) -> list[InterfaceAddress]:
    link = find_link(host, name)
    if link is None:
        raise NoAddress(f'cannot determine the address of this node: there is no link "{name}"; correct "interface"')
    return [one for one in lasting if one.link == link.index]


def _in_network(network: str, lasting: Sequence[InterfaceAddress]) -> list[InterfaceAddress]:
    """The addresses in the network; and those of the other family on the same link."""
    inside = parse_address(network)
    found = [one for one in lasting if inside.contains(parse_address(one.ip))]
    links = {one.link for one in found}
    return found + [one for one in lasting if one.link in links and is_ipv6(one.cidr) != is_ipv6(network)]


def _one_per_family(host: Netlink, candidates: Sequence[InterfaceAddress], current: Collection[str]) -> list[str]:
    """The one in use, else the kernel's choice for far destinations, else the oldest that is not a single address.

    A single address, /32 or /128, is usually one that moves between nodes. The kernel lists the newest IPv6 address
    first.
    """
    chosen = []
    for version in FAR:
        found = [one for one in candidates if is_ipv6(one.cidr) == (version == 6)]
        found = [one for one in found if not _is_virtual(one)] or found
        ips = [one.ip for one in found]
        if not ips:
            continue
        kept = [ip for ip in ips if ip in current]
        source = _source(host, version, found[0].link)
        chosen.append(kept[0] if kept else source if source in ips else ips[0 if version == 4 else -1])
    return chosen


def _is_virtual(address: InterfaceAddress) -> bool:
    return address.cidr.endswith("/128" if is_ipv6(address.cidr) else "/32") and not address.dynamic


def _of_default_route(host: Netlink, lasting: Sequence[InterfaceAddress], current: Collection[str]) -> list[str]:
    """The sources of packets to far destinations; an address in use is kept while the route's link has it.

    A family without a default route gets an address of the other family's link: nodes on a link need no route.
    """
    chosen: dict[int, str] = {}
    links: set[int] = set()
    for version in FAR:
        source = _source(host, version, 0)
        of_source = {one.link for one in lasting if one.ip == source}
        kept = [one.ip for one in lasting if one.link in of_source and one.ip in current and _is_of(one.ip, version)]
        if of_source:
            chosen[version] = kept[0] if kept else source
            links |= of_source
    others = [one for one in lasting if one.link in links and all(not _is_of(one.ip, version) for version in chosen)]
    return sorted([*chosen.values(), *_one_per_family(host, others, current)], key=is_ipv6)


def _source(host: Netlink, version: int, link: int) -> str:
    with suppress(OSError):
        return look_up(host, FAR[version], link=link).source
    return ""


def _is_of(ip: str, version: int) -> bool:
    return is_ipv6(ip) == (version == 6)


def _first_per_family(ips: Sequence[str]) -> list[str]:
    found = {is_ipv6(ip): ip for ip in reversed(ips)}
    return [found[family] for family in sorted(found)]

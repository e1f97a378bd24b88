"""Pods that hang on a provider's links: the host's ends of veth pairs whose other end is in another namespace."""

from collections.abc import Collection
from dataclasses import dataclass

from cli.facts.cache import Cached, read_cache
from cli.switch.providers import Provider, matches
from cli.switch.routing import is_ours
from cli.switch.seen import Seen
from linux.netlink.socket import Netlink
from linux.netns_ids import paths_of
from linux.rtnl.links import Link

_ONE_ADDRESS = ("/32", "/128")


@dataclass(frozen=True)
class Pod:
    """A pod of a provider: its link on the node, and if known the container, "namespace/name", a path of its netns."""

    link: str
    container: str
    pod: str
    netns: str

    def __str__(self) -> str:
        known = self.pod or self.container[:13] or self.netns
        return f"{known} ({self.link})" if known else self.link


def find_pods(provider: Provider, seen: Seen, bridges: Collection[str], addresses: Collection[str]) -> list[Pod]:
    """The pods of a provider. Raises OSError.

    `bridges`: on which they may be besides the provider's own. `addresses`: of pods with links of their own, to which
    the node's routes lead.
    """
    masters = {link.index for link in seen.links if link.name in (*provider.bridges, *bridges)}
    routed = {route.link for route in seen.routes if route.dst.rpartition("/")[0] in addresses}
    if provider.routes_to_pods:
        routed |= {route.link for route in seen.routes if route.dst.endswith(_ONE_ADDRESS)}
    ruled = {rule.iif for rule in seen.rules if provider.weak_rules and provider.weak_rules(rule)}

    def is_pods(link: Link) -> bool:
        if link.kind != "veth" or not link.peer_is_elsewhere or is_ours(link):
            return False
        named = matches(provider.pods, link.name) or link.name in ruled
        return named or link.master in masters or (not link.master and link.index in routed)

    links = [link for link in seen.links if is_pods(link)]
    if not links:
        return []
    cached = {name: one for one in read_cache() for name in one.links}
    with Netlink() as host:
        paths = paths_of(host, {link.peer_netns for link in links}, [one.netns for one in cached.values()])
    return sorted((_pod(link, cached.get(link.name), paths) for link in links), key=str)


def _pod(link: Link, cached: Cached | None, paths: dict[int, str]) -> Pod:
    netns = paths.get(link.peer_netns, "") if link.peer_netns is not None else ""
    return Pod(link.name, cached.container if cached else "", cached.pod if cached else "", netns)

"""Whether the node forwards pods' packets: sysctls of the node and of the links concerned."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from cli.validate.findings import Finding, not_applicable, ok, or_ok, problem, warning
from cli.validate.node import Facts
from cli.validate.pods import PodNetwork
from cli.validate.settings import Read, read, setting
from linux import router_advertisements
from linux.netlink.socket import NETLINK_NETFILTER, Netlink
from linux.nftables import listing
from linux.rtnl.routes import look_up
from spec.addresses import is_ipv6

_FORWARD = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
_NOT_ROUTED = not_applicable("this node is not the gateway of the network's pods")


def check(facts: Facts) -> Iterable[Finding]:
    """Forwarding is on, for the node and for each link."""
    if not facts.pods.is_routed:
        return [_NOT_ROUTED]
    links = links_concerned(facts)
    when = f"on, also of {', '.join(links)}" if facts.pods.bridge in links else "the first pod switches it on"
    return or_ok(judge(facts.pods, links, read), when)


def links_concerned(facts: Facts) -> list[str]:
    """The names of the links that pods' packets pass, of those that are there, and "default"."""
    pods = facts.pods
    names = [pods.bridge, pods.tunnel.device if pods.tunnel else "", *facts.uplinks.values()]
    direct = {path.link for path in facts.peers.paths if not path.mac}
    names += [link.name for index, link in facts.links.items() if index in direct]
    return [name for name in dict.fromkeys(names) if name and facts.link(name)] + ["default"]


def judge(pods: PodNetwork, links: Sequence[str], value: Read) -> Iterator[Finding]:
    """`links`: the names of those concerned, and "default"."""
    is_made = pods.bridge in links
    for version, key in _FORWARD.items():
        is_off = pods.has(version) and value(key) == "0"
        # The first ADD, which makes the bridge, switches it on.
        if is_off and is_made:
            yield problem(f"IPv{version} is not forwarded: {key} is 0", setting(f"{key}=1"))
    if pods.has(4) and value(_FORWARD[4]) == "1":
        for link in (link for link in links if value(f"ipv4/conf/{link}/forwarding") == "0"):
            mend = setting(f"ipv4/conf/{link}/forwarding=1")
            if link == "default":
                yield warning(
                    "links that are made from now on do not forward IPv4: ipv4/conf/default/forwarding is 0", mend
                )
            else:
                yield problem(f'"{link}" does not forward IPv4: ipv4/conf/{link}/forwarding is 0', mend)
    if pods.has(6):
        for link in (link for link in links if value(f"ipv6/conf/{link}/disable_ipv6") == "1"):
            what = "new links have" if link == "default" else f'"{link}" has'
            yield problem(f"{what} no IPv6: disable_ipv6 is 1", setting(f"ipv6/conf/{link}/disable_ipv6=0"))


def check_bridged(facts: Facts) -> Iterable[Finding]:
    """With kube-proxy, packets between pods of a node pass its rules."""
    if not facts.pods.is_routed:
        return [_NOT_ROUTED]
    with Netlink(NETLINK_NETFILTER) as netlink:
        by = kube_proxy_in(netlink)
    if facts.link("kube-ipvs0"):
        by = 'link "kube-ipvs0"'
    return judge_bridged(facts.pods, by, read)


def kube_proxy_in(netlink: Netlink) -> str:
    """What of kube-proxy is in nftables, "" for nothing."""
    for table in listing.list_tables(netlink):
        if table.name == "kube-proxy":
            return "table kube-proxy"
        if table.name == "nat" and "KUBE-SERVICES" in listing.list_chains(netlink, table):
            return "chain KUBE-SERVICES"
    return ""


def judge_bridged(pods: PodNetwork, kube_proxy: str, value: Read) -> Iterator[Finding]:
    """`kube_proxy`: what shows that it runs here, "" if nothing does."""
    if not kube_proxy:
        yield not_applicable("kube-proxy has no rules here")
        return
    if pods.has_policies:
        yield not_applicable("with network policies this node routes what its pods send each other")
        return
    keys = {4: "bridge/bridge-nf-call-iptables", 6: "bridge/bridge-nf-call-ip6tables"}
    off = [key for version, key in keys.items() if pods.has(version) and value(key) != "1"]
    if not off:
        yield ok(f"kube-proxy ({kube_proxy}) sees what is bridged")
        return
    load = "modprobe br_netfilter; echo br_netfilter >/etc/modules-load.d/br_netfilter.conf"
    names = " and ".join(f"net.{key.replace('/', '.')}" for key in off)
    found = f"kube-proxy serves services ({kube_proxy}), but those of a pod's own node do not answer: {names} is not 1"
    yield problem(found, f"{load}; {setting(*(f'{key}=1' for key in off))}")


@dataclass(frozen=True)
class Arrival:
    """By which links (names) a peer's packets come in, and by which replies leave."""

    peer: str
    comes_by: str
    leaves_by: str


def check_reverse_path(facts: Facts) -> Iterable[Finding]:
    """Strict rp_filter drops nothing that peers send."""
    if not facts.peers.paths:
        return [not_applicable("there are no peers")]
    conf = facts.pods.tunnel
    tunnel = conf.device if conf and conf.direct_routing and not all(path.mac for path in facts.peers.paths) else ""
    return or_ok(
        judge_reverse_path(list(_arrivals(facts)), tunnel, read),
        "packets of all peers come in by the link that replies use",
    )


def _arrivals(facts: Facts) -> Iterator[Arrival]:
    """For each peer; a direct route's packets may come in by any link that both are on."""
    on_links = {one.ip: one.link for one in facts.addresses}
    for path in facts.peers.paths:
        if is_ipv6(path.underlay or path.via):
            continue  # IPv6 has no rp_filter
        if path.mac:
            comes, leaves = on_links.get(facts.vtep.local, 0), look_up(facts.host, path.underlay).link
        else:
            comes, leaves = path.link, look_up(facts.host, path.via).link
        names = [facts.links[index].name if index in facts.links else "" for index in (comes, leaves)]
        yield Arrival(path.underlay or path.via, *names)


def judge_reverse_path(arrivals: Iterable[Arrival], tunnel: str, value: Read) -> Iterator[Finding]:
    """`tunnel`: the tunnel's device, if some peers are reached by it and others directly; else ""."""
    for one in arrivals:
        if one.comes_by and one.comes_by != one.leaves_by and _is_strict(one.comes_by, value):
            found = f'packets of {one.peer} come in by "{one.comes_by}", but replies leave by "{one.leaves_by}"'
            yield problem(f"{found}, and rp_filter is 1 (strict)", _loose(one.comes_by))
    if tunnel and _is_strict(tunnel, value):
        found = f'"{tunnel}" has strict rp_filter: peers that use the tunnel, though this node reaches them directly'
        yield warning(f"{found}, are not understood", _loose(tunnel))


def _is_strict(link: str, value: Read) -> bool:
    """The larger one of both values counts (ip-sysctl.rst); 2 is loose."""
    return max(value("ipv4/conf/all/rp_filter"), value(f"ipv4/conf/{link}/rp_filter")) == "1"


def _loose(link: str) -> str:
    return setting(f"ipv4/conf/{link}/rp_filter=2")


def check_advertisements(facts: Facts) -> Iterable[Finding]:
    """Links that have their default route from advertisements keep it."""
    if not facts.pods.has(6):
        return [not_applicable("pods have no IPv6")]
    ignored = router_advertisements.ignored(facts.host)
    dynamic = {one.link for one in facts.addresses if one.is_global and one.dynamic and is_ipv6(one.cidr)}
    learning = [facts.links[index].name for index in sorted(dynamic) if index in facts.links]
    return or_ok(
        judge_advertisements(ignored, learning, read, has_route=6 in facts.uplinks),
        "no default route depends on advertisements that are ignored",
    )


def judge_advertisements(
    ignored: Collection[str], learning: Iterable[str], value: Read, *, has_route: bool
) -> Iterator[Finding]:
    """`ignored`: links with such a route. `learning`: links with an address from advertisements."""
    for link in ignored:
        found = f'the default route by "{link}" came from a router advertisement, but later ones are ignored'
        yield problem(f"{found}: it forwards, and accept_ra is 1", setting(f"ipv6/conf/{link}/accept_ra=2"))
    for link in learning:
        keys = [f"ipv6/conf/{link}/{key}" for key in ("accept_ra", "forwarding")]
        if not has_route and link not in ignored and [value(key) for key in keys] == ["1", "1"]:
            found = f'there is no default route of IPv6, and "{link}" ignores router advertisements'
            yield problem(f"{found}: it forwards, and accept_ra is 1", setting(f"{keys[0]}=2"))

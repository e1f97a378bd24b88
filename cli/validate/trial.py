"""A real trial: two scratch pods, which are added, checked, used and deleted, as a runtime would."""

import os
import signal
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from socket import AF_INET, AF_INET6

from cli.cni import Caller, Pod
from cli.facts.leases import read_leases
from cli.trial import ScratchPod, left_alone
from cli.validate.echo import Target, ask
from cli.validate.findings import Finding, not_applicable, ok, or_ok, problem, warning
from cli.validate.node import Facts
from linux.netlink.socket import NETLINK_NETFILTER, Netlink
from linux.nftables import listing
from linux.ownership import owner_tag
from linux.rtnl.links import list_links
from linux.rtnl.routes import list_routes
from linux.rtnl.uapi import RT_TABLE_MAIN
from plugins.pod import pod_files
from spec.addresses import is_ipv6, parse_address
from spec.attachment import Attachment
from spec.config import Section
from spec.errors import CNIError
from spec.result import Result

_SECONDS, _MOST_PEERS = 3, 16
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOK = "slash24 pods shows pods; nft list ruleset and ip route get ADDRESS, what is in the way"


def check(facts: Facts) -> list[Finding]:
    """Carries it out. Whatever happens, even Ctrl-C, the pods are deleted."""
    if not facts.network or not facts.version:
        return [not_applicable("there is no network that could be tried")]
    caller = Caller(facts.network, facts.version, facts.bin_dirs)
    name = f"slash24-validate-{os.urandom(4).hex()}"
    pods: list[ScratchPod] = []
    findings: list[Finding] = []
    with left_alone(caller.network.name), _signals(_interrupt):
        try:
            for number in (1, 2):
                pods.append(ScratchPod.made(caller, f"{name}-{number}"))
            findings += _try(facts, *pods)
        finally:
            with _signals(signal.SIG_IGN):
                findings += _undo(pods)
    return findings


def _interrupt(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)  # as shells tell it


@contextmanager
def _signals(handler: Callable[[int, object], None] | signal.Handlers) -> Iterator[None]:
    before = [(number, signal.signal(number, handler)) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, earlier in before:
            signal.signal(number, earlier)


def _try(facts: Facts, one: ScratchPod, other: ScratchPod) -> Iterator[Finding]:
    try:
        for each in (one, other):
            each.add()
        results = [each.result for each in (one, other)]
        yield ok(f"ADD gave two pods {' and '.join(map(_shown, results))}")
        for each in (one, other):
            each.check()
        yield ok("CHECK found nothing") if one.has_check else not_applicable("the network is used without CHECK")
    except CNIError as error:
        yield problem(str(error), "mend what it says; nothing of it concerns running pods")
        return
    yield from _reach(facts, one, *results)


def _shown(result: Result) -> str:
    return ", ".join(ip.address.partition("/")[0] for ip in result.ips) or "no addresses"


def _reach(facts: Facts, one: ScratchPod, mine: Result, theirs: Result) -> Iterator[Finding]:
    """What the first pod reaches. `theirs`: the result of the other one."""
    gateways = [ip.gateway for ip in mine.ips if ip.gateway]
    others = [] if _is_isolated(facts) else _addresses(theirs)
    peers = _peer_targets(facts, mine)
    outside = _outside(facts, mine)
    behind = [address for group in peers.values() for address in group]
    answered = _answering([*gateways, *others, *behind, *outside], one.netns)
    yield from judge("a pod", "the gateway", gateways, answered)
    yield from judge("a pod", "the other pod", others, answered)
    if facts.pods.is_routed:
        yield from judge("the node", "a pod", _addresses(mine), _answering(_addresses(mine)))
    silent = [host for host, asked in peers.items() if not answered.intersection(asked)]
    yield from judge_peers(peers, answered, _answering(silent))
    yield from judge_outside(outside, answered, _answering([one for one in outside if one not in answered]))


def _answering(addresses: Collection[str], netns: int | None = None) -> set[str]:
    """Those that answer echo requests from a pod (its namespace), or from the node."""
    return {
        target.address for target in ask([Target(one) for one in addresses], seconds=_SECONDS, netns=netns).answered
    }


def _addresses(result: Result) -> list[str]:
    return [ip.address.partition("/")[0] for ip in result.ips]


def _is_isolated(facts: Facts) -> bool:
    """Whether pods of this node are kept apart."""
    sections = [Section(plugin) for plugin in facts.network.plugins]
    return any(one.raw("portIsolation") is True or one.raw("ingressPolicy") == "isolated" for one in sections)


def judge(who: str, what: str, addresses: Collection[str], answered: Collection[str]) -> Iterator[Finding]:
    """Whether all of these addresses answered."""
    silent = [address for address in addresses if address not in answered]
    if silent:
        yield problem(f"{who} does not reach {what}: {', '.join(silent)} does not answer echo requests", _LOOK)
    elif addresses:
        yield ok(f"{who} reaches {what}: {', '.join(addresses)}")


def _peer_targets(facts: Facts, mine: Result) -> dict[str, tuple[str, ...]]:
    """By address of a peer what its pods' gateway may be, and its end of the tunnel."""
    found: dict[str, tuple[str, ...]] = {}
    versions = {is_ipv6(ip.address) for ip in mine.ips}
    for path in facts.peers.paths:
        subnet, host = parse_address(path.subnet), path.underlay or path.via
        if is_ipv6(path.subnet) in versions and (host in found or len(found) < _MOST_PEERS):
            ends = (str(subnet.first_host), str(subnet.network)) if path.mac else (str(subnet.first_host),)
            found[host] = (*found.get(host, ()), *ends)
    return found


def judge_peers(
    peers: Mapping[str, tuple[str, ...]], answered: Collection[str], alive: Collection[str]
) -> Iterator[Finding]:
    """`peers`: by a peer's address those behind it that were asked. `alive`: the peers' that answer this node."""
    for host, asked in peers.items():
        reached = [address for address in asked if address in answered]
        if reached:
            yield ok(f"a pod reaches peer {host}: {', '.join(reached)}")
        elif host in alive:
            found = f"peer {host} answers this node, but none of {', '.join(asked)} behind it answers a pod"
            yield warning(found, f"slash24 validate on {host}; if no pod has ever been there, nothing need be wrong")
        else:
            yield warning(
                f"peer {host} answers neither this node nor, behind it, a pod", f"is it up? slash24 validate on {host}"
            )
    if not peers:
        yield not_applicable("there are no peers to be reached")


def _outside(facts: Facts, mine: Result) -> list[str]:
    """The next hops of the node's default routes, for the IP versions of which the pod has a default route, too."""
    found = []
    for family, version in ((AF_INET, 4), (AF_INET6, 6)):
        if not any(route.dst.endswith("/0") and is_ipv6(route.dst) == (version == 6) for route in mine.routes):
            continue
        routes = [
            one for one in list_routes(facts.host, family) if one.table == RT_TABLE_MAIN and one.dst.endswith("/0")
        ]
        found += [one.via for one in sorted(routes, key=lambda one: one.priority)[:1] if one.via]
    # A link-local next hop is not reached from elsewhere.
    return [address for address in found if not parse_address("fe80::/10").contains(parse_address(address))]


def judge_outside(outside: Collection[str], answered: Collection[str], by_node: Collection[str]) -> Iterator[Finding]:
    """`outside`: next hops of default routes. `by_node`: those that answer this node, of those that answered no pod."""
    for address in outside:
        if address in answered:
            yield ok(f"a pod reaches outside: {address}, the node's default gateway")
        elif address in by_node:
            found = f"{address}, the node's default gateway, answers this node, but no pod"
            yield problem(found, '"ipMasq": true, or routes to pods in that network; ' + _LOOK)
        else:
            yield warning(f"whether pods reach outside could not be told: {address} answers this node neither")
    if not outside:
        yield not_applicable(
            "outside was not tried: node or pod have no default route by a gateway that both can reach"
        )


def _undo(pods: Iterable[ScratchPod]) -> Iterator[Finding]:
    wrong = []
    for each in pods:
        try:
            each.delete()
        except CNIError as error:
            wrong.append(problem(str(error), f"slash24 gc; the pod was {each.pod.container}"))
        each.close()
        left = list(left_of(each.caller.network.name, each.pod))
        wrong += [problem(f"DEL has left {'; '.join(left)}", "slash24 gc --yes")] if left else []
    yield from or_ok(wrong, "DEL has left nothing")


def left_of(network: str, pod: Pod) -> Iterator[str]:
    """What is still there of a pod, a phrase each. Raises OSError."""
    owner = Attachment(network, pod.container, pod.ifname)
    tag = owner_tag(owner)
    with Netlink() as host:
        yield from (f'link "{link.name}"' for link in list_links(host, containing=tag.encode()))
    yield from (f"lease {lease.address}" for lease in read_leases() if lease.container == pod.container)
    if pod_files.find(owner):
        yield "its file in /run/slash24/pods"
    with Netlink(NETLINK_NETFILTER) as netlink:
        for table in listing.list_tables(netlink):
            if listing.list_rules(netlink, table, containing=tag.encode()):
                yield f"a rule in table {table.name}"
            for name in listing.list_sets(netlink, table) if table.name.startswith("slash24_") else ():
                if any(tag.encode() in element for element in listing.list_elements(netlink, table, name) or ()):
                    yield f"an element of set {name} in table {table.name}"

"""Firewalls of others: do they forward pods' packets, and let the tunnel's in?"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cli.validate.findings import Finding, not_applicable, or_ok, problem, warning
from cli.validate.node import Facts
from cli.validate.pods import PodNetwork
from linux import iptables_legacy
from linux.netlink.socket import NETLINK_NETFILTER, Netlink
from linux.nftables import listing, messages, uapi
from linux.nftables.listing import FoundRule
from linux.nftables.messages import TableName
from spec.addresses import is_ipv6, parse_address

_FAMILIES = {messages.INET: ("inet", (4, 6)), messages.IP: ("ip", (4,)), messages.IP6: ("ip6", (6,))}
_OURS = "slash24_"
_HOOKS = {"forward": uapi.NF_INET_FORWARD, "input": uapi.NF_INET_LOCAL_IN}
_COMMANDS = {4: "iptables", 6: "ip6tables"}


@dataclass(frozen=True)
class Gate:
    """A base chain of somebody's that refuses what no rule of it accepts.

    `place`: family and table, and the chain. `hook`: "forward" or "input". `versions`: of IP. `accepts`: the IP
    versions of which a rule accepts what is concerned: pods' packets, or the tunnel's. `from_cluster`: the same for
    packets of other nodes' pods. `by`: the program that made it, "" if unknown.
    """

    place: str
    hook: str
    versions: tuple[int, ...]
    accepts: tuple[int, ...] = ()
    from_cluster: tuple[int, ...] = ()
    by: str = ""


def check(facts: Facts) -> Iterable[Finding]:
    """Nothing refuses pods' packets."""
    pods = facts.pods
    if not pods.is_routed:
        return [not_applicable("this node is not the gateway of the network's pods")]
    with Netlink(NETLINK_NETFILTER) as netlink:
        gates = list(read_gates(netlink, pods))
    gates += read_legacy()
    parent = facts.vtep.local if facts.vtep else ""
    return or_ok(
        judge(gates, pods, parent, has_peers=bool(facts.peers.nodes)),
        "no chain of others refuses what pods send or get",
    )


def read_gates(netlink: Netlink, pods: PodNetwork) -> Iterator[Gate]:
    """The chains of nftables that refuse by default. Raises NetlinkError."""
    for table in listing.list_tables(netlink):
        if table.family not in _FAMILIES or table.name.startswith(_OURS):
            continue
        name, versions = _FAMILIES[table.family]
        bases = [base for base in listing.list_base_chains(netlink, table) if base[1].type == "filter"]
        for chain, hook, policy in bases:
            kind = next((kind for kind, number in _HOOKS.items() if number == hook.number), "")
            if not kind:
                continue
            passed = _passed(netlink, table, chain, always=True)
            certain = [rule for rule in passed if listing.is_unconditional(rule)]
            if any(map(listing.accepts, certain)):
                continue
            if policy != uapi.NF_DROP and not any(map(listing.refuses, certain)):
                continue
            accepting = [rule for rule in _passed(netlink, table, chain, always=False) if listing.accepts(rule)]
            yield Gate(
                f"{name} {table.name} {chain}",
                kind,
                versions,
                tuple(v for v in versions if any(_is_for(rule, v, pods, kind) for rule in accepting)),
                tuple(v for v in versions if any(_is_from(rule, v, pods.cluster) for rule in accepting)),
                _author(table, listing.list_chains(netlink, table)),
            )


def _passed(netlink: Netlink, table: TableName, first: str, *, always: bool) -> Iterator[FoundRule]:
    """The rules of a chain, and of those that it leads to: that packets may get to, or that they always get to."""
    seen, todo = set(), [first]
    while todo:
        chain = todo.pop()
        if chain in seen:
            continue
        seen.add(chain)
        for rule in listing.list_rules(netlink, table, chain):
            yield rule
            if (target := listing.target_chain(rule)) and (not always or listing.is_unconditional(rule)):
                todo.append(target)


def _is_for(rule: FoundRule, version: int, pods: PodNetwork, kind: str) -> bool:
    """Whether an accepting rule is for pods (by their bridge or network), or for the tunnel's port."""
    if kind == "input":
        port = pods.tunnel.port if pods.tunnel else 0
        return any(port.to_bytes(2, order) in rule.expressions for order in ("big", "little"))
    by_bridge = pods.bridge.encode() in rule.expressions  # as the kernel compares names: with or without their end
    return by_bridge or _is_from(rule, version, pods.subnets)


def _is_from(rule: FoundRule, version: int, networks: Iterable[str]) -> bool:
    """Whether a rule is for what comes from these networks, of which it may accept more."""
    source = listing.source_network(rule, version)
    firsts = [parse_address(one).packed for one in networks if is_ipv6(one) == (version == 6)]
    return bool(source) and bool(firsts) and all(listing.is_in(first, source) for first in firsts)


def _author(table: TableName, chains: Sequence[str]) -> str:
    if table.name == "firewalld":
        return "firewalld"
    if any(chain.startswith("ufw") for chain in chains):
        return "ufw"
    return "Docker" if "DOCKER" in chains or "DOCKER-USER" in chains else ""


def read_legacy() -> list[Gate]:
    """The chains of iptables-legacy whose policy is DROP; what its rules accept is not known. Raises OSError."""
    found = []
    for version, command in _COMMANDS.items():
        if "filter" in iptables_legacy.tables(version):
            for kind, hook in _HOOKS.items():
                if iptables_legacy.drops(version, "filter", hook):
                    found.append(Gate(f"{command}-legacy {kind.upper()}", kind, (version,)))
    return found


def judge(gates: Iterable[Gate], pods: PodNetwork, local: str, *, has_peers: bool) -> Iterator[Finding]:
    """What the gates refuse. `local`: the address of the tunnel's end, "" without a tunnel."""
    for gate in gates:
        by = f" of {gate.by}" if gate.by else ""
        refuses = f'"{gate.place}"{by} refuses'
        if gate.hook == "input":
            if local and (6 if is_ipv6(local) else 4) in set(gate.versions) - set(gate.accepts):
                port = pods.tunnel.port
                yield warning(
                    f"{refuses} what it does not accept, maybe the tunnel's UDP port {port}", _open(gate, port)
                )
            continue
        due = [version for version in gate.versions if pods.has(version)]
        cut = [version for version in due if version not in gate.accepts]
        if cut and "legacy" in gate.place:
            mend = f"{_legacy(gate)} -S FORWARD; accept pods: {_accept(gate, pods)}"
            yield warning(f"{refuses} what its rules do not accept, which are not looked at here", mend)
        elif cut and "firewall" not in pods.chained:
            yield problem(f"{refuses} what pods send and get ({_names(cut)})", _let_pass(gate, pods))
        elif has_peers and pods.cluster and set(due) - set(gate.from_cluster) - set(gate.accepts):
            networks = next((one for one in pods.cluster if (6 if is_ipv6(one) else 4) in due), "")
            found = f"{refuses} connections of other nodes' pods"
            yield warning(found, f"{_COMMANDS[due[0]]} -A CNI-ADMIN -s {networks} -j ACCEPT")


def _let_pass(gate: Gate, pods: PodNetwork) -> str:
    chained = f'add {{"type": "firewall"}} to the plugins of "{pods.name}"'
    if gate.by == "firewalld":
        sources = " ".join(f"--add-source={network}" for network in pods.cluster or pods.subnets)
        return f"{chained}; or firewall-cmd --permanent --zone=trusted {sources}; firewall-cmd --reload"
    if gate.by == "ufw":
        return f"{chained}; or ufw route allow in on {pods.bridge}; ufw route allow out on {pods.bridge}"
    return (
        chained
        if gate.place.startswith("ip") and gate.place.endswith("filter FORWARD")
        else f"accept pods there: {_accept(gate, pods)}"
    )


def _accept(gate: Gate, pods: PodNetwork) -> str:
    if "legacy" in gate.place:
        return "; ".join(f"{_legacy(gate)} -A FORWARD {way} {pods.bridge} -j ACCEPT" for way in ("-i", "-o"))
    return "; ".join(f"nft add rule {gate.place} {way}name {pods.bridge} accept" for way in ("iif", "oif"))


def _open(gate: Gate, port: int) -> str:
    if gate.by == "firewalld":
        return f"firewall-cmd --permanent --add-port={port}/udp; firewall-cmd --reload"
    if gate.by == "ufw":
        return f"ufw allow {port}/udp"
    if "legacy" in gate.place:
        return f"{_legacy(gate)} -A INPUT -p udp --dport {port} -j ACCEPT"
    return f"nft add rule {gate.place} udp dport {port} accept"


def _legacy(gate: Gate) -> str:
    return gate.place.split()[0]


def _names(versions: Sequence[int]) -> str:
    return " and ".join(f"IPv{version}" for version in versions)

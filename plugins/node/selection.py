"""Which records of other nodes are used, and why others are left out. Pure.

Records come from other machines. An invalid one must neither stop the pods of this node nor take traffic from a peer
that is already served. `plugins/node/conflicts.py` decides between peers that claim the same thing.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import is_

from linux.rtnl.forwarding import Objects, PeerPath, objects_of
from linux.rtnl.vxlan import vtep_mac
from plugins.node.conflicts import Claim, settle
from plugins.node.network_set import NetworkSet
from plugins.node.paths import Links, Tunnel, Unusable, addresses_on, direct_path, tunnel_path
from plugins.node.records import Node
from spec.addresses import Address, is_ipv6, parse_address

_WIDEST = {4: 8, 6: 32}
_NO_PODS = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8")
_NO_NODE = ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/127", "fe80::/10", "ff00::/8")


@dataclass(frozen=True)
class ThisNode:
    """This node: its subnets, the networks of all pods (if known), its links, and its tunnel (if any).

    `name`, `since`: as in a record, "" and 0 if unknown.
    """

    subnets: tuple[str, ...]
    cluster: tuple[str, ...]
    links: Links
    tunnel: Tunnel | None = None
    name: str = ""
    since: int = 0


@dataclass(frozen=True)
class Peers:
    """The other nodes with their usable addresses and subnets, the paths to them, and why others are left out.

    `shared`: addresses that receive pods' packets unencapsulated, being on a link of this node. `about_this`: problems
    with this node's own record, from which peers learn about it. `own_conflict`: "", or that this node's own subnet is
    that of an older one. `judge`, `records`, `verdicts`: how they were selected, a verdict for each record.
    """

    nodes: tuple[Node, ...]
    paths: tuple[PeerPath, ...]
    left_out: tuple[str, ...]
    shared: tuple[str, ...] = ()
    about_this: tuple[str, ...] = ()
    own_conflict: str = ""
    judge: "Judge | None" = field(default=None, compare=False, repr=False)
    records: Sequence[Node] = field(default=(), compare=False, repr=False)
    verdicts: "tuple[Verdict, ...]" = field(default=(), compare=False, repr=False)

    @cached_property
    def objects(self) -> Objects:
        """The routes, neighbours and FDB entries of the paths."""
        return objects_of(self.paths)


def select(
    nodes: Sequence[Node],
    this: ThisNode,
    in_place: Callable[[Sequence[PeerPath]], Collection[PeerPath]],
    earlier: Peers | None = None,
) -> Peers:
    """Select the usable records. `in_place`: returns which of some conflicting paths are installed.

    `earlier`: the peers of an earlier call. They are selected again without judging the same records anew.
    """
    judge, known = Judge(this), {}
    if earlier and earlier.judge and earlier.judge.this == this:
        judge = earlier.judge
        known = {id(node): verdict for node, verdict in zip(earlier.records, earlier.verdicts, strict=True)}
    verdicts = tuple([known.get(id(node)) or judge.of(node) for node in nodes])
    if known and _are_same(verdicts, earlier.verdicts):
        return earlier
    return _concluded(judge, nodes, verdicts, in_place)


def _are_same(verdicts: "Sequence[Verdict]", earlier: "Sequence[Verdict]") -> bool:
    """Whether they are the same objects, and nothing depends on what is installed."""
    is_same = len(verdicts) == len(earlier) and all(map(is_, verdicts, earlier))
    return is_same and not any(claim.is_disputed for verdict in verdicts for claim in verdict.claims)


def _concluded(
    judge: "Judge",
    nodes: Sequence[Node],
    verdicts: "tuple[Verdict, ...]",
    in_place: Callable[[Sequence[PeerPath]], Collection[PeerPath]],
) -> Peers:
    this = judge.this
    every = [claim for verdict in verdicts for claim in verdict.claims]
    settle(every, in_place)
    claims = [claim for claim in every if not claim.refusal]
    used = tuple(_with_subnets_of(claims))
    rivals = [verdict.rival for verdict in verdicts if verdict.rival]
    return Peers(
        nodes=used,
        paths=tuple(dict.fromkeys(claim.path for claim in claims)),
        left_out=tuple(sentence for verdict in verdicts for sentence in verdict.sentences),
        shared=addresses_on(this.links, used) if is_direct(this) else (),
        about_this=tuple(sentence for verdict in verdicts for sentence in verdict.about_this),
        own_conflict=min(rivals)[-1] if rivals else "",
        judge=judge,
        records=nodes,
        verdicts=verdicts,
    )


def is_direct(this: ThisNode) -> bool:
    """Whether peers on a shared link are reached without a tunnel."""
    return this.tunnel is None or this.tunnel.direct


def used_part(verdict: "Verdict") -> Node | None:
    """The record with the subnets that are used alone; None if none is."""
    return next(iter(_with_subnets_of([claim for claim in verdict.claims if not claim.refusal])), None)


def _with_subnets_of(claims: Sequence[Claim]) -> Iterable[Node]:
    subnets: dict[int, dict[str, None]] = {}
    for claim in claims:
        subnets.setdefault(id(claim.node), {})[claim.path.subnet] = None
    for node in {id(claim.node): claim.node for claim in claims}.values():
        used = tuple(subnets[id(node)])
        yield node if used == node.subnets else replace(node, subnets=used)


@dataclass(frozen=True)
class Verdict:
    """What a record is worth by itself: its usable claims, and why it, or a part, is left out.

    `about_this`: problems with this node's own record. `is_of_this`: it is this node's, or says something about it.
    `rival`: (since, name, sentence) if it is older than this node and has its subnet.
    """

    claims: tuple[Claim, ...] = ()
    left_out: tuple[str, ...] = ()
    about_this: tuple[str, ...] = ()
    is_of_this: bool = False
    rival: tuple[int, str, str] | None = None

    @property
    def sentences(self) -> tuple[str, ...]:
        """Why it is left out, with the claims that were refused in favour of others."""
        refused = tuple(f"{claim.node.label} {claim.refusal}" for claim in self.claims if claim.refusal)
        return self.left_out + refused if refused else self.left_out


class Judge:
    """Checks each record by itself: is it this node's own, and which parts of it can be used?"""

    def __init__(self, this: ThisNode) -> None:
        self.this = this
        own = [(parse_address(subnet), f"this node's own subnet {subnet}") for subnet in this.subnets]
        self._own = NetworkSet(network for network, _ in own)
        self._taken = own + [(network, f"{address.cidr} of this node") for network, address in this.links.networks]
        never_pods = list(map(parse_address, _NO_PODS))
        self._suspect = NetworkSet([*never_pods, *(network for network, _ in self._taken)])
        self._never_pods = NetworkSet(never_pods)
        reserved = [one for network, _ in this.links.networks for one in _reserved(network)]
        self._never_a_node = NetworkSet([*map(parse_address, _NO_NODE), *map(parse_address, this.subnets), *reserved])
        self._cluster = NetworkSet(map(parse_address, this.cluster))
        # If this node's own subnet is outside of them, they are not the networks of all pods.
        beyond = {network.version for network, _ in own if not self._cluster.contains(network)}
        self._bounded = frozenset(version for version in (4, 6) if self._cluster.has(version)) - beyond
        self._subnets = frozenset(this.subnets)

    def of(self, node: Node) -> Verdict:
        """The verdict about one record."""
        this, tunnel, own = self.this, self.this.tunnel, self.this.links.own
        if not self._subnets.isdisjoint(node.subnets):
            if own.isdisjoint(node.addresses):
                return self._of_rival(node)
            return Verdict(about_this=tuple(_compared(node, tunnel)) if tunnel else (), is_of_this=True)
        if tunnel and tunnel.local in node.addresses:
            return Verdict(is_of_this=True)  # this node, with an earlier subnet
        never = self._never_a_node
        addresses = tuple(one for one in node.addresses if one not in own and not never.overlaps(parse_address(one)))
        if not addresses and not own.isdisjoint(node.addresses):
            return Verdict(is_of_this=True)
        if not addresses or not node.subnets:
            unused = f" ({', '.join(node.addresses[:3])})" if node.addresses and not addresses else ""
            return _left_out(node, f'has no "{"podCIDRs" if addresses else "addresses"}" that can be used{unused}')
        for what, given, ours in (("VNI", node.vni, tunnel.vni), ("port", node.port, tunnel.port)) if tunnel else ():
            if given and ours and given != ours:
                return _left_out(node, f"has the {what} {given} for its tunnel, this node {ours}")
        node = node if addresses == node.addresses else replace(node, addresses=addresses)
        return self._of_claims(node, this)

    def _of_claims(self, node: Node, this: ThisNode) -> Verdict:
        claims, left_out, rival = [], [], None
        for subnet in node.subnets:
            try:
                claims.append(self._claim(node, subnet))
            except Unusable as error:
                left_out.append(f"{node.label} {error}")
                if self._own.overlaps(parse_address(subnet)) and self._is_older(node):
                    rival = self._rival(node, subnet)
        if this.tunnel and not node.vtep_mac and sum(not is_ipv6(subnet) for subnet in node.subnets) > 1:
            why = f'has several IPv4 subnets and no "vtepMAC": frames are sent to {vtep_mac(node.subnets)}'
            left_out.append(f"{node.label} {why}, the MAC of the first")
        return Verdict(tuple(claims), tuple(left_out), is_of_this=rival is not None, rival=rival)

    def _of_rival(self, node: Node) -> Verdict:
        """The verdict about another node that has the subnet of this one."""
        addresses = ", ".join(node.addresses[:3]) or "none"
        why = f"has the subnet of this node, but its addresses ({addresses}) are not on this node"
        shared = next(subnet for subnet in node.subnets if subnet in self._subnets)
        rival = self._rival(node, shared) if self._is_older(node) else None
        return Verdict(left_out=(f"{node.label} {why}",), is_of_this=True, rival=rival)

    def _is_older(self, node: Node) -> bool:
        this = self.this
        return bool(this.since and node.since) and (node.since, node.name) < (this.since, this.name)

    def _rival(self, node: Node, subnet: str) -> tuple[int, str, str]:
        own = ", ".join(self.this.subnets)
        return node.since, node.name, f"this node's {own} conflicts with {subnet} of {node.label}, which is older"

    def _claim(self, node: Node, subnet: str) -> Claim:
        """Raises Unusable."""
        this, network = self.this, parse_address(subnet)
        self._check(subnet, network)
        if this.tunnel:
            path = tunnel_path(node, subnet, this.links, this.tunnel)
        else:
            path = direct_path(node, subnet, this.links)
        host = parse_address(path.underlay or path.via)
        if network.contains(host):
            raise Unusable(f"claims {subnet}, which contains its own address {path.underlay or path.via}")
        return Claim(node, path, network, host)

    def _check(self, subnet: str, network: Address) -> None:
        """Raises Unusable for a network that cannot be a peer's."""
        if network.prefix < _WIDEST[network.version] or self._suspect.overlaps(network):
            if network.prefix < _WIDEST[network.version] or self._never_pods.overlaps(network):
                raise Unusable(f"claims {subnet}, which cannot be a network of pods")
            what = next(what for taken, what in self._taken if network.overlaps(taken))
            raise Unusable(f"claims {subnet}, which overlaps {what}")
        if network.version in self._bounded and not self._cluster.contains(network):
            raise Unusable(f'claims {subnet}, which is outside "clusterCIDRs"')


def _compared(node: Node, tunnel: Tunnel) -> Iterable[str]:
    """Compare the record of this node, which peers use, with its tunnel."""
    mac = node.vtep_mac or vtep_mac(node.subnets)
    if tunnel.mac and mac != tunnel.mac:
        origin = "" if node.vtep_mac else ", that of its first subnet"
        yield f"the record of this node has the VTEP MAC {mac}{origin}, but the tunnel has {tunnel.mac}"
    if tunnel.local not in node.addresses:
        addresses = ", ".join(node.addresses[:3])
        yield f"the record of this node has {addresses}, but the tunnel sends from {tunnel.local}"


def _left_out(node: Node, why: str) -> Verdict:
    return Verdict(left_out=(f"{node.label} {why}",))


def _reserved(network: Address) -> tuple[Address, ...]:
    """The network and broadcast addresses of an IPv4 network, which hosts cannot have."""
    if network.version == 6 or network.prefix > 30:
        return ()
    return tuple(Address(4, number, 32) for number in (network.first, network.last))

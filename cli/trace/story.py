"""Puts together what was seen and what the kernel says: hop by hop, and how it ended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from errno import EACCES, EPERM

from cli.trace import policies
from cli.trace.ends import End, Pods, name_of
from cli.trace.node_view import Inside, Known, NoRoute, Peers, View
from cli.trace.probe import BACK, OUTER, THERE, UDP, direction_of, ends_of
from cli.trace.runs import Run, runs_of
from cli.trace.sending import Evidence
from cli.trace.words import Passage, Words
from linux.capture import Sight
from linux.netlink.socket import NETLINK_NETFILTER, Netlink, NetlinkError
from linux.nflog import LoggedPacket
from linux.nftables import listing, uapi
from linux.nftables.messages import BRIDGE, TableName
from linux.rtnl.links import Link
from spec.addresses import unpack

ANSWERED, ARRIVED, LEFT, STOPPED = "answered", "arrived", "left", "stopped"


@dataclass(frozen=True)
class Hop:
    """A place on the way, or (`is_stop`) its end. `where`: what kind of place, such as "link", "rules" or "route"."""

    where: str
    text: str
    is_stop: bool = False
    passage: Passage | None = None


@dataclass(frozen=True)
class Story:
    """All hops, and how it ended: ANSWERED, ARRIVED, LEFT or STOPPED, and in one sentence."""

    hops: tuple[Hop, ...]
    outcome: str
    sentence: str


class Teller:
    """Tells one story, on the node in whose network namespace the calling thread is."""

    def __init__(self, evidence: Evidence, source: End, target: End, pods: Pods) -> None:
        self._evidence, self._source, self._target, self._pods = evidence, source, target, pods
        self._probe, self._peers = evidence.probe, Peers()
        self._runs = runs_of(evidence.probe, evidence.steps)
        self._seen: list[Sight] = []
        self._hops: list[Hop] = []
        self._end: tuple[str, str] | None = None

    def tell(self, inside: Inside, next_hop: Callable[[], Known]) -> Story:
        """The story. `inside`: the route in the pod; `next_hop`: tells what the pod knows of its next hop."""
        with View() as view, Netlink(NETLINK_NETFILTER) as netfilter:
            self._view = view
            self._words = Words(lambda table, chain: listing.list_rules(netfilter, table, chain), self._name_at)
            self._hooks = _hooks(netfilter, {run.table for run in self._runs})
            self._seen = [one for one in self._evidence.sights if self._is_on_its_way(one)]
            for tell in (lambda: self._in_pod(inside, next_hop), self._enter, self._pass, self._leave):
                if not self._end:
                    tell()
            self._back()
            if self._evidence.untraced:
                sentences = policies.in_force(netfilter, self._probe.source, self._probe.destination)
                self._hops += [Hop("policies", sentence) for sentence in sentences]
        outcome, sentence = self._end or (STOPPED, "it is not known where it stopped")
        return Story(tuple(self._hops), outcome, sentence)

    # -- the parts of the way -----------------------------------------------------------------------------------------

    def _in_pod(self, inside: Inside, next_hop: Callable[[], Known]) -> None:
        """The pod's own interface, route and neighbour."""
        pod, error = self._source.pod, self._evidence.error
        self._hop("pod", f"{self._source.name} sends by {pod.ifname}, from {self._source.address}")
        if not inside.route:
            self._stop("pod", f"in the pod {inside.why}")
            return
        self._hop("pod", f"its route: {inside.route.route}")
        if inside.route.is_local:
            self._hop("arrival", "this is an address of the pod: the packet does not leave it")
            self._end = ARRIVED, f"{self._source.name} itself"
            return
        if error:
            is_firewall = error.errno in (EPERM, EACCES)
            why = "a firewall inside the pod refuses it" if is_firewall else f"the pod cannot send: {error.strerror}"
            self._stop("pod", why)
            return
        known = next_hop()
        if known.mac or self._is_in(pod.veth):
            self._hop("pod", f"its next hop: {known.text}")
        else:
            self._stop("pod", f"the pod's next hop does not answer: {known.text}{self._between_ports()}")

    def _enter(self) -> None:
        """The host's side of the pod's link, and the rules before the node routes."""
        veth = self._source.pod.veth
        port = self._view.port(veth)
        if not self._is_in(veth):
            self._stop("link", f"it does not come out of {veth}{f', {port}' if port else ''}")
            return
        self._hop("link", f"comes in by {veth}{f', {port}' if port else ''}")
        for name in dict.fromkeys(one.link for one in self._evidence.sights if self._view.is_shaper(one.link)):
            self._hop("link", f"passes {name}, which limits what the pod sends")
        if self._view.is_blocked(veth):
            self._stop("link", f"{veth} is {port}: nothing passes")
            return
        self._rules(self._before())

    def _pass(self) -> None:
        """The node's routing decision, the rules after it, and the next hop."""
        came = self._last_before_routing()
        now = self._translated()
        destination = unpack(now.destination)
        if destination != self._probe.destination:
            self._hop("rules", f"its destination becomes {_place(now)} ({self._name_at(now.destination)})")
        if not came and self._source.pod.bridge:
            self._hop("bridge", f"{self._source.pod.bridge} switches it: the node does not route it")
            self._rules(self._after())
            return
        iif = self._view.link(came.link if came else self._source.pod.veth)
        try:
            arriving = {"source": self._probe.source, "iif": iif.index if iif else 0, "mark": self._mark()}
            route = self._view.route(destination, **arriving)
        except NoRoute as error:
            self._stop("route", f"{error}")
            return
        if route.is_local:
            self._hop("route", f"{destination} is an address of this node")
            self._rules(self._after())
            if not self._end:
                self._arrive(f"the node itself, as {_place(now)}")
            return
        self._hop("route", f"the node routes it: {route.route}")
        self._rules(self._after())
        if not self._end:
            self._translated_source()
            self._neighbour(route.link, route.via or destination)

    def _neighbour(self, link: int, address: str) -> None:
        """The neighbour to which a link sends it, and for a tunnel where the peer is."""
        known, out = self._view.next_hop(link, address), self._view.link(link)
        if known.mac:
            self._hop("neighbour", known.text)
        elif not self._has_left(link):
            self._stop("neighbour", known.text)
        if known.mac and out and out.kind == "vxlan":
            self._tunnel(out, known)

    def _tunnel(self, out: Link, known: Known) -> None:
        """Which node has that neighbour, and how the tunnel's datagram goes there."""
        underlay = self._view.underlay(out.index, known.mac)
        if not underlay:
            self._stop("tunnel", f"{out.name} has no FDB entry for {known.mac}: it does not know which node that is")
            return
        peer = self._peers.at(underlay)
        self._hop("tunnel", f"{out.name} sends it to {underlay}{f', {peer}' if peer else ''}")
        try:
            route = self._view.route(underlay)
        except NoRoute as error:
            self._stop("tunnel", f"{error}")
            return
        self._hop("tunnel", f"the route there: {route.route}")
        self._rules([run for run in self._runs if run.direction == OUTER and self._is_sent(run)])
        if not self._end and not self._has_left(route.link):
            next_hop = self._view.next_hop(route.link, route.via or underlay)
            if not next_hop.mac:
                self._stop("tunnel", next_hop.text)

    def _leave(self) -> None:
        """The link by which it leaves, and whom it reaches."""
        last = next((one for one in reversed(self._seen) if one.is_outgoing), None)
        receiver = self._pods.by_veth(last.link) if last else None
        if last and (last.link != self._source.pod.veth or receiver):
            port = self._view.port(last.link)
            self._hop("link", f"leaves by {last.link}{f', {port}' if port else ''}")
        if self._evidence.arrivals:
            self._arrive(self._target.name)
        elif receiver:
            self._arrive(name_of(receiver))
        elif self._evidence.reply and self._evidence.reply.is_from_target:
            self._arrive(self._target.name)
        elif last:
            self._gone(last)
        elif not self._end:
            rules = "a rule, " if self._evidence.untraced else ""
            others = f"{rules}rp_filter, a tc filter, iptables-legacy or eBPF might"
            why = self._between_ports() or f", and nothing that is seen here says why: {others}"
            self._stop("link", f"it is not seen after {self._last_place()}{why}")

    def _gone(self, last: Sight) -> None:
        """It left by a link that leads to no pod of this node."""
        peer = self._peers.at(unpack(self._translated().destination))
        outer = direction_of(self._probe, last.packet) == OUTER
        link = self._view.link(last.link)
        if link and link.kind == "vxlan" and not outer:
            self._stop("tunnel", f"{last.link} does not send it on: see `ip -s link show {last.link}`")
            return
        to = f" to {peer}" if peer else ""
        advice = ": run `slash24 trace` there" if peer else ""
        unseen = f" What happens there is not seen from here{advice}."
        error = self._evidence.reply
        if error and not error.is_from_target:
            self._hop("answer", f"{error.kind}, from {error.sender}", is_stop=True)
            self._end = STOPPED, f"it left this node by {last.link}{to}, and {error.sender} answered: {error.kind}"
            return
        self._end = LEFT, f"it left this node by {last.link}{to}, and no answer came within two seconds.{unseen}"

    def _back(self) -> None:
        """The answer, or which rule of this node has dropped it."""
        reply, (outcome, who) = self._evidence.reply, self._end or (STOPPED, "")
        back = [
            run for run in self._runs if run.direction == BACK or (run.direction == OUTER and not self._is_sent(run))
        ]
        dropped = next((run for run in back if run.is_dropped), None)
        if dropped and not reply and outcome in (ARRIVED, LEFT):
            passage = self._words.passage(dropped)
            self._hops.append(Hop("answer", str(passage), is_stop=True, passage=passage))
            self._end = STOPPED, f"it was answered, but the answer was dropped by {passage}"
            return
        if outcome != ARRIVED:
            return
        if reply:
            self._hop("answer", f"{reply.kind}, from {reply.sender}")
            if reply.is_from_target:
                self._end = ANSWERED, f"it reached {who}, which answered: {_meaning(reply.kind)}"
            else:
                self._end = STOPPED, f"it was seen at {who}, but {reply.sender} answered: {reply.kind}"
        else:
            silence = "a UDP server need not answer" if self._probe.protocol == UDP else "it drops it, or is stuck"
            self._end = ARRIVED, f"it reached {who}; no answer came within two seconds ({silence})"

    # -- what they use ------------------------------------------------------------------------------------------------

    def _hop(self, where: str, text: str, *, is_stop: bool = False) -> None:
        self._hops.append(Hop(where, text, is_stop))

    def _stop(self, where: str, why: str) -> None:
        self._hop(where, why, is_stop=True)
        self._end = STOPPED, f"it stopped: {why}"

    def _arrive(self, whom: str) -> None:
        self._hop("arrival", f"arrives at {whom}")
        self._end = ARRIVED, whom

    def _rules(self, runs: Sequence[Run]) -> None:
        for run in runs:
            passage = self._words.passage(run)
            self._hops.append(Hop("rules", str(passage), run.is_dropped, passage))
            if run.is_dropped:
                self._end = STOPPED, f"it was dropped by {passage}"
                return

    def _before(self) -> list[Run]:
        """The chains before the routing decision."""
        there = [run for run in self._runs if run.direction == THERE]
        return there[: self._turn(there)]

    def _after(self) -> list[Run]:
        there = [run for run in self._runs if run.direction == THERE]
        return there[self._turn(there) :]

    def _turn(self, runs: Sequence[Run]) -> int:
        """How many come before it: all up to the last at the hook prerouting."""
        early = [number for number, run in enumerate(runs, 1) if self._is_early(run)]
        return early[-1] if early else 0

    def _is_early(self, run: Run) -> bool:
        number = self._hooks.get((run.table, run.chain))
        return number == (uapi.NF_BR_PRE_ROUTING if run.table.family == BRIDGE else uapi.NF_INET_PRE_ROUTING)

    def _is_sent(self, run: Run) -> bool:
        """Whether a tunnel's datagram was one that this node sends."""
        return self._hooks.get((run.table, run.chain)) in (uapi.NF_INET_LOCAL_OUT, uapi.NF_INET_POST_ROUTING)

    def _is_on_its_way(self, one: Sight) -> bool:
        """Whether this is the probe, or a tunnel's datagram with it, on a link where it goes on."""
        if self._view.is_shaper(one.link):
            return False
        direction = direction_of(self._probe, one.packet)
        return direction == THERE or (direction == OUTER and one.is_outgoing)

    def _has_left(self, link: int) -> bool:
        """Whether the probe, or the tunnel's datagram, was sent by a link (index)."""
        return any(one.link == self._view.name(link) and one.is_outgoing for one in self._seen)

    def _is_in(self, link: str) -> bool:
        """Whether the probe came in by a link."""
        return any(one.link == link and not one.is_outgoing for one in self._seen)

    def _last_before_routing(self) -> Sight | None:
        """Where it was handed to the node, after the pod's link: a bridge, a link of a VLAN. None if it was not."""
        found = None
        for one in self._seen:
            if one.is_outgoing:
                break
            if one.link != self._source.pod.veth and not one.is_for_other:
                found = one
        return found

    def _between_ports(self) -> str:
        """What keeps a bridge from switching between the two pods, as the end of a sentence; "" if nothing does."""
        if not self._target.pod or self._source.pod.bridge != self._target.pod.bridge:
            return ""
        ports = [self._view.link(pod.veth) for pod in (self._source.pod, self._target.pod)]
        if not all(ports):
            return ""
        for port in ports:
            if self._view.is_blocked(port.name):
                return f"; {port.name} is {self._view.port(port.name)}"
        return "; both pods are at isolated ports of the bridge" if all(port.isolated for port in ports) else ""

    def _translated(self) -> LoggedPacket:
        """Its addresses as it is routed: a translation is seen where it is met next."""
        later = [run.ends for run in self._after()]
        out = [ends_of(one.packet) for one in self._seen if one.is_outgoing and self._is_plain(one)]
        first = [ends_of(one.packet) for one in self._seen]
        return next(one for one in (*later, *out, *first) if one)

    def _translated_source(self) -> None:
        """What masquerade has made of its source."""
        out = [ends_of(one.packet) for one in self._seen if one.is_outgoing and self._is_plain(one)]
        if out and out[-1] and unpack(out[-1].source) != self._probe.source:
            self._hop("rules", f"its source becomes {unpack(out[-1].source)}")

    def _is_plain(self, one: Sight) -> bool:
        return direction_of(self._probe, one.packet) == THERE

    def _mark(self) -> int:
        marks = [step.mark for run in self._before() for step in run.steps]
        return marks[-1] if marks else 0

    def _name_at(self, packed: bytes) -> str:
        return self._pods.name_at(unpack(packed))

    def _last_place(self) -> str:
        return self._seen[-1].link if self._seen else self._source.pod.veth


def _hooks(netlink: Netlink, tables: set[TableName]) -> dict[tuple[TableName, str], int]:
    found = {}
    for table in tables:
        try:
            chains = listing.list_base_chains(netlink, table)
        except NetlinkError:  # deleted meanwhile
            continue
        found |= {(table, chain): hook.number for chain, hook, _ in chains}
    return found


def _place(ends: LoggedPacket) -> str:
    address = unpack(ends.destination)
    return f"{f'[{address}]' if ':' in address else address}:{ends.port}" if ends.port else address


def _meaning(kind: str) -> str:
    if kind == "RST":
        return "RST, nothing listens on that port"
    return f"{kind}, nothing listens on that port" if kind == "ICMP port unreachable" else kind

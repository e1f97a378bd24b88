"""What a provider left on this node, in an order in which it can be taken away, and what stands in the way."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cli.facts.leases import read_leases
from cli.facts.paths import BIN
from cli.switch import bridges, files, firewall, routing, takeover
from cli.switch.files import Configurations
from cli.switch.leftover import ORDER, Leftover
from cli.switch.names import CANAL, NAMES
from cli.switch.pods import Pod, find_pods
from cli.switch.providers import ALL, CALICO, FLANNEL, Provider
from cli.switch.seen import Seen, read, running
from cli.switch.takeover import Takeover, find_takeover

_BY_NAME = {provider.name: (provider,) for provider in ALL} | {CANAL: (CALICO, FLANNEL)}

_WITHOUT = "no configuration of slash24 is in /etc/cni/net.d yet: without any, new pods get no network"
_UNTIL_GONE = "pods that run need it: run this again when they are gone"
_UNTIL_MASQUERADE = "pods that run need it until slash24 masquerades for them, after its first ADD: run this again then"


@dataclass(frozen=True)
class Findings:
    """What a provider left.

    `title`: the provider, for sentences. `pods`: those that run. `running`: its processes, (name, process ID).
    `takeover`: how its pods go on, None if they cannot. `obstacle`: why nothing can be taken away now, "" if it can.
    `by_hand`, `notes`: sentences on what is not done here, and on what else a person should know.
    """

    title: str
    leftovers: Sequence[Leftover]
    pods: Sequence[Pod]
    running: Sequence[tuple[str, int]]
    takeover: Takeover | None
    obstacle: str
    by_hand: Sequence[str]
    notes: Sequence[str]


def find(name: str, seen: Seen | None = None) -> list[Leftover]:
    """What a provider, one of NAMES, left here. `seen`: what is here, if it was read already. Raises OSError."""
    return list(inspect(name, seen).leftovers)


def find_all(seen: Seen | None = None) -> dict[str, Findings]:
    """The same for every provider that left something here, by its name; Canal in place of its two halves."""
    seen = seen or read()
    found = {name: one for name in NAMES if name != CANAL and (one := inspect(name, seen)).leftovers}
    if CALICO.name in found and FLANNEL.name in found:
        found[CANAL] = inspect(CANAL, seen)
        del found[CALICO.name], found[FLANNEL.name]
    return dict(sorted(found.items()))


def inspect(name: str, seen: Seen | None = None) -> Findings:
    """What a provider left here, and what stands in the way. Raises CNIError 11 (a lock of leases is held), OSError."""
    seen = seen or read()
    configurations = Configurations.read()
    providers = _BY_NAME[name]
    taken = find_takeover(providers[0], configurations) if len(providers) == 1 else None
    found = [one for provider in providers for one in _Search(provider, seen, configurations, taken).leftovers()]
    pods = [pod for provider in providers for pod in _pods(provider, seen, taken)]
    active = running([process for provider in providers for process in provider.processes])
    return Findings(
        title=" and ".join(provider.title for provider in providers),
        leftovers=sorted(found, key=lambda one: ORDER.index(one.kind)),
        pods=pods,
        running=active,
        takeover=taken,
        obstacle=_obstacle(seen, active, pods, taken) if found else "",
        by_hand=[sentence for provider in providers for sentence in provider.by_hand],
        notes=[*seen.notes, *([] if configurations.own else [_WITHOUT])],
    )


def _obstacle(seen: Seen, active: Sequence[tuple[str, int]], pods: Sequence[Pod], taken: Takeover | None) -> str:
    if active:
        name, process = active[0]
        return f"{name} runs (process {process}) and would make all of it again: stop it first"
    if not pods:
        return ""
    if taken is None:
        return f"its pods run, drain the node first: {_listed(pods)}"
    masters = {link.name: link.master for link in seen.links}
    problem = taken.problem(on_bridge=any(masters.get(pod.link) for pod in pods))
    return f"its pods run, and {problem}: {_listed(pods)}" if problem else ""


def _pods(provider: Provider, seen: Seen, taken: Takeover | None) -> list[Pod]:
    if taken is None:
        return find_pods(provider, seen, (), ())
    networks = {*taken.handovers, *(network.name for network in taken.old)}
    networks |= {taken.own.name} if taken.own else set()
    return find_pods(provider, seen, (taken.bridge,), {one.address for one in read_leases() if one.network in networks})


class _Search:
    """For what one provider left."""

    def __init__(self, provider: Provider, seen: Seen, configurations: Configurations, taken: Takeover | None) -> None:
        self._provider, self._seen, self._configurations, self._takeover = provider, seen, configurations, taken
        self._pods = _pods(provider, seen, taken) if taken else []
        self._masquerades = any(str(table).startswith("inet slash24_egress_") for table in seen.tables)

    def leftovers(self) -> list[Leftover]:
        """What is weak evidence counts only beside other evidence, such as what an earlier run has moved away."""
        is_known = files.has_backup(self._provider) or any(True for _ in self._find(weak=False))
        return list(self._find(weak=True)) if is_known else []

    def _find(self, *, weak: bool) -> Iterator[Leftover]:
        provider, seen = self._provider, self._seen
        yield from files.find_configurations(provider, self._configurations)
        yield from routing.find_programs(provider, seen)
        for need, one in firewall.find_tables(provider, seen):
            yield self._needed(one, need)
        for need, one in firewall.find_chains(provider, seen, weak=weak):
            yield self._needed(one, need)
        yield from firewall.find_sets(provider, seen)
        yield from routing.find_rules(provider, seen, weak=weak)
        yield from routing.find_routes(provider, seen, weak=weak)
        yield from routing.find_ipsec(provider, seen)
        for one in routing.find_links(provider, seen):
            yield self._needed(one, firewall.PODS)
        if weak:
            yield from routing.find_fallback_links(provider, seen)
        for one in files.find_files(provider):
            is_executable = one.name.startswith(f"{BIN}/")  # its DEL may still be called
            yield self._needed(one, firewall.PODS if is_executable else "")
        yield from self._find_shared(weak=weak)

    def _find_shared(self, *, weak: bool) -> Iterator[Leftover]:
        """What belongs to the pods as much as to the provider."""
        taken, provider = self._takeover, self._provider
        if taken is None:
            yield from files.find_leases(provider, self._configurations)
        if provider is FLANNEL:
            for one in takeover.find_delegates():
                yield self._needed(one, firewall.PODS)
        if taken:
            yield from takeover.find_rules_of_gone_pods(taken, self._seen)
        if taken and (weak or taken.old):
            yield from takeover.find_leases(taken, has_pods=bool(self._pods))
        for one in takeover.find_links(taken) if taken else ():
            yield self._needed(one, firewall.PODS)
        if weak and provider is FLANNEL:
            for needed, one in bridges.find_flannel_routes(self._seen, taken, self._pods):
                yield self._needed(one, firewall.PODS if needed else "")
        if weak and taken:
            yield from bridges.find_bridge(taken, self._seen, self._configurations, self._pods)

    def _needed(self, one: Leftover, need: str) -> Leftover:
        """The leftover, which has to wait if pods that run on need it."""
        if self._pods and need == firewall.PODS:
            return replace(one, waits=_UNTIL_GONE)
        if self._pods and need == firewall.MASQUERADE and not self._masquerades:
            return replace(one, waits=_UNTIL_MASQUERADE)
        return one


def _listed(pods: Sequence[Pod]) -> str:
    more = len(pods) - 10
    return ", ".join(map(str, pods[:10])) + (f" and {more} more" if more > 0 else "")

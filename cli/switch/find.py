"""What a provider left on this node, in an order in which it can be taken away."""

from collections.abc import Iterator

from cli.switch import files, firewall, routing
from cli.switch.files import Configurations
from cli.switch.leftover import ORDER, Leftover
from cli.switch.providers import ALL, CALICO, FLANNEL, Provider
from cli.switch.seen import Seen, read

CANAL = "canal"
NAMES = (*sorted([*(provider.name for provider in ALL), CANAL]),)
_BY_NAME = {provider.name: (provider,) for provider in ALL} | {CANAL: (CALICO, FLANNEL)}


def find(name: str, seen: Seen | None = None) -> list[Leftover]:
    """What a provider, one of NAMES, left here. `seen`: what is here, if it was read already. Raises OSError."""
    seen = seen or read()
    configurations = Configurations.read()
    found = [one for provider in _BY_NAME[name] for one in _of(provider, seen, configurations)]
    return sorted(found, key=lambda one: ORDER.index(one.kind))


def find_all() -> dict[str, list[Leftover]]:
    """The same for every provider that left something here, by its name; Canal in place of its two halves."""
    seen = read()
    found = {name: left for name in NAMES if name != CANAL and (left := find(name, seen))}
    if CALICO.name in found and FLANNEL.name in found:
        found[CANAL] = find(CANAL, seen)
        del found[CALICO.name], found[FLANNEL.name]
    return dict(sorted(found.items()))


def _of(provider: Provider, seen: Seen, configurations: Configurations) -> list[Leftover]:
    """What is weak evidence counts only beside other evidence."""
    strong = list(_find(provider, seen, configurations, weak=False))
    return list(_find(provider, seen, configurations, weak=True)) if strong else []


def _find(provider: Provider, seen: Seen, configurations: Configurations, *, weak: bool) -> Iterator[Leftover]:
    yield from files.find_configurations(provider, configurations)
    yield from routing.find_programs(provider, seen)
    for _, one in firewall.find_tables(provider, seen):
        yield one
    for _, one in firewall.find_chains(provider, seen, weak=weak):
        yield one
    yield from firewall.find_sets(provider, seen)
    yield from routing.find_rules(provider, seen, weak=weak)
    yield from routing.find_routes(provider, seen, weak=weak)
    yield from routing.find_links(provider, seen)
    yield from files.find_files(provider)

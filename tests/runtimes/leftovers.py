"""What pods have left on a node."""

import re

from tests.runtimes.machine import Machine

NETWORKS, CACHE = "/var/lib/cni/networks", "/var/lib/cni/results"


def leases(machine: Machine, network: str = "*") -> list[str]:
    """The addresses that are leased in a network, or in all."""
    return [path.name for path in machine.path(NETWORKS).glob(f"{network}/[0-9f]*[.:]*")]


def rules(machine: Machine) -> list[str]:
    """The lines of all rules and elements that name a pod."""
    return [line.strip() for line in machine.run(["nft", "list", "ruleset"]).stdout.splitlines() if "v1:" in line]


def leftovers(machine: Machine) -> list[str]:
    """Links, leases, rules, network namespaces, and the runtime's notes of results."""
    links = [name for name in machine.links() if re.match("veth|ifb|bwp", name)]
    namespaces = [path.name for path in machine.path("/run/netns").iterdir() if path.name != "outside"]
    cache = [path.name for path in machine.path(CACHE).iterdir()] if machine.path(CACHE).exists() else []
    return [*links, *leases(machine), *rules(machine), *namespaces, *cache]

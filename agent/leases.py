"""Which networks there are, as calls showed them, and how many of their addresses are leased."""

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from threading import Lock

from agent.record import Outcome
from ipam.host_local import DATA_DIR
from ipam.store import is_address

_NETWORKS_AT_MOST = 256


class Networks:
    """The networks of the last ADDs that lease with host-local: at most 256, those seen last."""

    def __init__(self) -> None:
        self._configs: OrderedDict[str, Mapping[str, object]] = OrderedDict()
        self._lock = Lock()

    def note(self, outcome: Outcome) -> None:
        """Remember the network of a successful ADD."""
        ipam = outcome.config.get("ipam")
        if outcome.verb != "ADD" or outcome.code or not isinstance(ipam, dict) or ipam.get("type") != "host-local":
            return
        with self._lock:
            self._configs[outcome.network] = {name: outcome.config.get(name) for name in ("ipam", "runtimeConfig")}
            self._configs.move_to_end(outcome.network)
            if len(self._configs) > _NETWORKS_AT_MOST:
                self._configs.popitem(last=False)

    def count(self) -> Iterator[tuple[str, int, int]]:
        """(network, addresses leased, addresses free) of each network whose leases can be read."""
        with self._lock:
            configs = list(self._configs.items())
        for network, config in configs:
            try:
                used, size = _used(network, config), _size(config)
            except (OSError, ValueError):
                continue
            yield network, used, max(0, size - used)


def _used(network: str, config: Mapping) -> int:
    folder = os.path.join(config["ipam"].get("dataDir") or DATA_DIR, network)
    return sum(map(is_address, os.listdir(folder)))


def _size(config: Mapping) -> int:
    """How many addresses the ranges have, without the gateways, of which no pod gets one."""
    from ipam.ranges import parse_range_sets
    from spec.config import Section
    from spec.errors import CNIError

    try:
        sets = parse_range_sets(Section(config), one_per_family=False)
    except CNIError as error:
        raise ValueError(str(error)) from error
    ranges = [each for group in sets for each in group.ranges]
    return sum(each.last - each.first + 1 - len(each.gateways) for each in ranges)

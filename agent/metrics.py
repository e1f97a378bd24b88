"""Metrics for Prometheus."""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from threading import Lock

from prometheus_client.metrics import Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from agent import memory
from agent.calls import Outcome
from ipam.host_local import DATA_DIR
from ipam.lease_files import is_address
from spec.verbs import VERBS

CONTENT_TYPE = CONTENT_TYPE_LATEST
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
_MAX_CODE = 999  # ours; other IPAM plugins may return any code, and a label that was used once stays for ever
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_MAX_NETWORKS = 256


class Metrics:
    """Counts calls and batches; the other metrics are read when they are requested."""

    def __init__(self) -> None:
        self.networks = Networks()
        self._registry = CollectorRegistry()
        self._calls = Counter(
            "slash24_calls_total",
            "CNI calls by verb, plugin and outcome (the CNI error code, 0 for success)",
            ("verb", "plugin", "outcome"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "slash24_call_duration_seconds",
            "Time from the arrival of a request to its reply",
            ("verb", "plugin"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "slash24_batch_size",
            "Size of one kernel operation: links deleted together, changes in an nftables transaction",
            ("kind",),
            buckets=_SIZES,
            registry=self._registry,
        )
        self._registry.register(_Leases(self.networks))
        self.add_gauge("slash24_resident_bytes", "Resident memory of the agent", memory.resident)

    def add_gauge(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Add a metric that `value` returns."""
        Gauge(name, meaning, registry=self._registry).set_function(value)

    def on_outcome(self, outcome: Outcome) -> None:
        """Count a call."""
        verb = outcome.verb if outcome.verb in VERBS or outcome.verb == "VERSION" else "other"
        code = str(outcome.code) if outcome.code <= _MAX_CODE else "other"
        self._calls.labels(verb, outcome.plugin, code).inc()
        self._seconds.labels(verb, outcome.plugin).observe(outcome.seconds)
        self.networks.on_outcome(outcome)

    def on_batch(self, kind: str, size: int) -> None:
        """Count an operation, for spec.suite.Suite.on_batch."""
        self._batches.labels(kind).observe(size)

    def text(self) -> bytes:
        """The exposition, in CONTENT_TYPE."""
        return generate_latest(self._registry)


class Networks:
    """The networks of the last ADDs that use host-local: at most 256, the most recent."""

    def __init__(self) -> None:
        self._configs: OrderedDict[str, Mapping[str, object]] = OrderedDict()
        self._lock = Lock()

    def on_outcome(self, outcome: Outcome) -> None:
        """Remember the network of a successful ADD."""
        ipam = outcome.config.get("ipam")
        if outcome.verb != "ADD" or outcome.code or not isinstance(ipam, dict) or ipam.get("type") != "host-local":
            return
        with self._lock:
            self._configs[outcome.network] = {name: outcome.config.get(name) for name in ("ipam", "runtimeConfig")}
            self._configs.move_to_end(outcome.network)
            if len(self._configs) > _MAX_NETWORKS:
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


class _Leases(Collector):
    def __init__(self, networks: Networks) -> None:
        self._networks = networks

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing: the metrics depend on the networks."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The leases of each network."""
        used = GaugeMetricFamily("slash24_leases_used", "Addresses leased, by network", labels=["network"])
        free = GaugeMetricFamily("slash24_leases_free", "Addresses not leased, by network", labels=["network"])
        for network, leased, left in self._networks.count():
            used.add_metric([network], leased)
            free.add_metric([network], left)
        yield from (used, free)


def _used(network: str, config: Mapping) -> int:
    folder = os.path.join(config["ipam"].get("dataDir") or DATA_DIR, network)
    return sum(map(is_address, os.listdir(folder)))


def _size(config: Mapping) -> int:
    """The number of addresses in the ranges, without the gateways, which are never leased."""
    from ipam.ranges import parse_range_sets
    from spec.config import Section
    from spec.errors import CNIError

    try:
        sets = parse_range_sets(Section(config), one_per_family=False)
    except CNIError as error:
        raise ValueError(str(error)) from error
    ranges = [each for group in sets for each in group.ranges]
    return sum(each.last - each.first + 1 - len(each.gateways) for each in ranges)

"""Numbers for Prometheus."""

from collections.abc import Callable, Iterator

from prometheus_client.metrics import Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from agent import memory
from agent.leases import Networks
from agent.record import Outcome
from spec.verbs import VERBS

CONTENT_TYPE = CONTENT_TYPE_LATEST
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
_LARGEST_CODE = 999  # ours; an IPAM plugin of others may answer any, and what was counted once is kept for ever
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """What has been counted, and what is looked up when somebody asks."""

    def __init__(self, networks: Networks) -> None:
        self._registry = CollectorRegistry()
        self._calls = Counter(
            "slash24_calls_total",
            "CNI calls by verb, plugin and outcome (the CNI error code, 0 for success)",
            ("verb", "plugin", "outcome"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "slash24_call_duration_seconds",
            "Time from a request's arrival to its answer",
            ("verb", "plugin"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "slash24_batch_size",
            "How much goes to the kernel in one operation: links deleted together, changes in an nftables transaction",
            ("kind",),
            buckets=_SIZES,
            registry=self._registry,
        )
        self._registry.register(_Leases(networks))
        self.look_up("slash24_resident_bytes", "Memory of the agent", memory.resident)

    def look_up(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Have `value` called whenever somebody asks."""
        Gauge(name, meaning, registry=self._registry).set_function(value)

    def note(self, outcome: Outcome) -> None:
        """Count a call."""
        verb = outcome.verb if outcome.verb in VERBS or outcome.verb == "VERSION" else "other"
        code = str(outcome.code) if outcome.code <= _LARGEST_CODE else "other"
        self._calls.labels(verb, outcome.plugin, code).inc()
        self._seconds.labels(verb, outcome.plugin).observe(outcome.seconds)

    def note_batch(self, kind: str, size: int) -> None:
        """Count an operation, as spec.suite.Suite.on_batch."""
        self._batches.labels(kind).observe(size)

    def text(self) -> bytes:
        """The exposition, of CONTENT_TYPE."""
        return generate_latest(self._registry)


class _Leases(Collector):
    def __init__(self, networks: Networks) -> None:
        self._networks = networks

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing: what there is, the networks tell."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Addresses of every network that ADDs have shown."""
        used = GaugeMetricFamily("slash24_leases_used", "Addresses leased, by network", labels=["network"])
        free = GaugeMetricFamily("slash24_leases_free", "Addresses not leased, by network", labels=["network"])
        for network, taken, left in self._networks.count():
            used.add_metric([network], taken)
            free.add_metric([network], left)
        yield from (used, free)

"""What `--listen` serves: /healthz, /readyz, /status and /metrics; `docs/slash24-node.md` lists the metrics."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace

from prometheus_client.metrics import Counter, Gauge, Histogram
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import CollectorRegistry

from agent.memory import resident
from agent.pages import Page, Pages, json_page
from agent.recent import Recent
from daemon.policies.node import HUNG_SECONDS, NodePolicies
from daemon.readiness import is_registry_lost, readiness
from daemon.reconciler import Pass, Reconciler
from daemon.records import Store

_TOLD = 100  # peers that are left out
_REMEMBERED = 10  # repairs
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Monitoring:
    """Observes the loop from the start; the pages are served from `open` on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._round_at = clock, clock()
        self.registry, self.recent = CollectorRegistry(), Recent(clock)
        self._repaired: deque[tuple[float, Pass]] = deque(maxlen=_REMEMBERED)
        self._seconds = Histogram(
            "slash24_node_pass_duration_seconds",
            "Time to make the kernel equal to the records: whole (sync), or what has changed (update)",
            ("kind",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._writes = self._counter("slash24_node_kernel_writes", "Routes, neighbours and FDB entries written")
        self._removals = self._counter("slash24_node_kernel_removals", "Routes, neighbours and FDB entries removed")
        self._repairs = self._counter("slash24_node_repairs", "Passes because others had changed what is ours")
        self._failures = self._counter("slash24_node_failures", "Passes that could not be completed")

    def on_pass(self, done: Pass) -> None:
        """Take a pass into account."""
        self._seconds.labels("sync" if done.is_whole else "update").observe(done.seconds)
        self._writes.inc(done.outcome.written)
        self._removals.inc(done.outcome.removed)
        self._repairs.inc(done.is_repair)
        if done.damage:
            self._repaired.append((self._clock(), done))
        self._failures.inc(not done.outcome.is_complete)

    def on_round(self) -> None:
        """The loop is alive."""
        self._round_at = self._clock()

    def is_hung(self) -> bool:
        """Whether the loop has stopped going round."""
        return self._clock() - self._round_at > HUNG_SECONDS

    def open(
        self, where: str, reconciler: Reconciler, store: Store, policies: NodePolicies, about: Mapping[str, object]
    ) -> Callable[[], None]:
        """Serve the pages at `where`, a path or HOST:PORT; a function that ends that. Raises OSError.

        `about` the configuration: what /status begins with.
        """
        for name, meaning, value in (
            ("slash24_node_records", "Records in the registry", lambda: store.counts().known),
            ("slash24_node_records_wrong", "Records that cannot be read", lambda: store.counts().wrong_count),
            ("slash24_node_left_out", "Records that cannot be used", lambda: len(_left_out(reconciler))),
            ("slash24_node_ready", "1 if the network works", lambda: readiness(reconciler.state).is_ready),
            ("slash24_node_registry_connected", "1 if the registry can be reached", lambda: _connected(store)),
            ("slash24_node_registry_lost_seconds", "For how long it cannot", lambda: store.counts().lost_seconds),
            ("slash24_node_resident_bytes", "Resident memory of the daemon", resident),
        ):
            Gauge(name, meaning, registry=self.registry).set_function(value)
        pages = {**self._pages(reconciler, policies), **policies.pages()}
        pages["/status"] = lambda: json_page(200, {**about, **self._status(reconciler, store)})
        return Pages(where, pages).close

    def _status(self, reconciler: Reconciler, store: Store) -> dict[str, object]:
        counts, now = store.counts(), self._clock()
        return {
            "connected": bool(_connected(store)),
            "lost_seconds": round(counts.lost_seconds, 1),
            "why": counts.why,
            "records": counts.known,
            "left_out": list(_left_out(reconciler)[:_TOLD]),
            "repairs": [
                {"seconds_ago": round(now - at, 1), "found": list(done.damage), "complete": done.outcome.is_complete}
                for at, done in reversed(list(self._repaired))
            ],
            "errors": self.recent.describe(),
        }

    def _counter(self, name: str, meaning: str) -> Counter:
        return Counter(name, meaning, registry=self.registry)

    def _pages(self, reconciler: Reconciler, policies: NodePolicies) -> dict[str, Page]:
        def healthz() -> tuple[int, str, bytes]:
            if self.is_hung():
                return json_page(503, {"problem": f"no pass has begun for {HUNG_SECONDS:g} s"})
            if policies.idle_seconds() > HUNG_SECONDS:
                return json_page(503, {"problem": f"policies were not looked at for {HUNG_SECONDS:g} s"})
            return json_page(200, {"ok": True})

        def readyz() -> tuple[int, str, bytes]:
            state = reconciler.state
            ready = readiness(replace(state, refusal=state.refusal or policies.pending()))
            is_ready = ready.is_ready and not is_registry_lost(state) and not self.is_hung()
            document = {"ready": is_ready, "reason": ready.reason, "message": ready.message}
            document |= {"problems": [*filter(None, (reconciler.error,)), *ready.warnings]}
            return json_page(200 if is_ready else 503, document)

        def metrics() -> tuple[int, str, bytes]:
            return 200, CONTENT_TYPE_LATEST, generate_latest(self.registry)

        return {"/healthz": healthz, "/readyz": readyz, "/metrics": metrics}


def _left_out(reconciler: Reconciler) -> tuple[str, ...]:
    return reconciler.outcome.left_out if reconciler.outcome else ()


def _connected(store: Store) -> float:
    return float(store.is_complete and not store.counts().lost_seconds)

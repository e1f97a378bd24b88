"""What the pages say of policies: metrics, /policies and /policies/documents; `docs/slash24-node.md` describes them."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.metrics import Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import CollectorRegistry

from agent.pages import Page, json_page
from daemon.policies.inbox import Inbox, digest_of, text_of
from daemon.policies.loop import InForce, Policies
from policy.compiled import Compiled, Enforced
from policy.denied import Denied

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_POLICIES = ("NetworkPolicy", "ClusterNetworkPolicy")


class PolicyMetrics:
    """Observes the loop from the start; `serve` adds what is read when the pages are asked for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._seconds = Histogram(
            "slash24_policy_programming_duration_seconds",
            "Time to put a pod or documents into force, or to compare pods or the whole",
            ("kind",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._failures = Counter("slash24_policy_failures", "Programmings that failed", registry=registry)
        self._cuts = Counter("slash24_policy_cut_connections", "Connections no longer allowed", registry=registry)

    def on_programmed(self, kind: str, seconds: float) -> None:
        """As Observer."""
        self._seconds.labels(kind).observe(seconds)

    def on_failed(self) -> None:
        """As Observer."""
        self._failures.inc()

    def on_cut(self, connections: int) -> None:
        """Connections were cut."""
        self._cuts.inc(connections)

    def serve(
        self, policies: Policies, inbox: Inbox, source: str, read_denied: Callable[[], Mapping[tuple[str, str], int]]
    ) -> dict[str, Page]:
        """The pages, by path. `source`: where the documents are; `read_denied`: packets by direction and address."""
        for name, meaning, value in (
            ("slash24_policy_policies", "Policies in force", lambda: _count_policies(inbox)),
            ("slash24_policy_pods", "Pods of this node with policies known", lambda: len(_pods(policies)[0])),
            ("slash24_policy_pods_held", "Pods of this node that are held", lambda: len(_pods(policies)[1])),
            ("slash24_policy_documents_wrong", "Documents that cannot be read", lambda: inbox.counts().wrong_count),
            (
                "slash24_policy_source_connected",
                "1 if documents can be reached",
                lambda: _connected(inbox),
            ),
            ("slash24_policy_failing_seconds", "For how long programming fails", lambda: policies.failing_seconds),
        ):
            Gauge(name, meaning, registry=self._registry).set_function(value)
        self._registry.register(_DeniedPackets(read_denied, lambda: policies.in_force.compiled))
        return {
            "/policies": lambda: json_page(200, _document(policies, inbox, source)),
            "/policies/documents": lambda: json_page(200, _digests(policies)),
        }


class NoMetrics:
    """An observer for a daemon without pages."""

    def on_programmed(self, kind: str, seconds: float) -> None:
        """As Observer."""

    def on_failed(self) -> None:
        """As Observer."""

    def on_cut(self, connections: int) -> None:
        """Connections were cut."""


class _DeniedPackets:
    """Collects the packets that were denied, as the kernel counts them."""

    def __init__(self, read: Callable[[], Mapping[tuple[str, str], int]], compiled: Callable[[], Compiled]) -> None:
        self._read, self._compiled, self._denied = read, compiled, Denied()

    def describe(self) -> Iterator[Metric]:
        """As the registry asks for: nothing is read yet."""
        yield self._family()

    def collect(self) -> Iterator[Metric]:
        """As the registry asks for."""
        family = self._family()
        try:
            self._denied.update(self._read, self._compiled())
        except OSError:
            return
        for (direction, pod, policy), packets in sorted(self._denied.totals.items()):
            namespace, _, name = pod.rpartition("/")
            family.add_metric((namespace, name, direction, policy), packets)
        yield family

    def _family(self) -> CounterMetricFamily:
        labels = ("namespace", "pod", "direction", "policy")
        return CounterMetricFamily("slash24_policy_denied_packets", "Packets denied by policies", labels=labels)


def _count_policies(inbox: Inbox) -> int:
    known = inbox.counts().known
    return sum(known.get(kind, 0) for kind in _POLICIES)


def _connected(inbox: Inbox) -> float:
    return float(inbox.is_complete and not inbox.counts().lost_seconds)


def _pods(policies: Policies) -> tuple[list[str], list[str]]:
    """The owners of the pods of this node whose policies are known; of those that are held."""
    now = policies.in_force
    known = {enforced.owner for enforced in now.compiled.pods.values()}
    return sorted(known), sorted(owner for owner in now.pods if owner not in known)


def _document(policies: Policies, inbox: Inbox, source: str) -> dict[str, object]:
    now, counts = policies.in_force, inbox.counts()
    objects = dict(now.objects or {})
    return {
        "source": source,
        "complete": now.objects is not None,
        "connected": bool(_connected(inbox)),
        "generation": now.generation,
        "waiting": counts.waiting,
        "problems": list(policies.problems),
        "documents": dict(counts.known),
        "policies": [
            {"kind": key[0], "namespace": key[1], "name": key[2], "digest": digest_of(one)}
            for key, one in sorted(objects.items(), key=lambda item: item[0])
            if key[0] in _POLICIES
        ],
        "pods": [_pod(now, owner, ip) for owner, pod in sorted(now.pods.items()) for ip in pod.ips],
    }


def _pod(now: InForce, owner: str, ip: str) -> dict[str, object]:
    local, enforced = now.pods[owner], now.compiled.pods.get(ip)
    is_held = enforced is None or enforced.owner != owner
    return {
        "address": ip,
        "pod": "/".join(filter(None, (local.namespace, local.name))),
        "owner": owner,
        "link": local.link,
        "held": is_held,
        "ingress": [] if is_held else _of(enforced, "ingress"),
        "egress": [] if is_held else _of(enforced, "egress"),
    }


def _of(enforced: Enforced, direction: str) -> list[str]:
    return [name for where, name in enforced.policies if where == direction]


def _digests(policies: Policies) -> dict[str, object]:
    now = policies.in_force
    objects = dict(now.objects or {})
    return {
        "complete": now.objects is not None,
        "generation": now.generation,
        "cutting": policies.is_cutting,
        "documents": {text_of(key): digest_of(one) for key, one in sorted(objects.items(), key=lambda item: item[0])},
    }

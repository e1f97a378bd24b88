"""What the cluster is told about this node's network: the Node's condition NetworkUnavailable, and Events.

The kubelet starts no pod on a Node whose network is unavailable unless the pod tolerates that. A condition is written
when it changes. A warning is an Event when it appears; while it lasts, its count and time are brought up to date every
half hour, since the API server forgets Events after an hour.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from nodes.registries.kubernetes.access import MERGE, Refused, Session
from nodes.registries.kubernetes.objects import Condition, NodeObject
from nodes.registry import Readiness

_CONTROLLER = "slash24.dev/node"
_EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"  # those of objects without a namespace
_AGAIN, _FORGOTTEN = 1800.0, 7200.0  # seconds
_MOST, _MOST_RECENT = 10, 30  # warnings that become Events: at a time, and in half an hour
_LONGEST_NOTE, _LONGEST_MESSAGE = 1000, 2000  # bytes (the API allows 1024 and 32768)
_NOT_FOUND, _CONFLICT = 404, 409


def is_told(readiness: Readiness, known: Condition) -> bool:
    """Whether the condition says this. If the network works, its message may be of another time.

    It may count the peers: a node that joins must not make all others write to the API.
    """
    wanted = condition_of(readiness)
    if readiness.is_ready:
        return (wanted.status, wanted.reason) == (known.status, known.reason)
    return wanted == known


def condition_of(readiness: Readiness) -> Condition:
    """The condition NetworkUnavailable that says the same."""
    return Condition(str(not readiness.is_ready), readiness.reason, _cut(readiness.message, _LONGEST_MESSAGE))


def condition_patch(wanted: Condition, known: Condition) -> dict[str, object]:
    """The strategic merge patch of a Node's status that makes the condition `known` the wanted one."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    values = {"status": wanted.status, "reason": wanted.reason, "message": wanted.message, "lastHeartbeatTime": now}
    if wanted.status != known.status:
        values["lastTransitionTime"] = now
    return {"status": {"conditions": [{"type": "NetworkUnavailable", **values}]}}


NO_CONDITION = {"status": {"conditions": [{"type": "NetworkUnavailable", "$patch": "delete"}]}}
"""The strategic merge patch that removes the condition."""


@dataclass
class _Sent:
    """An Event of a warning: how often the warning has appeared, and when the Event was last written (monotonic)."""

    count: int
    written: float
    is_current: bool = True


class Events:
    """The Events about this node's Node."""

    def __init__(self) -> None:
        self._sent: dict[str, _Sent] = {}

    def due(self, warnings: Iterable[str]) -> list[str]:
        """Which of the current warnings have to be written: new ones, and old ones now and then."""
        current, now = _few(list(dict.fromkeys(_cut(warning, _LONGEST_NOTE) for warning in warnings))), time.monotonic()
        for warning, sent in list(self._sent.items()):
            is_current = warning in current
            sent.count += is_current and not sent.is_current
            sent.is_current = is_current
            if not is_current and now - sent.written > _FORGOTTEN:
                del self._sent[warning]
        old = [one for one in current if one in self._sent and now - self._sent[one].written > _AGAIN]
        # A text that has a number in it may be a new one every time.
        room = _MOST_RECENT - sum(now - sent.written <= _AGAIN for sent in self._sent.values())
        return [*old, *[one for one in current if one not in self._sent][: max(0, room - len(old))]]

    def write(self, session: Session, node: NodeObject, warning: str) -> None:
        """Make an Event of a warning that is due, or bring it up to date. Raises RegistryError."""
        sent = self._sent.get(warning)
        if sent is None:
            # An earlier process of this node may have created it.
            if not _create(session, node, warning):
                _update(session, node, warning, 2)
            self._sent[warning] = _Sent(1, time.monotonic())
        else:
            sent.count = max(sent.count, 2)  # the API calls nothing less a series
            # The API server may have forgotten it.
            if not _update(session, node, warning, sent.count):
                _create(session, node, warning)
            sent.written = time.monotonic()


def _few(warnings: list[str]) -> list[str]:
    """The first warnings, and a sentence about how many more there are."""
    if len(warnings) <= _MOST:
        return warnings
    return [*warnings[: _MOST - 1], "more problems than Events are made of; the log of slash24-node has all of them"]


def _create(session: Session, node: NodeObject, warning: str) -> bool:
    """False if the Event exists."""
    value = {
        "metadata": {"name": _name(node, warning), "namespace": "default"},
        "eventTime": _now(),
        "type": "Warning",
        "reason": "NetworkProblem",
        "action": "Reconcile",
        "note": warning,
        "regarding": {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid},
        "reportingController": _CONTROLLER,
        "reportingInstance": node.name[:128],
    }
    return _send(_CONFLICT, lambda: session.send("POST", _EVENTS, value))


def _update(session: Session, node: NodeObject, warning: str, count: int) -> bool:
    """False if there is no such Event."""
    value = {"series": {"count": count, "lastObservedTime": _now()}}
    return _send(_NOT_FOUND, lambda: session.send("PATCH", f"{_EVENTS}/{_name(node, warning)}", value, kind=MERGE))


def _send(expected: int, send: Callable[[], object]) -> bool:
    """Whether the API server accepts a request; it may refuse it with the code `expected`."""
    try:
        send()
    except Refused as error:
        if error.code != expected:
            raise
        return False
    return True


def _name(node: NodeObject, warning: str) -> str:
    """The name of a warning's Event, the same in every process of this node."""
    text = f"{node.uid} {warning}".encode(errors="surrogatepass")
    return f"{node.name[:200].rstrip('.-')}.{sha256(text).hexdigest()[:16]}"


def _cut(text: str, most: int) -> str:
    """The text, shortened to that many bytes."""
    encoded = text.encode(errors="replace")
    return encoded.decode() if len(encoded) <= most else encoded[: most - 3].decode(errors="ignore") + "…"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

"""What the Kubernetes API is told, and how seldom."""

import json

import pytest

from nodes.registries.kubernetes import reports
from nodes.registries.kubernetes.access import Refused
from nodes.registries.kubernetes.objects import Condition, NodeObject, read_node
from nodes.registries.kubernetes.reports import Events, condition_patch, is_told
from nodes.registry import Readiness

NODE: NodeObject = read_node(b'{"metadata": {"name": "a", "uid": "u"}}')[0]


class Api:
    """Records the requests of a session; `codes`: the errors that it answers with first."""

    def __init__(self, *codes: int) -> None:
        self.sent: list[tuple[str, object]] = []
        self._codes = list(codes)

    def send(self, method: str, _path: str, body: object, kind: str = "") -> bytes:
        """As `Session.send`."""
        json.dumps(body)
        self.sent.append((method, body.get("note") or body["series"]["count"]))
        if self._codes:
            raise Refused("what", self._codes.pop(0), "why")
        return b"{}"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic time, in seconds; a test sets its only element."""
    now = [1000.0]
    monkeypatch.setattr(reports.time, "monotonic", lambda: now[0])
    return now


def report(events: Events, api: Api, *warnings: str) -> None:
    """As `KubernetesRegistry.tell` does."""
    for warning in events.due(warnings):
        events.write(api, NODE, warning)


def test_a_warning_that_lasts_is_written_every_half_hour(clock: list[float]) -> None:
    """With the number of times that it has appeared."""
    events, api = Events(), Api()
    for second in range(0, 7200, 60):
        clock[0] = 1000.0 + second
        report(events, api, "w")
    assert api.sent[0] == ("POST", "w")
    assert api.sent[1:] == [("PATCH", 2)] * 3


def test_a_warning_that_comes_and_goes_is_counted(clock: list[float]) -> None:
    """And not written each time."""
    events, api = Events(), Api()
    for second in range(0, 1900, 10):
        clock[0] = 1000.0 + second
        report(events, api, *(["w"] if second % 20 else []))
    assert api.sent == [("POST", "w"), ("PATCH", 92)]


def test_texts_that_change_every_time_are_not_written_every_time(clock: list[float]) -> None:
    """Thirty in half an hour."""
    events, api = Events(), Api()
    for second in range(3600):
        clock[0] = 1000.0 + second
        report(events, api, f"{second} packets were lost")
    assert len(api.sent) == 60


def test_an_event_of_an_earlier_process_is_brought_up_to_date() -> None:
    """There is one of that name."""
    api = Api(409)
    report(Events(), api, "w")
    assert api.sent == [("POST", "w"), ("PATCH", 2)]


def test_an_event_that_the_server_has_forgotten_is_created_again(clock: list[float]) -> None:
    """After its hour."""
    events, api = Events(), Api()
    report(events, api, "w")
    clock[0] += 2000
    api = Api(404)
    report(events, api, "w")
    assert api.sent == [("PATCH", 2), ("POST", "w")]


def test_an_event_that_was_refused_is_due_again() -> None:
    """As any other request that failed."""
    events = Events()
    with pytest.raises(Refused):
        report(events, Api(403), "w")
    assert events.due(["w"]) == ["w"]


def test_the_time_of_a_transition_is_that_of_a_change_of_status() -> None:
    """Not of another reason or message."""
    (changed,) = condition_patch(Condition("True", "r", "m"), Condition("False"))["status"]["conditions"]
    (same,) = condition_patch(Condition("True", "r", "m"), Condition("True", "s", "m"))["status"]["conditions"]
    assert ("lastTransitionTime" in changed, "lastTransitionTime" in same) == (True, False)


@pytest.mark.parametrize(
    ("is_ready", "known", "expected"),
    [
        (True, Condition("False", "r", "other"), True),
        (True, Condition("False", "s", "m"), False),
        (True, Condition("True", "r", "m"), False),
        (False, Condition("True", "r", "other"), False),
        (False, Condition("True", "r", "m"), True),
        (False, Condition(), False),
    ],
)
def test_a_message_counts_only_while_the_network_is_unavailable(
    *, is_ready: bool, known: Condition, expected: bool
) -> None:
    """Otherwise every node would write whenever one joins."""
    assert is_told(Readiness(is_ready=is_ready, reason="r", message="m"), known) is expected


def test_long_texts_are_cut_between_characters() -> None:
    """To what the API accepts in bytes."""
    events, api = Events(), Api()
    report(events, api, "é" * 3000, "\ud800")
    assert [len(note.encode()) <= 1024 for _, note in api.sent] == [True, True]

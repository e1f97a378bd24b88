"""What follows a list and a watch believes nothing that the server answers."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.registries.kubernetes import following
from nodes.registries.kubernetes.following import Follower, list_all
from nodes.registry import RegistryError


class Script:
    """A session with a server that answers with these pages and lines, and is gone afterwards; and a receiver."""

    url = "https://192.0.2.10:6443"

    def __init__(self, pages: Iterable[bytes], lines: Iterable[bytes] = ()) -> None:
        self._pages, self._lines = iter(pages), iter(lines)
        self.calls: list[tuple] = []
        self.asked: list[str] = []
        self.follower = Follower(self.connect, "/nodes", self)

    @contextmanager
    def connect(self) -> Iterator["Script"]:
        """As `access.connect`."""
        yield self

    def get(self, _path: str, **params: str) -> bytes:
        """As `Session.get`."""
        self.asked.append(params.get("continue", ""))
        return self._next(self._pages)

    @contextmanager
    def stream(self, _path: str, params: Mapping[str, str], _silence: float) -> Iterator["Script"]:
        """As `Session.stream`."""
        self.asked.append(params["resourceVersion"])
        yield self

    def lines(self) -> Iterator[bytes]:
        """As `Stream.lines`."""
        yield self._next(self._lines)

    def interrupt(self) -> None:
        """As `Stream.interrupt`."""

    def _next(self, answers: Iterator[bytes]) -> bytes:
        for answer in answers:
            return answer
        self.follower.close()
        raise RegistryError("it is gone")

    def replace(self, objects: Iterable[msgspec.Raw]) -> None:
        """As `Receiver`."""
        self.calls.append(("replace", len(list(objects))))

    def change(self, kind: str, item: msgspec.Raw) -> object:
        """As `Receiver`."""
        self.calls.append((kind, bytes(item)))
        return json.loads(bytes(item)).get("v")

    def lost(self, why: str) -> None:
        """As `Receiver`."""
        self.calls.append(("lost", why))

    def alive(self) -> None:
        """As `Receiver`."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pauses."""
    monkeypatch.setattr(following.Backoff, "next", lambda _self: 0.0)


def page(version: str, *items: object, following: str = "") -> bytes:
    """A page of a list."""
    return json.dumps({"metadata": {"resourceVersion": version, "continue": following}, "items": items}).encode()


def event(kind: str, value: object) -> bytes:
    """A line of a watch."""
    return json.dumps({"type": kind, "object": value}).encode()


def test_a_watch_goes_on_at_the_last_version() -> None:
    """Of an event or a bookmark; events of other kinds are ignored."""
    bookmark = {"metadata": {"resourceVersion": "9"}}
    script = Script(
        [page("5", {})], [event("ADDED", {"v": "7"}), event("BOOKMARK", bookmark), event("NEWS", {}), b"", b""]
    )
    script.follower.run()
    assert script.asked[:5] == ["", "5", "7", "9", "9"]
    assert script.calls[:2] == [("replace", 1), ("ADDED", b'{"v": "7"}')]


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b"7", b'{"type": 1}', event("BOOKMARK", {}), event("ERROR", []), b"\xff"]
)
def test_a_line_that_is_no_event_leads_to_a_new_list(line: bytes) -> None:
    """What was missed cannot be known."""
    script = Script([page("5"), page("8")], [line])
    script.follower.run()
    assert script.asked[:4] == ["", "5", "", "8"]
    assert "not an event" in script.calls[1][1]


def test_an_event_with_410_leads_to_a_new_list() -> None:
    """That is no loss of the server; another code is."""
    gone, failed = ({"code": code, "message": "m"} for code in (410, 500))
    script = Script([page("5"), page("8")], [event("ERROR", gone), event("ERROR", failed)])
    script.follower.run()
    assert script.asked[:5] == ["", "5", "", "8", "8"]
    assert script.calls[:3] == [("replace", 0), ("replace", 0), ("lost", f"watch {script.url}/nodes: m (500)")]


def test_pages_are_asked_for_until_the_last() -> None:
    """With what the page before says; a server that says the same again is not asked for ever."""
    script, versions = Script([page("5", 1, following="x"), page("5", 2, 3, following="y"), page("5", 4)]), []
    assert [bytes(item) for item in list_all(script, "/nodes", {}, versions)] == [b"1", b"2", b"3", b"4"]
    assert (script.asked, versions) == (["", "x", "y"], ["5"])
    script = Script([page("5", following="x")] * 3)
    assert list(list_all(script, "/nodes", {}, [])) == []
    assert script.asked == ["", "x"]


@given(st.binary(max_size=50) | st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["metadata", "items", "continue", "resourceVersion"]), inner),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_answer_is_a_list_or_an_error(text: bytes) -> None:
    """Which is to be repeated."""
    with suppress(RegistryError):
        list(list_all(Script([text]), "/nodes", {}, []))


@pytest.mark.parametrize("depth", [100, 100_000])
def test_nesting_of_any_depth_is_no_crash(depth: int) -> None:
    """Of a page, or of an event."""
    nested = b"[" * depth + b"]" * depth
    script = Script(
        [b'{"metadata": {"resourceVersion": "5"}, "items": [' + nested + b"]}", page("6"), page("7")],
        [b'{"type": "BOOKMARK", "object": ' + nested + b"}"],
    )
    script.follower.run()
    assert "6" in script.asked


def test_a_list_without_a_version_cannot_be_watched() -> None:
    """It is asked for again."""
    script = Script([page(""), page("5")])
    script.follower.run()
    assert script.asked[:3] == ["", "", "5"]

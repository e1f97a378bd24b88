"""What takes long is done by another thread, together if it comes together."""

from collections.abc import Iterator

import pytest

from daemon.policies import cuts as module
from daemon.policies.cuts import Cuts
from policy.compiled import Compiled


class Case:
    """Cuts, whose kernel notes what is done, and fails if it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[tuple] = []
        self.left: frozenset[str] = frozenset()
        self.fails = ""
        self.cut = 0
        self.cuts = Cuts(self, self._count)
        monkeypatch.setattr(module, "_GATHER_SECONDS", 0)
        monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)
        monkeypatch.setattr(module.connections, "cut", self._cut)
        monkeypatch.setattr(module.conntrack, "flush_addresses", lambda ips: self._do("flush", frozenset(ips)))
        monkeypatch.setattr(module.tables, "list_left", lambda: self.left)
        monkeypatch.setattr(module.tables, "forget_listed", self._forget)

    def run(self) -> None:
        """Until everything is done."""
        self.cuts.run()

    def _count(self, number: int) -> None:
        self.cut += number

    def _cut(self, _compiled: Compiled, addresses: frozenset[str] | None, _programmer: object) -> int:
        self._do("cut", addresses)
        return 3

    def _forget(self, ips: frozenset[str]) -> None:
        self._do("forget", frozenset(ips))
        self.left = frozenset()

    def _do(self, *what: object) -> None:
        if self.fails:
            self.fails, fails = "", self.fails
            raise OSError(fails)
        self.done.append(what)
        if what[0] != "flush":
            self.cuts.stop()


@pytest.fixture(name="case")
def new_case(monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    """Nothing is asked for yet."""
    return Case(monkeypatch)


def test_requests_are_joined(case: Case) -> None:
    """What is cut is counted."""
    case.cuts.request(Compiled(), {"10.1.0.2"})
    case.cuts.request(Compiled(), {"10.1.0.3"})
    case.run()
    assert (case.done, case.cut) == ([("cut", frozenset({"10.1.0.2", "10.1.0.3"}))], 3)


def test_a_request_for_all_is_for_all(case: Case) -> None:
    """Whatever else is asked for."""
    case.cuts.request(Compiled(), {"10.1.0.2"})
    case.cuts.request(Compiled(), None)
    case.cuts.request(Compiled(), {"10.1.0.3"})
    case.run()
    assert case.done == [("cut", None)]


def test_addresses_of_pods_that_are_gone_are_flushed_and_forgotten(case: Case) -> None:
    """In this order: a pod that gets one of them meanwhile flushes it itself."""
    case.left = frozenset({"10.1.0.9"})
    case.cuts.flush()
    case.run()
    gone = frozenset({"10.1.0.9"})
    assert case.done == [("flush", gone), ("forget", gone)]


def test_what_fails_is_done_again(case: Case) -> None:
    """And told as long as it fails."""
    case.fails = "no memory"
    problems = []
    wait = case.cuts._wait

    def waited() -> bool:
        problems.append(case.cuts.problem)
        return wait()

    case.cuts._wait = waited
    case.cuts.request(Compiled(), {"10.1.0.2"})
    case.run()
    assert case.done == [("cut", frozenset({"10.1.0.2"}))]
    assert problems == ["", "connections that policies no longer allow cannot be cut: no memory", ""]
    assert case.cuts.problem == ""

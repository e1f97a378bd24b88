"""Group commit: which thread performs a request, with which others, and which callers get an error."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, get_ident

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linux.group_commit import GroupCommit, Request


def answer(requests: Sequence[Request]) -> None:
    """Settle each request with its job."""
    for request in requests:
        request.settle(request.job)


class Recorder:
    """Performs groups and records them; a group with the job "hold" blocks until `release` is set."""

    def __init__(self, perform: Callable[[Sequence[Request]], object] = answer, most: int = 64) -> None:
        self.groups: list[list[object]] = []
        self.held, self.release = Event(), Event()
        self.commit = GroupCommit(self._perform, most=most)
        self._body = perform

    def _perform(self, requests: Sequence[Request]) -> None:
        self.groups.append([request.job for request in requests])
        if self.groups[-1] == ["hold"]:
            self.held.set()
            assert self.release.wait(60)
        self._body(requests)

    def meanwhile(self, threads: ThreadPoolExecutor, jobs: Sequence[object]) -> list[Future]:
        """Submit the jobs in order while a group is being performed, and then let that group end."""
        futures = [threads.submit(self.commit.submit, "hold")]
        assert self.held.wait(60)
        for number, job in enumerate(jobs, 1):
            futures.append(threads.submit(self.commit.submit, job))
            while self.commit.waiting < number:
                time.sleep(0.0005)
        self.release.set()
        return futures[1:]


def test_a_single_request_is_performed_at_once_by_its_own_thread() -> None:
    """Without other requests it neither waits nor uses another thread."""
    performers = []
    commit = GroupCommit(lambda requests: (performers.append(get_ident()), answer(requests)))
    assert [commit.submit(number) for number in range(3)] == [0, 1, 2]
    assert performers == [get_ident()] * 3


def test_requests_that_arrive_meanwhile_form_the_next_group() -> None:
    """In the order of their arrival; each gets its own result."""
    recorder = Recorder()
    with ThreadPoolExecutor(8) as threads:
        assert [future.result() for future in recorder.meanwhile(threads, range(7))] == list(range(7))
    assert recorder.groups == [["hold"], list(range(7))]


def test_the_size_of_a_group_is_bounded() -> None:
    """More than `most` requests form several groups."""
    recorder = Recorder(most=3)
    with ThreadPoolExecutor(8) as threads:
        assert [future.result() for future in recorder.meanwhile(threads, range(7))] == list(range(7))
    assert recorder.groups == [["hold"], [0, 1, 2], [3, 4, 5], [6]]


def test_an_error_is_raised_only_in_its_caller() -> None:
    """The other requests of the group return their results."""

    def perform(requests: Sequence[Request]) -> None:
        for request in requests:
            error = ValueError("refused") if request.job == 2 else None
            request.settle(request.job, error)

    recorder = Recorder(perform)
    with ThreadPoolExecutor(8) as threads:
        futures = recorder.meanwhile(threads, range(4))
        with pytest.raises(ValueError, match="refused"):
            futures[2].result()
        assert [futures[number].result() for number in (0, 1, 3)] == [0, 1, 3]


@pytest.mark.parametrize("error", [OSError(5, "broken"), SystemExit(3)])
def test_an_exception_in_the_leader_fails_the_unsettled_requests_of_its_group(error: BaseException) -> None:
    """Requests settled before have their results, and the next group is performed."""

    def perform(requests: Sequence[Request]) -> None:
        for request in requests:
            if request.job == 1:
                raise error
            request.settle(request.job)

    recorder = Recorder(perform, most=3)
    with ThreadPoolExecutor(8) as threads:
        futures = recorder.meanwhile(threads, range(5))
        assert [future.exception() for future in futures] == [None, error, error, None, None]
        assert [futures[number].result() for number in (0, 3, 4)] == [0, 3, 4]
    assert recorder.commit.submit("afterwards") == "afterwards"


def test_a_request_that_was_not_settled_fails() -> None:
    """Its caller neither waits for ever nor takes it for performed."""
    with pytest.raises(RuntimeError, match="not performed"):
        GroupCommit(lambda _: None).submit("forgotten")


def test_a_caller_returns_as_soon_as_its_request_is_settled() -> None:
    """While its group is still being performed."""
    go_on = Event()

    def perform(requests: Sequence[Request]) -> None:
        if len(requests) > 1:
            requests[1].settle("early")
            assert go_on.wait(60)
        answer(requests)

    recorder = Recorder(perform)
    with ThreadPoolExecutor(8) as threads:
        first, second = recorder.meanwhile(threads, [0, 1])
        assert second.result(60) == "early"
        assert not first.done()
        go_on.set()
        assert first.result(60) == 0


def test_requests_that_are_gathered_join_the_group() -> None:
    """Those that arrive while the leader gathers are performed with its own."""
    groups: list[list[object]] = []
    gathering = Event()

    def gather() -> None:
        gathering.set()
        while commit.waiting < 3:
            time.sleep(0.0005)

    commit = GroupCommit(lambda requests: (groups.append([r.job for r in requests]), answer(requests)), gather=gather)
    with ThreadPoolExecutor(3) as threads:
        futures = [threads.submit(commit.submit, 0)]
        assert gathering.wait(60)
        futures += [threads.submit(commit.submit, job) for job in (1, 2)]
        assert [future.result() for future in futures] == [0, 1, 2]
    assert [sorted(group) for group in groups] == [[0, 1, 2]]


def test_an_exception_while_gathering_fails_the_leader_and_passes_the_lead_on() -> None:
    """Like an exception while performing."""

    def gather() -> None:
        if not failed:
            failed.append(True)
            raise OSError(24, "Too many open files")

    failed: list[bool] = []
    commit = GroupCommit(answer, gather=gather)
    with pytest.raises(OSError, match="Too many open files"):
        commit.submit(0)
    assert commit.submit(1) == 1


def test_submitting_while_performing_is_an_error() -> None:
    """The request would wait for itself."""
    commit = GroupCommit(lambda _: commit.submit("another"))
    with pytest.raises(RuntimeError, match="must not submit another"):
        commit.submit("one")


@given(st.lists(st.integers(0, 9), min_size=1, max_size=24), st.integers(1, 5), st.sets(st.integers(0, 9)))
def test_every_request_is_performed_once(jobs: list[int], most: int, bad: set[int]) -> None:
    """Whichever requests arrive together and fail, each caller gets the outcome of its own job."""

    def perform(requests: Sequence[Request]) -> None:
        for request in requests:
            request.settle(request.job, ValueError(request.job) if request.job in bad else None)

    recorder = Recorder(perform, most=most)
    recorder.release.set()
    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(recorder.commit.submit, job) for job in jobs]
        outcomes = [future.exception() or future.result() for future in futures]
    assert [getattr(outcome, "args", outcome) for outcome in outcomes] == [
        (job,) if job in bad else job for job in jobs
    ]
    assert sorted(job for group in recorder.groups for job in group) == sorted(jobs)
    assert max(map(len, recorder.groups)) <= most

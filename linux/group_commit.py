"""Group commit: requests of many threads, performed together by one of them.

A thread that finds no leader leads: it takes the requests that have arrived by then, its own first, and performs
them as one group. Requests that arrive meanwhile form the next group, which the thread of the first of them leads. So
nothing waits for a timer, one request alone is performed at once, and the more arrive, the larger the groups.
"""

from _thread import allocate_lock, get_ident
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

_MOST = 64  # so that the first of many need not wait for the last


class Request:
    """What one thread waits for. Only the first of its outcomes counts."""

    def __init__(self, job: object) -> None:
        self.job = job
        self.is_settled = False
        self._thread = get_ident()
        self._result: object = None
        self._error: BaseException | None = None
        self._wake = allocate_lock()
        self._wake.acquire()

    def settle(self, result: object = None, error: BaseException | None = None) -> None:
        """End the request with a result or an error; its thread goes on at once."""
        if not self.is_settled:
            self._result, self._error = result, error
            self.is_settled = True
            self._wake.release()


class GroupCommit:
    """Performs the jobs of many threads in groups, one group at a time."""

    def __init__(
        self,
        perform: Callable[[Sequence[Request]], object],
        *,
        most: int = _MOST,
        gather: Callable[[], object] = lambda: None,
    ) -> None:
        """`perform` settles the requests of a group, at most `most`; it must not submit any.

        Requests that it leaves unsettled fail with what it raised. `gather` is called before the requests of a group
        are taken, to wait for more.
        """
        self._perform, self._most, self._gather = perform, most, gather
        self._queue: list[Request] = []
        self._leader: int | None = None
        self._lock = allocate_lock()

    @property
    def waiting(self) -> int:
        """The number of requests that wait for the current group to end."""
        return len(self._queue)

    def submit(self, job: object, *, waiting: Callable[[], AbstractContextManager[object]] = nullcontext) -> object:
        """Have the job performed. Returns the result of its request; raises its error.

        `waiting` is entered when the request is in the queue, and left when it is settled.
        """
        request = Request(job)
        with self._lock:
            if self._leader == request._thread:
                raise RuntimeError("what performs a request must not submit another")
            self._queue.append(request)
            leads = self._leader is None
            if leads:
                self._leader = request._thread
        with waiting():
            if not leads:
                request._wake.acquire()  # until it is settled, or the first of the next group
            if not request.is_settled:
                self._lead()
        if request._error:
            raise request._error
        return request._result

    def _lead(self) -> None:
        group: list[Request] = []
        failure: BaseException = RuntimeError("the request was not performed")
        try:
            self._gather()
            group = self._take()
            self._perform(group)
        except BaseException as error:  # noqa: BLE001 (it is raised in the threads that wait)
            failure = error
        for request in group or self._take():
            request.settle(error=failure)
        self._hand_on()

    def _take(self) -> list[Request]:
        with self._lock:
            group, self._queue = self._queue[: self._most], self._queue[self._most :]
        return group

    def _hand_on(self) -> None:
        with self._lock:
            heir = self._queue[0] if self._queue else None
            self._leader = heir._thread if heir else None
        if heir:
            heir._wake.release()

"""What this node asks of the registry and tells it: its lease, its record, its readiness. In a thread of its own.

A registry that hangs stops nothing else. What fails is repeated, with a growing pause.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition, Thread

from agent.log import INFO, NOTICE, WARNING, Log
from nodes.registry import Grant, Readiness, Registry, RegistryError, Wish
from plugins.node.records import Node

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0  # seconds
_CALM_SECONDS = 10.0  # in which a record that was written again must stay as it is
_TELL_SECONDS = 60.0  # between two times that the same is told: somebody may have overwritten it


@dataclass
class _Job:
    """Something to do with the registry: `due` (of the clock), or None if there is nothing to do.

    `pause` in seconds after a failure, 0 after a success; `problem`: how it failed, "" after a success.
    """

    due: float | None = None
    pause: float = 0.0
    problem: str = ""


class Registrar:
    """Its methods may be called by any thread, and do not wait."""

    def __init__(
        self,
        registry: Registry,
        wish: Callable[[], Wish],
        on_change: Callable[[], None],
        log: Log,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_change` is called when `grant` has changed, or a problem has."""
        self._registry, self._wish, self._on_change, self._log, self._clock = registry, wish, on_change, log, clock
        self._changed = Condition()
        self._jobs = {"lease": _Job(due=clock()), "publish": _Job(), "tell": _Job()}
        self._record: Node | None = None
        self._readiness: Readiness | None = None
        self._seen: Node | None = None
        self._is_stopping = False
        self._again, self._calm_at = 0.0, clock()
        self.grant: Grant | None = None
        self.published: Node | None = None

    def start(self) -> None:
        """Begin, in a thread that ends with the process: a request may hang."""
        Thread(target=self.run, name="registrar", daemon=True).start()

    def stop(self) -> None:
        """Begin nothing more."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()

    def problem(self, job: str) -> str:
        """How the last try of "lease", "publish" or "tell" failed; "" if it did not."""
        return self._jobs[job].problem

    def publish(self, record: Node) -> None:
        """Make this record known, unless it is."""
        with self._changed:
            if record != self._record:
                self._record = record
                self._request("publish")

    def tell(self, readiness: Readiness) -> None:
        """Report it, unless it was reported last; and again from time to time."""
        with self._changed:
            if readiness != self._readiness:
                self._readiness = readiness
                self._request("tell")

    def on_own(self, record: Node | None) -> None:
        """What this node's record in the registry is: if it has changed, or is not what was published, look at it."""
        with self._changed:
            if record != self._seen or record != self.published:
                self._request("lease")
            self._seen = record

    def run(self) -> None:
        """Do what is due, until `stop`."""
        while job := self._next():
            self._try(job)

    def _request(self, name: str) -> None:
        """Have a job done, but no earlier than its pause after a failure."""
        job = self._jobs[name]
        if job.due is None or not job.problem:
            job.due = self._clock()
        self._changed.notify()

    def _next(self) -> str:
        """The name of the next job, when it is due; "" to end."""
        with self._changed:
            while not self._is_stopping:
                waiting = [(job.due, name) for name, job in self._jobs.items() if job.due is not None]
                due, name = min(waiting, default=(None, ""))
                if due is not None and due <= self._clock():
                    self._jobs[name].due = None
                    return name
                self._changed.wait(None if due is None else due - self._clock())
        return ""

    def _try(self, name: str) -> None:
        job, before = self._jobs[name], (self.grant, self._jobs[name].problem, self.published)
        try:
            getattr(self, f"_{name}")()
        except RegistryError as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001  (a mistake in a registry must not end the thread)
            problem = f"{type(error).__name__}: {error}"
        else:
            problem = ""
        if problem and problem != job.problem:
            self._log(WARNING, {"event": f"{name}-failed", "msg": problem})
        elif job.problem and not problem:
            self._log(NOTICE, {"event": f"{name}-works-again"})
        with self._changed:
            job.problem = problem
            job.pause = min(max(2 * job.pause, _FIRST_PAUSE), _LONGEST_PAUSE) if problem else 0.0
            if name == "tell" and not problem and job.due is None:
                job.due = self._clock() + _TELL_SECONDS
            if problem:
                job.due = self._clock() + job.pause * random.uniform(0.8, 1.2)  # not all nodes at once
        if (self.grant, problem, self.published) != before:
            self._on_change()

    def _lease(self) -> None:
        seen, grant = self._seen, self._registry.lease(self._wish())
        if grant != self.grant:
            self._log(INFO, {"event": "lease", "subnets": ",".join(grant.subnets), "since": grant.since})
        elif self.published is not None and seen != self.published:
            # Not with a new grant: whoever is woken by it will want another record.
            with self._changed:
                self._write_again()
        self.grant = grant

    def _write_again(self) -> None:
        """Publish the record that others have overwritten; if that goes on, another node has this node's name."""
        if self._jobs["publish"].due is not None:
            return
        now = self._clock()
        self._again = min(max(2 * self._again, _FIRST_PAUSE), _LONGEST_PAUSE) if now < self._calm_at else 0.0
        self._calm_at = now + 2 * self._again + _CALM_SECONDS
        if self._again > _FIRST_PAUSE:
            message = "somebody keeps overwriting the record of this node; does another one have its name?"
            self._log(WARNING, {"event": "overwritten", "msg": message})
        self._jobs["publish"].due = now + self._again

    def _publish(self) -> None:
        record = self._record
        if record:
            self._registry.publish(record)
            self.published = record

    def _tell(self) -> None:
        readiness = self._readiness
        if readiness:
            self._registry.tell(readiness)

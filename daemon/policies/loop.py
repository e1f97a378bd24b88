"""The loop that keeps policies in force on this node: a thread of its own, for which a new pod's ADD waits.

It is woken by the files of pods, by what a source of objects passes to the inbox, and by what others change of the
tables. What a round does is bounded: the pods of this node come first, then a part of the rest. Whatever fails is
logged, and tried again with a growing pause; nothing ends the loop but `stop`.
"""

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from threading import Thread
from typing import TYPE_CHECKING, Protocol

from agent.log import INFO, NOTICE, Log
from daemon.policies.adoption import Adoption
from daemon.policies.inbox import Batch, Inbox, Key, Object
from daemon.policies.isolation import IsolatingEngine
from daemon.policies.pods import PodChanges, PodFiles, local_pod
from daemon.sentences import Sentences
from daemon.waiting import wait_for
from linux.nftables.monitor import ANYTHING, LOSS, NOTHING, TableMonitor
from policy.compiled import Compiled, Delta
from policy.engine import Engine
from policy.objects import LocalPod
from spec.errors import CNIError

if TYPE_CHECKING:
    from daemon.policies.cuts import Cuts
    from policy.programming import Programmer

POD, DOCUMENTS, PODS, WHOLE = "pod", "documents", "pods", "whole"
"""What a programming was for: pods that came or went, changed documents, elements that others changed, everything."""

_MOST = 200
"""Changes a round: some milliseconds, for which a new pod may have to wait."""
_RESYNC_SECONDS = 60.0
_RESYNC_TIMES = 100
"""So many times as long as it took, everything is not compared again."""
_DRIFT_SECONDS = 0.5
"""After which others' elements are compared: they are mostly those of ADDs and DELs, which come with a file."""
_SWEEP_SECONDS = 5.0
_LOOK_SECONDS, _LOOK_SOON_SECONDS = 60.0, 2.0  # for pods without a file
_BLIND_SECONDS = 0.2  # between two looks at the files of pods, if the kernel does not announce changes
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds, after a failure
_CALM = 2  # times as long as a repair took, nothing is repaired


@dataclass(frozen=True)
class InForce:
    """What is in force now: the pods of this node and what was compiled for them, and the objects it was compiled of.

    `generation` grows with every change. `objects` is None before the first complete list; the loop goes on
    changing it.
    """

    generation: int = 0
    compiled: Compiled = field(default_factory=Compiled)
    pods: Mapping[str, LocalPod] = field(default_factory=dict)
    objects: Mapping[Key, Object] | None = None


class Observer(Protocol):
    """Is told what happens."""

    def on_programmed(self, kind: str, seconds: float) -> None:
        """The kernel was made equal to something: POD, DOCUMENTS, PODS or WHOLE."""

    def on_failed(self) -> None:
        """It could not be."""


@dataclass(frozen=True)
class Parts:
    """What the loop works with.

    `new_engine`: one that knows nothing. `prepare`: make in the kernel what does not depend on policies, for the pods
    of these networks. `bind`: have pods send from their own addresses only. `open_monitor` is called in the loop's
    thread. `keeps_connections`: nothing is cut.
    """

    inbox: Inbox
    new_engine: Callable[[], Engine]
    programmer: "Programmer"
    files: PodFiles
    adoption: Adoption
    cuts: "Cuts"
    prepare: Callable[[Collection[str]], None]
    bind: Callable[[Iterable[LocalPod]], None]
    open_monitor: Callable[[], TableMonitor]
    keeps_connections: bool = False


class Waker:
    """What wakes the loop; any thread may `wake`."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def wake(self) -> None:
        """Have the loop look at everything that may have changed."""
        os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Forget the calls so far."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.fd)


@dataclass
class _Due:
    """When things are due, of the clock."""

    resync: float
    look: float
    drift: float | None = None
    pods: float | None = None
    is_lost: bool = False
    sweep: float | None = None
    retry: float = 0.0
    calm: float = 0.0


class Policies:
    """`stop` may be called by any thread, and the properties read; the rest is for the loop's thread."""

    def __init__(
        self,
        parts: Parts,
        waker: Waker,
        log: Log,
        observer: Observer,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parts, self._waker, self._log, self._observer, self._clock = parts, waker, log, observer, clock
        self._sentences = Sentences(log, clock)
        self._engine = IsolatingEngine(parts.new_engine)
        self._monitor: TableMonitor | None = None
        self._pods: dict[str, LocalPod] = {}
        self._taken: set[Key] | None = None
        self._applied: dict[Key, Object] = {}
        self._again: set[str] = set()
        self._unused_at = clock()
        self._narrowed: set[str] | None = set()
        self._pause, self._failed_at = 0.0, None
        self._due = _Due(clock(), clock())
        self._is_prepared = self._is_known = self._is_whole = False
        self._is_told = self._is_stopping = False
        self.error = ""
        self.in_force = InForce()
        self.round_at = clock()

    def start(self) -> None:
        """Begin, in a thread that ends with the process."""
        Thread(target=self.run, name="policy", daemon=True).start()

    def stop(self) -> None:
        """End the loop. What is in force stays."""
        self._is_stopping = True
        self._waker.wake()

    @property
    def failing_seconds(self) -> float:
        """For how long policies cannot be programmed, 0 if they can."""
        since = self._failed_at
        return 0.0 if since is None else max(self._clock() - since, 0.001)

    @property
    def is_cutting(self) -> bool:
        """Whether connections that are no longer allowed may still be open."""
        return self._parts.cuts.is_cutting

    def look_soon(self) -> None:
        """Look for pods without a file, and at bridges: the network was made, or runtimes have another configuration.

        Any thread may call it.
        """
        self._due.look, self._is_prepared = self._clock(), False
        self._waker.wake()

    def run(self) -> None:
        """Until `stop`."""
        while not self._is_stopping:
            files = self._parts.files.fileno()
            urgent = (self._waker.fd,) if files < 0 else (self._waker.fd, files)
            wait_for(urgent, [self._monitor.fileno()] if self._monitor else (), self.seconds_left())
            self.step()

    def seconds_left(self) -> float:
        """Until the next round at the latest."""
        if self._parts.inbox.has_news() and not self._failed_at:
            return 0.0
        due, now = self._due, self._clock()
        soon = [time for time in (due.drift, due.pods, due.sweep) if time is not None]
        if self._parts.files.fileno() < 0:
            soon.append(now + _BLIND_SECONDS)
        if self._is_known:
            soon += [due.look, due.resync]
        elif not self._is_prepared:
            soon.append(due.retry)
        return min(max(0.0, max(min(soon), due.retry) - now), _LOOK_SECONDS) if soon else _LOOK_SECONDS

    def step(self) -> None:
        """One round: take in what has changed, and do what is due."""
        self._waker.clear()
        self.round_at = self._clock()
        try:
            self._round()
        except Exception as error:  # noqa: BLE001  (a mistake here must not end the node's policies)
            self._fail(error)
        self._report()

    def _round(self) -> None:
        is_about_pods = self._take_pods()
        batch = self._take_objects()
        self._prepare()
        self._read_drift()
        if not self._is_known:
            return
        if self._is_whole or self._engine.is_broken or self._clock() >= self._due.resync:
            if is_about_pods or self._clock() >= self._due.retry:
                self._resync()
        else:
            self._apply(DOCUMENTS if batch else POD)
            self._compare_pods()
        self._sweep()
        self._look()

    def _take_pods(self) -> bool:
        """Take in the files of pods; whether there are any that are new."""
        is_whole = self._clock() >= self._due.resync
        changes = self._parts.files.read(is_whole=is_whole)
        self._put(changes)
        if changes.gone:
            self._parts.cuts.flush()
        return bool(changes.put)

    def _put(self, changes: PodChanges) -> None:
        for owner in changes.gone:
            self._pods.pop(owner, None)
        self._pods.update({pod.owner: pod for pod in changes.put})
        self._again.update(pod.owner for pod in changes.put)
        self._engine.change_attached(changes.put, changes.gone)

    def _take_objects(self) -> Batch:
        """Take in a part of what is in the inbox; it is kept even if the engine fails."""
        batch = self._parts.inbox.take(_MOST)
        if batch.whole is not None:
            self._is_known = self._is_whole = True
            self._taken = self._narrowed = None  # what an earlier daemon has allowed is not known
            self._engine.replace(batch.whole)
        if self._taken is not None:
            self._taken.update(batch.changes)
        self._engine.change(batch.changes)
        return batch

    def _prepare(self) -> None:
        """The tables that hold new pods, before anything is known."""
        if self._monitor is None:
            self._monitor = self._parts.open_monitor()
        if not self._is_prepared and self._clock() >= self._due.retry:
            self._parts.prepare(self._parts.files.networks)
            self._is_prepared = True
            self._parts.cuts.flush()

    def _read_drift(self) -> None:
        """Find out whether others have changed the tables: rules and lost elements at once, others after a while."""
        found, now = self._monitor.changes(), self._clock()
        if found == ANYTHING:
            self._due.drift = max(now, self._due.calm)
        elif not self._is_known:
            pass  # the first list is compared with everything
        elif found == LOSS:
            self._due.pods, self._due.is_lost = max(now, self._due.calm), True
        elif found != NOTHING and self._due.pods is None:
            self._due.pods = max(now + _DRIFT_SECONDS, self._due.calm)
        if self._due.drift is not None and now >= self._due.drift:
            self._due.drift, self._is_whole, self._is_prepared = None, self._is_known, self._is_known
            self._narrowed = None  # not earlier: what is opened until then is to be cut, too
            if not self._is_known:
                self._prepare()

    def _resync(self) -> None:
        """Compare everything, and make it equal."""
        start = self._clock()
        if self._engine.is_broken:
            self._engine.rebuild(self._applied)
            self._narrowed = self._taken = None
        delta = self._engine.take()
        self._narrow(delta.narrowed)
        self._is_whole = True  # until it is done
        self._parts.prepare(self._parts.files.networks)
        self._parts.bind(self._pods.values())
        compiled = self._engine.compiled
        self._parts.programmer.resync(compiled, self._owners())
        if self._due.is_lost:
            self._narrowed, self._due.is_lost = None, False
        self._is_whole, seconds = False, self._clock() - start
        now = self._clock()
        self._due.resync = now + max(_RESYNC_SECONDS, _RESYNC_TIMES * seconds)
        self._due.calm, self._due.pods = now + _CALM * seconds, None
        self._unused_at, self._due.sweep = now, now + _SWEEP_SECONDS
        self._done(WHOLE, seconds)

    def _compare_pods(self) -> None:
        """Compare the elements of pods, if others have changed elements."""
        if self._due.pods is None or self._clock() < self._due.pods:
            return
        start, self._due.pods = self._clock(), None
        was_lost, self._due.is_lost = self._due.is_lost, True
        self._is_whole = True  # until it is done
        self._parts.bind(self._pods.values())
        if self._parts.programmer.resync_pods(self._engine.compiled, self._owners()) or was_lost:
            self._narrowed = None  # what was opened while elements were missing
            self._cut()
        self._is_whole = self._due.is_lost = False
        seconds = self._clock() - start
        self._due.calm = self._clock() + _CALM * seconds
        self._observer.on_programmed(PODS, seconds)

    def _cut(self) -> None:
        """Have connections cut that are no longer allowed."""
        if self._narrowed != set() and not self._parts.keeps_connections:
            self._parts.cuts.request(self._engine.compiled, self._narrowed)
        self._narrowed = set()

    def _owners(self) -> dict[str, str]:
        """The owner of each address of an attached pod."""
        return {ip: pod.owner for pod in self._pods.values() for ip in pod.ips}

    def _apply(self, kind: str) -> None:
        """Do what changes need."""
        start = self._clock()
        delta = self._engine.take()
        again = self._held_again(delta)
        if not delta and not again:
            self._publish()
            return
        self._narrow(delta.narrowed)
        self._is_whole = True  # until it is done
        self._parts.programmer.apply(replace(delta, pods={**again, **delta.pods}))
        self._is_whole = False
        if delta.unused_chains or delta.unused_sets:
            self._unused_at = self._clock()
            self._due.sweep = self._due.sweep or self._unused_at + _SWEEP_SECONDS
        self._done(kind, self._clock() - start)

    def _held_again(self, delta: Delta) -> Mapping[str, object]:
        """By address: pods that are as they were, but whose ADD was repeated, and has held them."""
        found = {}
        for owner in self._again:
            for ip in self._pods[owner].ips if owner in self._pods else ():
                enforced = None if ip in delta.pods else self._engine.compiled.pods.get(ip)
                if enforced and enforced.owner == owner:
                    found[ip] = enforced
        return found

    def _narrow(self, addresses: Iterable[str] | None) -> None:
        if addresses is None or self._narrowed is None:
            self._narrowed = None
        else:
            self._narrowed.update(addresses)

    def _publish(self) -> None:
        """Everything that was taken in is in force."""
        if not self._again and not self._taken and self._pods == self.in_force.pods and self._taken is not None:
            return
        self._again.clear()
        if self._taken is None:
            self._applied = self._engine.all_known()
        for key in self._taken or ():
            self._applied.pop(key, None)
            if one := self._engine.known(key):
                self._applied[key] = one
        self._taken = set()
        self.in_force = InForce(self.in_force.generation + 1, self._engine.compiled, dict(self._pods), self._applied)

    def _done(self, kind: str, seconds: float) -> None:
        """What the kernel was told is in force."""
        self._cut()
        self._publish()  # after the request: who reads that it is in force can read that connections are being cut
        if not self._is_told:
            self._is_told = True
            what = {"pods": len(self._engine.compiled.pods), "ms": round(seconds * 1000, 1)}
            self._log(INFO, {"event": "policies-in-force", **what})
        if self.error:
            self._log(NOTICE, {"event": "policies-work-again"})
        self.error, self._pause, self._failed_at, self._due.retry = "", 0.0, None, 0.0
        self._observer.on_programmed(kind, seconds)

    def _sweep(self) -> None:
        """Delete what has been unused long enough."""
        if self._due.sweep is not None and self._clock() >= self._due.sweep:
            self._parts.programmer.sweep()
            is_over = self._unused_at + _SWEEP_SECONDS <= self._clock()
            self._due.sweep = None if is_over else self._clock() + _SWEEP_SECONDS

    def _look(self) -> None:
        """Look for pods that were attached before policies were enabled."""
        if self._clock() < self._due.look:
            return
        self._due.look = self._clock() + _LOOK_SECONDS
        found = self._parts.adoption.look(self._parts.files.owners, self._parts.inbox.pods_here)
        if found.is_waiting:
            self._due.look = self._clock() + _LOOK_SOON_SECONDS
        self._put(PodChanges(tuple(local_pod(file) for file in found.put), found.gone))
        if found:
            self._due.resync = self._clock()  # the kernel has nothing of them

    def _fail(self, error: Exception) -> None:
        """Say why, and try everything again later: what the kernel has now is not known."""
        is_expected = isinstance(error, OSError | CNIError)
        if not is_expected:
            self._engine.is_broken = True  # or what it comes to cannot be written
        self._is_whole, now = True, self._clock()
        self.error = str(error) if is_expected else f"{type(error).__name__}: {error}"
        self._failed_at = now if self._failed_at is None else self._failed_at
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
        self._due.retry = self._due.resync = now + self._pause
        self._observer.on_failed()

    def _report(self) -> None:
        self._sentences.tell(self.problems)

    def name_of(self, address: str) -> str:
        """The "namespace/name" of the pod with a canonical address, "" if there is none. Any thread may call it."""
        return self._engine.name_of(address)

    @property
    def problems(self) -> tuple[str, ...]:
        """A sentence for everything that is wrong now."""
        counts, problem = self._parts.inbox.counts(), self._parts.cuts.problem
        found = [f"policies cannot be programmed: {self.error}"] if self.error else []
        found += [problem] if problem else []
        found += [f"the source of policies cannot be reached: {counts.why}"] if counts.lost_seconds else []
        return (*found, *self._engine.problems, *self._parts.files.problems, *counts.wrong)

"""The loop that makes this node's network equal to the records: on every change, on drift, and every minute.

It never waits for the registry. Whatever fails is logged, and tried again with a growing pause; nothing ends the loop
but `stop`.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from agent.log import INFO, NOTICE, Log
from daemon.config import Config
from daemon.drift import Drift, Found
from daemon.files import NodeFile, PeersFile
from daemon.own import ThisNode
from daemon.policies.node import NodePolicies
from daemon.readiness import State, readiness
from daemon.records import Changes, Store
from daemon.registrar import Registrar
from daemon.sentences import Sentences
from daemon.service import Service
from daemon.waiting import wait_for
from linux.netlink.socket import Netlink
from nodes.network import Network, Outcome
from nodes.registry import Grant
from plugins.node.records import Node
from spec.errors import CNIError

_SYNC_SECONDS = 60.0
_PATIENCE_SECONDS = 10.0  # for a registry that does not answer at the start
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds, after a synchronisation that failed
_CALM = 2  # times as long as a repair took, nothing is repaired: a quarrel with another program is bounded
_GATHER_SECONDS, _MOST_GATHERED = 0.002, 0.02  # a burst of changes is one pass; a single change is hardly delayed


@dataclass(frozen=True)
class Pass:
    """A pass, for the pages: how long it took, whether it was whole, whether drift was its cause, and what damage."""

    outcome: Outcome
    seconds: float
    is_whole: bool
    is_repair: bool
    damage: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parts:
    """What the loop works with."""

    network: Network
    store: Store
    registrar: Registrar
    drift: Drift
    this: ThisNode
    service: Service
    node_file: NodeFile
    peers_file: PeersFile
    policies: NodePolicies


class Observer(Protocol):
    """Is told what happens."""

    def on_pass(self, done: Pass) -> None:
        """A pass has ended."""

    def on_round(self) -> None:
        """The loop is alive."""


class Reconciler:
    """`wake` and `stop` may be called by any thread and by signal handlers; the rest is for one thread."""

    def __init__(
        self,
        config: Config,
        parts: Parts,
        log: Log,
        observer: Observer,
        *,
        longest_seconds: float = _SYNC_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`longest_seconds`: between two calls of `Observer.on_round`."""
        self._config, self._parts, self._log, self._observer, self._clock = config, parts, log, observer, clock
        self._sentences, self._longest = Sentences(log, clock), longest_seconds
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_stopping = False
        self._sync_due, self._pause = clock(), 0.0
        self._adopt_at = clock() + _PATIENCE_SECONDS
        self._adopted: tuple[Grant, Changes] | None = None
        self._found, self._calm_at = Found(), clock()
        self._own: Grant | None = None
        self._grant: Grant | None = None
        self.outcome: Outcome | None = None
        self.error = ""

    def wake(self) -> None:
        """Have the loop look at everything that may have changed."""
        os.eventfd_write(self._event, 1)

    def stop(self) -> None:
        """End the loop, after the files are written."""
        self._is_stopping = True
        self.wake()

    @property
    def state(self) -> State:
        """What is known now, for readiness."""
        counts, registrar = self._parts.store.counts(), self._parts.registrar
        unready = ""
        if registrar.grant is None and self._own is None:
            unready = f"this node has no subnet yet: {registrar.problem('lease') or 'the registry was not reached yet'}"
        return State(
            outcome=self.outcome,
            unready=unready,
            address_problem=self._parts.this.problem,
            lost_seconds=counts.lost_seconds,
            why=counts.why,
            wrong=counts.wrong,
            about_conflist=tuple(self._parts.service.warnings),
            is_published=bool(registrar.published or self._adopted),
            publish_problem=registrar.problem("publish"),
            refusal=self._parts.policies.unready(),
            about_policies=tuple(self._parts.policies.problems()),
        )

    def run(self) -> None:
        """Until `stop`."""
        self._resume()
        announcements = self._parts.drift.filenos()
        while not self._is_stopping:
            wait_for((self._event,), announcements, self.seconds_left())
            self.step()
        with suppress(OSError):
            self._parts.peers_file.flush(now=True)

    def _resume(self) -> None:
        """Keep the network of an earlier daemon at once: the calls of the first seconds need not make it themselves."""
        with suppress(CNIError, OSError):
            if self._parts.node_file.says_it_works():
                self._parts.service.resume()

    def seconds_left(self) -> float:
        """Until the next step at the latest."""
        flush = self._parts.peers_file.seconds_left()
        left = min(self._sync_due, self._calm_at if self._found else self._sync_due) - self._clock()
        return max(0.0, min(left, self._longest, self._longest if flush is None else flush))

    def step(self) -> None:
        """One round: look at what has changed, and do what is due."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._event)
        self._observer.on_round()
        self.error = ""
        try:
            self._round()
        except Exception as error:  # noqa: BLE001  (a mistake here must not end the node's network)
            self.error = str(error) if isinstance(error, OSError | CNIError) else f"{type(error).__name__}: {error}"
            self._retry_later()
            self._report()

    def _round(self) -> None:
        parts = self._parts
        found = self._drift()
        self._gather()
        changes = parts.store.take()
        grant = parts.registrar.grant
        if grant is None or not parts.store.is_complete:
            adopted = self._adopt()
            if adopted is None:
                self._wait_for_registry()
                return
            grant, changes = adopted
        is_due = self._clock() >= self._sync_due
        is_new = self._look(grant, changes.own, found, is_due=is_due)
        is_whole = is_due or found.is_any or is_new or changes.is_whole
        if is_whole or found or changes.names:
            self._pass(changes, found, is_whole=is_whole)
        try:
            parts.peers_file.flush()
        except OSError as error:  # only plugins without a daemon need it
            self.error = f"cannot write the records for plugins: {error}"
        if is_whole or found or not parts.service.is_on:
            self._serve()
        self._report()

    def _drift(self) -> Found:
        """What others have changed; nothing while they are answered for an earlier change: they may answer for ever."""
        found, now = self._found + self._parts.drift.read(self._parts.network.is_expected), self._clock()
        self._found = found if now < self._calm_at else Found()
        return Found() if now < self._calm_at else found

    def _gather(self) -> None:
        """Wait for the rest of a burst, as long as more arrives."""
        seen, end = self._parts.store.has_news(), self._clock() + _MOST_GATHERED
        while seen > 0 and self._clock() < end:
            time.sleep(_GATHER_SECONDS)
            more = self._parts.store.has_news()
            if more == seen:
                return
            seen = more

    def _adopt(self) -> tuple[Grant, Changes] | None:
        """What the last daemon since the boot has written, if the registry does not answer for a while."""
        if self._adopted is None and self._clock() >= self._adopt_at:
            subnets, nodes = self._parts.node_file.read_subnets(), self._parts.peers_file.read()
            if subnets and nodes is not None:
                self._adopted = (Grant(subnets), Changes(nodes, is_whole=False))
                self._log(NOTICE, {"event": "adopted", "subnets": ",".join(subnets), "nodes": len(nodes)})
        return self._adopted

    def _wait_for_registry(self) -> None:
        """Without a subnet or the other nodes' records: leave everything as it is, and say so to plugins."""
        left = self._adopt_at - self._clock()
        self._sync_due = self._clock() + (left if left > 0 else _SYNC_SECONDS)
        if left > 0 and not self._parts.registrar.problem("lease"):
            return  # it may be about to answer
        if not self._parts.node_file.read_subnets():
            problem = self.state.unready or "the records of the other nodes are missing"
            self._parts.node_file.write((), self._config.cluster, problem=problem)
        self._report()

    def _look(self, grant: Grant, record: Node | None, found: Found, *, is_due: bool) -> bool:
        """Look at this node's links if something about them may have changed; whether this node has changed."""
        parts, before = self._parts, self._own
        if is_due or found.is_own_affected or grant != self._grant:
            with Netlink() as host:
                parts.this.look(host, grant, record.addresses if record else ())
        self._grant, self._own = grant, parts.this.own(grant)
        return self._own != before

    def _pass(self, changes: Changes, found: Found, *, is_whole: bool) -> None:
        start, network = self._clock(), self._parts.network
        outcome = network.sync(self._own, changes.nodes) if is_whole else self._pass_for(changes, found)
        seconds = self._clock() - start
        self.outcome = outcome
        if found:
            self._calm_at = self._clock() + _CALM * seconds
        if outcome.is_complete:
            self._pause = 0.0
            if is_whole:
                self._sync_due = self._clock() + _SYNC_SECONDS
        else:
            self._retry_later()
        if outcome.written or outcome.removed:
            written = {"written": outcome.written, "removed": outcome.removed, "ms": round(seconds * 1000, 1)}
            self._log(INFO, {"event": "synchronised", "nodes": len(changes.nodes), **written})
        self._observer.on_pass(Pass(outcome, seconds, is_whole, bool(found), found.sentences()))
        self._after(changes)

    def _pass_for(self, changes: Changes, found: Found) -> Outcome:
        """Do only what single changes need, of the kernel and of records."""
        network, outcome = self._parts.network, None
        if found.changes:
            outcome = network.repair(self._own, changes.nodes, found.changes)
        if changes.names:
            before, outcome = outcome, network.update(self._own, changes.nodes, changes.names)
            if before:
                added, removed = before.written + outcome.written, before.removed + outcome.removed
                outcome = replace(outcome, written=added, removed=removed)
        return outcome

    def _after(self, changes: Changes) -> None:
        """Write the files, publish the record, and watch the links as they are now."""
        parts, own, outcome = self._parts, self._own, self.outcome
        problem = outcome.own_conflict or parts.policies.refusal()
        parts.node_file.write(own.subnets, self._config.cluster, mtu=outcome.mtu, problem=problem)
        if parts.store.is_complete:
            parts.peers_file.set(changes.nodes)
        if outcome.is_complete and parts.registrar.grant:
            parts.registrar.publish(parts.this.record(own, outcome))
        with Netlink() as host:
            parts.drift.watch(host, parts.this.links)

    def _serve(self) -> None:
        """Once the network works and the others know this node; if it works no more, plugins do everything again."""
        parts, outcome = self._parts, self.outcome
        if outcome and not outcome.is_complete:
            parts.service.end()
        elif outcome and (parts.service.is_on or parts.registrar.published or self._adopted):
            parts.service.keep()

    def _report(self) -> None:
        state = self.state
        ready = readiness(state)
        self._parts.registrar.tell(ready)
        told = [self.error] if self.error else []
        told += [] if ready.is_ready else [ready.message]
        self._sentences.tell([*told, *ready.warnings])

    def _retry_later(self) -> None:
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
        self._sync_due = self._clock() + self._pause

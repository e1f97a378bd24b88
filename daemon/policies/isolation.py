"""An engine that goes on without an object on which it fails, so that a mistake about one does not stop the others.

Which object it is, is found by beginning anew with one after the other. What counts in its place never allows more than
it may have said:

* Its last content that was in force, if there is any.
* Of a policy, otherwise: what it may deny to the pods that it selects is denied, and it allows nothing.
* Else nothing. The attached pods that it concerns are held then: the pod itself, the pods of a namespace, or all that a
  policy may select. The addresses of a pod or node are nobody's peer.

When it changes, it is taken up again.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from daemon.policies.inbox import Key, Object, key_of, text_of
from policy.compiled import Compiled, Delta
from policy.engine import Engine
from policy.objects import ACCEPT, DENY, NETWORK, LocalPod, Policy, Rule
from policy.programming import creation

_LOCAL = "LocalPod"
_ORDER = ("Namespace", "Node", "Pod", _LOCAL)
"""Then come policies: they are what is mostly wrong, and nothing is blamed on the others without them."""
_MOST_SECONDS = 20.0
"""For so long is searched at a time: the loop must go round."""
_LAST = "its last content stays in force"
_STRICT = "it denies all that it may deny, and allows nothing"
_HELD = "pods of this node that it concerns are held"

Given = Object | LocalPod


@dataclass(frozen=True)
class _Aside:
    """What the engine fails on: `given`, and `why`. The first of `others`, each with its words, counts instead."""

    given: Given
    why: str
    others: tuple[tuple[Object, str], ...] = ()

    @property
    def instead(self) -> Object | None:
        return self.others[0][0] if self.others else None

    @property
    def words(self) -> str:
        return self.others[0][1] if self.others else _HELD


class IsolatingEngine:
    """The engine of the loop. For its thread, but for `name_of`. It raises what the engine does, and is broken then."""

    def __init__(self, new_engine: Callable[[], Engine], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._new_engine, self._clock = new_engine, clock
        self._engine = new_engine()
        self._given: dict[Key, Given] = {}
        self._aside: dict[Key, _Aside] = {}
        self._blamed: tuple[Key, str] | None = None
        self.is_broken = False
        """Whether it has to be rebuilt: it has failed, or what was set aside has changed."""

    @property
    def compiled(self) -> Compiled:
        """As Engine."""
        with self._guarded():
            return self._engine.compiled

    @property
    def problems(self) -> tuple[str, ...]:
        """A sentence for each object that is set aside."""
        aside = sorted(self._aside.items(), key=lambda item: item[0])
        return tuple(f"{text_of(key)} cannot be computed ({one.why}); {one.words}" for key, one in aside)

    def name_of(self, address: str) -> str:
        """As Engine."""
        return self._engine.name_of(address)

    def known(self, key: Key) -> Object | None:
        """The object that counts, None if there is none."""
        aside = self._aside.get(key)
        if aside:
            return aside.instead if aside.words == _LAST else None
        return self._given.get(key)

    def all_known(self) -> dict[Key, Object]:
        """The objects that count."""
        return {key: one for key in self._given if key[0] != _LOCAL and (one := self.known(key))}

    def replace(self, values: Iterable[Object]) -> None:
        """Make these all the objects that there are, as Engine."""
        values = list(values)
        attached = {key: one for key, one in self._given.items() if key[0] == _LOCAL}
        self._given = {key_of(one): one for one in values} | attached
        self.is_broken = self.is_broken or bool(self._aside)
        if not self.is_broken:
            with self._guarded():
                self._engine.replace(values)

    def change(self, changes: Mapping[Key, Object | None]) -> None:
        """Put or remove (None) objects. All are noted, whichever the engine fails on."""
        self._change(changes)

    def change_attached(self, put: Iterable[LocalPod], gone: Iterable[str]) -> None:
        """Put attached pods, and remove those of owners that are gone. All are noted."""
        changes: dict[Key, Given | None] = {(_LOCAL, "", owner): None for owner in gone}
        self._change(changes | {(_LOCAL, "", one.owner): one for one in put})

    def take(self) -> Delta:
        """As Engine."""
        with self._guarded():
            return self._engine.take()

    def rebuild(self, last: Mapping[Key, Object]) -> None:
        """Begin anew with everything that is known, without what it fails on. `last`: what is in force."""
        self._aside = {key: one for key, one in self._aside.items() if self._given.get(key) == one.given}
        keys = sorted(self._given, key=lambda key: _ORDER.index(key[0]) if key[0] in _ORDER else len(_ORDER))
        engine = self._with_all(keys)
        if not engine and self._blamed and self._blamed[0] in self._given:
            self._set_aside(*self._blamed, last)
            engine = self._with_all(keys)
        engine, self._blamed = engine or self._search(keys, last), None
        for one in self._given.values():
            if isinstance(one, LocalPod) and self._is_held(one):
                engine.remove_local(one.owner)
        self._engine, self.is_broken = engine, False

    def _change(self, changes: Mapping[Key, Given | None]) -> None:
        self._given.update({key: one for key, one in changes.items() if one is not None})
        for key in [key for key, one in changes.items() if one is None]:
            self._given.pop(key, None)
        self.is_broken = self.is_broken or not self._aside.keys().isdisjoint(changes)
        for key, one in changes.items() if not self.is_broken else ():
            with self._guarded(key):
                if one is None or (isinstance(one, LocalPod) and self._is_held(one)):
                    _remove(self._engine, key)
                else:
                    _put(self._engine, one)

    @contextmanager
    def _guarded(self, key: Key | None = None) -> Iterator[None]:
        """If the engine fails, it is broken; `key`: the object which that is blamed on."""
        was, self.is_broken = self.is_broken, True
        try:
            yield
        except Exception as error:
            self._blamed = (key, _why(error)) if key else None
            raise
        self.is_broken = was

    def _with_all(self, keys: Iterable[Key]) -> Engine | None:
        """An engine with everything that counts, None: it fails."""
        with suppress(Exception):
            return self._filled(one for key in keys if (one := self._counting(key))).engine
        return None

    def _search(self, keys: Iterable[Key], last: Mapping[Key, Object]) -> Engine:
        """An engine with what it does not fail on; the rest is set aside."""
        trial, done, end = _Trial(self._new_engine()), [], self._clock() + _MOST_SECONDS
        for key in keys:
            while (one := self._counting(key)) is not None:
                why = trial.failure(one)
                if not why:
                    done.append(one)
                    break
                self._set_aside(key, why, last)
                if self._clock() > end:
                    raise RuntimeError(f"{len(self._aside)} objects cannot be computed, the last: {why}")
                trial = self._filled(done)
        return trial.engine

    def _filled(self, ones: Iterable[Given]) -> "_Trial":
        trial = _Trial(self._new_engine())
        for one in ones:
            _put(trial.engine, one)
        trial.take()
        return trial

    def _counting(self, key: Key) -> Given | None:
        """What the engine is given of an object."""
        aside = self._aside.get(key)
        return aside.instead if aside else self._given[key]

    def _set_aside(self, key: Key, why: str, last: Mapping[Key, Object]) -> None:
        """Have the next best count instead of what counts of an object."""
        before, given = self._aside.get(key), self._given[key]
        if before:
            self._aside[key] = replace(before, others=before.others[1:])
            return
        others = [(last[key], _LAST)] if key in last and last[key] != given else []
        others += [(_strict(given), _STRICT)] if isinstance(given, Policy) else []
        self._aside[key] = _Aside(given, why, tuple(others))

    def _is_held(self, pod: LocalPod) -> bool:
        """Whether an attached pod is concerned by an object of which nothing counts."""
        mine = {("Pod", pod.namespace, pod.name), ("Namespace", "", pod.namespace)}
        return any(
            key in mine or (isinstance(one.given, Policy) and key[1] in ("", pod.namespace))
            for key, one in self._aside.items()
            if one.instead is None
        )


class _Trial:
    """An engine of which it is found out whether it fails, or what it comes to cannot be written."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self._kinds = engine, {}

    def take(self) -> None:
        """Raises whatever keeps it from being in force."""
        delta = self.engine.take()
        self._kinds.update({name: one.kind for name, one in delta.new_sets.items()})
        creation(delta, self._kinds)

    def failure(self, one: Given) -> str:
        """How it fails on one more object, "" if it does not."""
        try:
            _put(self.engine, one)
            if isinstance(one, LocalPod | Policy):  # the others have no consequences by themselves
                self.take()
        except Exception as error:  # noqa: BLE001  (whatever it is)
            return _why(error)
        return ""


def _strict(policy: Policy) -> Policy:
    """A policy for the same pods that denies all that this one may deny, and allows nothing."""
    if policy.tier == NETWORK:
        rules = [None if each is None else () for each in (policy.ingress, policy.egress)]
    else:
        denying = (Rule(action=DENY, where="cannot be computed"),)
        may_deny = [any(rule.action != ACCEPT for rule in each or ()) for each in (policy.ingress, policy.egress)]
        rules = [denying if each else None for each in may_deny]
    return replace(policy, ingress=rules[0], egress=rules[1])


def _put(engine: Engine, one: Given) -> None:
    if isinstance(one, LocalPod):
        engine.put_local(one)
    else:
        engine.put(one)


def _remove(engine: Engine, key: Key) -> None:
    if key[0] == _LOCAL:
        engine.remove_local(key[2])
    else:
        engine.remove(*key)


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"

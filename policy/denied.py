"""How many packets of each pod its policies have denied, as totals that only grow.

The kernel counts by address and direction, not by policy: it forgets an address after an hour without a denied packet,
and starts again from 0. And another pod may have the address by then.
"""

import time
from collections.abc import Callable, Mapping
from threading import Lock

from policy.compiled import EGRESS, INGRESS, Compiled, Enforced

Key = tuple[str, str, str]
"""Direction ("egress", "ingress"), pod ("namespace/name", or its address), policy ("namespace/name", "name" or "")."""

_KEPT_SECONDS = 3600


class Denied:
    """Totals of what `Programmer.denied` has read, by direction, pod and policy.

    A packet counts for every policy that isolates the pod in that direction or may deny something to it, since any of
    them could have allowed it; with the policy "" if there is none: then `metadataAccess` or `nodeAccess` denied it.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._read: dict[tuple[str, str], int] = {}
        self._totals: dict[Key, int] = {}
        self._seen: dict[Key, float] = {}
        self._pods: Mapping[str, Enforced] = {}

    @property
    def totals(self) -> Mapping[Key, int]:
        """The packets so far. A pod, or a policy of it, that has been gone for an hour is in it no more."""
        return dict(self._totals)

    def update(self, read: Callable[[], Mapping[tuple[str, str], int]], compiled: Compiled) -> None:
        """Add what was denied since the last reading; call it often enough that the policies were those of `compiled`.

        `read`: as `Programmer.denied`, packets by direction and address; what it raises is raised. What an address has
        whose pod is gone counts for the last pod. Any thread may call this: an older reading is never taken for a
        newer one.
        """
        with self._lock:
            self._add(read(), compiled)

    def _add(self, readings: Mapping[tuple[str, str], int], compiled: Compiled) -> None:
        for (direction, address), packets in readings.items():
            last = self._read.get((direction, address), 0)
            new = packets - last if packets >= last else packets
            one = compiled.pods.get(address) or self._pods.get(address)
            if new and one:
                policies = [name for kind, name in one.policies if kind == direction]
                for policy in policies or [""]:
                    key = (direction, one.pod or address, policy)
                    self._totals[key] = self._totals.get(key, 0) + new
        self._read, self._pods = dict(readings), compiled.pods
        self._forget()

    def _forget(self) -> None:
        """Forget what has been gone for so long that what was counted of it has been asked for."""
        now, always = self._clock(), ((INGRESS, ""), (EGRESS, ""))
        there = {
            (direction, one.pod or address, policy)
            for address, one in self._pods.items()
            for direction, policy in (*always, *one.policies)
        }
        self._seen = {key: now if key in there else self._seen.get(key, now) for key in self._totals}
        self._totals = {key: one for key, one in self._totals.items() if now - self._seen[key] <= _KEPT_SECONDS}

"""etcd's leases: a key under a lease is deleted when its time has passed without a renewal."""

from collections.abc import Callable
from random import uniform
from threading import Event, Lock, Thread

from nodes.backoff import Backoff
from nodes.etcd.answers import KeyValue
from nodes.etcd.client import Client
from nodes.registry import RegistryError

_LONGEST_ROUND = 60.0  # seconds between two renewals


class Leases:
    """The leases of this node's keys. Every method raises RegistryError."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._times: dict[int, int] = {}  # of the leases that are known to exist: the seconds that were asked for

    def granted(self, seconds: int) -> int:
        """A new lease."""
        lease = self._client.grant(seconds)
        self._times[lease] = seconds
        return lease

    def of(self, pair: KeyValue, seconds: int) -> int:
        """The lease of a key, renewed; 0 if it has none, or one for another time."""
        kept = self._client.keep_alive(pair.lease) if pair.lease else 0
        # etcd may have granted more than was asked for.
        if kept and self._times.setdefault(pair.lease, kept) == seconds:
            return pair.lease
        self._times.pop(pair.lease, None)
        return 0

    def renewed(self, pair: KeyValue, seconds: int) -> int:
        """The lease of this node's key, made anew if it must be; a key that somebody set without a lease has none."""
        if not pair.lease:
            return 0
        lease = self.of(pair, seconds)
        if not lease:
            lease = self.granted(seconds)
            if not self._client.put_if([(pair.key, pair.value, lease)], equal=[(pair.key, pair.value)]):
                raise RegistryError(f'"{pair.key}" has just been changed in etcd')
        return lease


class Keeper:
    """A thread that calls `renew` again and again, in time for leases of so many seconds."""

    def __init__(self, renew: Callable[[], None], seconds: int) -> None:
        self._renew, self._rest = renew, min(seconds / 3, _LONGEST_ROUND)
        self._closed = Event()
        self._lock = Lock()
        self._is_started = False

    def start(self) -> None:
        """Begin, unless it has begun."""
        with self._lock:
            if not self._is_started:
                self._is_started = True
                Thread(target=self._run, name="etcd-leases", daemon=True).start()

    def close(self) -> None:
        """End, after a request under way."""
        self._closed.set()

    def _run(self) -> None:
        pause, wait = Backoff(), self._rest
        while not self._closed.wait(wait):
            try:
                self._renew()
            except RegistryError:  # `watch` tells it
                wait = min(pause.next(), self._rest)
            else:
                wait = self._rest * uniform(0.8, 1)
                pause.reset()

"""What a registry does: it holds the records of all nodes, and gives this node its subnets.

Every registry is a module or package of its own, below `nodes/registries/`, with a class that has these methods.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from plugins.node.records import Node


class RegistryError(Exception):
    """A request failed for now; the text says what failed, on what, and what to do. To be repeated."""


@dataclass(frozen=True)
class Grant:
    """What a registry has given this node: `subnets`, canonical CIDRs, one per family.

    `addresses`: the node's own as the registry knows them, () if it knows none. `since`, `zone`: see `Node`.
    """

    subnets: tuple[str, ...]
    addresses: tuple[str, ...] = ()
    since: int = 0
    zone: str = ""


@dataclass(frozen=True)
class Wish:
    """What this node asks for: a subnet of each length in `lengths` (such as 24 and 64), out of `cluster` (CIDRs).

    `excluded`: CIDRs that no subnet may overlap. `preferred`: subnets that the node had before, taken if they are free.
    `addresses`: this node's own, IPv4 first, () if it has none yet; flannel tells by them whose a subnet is.
    """

    cluster: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    excluded: tuple[str, ...] = ()
    preferred: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A record in a registry, under the registry's own `key`; `node` None: it cannot be used, `problem` says why.

    With both, `node` is what the record was before something went wrong with it.
    """

    key: str
    node: Node | None
    problem: str = ""


@dataclass(frozen=True)
class Readiness:
    """The state of this node's network: `reason` is a word such as "RoutesInPlace", `message` a sentence.

    `warnings`: sentences about what an operator must see although the network works.
    """

    is_ready: bool
    reason: str
    message: str
    warnings: tuple[str, ...] = ()


class Sink(Protocol):
    """Receives the records; called by the thread that runs `Registry.watch`."""

    def replace(self, entries: Iterable[Entry]) -> None:
        """The complete list: at the start, and whenever changes may have been missed."""

    def put(self, entry: Entry) -> None:
        """A record is new or has changed."""

    def remove(self, key: str) -> None:
        """A record has been deleted."""

    def lost(self, why: str) -> None:
        """The registry cannot be reached; the records that were received stay valid. Ends with the next other call."""

    def alive(self) -> None:
        """The registry can be reached, and there is nothing new."""


class Registry(Protocol):
    """The registry of a cluster. The methods may be called by different threads."""

    def lease(self, wish: Wish) -> Grant:
        """This node's subnets: those it has already, else new ones. Idempotent.

        The daemon calls it at the start and whenever this node's own record has changed. Raises RegistryError: it gives
        none yet, there are none left, or it cannot be reached.
        """

    def publish(self, node: Node) -> None:
        """Make this node's record known to all; nothing is written if it is known. Raises RegistryError."""

    def watch(self, sink: Sink) -> None:
        """Pass all records to `sink`, including this node's own, then every change; returns after `close`.

        Reconnects by itself, with a growing pause; never raises.
        """

    def tell(self, readiness: Readiness) -> None:
        """Report the state of this node's network, where the registry has a place for it. Raises RegistryError.

        The daemon repeats it every minute; nothing is written if the registry has it.
        """

    def withdraw(self) -> None:
        """Remove this node's record, and release its subnets if no pod uses them. Raises RegistryError."""

    def close(self) -> None:
        """End `watch` and all connections."""

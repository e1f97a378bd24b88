"""What the rules say of a packet: walks a `Compiled` as the kernel walks its tables, and says why."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from policy.compiled import Compiled


class Packet(NamedTuple):
    """The first packet of a connection: packed addresses, as the filters see them (services are translated before).

    `protocol`: IPPROTO_*; `port`: of the destination, 0 for protocols without.
    """

    source: bytes
    destination: bytes
    protocol: int
    port: int = 0


class Verdict(NamedTuple):
    """Whether a packet passes, and why: the policy and its rule, or what isolates the pod."""

    is_allowed: bool
    why: str


def _nowhere(_: bytes) -> bool:
    return False


class Judge:
    """Decides packets, about 5 µs each. `metadata_deny`, `node_access`: as in policy.settings.Settings.

    `node_access`: what pods may reach on their node, as (protocol, first, last); None: everything. `is_own_node`:
    whether a packed address is one of this node's own.
    """

    def __init__(
        self,
        compiled: Compiled,
        *,
        metadata_deny: bool = False,
        node_access: Sequence[tuple[int, int, int]] | None = None,
        is_own_node: Callable[[bytes], bool] = _nowhere,
    ) -> None:
        self._compiled = compiled
        self._metadata_deny = metadata_deny
        self._node_access = node_access
        self._is_own_node = is_own_node

    def decide(self, packet: Packet) -> Verdict:
        """What becomes of the first packet of a connection."""
        raise NotImplementedError


def decide(
    compiled: Compiled,
    packet: Packet,
    *,
    metadata_deny: bool = False,
    node_access: Sequence[tuple[int, int, int]] | None = None,
    is_own_node: Callable[[bytes], bool] = _nowhere,
) -> Verdict:
    """The same for a single packet; for many, `Judge` is faster."""
    settings = {"metadata_deny": metadata_deny, "node_access": node_access, "is_own_node": is_own_node}
    return Judge(compiled, **settings).decide(packet)

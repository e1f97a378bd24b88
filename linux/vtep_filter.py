"""VTEP filter: VXLAN datagrams of our VNI from addresses that are no known peer are dropped."""

from collections.abc import Sequence


def ensure(network: str, vni: int, port: int, peers: Sequence[str]) -> None:
    """Let VXLAN datagrams of `vni` to UDP `port` in from `peers` (addresses) alone."""
    raise NotImplementedError(network, vni, port, peers)


def delete(network: str) -> None:
    """Filter nothing for `network` any more; nothing to do is success."""
    raise NotImplementedError(network)


def missing(network: str, vni: int, port: int, peers: Sequence[str]) -> list[str]:
    """What of the work of `ensure` is not there, a sentence each."""
    raise NotImplementedError(network, vni, port, peers)

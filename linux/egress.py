"""Egress: what the pods of this node's subnets send beyond the cluster leaves with the node's address."""

from collections.abc import Sequence


def ensure(network: str, own: Sequence[str], inside: Sequence[str], nodes: Sequence[str]) -> None:
    """Masquerade what `own` (CIDRs) send to what is neither in `own`, `inside` (CIDRs) nor one of `nodes` (addresses)."""
    raise NotImplementedError(network, own, inside, nodes)


def delete(network: str) -> None:
    """Masquerade nothing for `network` any more; nothing to do is success."""
    raise NotImplementedError(network)


def missing(network: str, own: Sequence[str], inside: Sequence[str], nodes: Sequence[str]) -> list[str]:
    """What of the work of `ensure` is not there, a sentence each."""
    raise NotImplementedError(network, own, inside, nodes)

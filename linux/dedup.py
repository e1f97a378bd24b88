"""Duplicates: frames that a promiscuous bridge re-emits although it has forwarded them are dropped."""

from collections.abc import Sequence


def ensure(network: str, bridge_mac: str, gateways: Sequence[str]) -> None:
    """Drop what the bridge sends with its own MAC but a pod's address; `gateways` are CIDRs ("10.244.1.1/24")."""
    raise NotImplementedError(network, bridge_mac, gateways)


def delete(network: str) -> None:
    """Drop nothing for `network` any more; nothing to do is success."""
    raise NotImplementedError(network)


def missing(network: str, bridge_mac: str, gateways: Sequence[str]) -> list[str]:
    """What of the work of `ensure` is not there, a sentence each."""
    raise NotImplementedError(network, bridge_mac, gateways)

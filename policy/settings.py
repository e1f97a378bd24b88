"""What the configuration says of the rules that are the same for all pods."""

from dataclasses import dataclass
from socket import IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP

PROTOCOLS = {"tcp": IPPROTO_TCP, "udp": IPPROTO_UDP, "sctp": IPPROTO_SCTP}
"""The protocols that may be named in a configuration, in lower case."""


@dataclass(frozen=True, slots=True)
class NodePorts:
    """Ports `first` to `last` of a protocol (IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP); (0, 0): all."""

    protocol: int
    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """What policy/programming.py writes into the chains `metadata`, `node_access`, `log_egress` and `log_ingress`.

    `metadata_deny`: pods do not reach the metadata service, but for those in `Compiled.metadata_exempt`. `node_access`:
    the ports of their node that pods reach, besides ICMP; None: all. `log_group`: the nflog group (0 to 65535) that
    gets denied packets, None: they are not logged.
    """

    metadata_deny: bool = False
    node_access: tuple[NodePorts, ...] | None = None
    log_group: int | None = None

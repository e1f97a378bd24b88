"""Settings of a link that are available by ethtool only (include/uapi/linux/ethtool.h)."""

import struct
from array import array
from fcntl import ioctl
from socket import AF_INET, SOCK_CLOEXEC, SOCK_DGRAM, socket

_SIOCETHTOOL = 0x8946
_ETHTOOL_GTXCSUM, _ETHTOOL_STXCSUM = 0x16, 0x17


def has_tx_checksum(name: str) -> bool:
    """Whether tx-checksumming of the link is on: the device computes checksums, not the kernel. Raises OSError."""
    return bool(_ioctl(name, _ETHTOOL_GTXCSUM, 0))


def set_tx_checksum(name: str, *, on: bool) -> None:
    """Switch tx-checksumming of the link; raises OSError."""
    _ioctl(name, _ETHTOOL_STXCSUM, int(on))


def _ioctl(name: str, command: int, value: int) -> int:
    """Exchange a `struct ethtool_value`, in the network namespace of the calling thread."""
    words = array("I", (command, value))
    request = struct.pack("16sP16x", name.encode(), words.buffer_info()[0])  # struct ifreq, with ifr_data
    with socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC) as any_socket:
        ioctl(any_socket, _SIOCETHTOOL, request)
    return words[1]

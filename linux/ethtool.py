"""Settings of a link that only the ethtool interface has (include/uapi/linux/ethtool.h)."""

import struct
from array import array
from fcntl import ioctl
from socket import AF_INET, SOCK_CLOEXEC, SOCK_DGRAM, socket

_SIOCETHTOOL = 0x8946
_GTXCSUM, _STXCSUM = 0x16, 0x17


def has_tx_checksum(name: str) -> bool:
    """Whether the device is left to compute checksums of what the link of that name sends; raises OSError."""
    return bool(_ask(name, _GTXCSUM, 0))


def set_tx_checksum(name: str, *, on: bool) -> None:
    """Leave them to the device, or have the kernel compute them before; raises OSError."""
    _ask(name, _STXCSUM, int(on))


def _ask(name: str, command: int, value: int) -> int:
    """One `struct ethtool_value`, in the network namespace of the calling thread."""
    words = array("I", (command, value))
    request = struct.pack("16sP16x", name.encode(), words.buffer_info()[0])  # struct ifreq, with ifr_data
    with socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC) as any_socket:
        ioctl(any_socket, _SIOCETHTOOL, request)
    return words[1]

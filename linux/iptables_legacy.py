"""iptables-legacy: the policies of its tables, which nftables does not show (<linux/netfilter_ipv4/ip_tables.h>)."""

import os
import socket
from contextlib import suppress
from ctypes import CDLL, byref, c_int, create_string_buffer, get_errno
from struct import calcsize, pack, unpack_from

_NAMES = {4: "/proc/thread-self/net/ip_tables_names", 6: "/proc/thread-self/net/ip6_tables_names"}
_SOCKETS = {4: (socket.AF_INET, socket.IPPROTO_IP), 6: (socket.AF_INET6, socket.IPPROTO_IPV6)}
_GET_INFO, _GET_ENTRIES = 64, 65  # IPT_SO_*, IP6T_SO_*: the same numbers
_INFO = "=32sI5I5III"  # struct ipt_getinfo: name, valid hooks, where each begins, where its policy is, entries, bytes
_ENTRIES_AT = 40  # of struct ipt_get_entries
_TARGET_OFFSET_AT = {4: 88, 6: 140}  # of struct ipt_entry and ip6t_entry
_VERDICT_AT = 32  # of struct xt_standard_target
_DROP = -1  # -NF_DROP - 1
_LARGEST = 64 << 20  # bytes of a table

_libc = CDLL(None, use_errno=True)


def tables(version: int) -> list[str]:
    """The tables of iptables-legacy (4) or ip6tables-legacy (6) that are loaded."""
    with suppress(OSError), open(_NAMES[version], encoding="ascii") as file:
        return file.read().split()
    return []


def drops(version: int, table: str, hook: int) -> bool:
    """Whether a table's built-in chain at a hook (NF_INET_*) has the policy DROP. Raises OSError.

    Only for loaded tables: to ask for another would load it.
    """
    family, level = _SOCKETS[version]
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as asked:
        info = unpack_from(_INFO, _get(asked, level, _GET_INFO, pack("=32s", table.encode()), calcsize(_INFO)))
        size = info[-1]
        if size > _LARGEST:
            raise OSError(f"table {table} of iptables-legacy has {size} bytes")
        head = pack("=32sI4x", table.encode(), size)
        entries = _get(asked, level, _GET_ENTRIES, head, _ENTRIES_AT + size)
    policy = _ENTRIES_AT + info[7 + hook]
    (target,) = unpack_from("=H", entries, policy + _TARGET_OFFSET_AT[version])
    return unpack_from("=i", entries, policy + target + _VERDICT_AT)[0] == _DROP


def _get(asked: socket.socket, level: int, option: int, head: bytes, size: int) -> bytes:
    """getsockopt(2) of a structure that begins with `head`, which Python's does not pass."""
    buffer, length = create_string_buffer(head, size), c_int(size)
    if _libc.getsockopt(asked.fileno(), level, option, buffer, byref(length)) != 0:
        raise OSError(get_errno(), f"iptables-legacy: {os.strerror(get_errno())}")
    return buffer.raw

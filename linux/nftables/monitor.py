"""Transactions of other processes that change certain nftables tables, as the kernel announces them."""

import socket
from collections.abc import Collection
from errno import ENOBUFS
from struct import unpack_from

from linux.netlink.attributes import MESSAGE_HEADER, attributes_of
from linux.netlink.socket import NETLINK_NETFILTER, Netlink
from linux.nftables import uapi

_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER_BYTES = 8 << 20
_LARGEST = 1 << 16
_NEWGEN = uapi.NFNL_SUBSYS_NFTABLES << 8 | uapi.NFT_MSG_NEWGEN
_GETGEN = uapi.NFNL_SUBSYS_NFTABLES << 8 | uapi.NFT_MSG_GETGEN
_BODY = bytes((socket.AF_UNSPEC, 0, 0, 0))  # struct nfgenmsg


class TableMonitor:
    """A socket that receives the announcements, in the network namespace of the calling thread.

    The thread that opens it is the one whose own transactions are not reported.
    """

    def __init__(self, tables: Collection[bytes]) -> None:
        """`tables`: their names, each with a NUL at the end."""
        self._names = tuple(tables)
        self._is_touched = False
        self._own = _author()
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        self._socket.bind((0, 1 << (uapi.NFNLGRP_NFTABLES - 1)))

    def __enter__(self) -> "TableMonitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def fileno(self) -> int:
        """What to poll."""
        return self._socket.fileno()

    def has_changed(self) -> bool:
        """Whether others have changed the tables since the last call, or may have: announcements were lost."""
        changed = False
        while True:
            try:
                data = self._socket.recv(_LARGEST)
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != ENOBUFS:
                    raise
                changed, self._is_touched = True, False
                continue
            changed = self._read(data) or changed

    def _read(self, data: bytes) -> bool:
        """Whether a transaction of others has ended that changes the tables.

        The last message of a transaction names its author. The names of the tables are searched in the bytes: another
        program's transaction may have thousands of messages.
        """
        self._is_touched = self._is_touched or any(name in data for name in self._names)
        at, changed = 0, False
        while at + MESSAGE_HEADER.size <= len(data):
            length, kind, *_ = MESSAGE_HEADER.unpack_from(data, at)
            if length < MESSAGE_HEADER.size:
                break
            if kind == _NEWGEN:
                is_own = _author_in(data[at : at + length]) == self._own
                changed = changed or (self._is_touched and not is_own)
                self._is_touched = False
            at += (length + 3) & ~3
        return changed


def _author() -> int:
    """The number of the calling thread as the kernel puts it into announcements: in the first PID namespace."""
    with Netlink(NETLINK_NETFILTER) as netlink:
        return _author_in(netlink.get(_BODY, _GETGEN))


def _author_in(message: bytes) -> int:
    payload = attributes_of(message, 20).get(uapi.NFTA_GEN_PROC_PID, b"")
    return unpack_from("!I", payload)[0] if len(payload) == 4 else 0

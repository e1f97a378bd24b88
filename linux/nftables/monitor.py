"""Transactions of other processes that change certain nftables tables, as the kernel announces them.

Those of this process are known by the threads that have committed them (linux/nftables/transactions.py).
"""

import socket
from collections.abc import Collection
from errno import ENOBUFS
from struct import unpack_from

from linux.netlink.attributes import MESSAGE_HEADER, attributes_of
from linux.netlink.socket import NETLINK_NETFILTER
from linux.nftables import transactions, uapi

_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER_BYTES = 8 << 20
_LARGEST = 1 << 16
_NEWGEN = uapi.NFNL_SUBSYS_NFTABLES << 8 | uapi.NFT_MSG_NEWGEN
_OF_ELEMENTS = [uapi.NFNL_SUBSYS_NFTABLES << 8 | kind for kind in (uapi.NFT_MSG_NEWSETELEM, uapi.NFT_MSG_DELSETELEM)]

NOTHING, ELEMENTS, LOSS, ANYTHING = 0, 1, 2, 3
"""What a transaction has changed of the tables: only elements; so that some are missing; or anything else, too."""


class TableMonitor:
    """A socket that receives the announcements, in the network namespace of the calling thread.

    What this process changes by `linux.nftables.transactions.change` is not reported.
    """

    def __init__(
        self,
        tables: Collection[bytes],
        sets: Collection[bytes] | None = None,
        *,
        kept: Collection[bytes] = (),
        signs: Collection[bytes] = (),
    ) -> None:
        """`tables`: their names, each with a NUL at the end; so too `sets`, elements of which others often change.

        Changes of elements of other sets are ANYTHING. None: there are no others. `kept`: of these sets, those of which
        elements are only taken away by transactions that add some to one of `signs`; others make it a LOSS.
        """
        self._names = tuple(tables)
        self._sets, self._kept, self._signs = sets, kept, signs
        self._touched, self._is_loss, self._is_signed = NOTHING, False, False
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
        return self.changes() != NOTHING

    def changes(self) -> int:
        """What others have changed since the last call, or may have: NOTHING, ELEMENTS, LOSS or ANYTHING."""
        changed = NOTHING
        while True:
            try:
                data = self._socket.recv(_LARGEST)
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != ENOBUFS:
                    raise
                changed = ANYTHING
                self._forget()
                continue
            changed = max(self._read(data), changed)

    def _read(self, data: bytes) -> int:
        """What a transaction of others has changed of the tables that has ended; else NOTHING.

        The last message of a transaction names its author. The names of the tables are searched in the bytes: another
        program's transaction may have thousands of messages.
        """
        at, changed, is_about_them = 0, NOTHING, any(name in data for name in self._names)
        while at + MESSAGE_HEADER.size <= len(data):
            length, kind, *_ = MESSAGE_HEADER.unpack_from(data, at)
            if length < MESSAGE_HEADER.size:
                break
            if kind == _NEWGEN:
                is_own = transactions.is_own(_author_in(data[at : at + length]))
                changed = changed if is_own else max(changed, self._meant())
                self._forget()
            elif is_about_them and any(name in data[at : at + length] for name in self._names):
                self._touched = max(self._touched, self._meaning(data[at : at + length], kind))
            at += (length + 3) & ~3
        return changed

    def _meaning(self, message: bytes, kind: int) -> int:
        if kind not in _OF_ELEMENTS:
            return ANYTHING
        name = attributes_of(message, 20).get(uapi.NFTA_SET_ELEM_LIST_SET)
        if self._sets is not None and name not in self._sets:
            return ANYTHING
        self._is_loss = self._is_loss or (kind == _OF_ELEMENTS[1] and name in self._kept)
        self._is_signed = self._is_signed or (kind == _OF_ELEMENTS[0] and name in self._signs)
        return ELEMENTS

    def _meant(self) -> int:
        """What the transaction has changed as a whole."""
        return LOSS if self._touched == ELEMENTS and self._is_loss and not self._is_signed else self._touched

    def _forget(self) -> None:
        """The next transaction begins."""
        self._touched, self._is_loss, self._is_signed = NOTHING, False, False


def _author_in(message: bytes) -> int:
    payload = attributes_of(message, 20).get(uapi.NFTA_GEN_PROC_PID, b"")
    return unpack_from("!I", payload)[0] if len(payload) == 4 else 0

"""Waiting for any change of links, addresses, routes or neighbours."""

import select
import socket
from errno import ENOBUFS

_GROUPS = (1, 3, 5, 7, 9, 11)  # RTNLGRP_LINK, NEIGH, IPV4_IFADDR, _ROUTE, IPV6_IFADDR, _ROUTE
_LONGEST = 1 << 16


class Announcements:
    """What the kernel announces from now on, in the network namespace of the calling thread. Its content is lost."""

    def __init__(self) -> None:
        """Raises OSError."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._socket.bind((0, sum(1 << (group - 1) for group in _GROUPS)))

    def wait(self, seconds: float) -> bool:
        """Wait until something is announced; returns whether it was. Takes in all that is there then."""
        is_any = bool(select.select([self._socket], [], [], seconds)[0])
        while True:
            try:
                self._socket.recv(_LONGEST)
            except BlockingIOError:
                return is_any
            except OSError as error:
                if error.errno != ENOBUFS:  # more than fitted: some were dropped
                    raise

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

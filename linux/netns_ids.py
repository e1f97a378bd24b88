"""Finds network namespaces by the ID that links name them with: that of a veth's peer (IFLA_LINK_NETNSID).

A namespace's ID is a number that only one other namespace uses for it. It does not lead there: the namespace has to be
opened by a path, of which each runtime has its own, or by way of a process in it.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from struct import Struct

from linux.netlink.attributes import attributes_of, number
from linux.netlink.socket import Netlink
from linux.netns import NoNetns, open_netns
from linux.rtnl import uapi

_FOLDERS = ("/run/netns", "/run/docker/netns")
_ID = Struct("=i")
_ATTRIBUTES = 20  # offset in a message: after its header and struct rtgenmsg


def id_of(netlink: Netlink, netns: int) -> int:
    """The ID of the network namespace with that descriptor in the socket's; -1 if it has none. Raises NetlinkError."""
    message = netlink.get(bytes(4) + number(uapi.NETNSA_FD, netns), uapi.RTM_GETNSID)
    return _ID.unpack(attributes_of(message, _ATTRIBUTES)[uapi.NETNSA_NSID])[0]


@contextmanager
def opened(netlink: Netlink, wanted: Collection[int]) -> Iterator[dict[int, int]]:
    """Descriptors of the namespaces with these IDs, by ID, without those that cannot be found; closed afterwards.

    The named ones are looked at first, then those of all processes. Raises NetlinkError.
    """
    found: dict[int, int] = {}
    seen: set[tuple[int, int]] = set()
    with ExitStack() as descriptors:
        for path in _paths():
            if len(found) == len(set(wanted)):
                break
            with suppress(NoNetns, OSError):
                status = os.stat(path)
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                netns = open_netns(path)
                try:
                    known = id_of(netlink, netns)
                    if known in wanted and known not in found:
                        found[known] = os.dup(netns)
                        descriptors.callback(os.close, found[known])
                finally:
                    os.close(netns)
        yield found


def _paths() -> Iterator[str]:
    for folder in _FOLDERS:
        with suppress(OSError):
            yield from (os.path.join(folder, name) for name in sorted(os.listdir(folder)))
    yield from (f"/proc/{name}/ns/net" for name in os.listdir("/proc") if name.isdigit())

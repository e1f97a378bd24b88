"""Finds network namespaces by the ID that links name them with: that of a veth's peer (IFLA_LINK_NETNSID).

A namespace's ID is a number that only one other namespace uses for it. It does not lead there: the namespace has to be
opened by a path, of which each runtime has its own, or by way of a process in it.
"""

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from struct import Struct

from linux.netlink.attributes import attributes_of, number
from linux.netlink.socket import Netlink
from linux.netns import is_netns, open_netns
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
    with ExitStack() as descriptors:
        for known, _, netns in _search(netlink, wanted):
            found[known] = os.dup(netns)
            descriptors.callback(os.close, found[known])
        yield found


def paths_of(netlink: Netlink, wanted: Collection[int], likely: Iterable[str] = ()) -> dict[int, str]:
    """A path of each namespace with one of these IDs, by ID, without those that cannot be found.

    `likely`: paths to look at first, for example those that a runtime gave; they may be of anything. Raises
    NetlinkError.
    """
    return {known: path for known, path, _ in _search(netlink, wanted, likely)}


def every(likely: Iterable[str] = ()) -> Iterator[tuple[str, int]]:
    """(path, descriptor) of each namespace that can be found, once; closed when the next one is asked for.

    `likely`: as of `paths_of`.
    """
    seen = set()
    for path in chain(likely, _paths()):
        with suppress(OSError, ValueError):
            if not is_netns(path) or (inode := os.stat(path).st_ino) in seen:
                continue
            seen.add(inode)
            netns = open_netns(path)
            try:
                yield path, netns
            finally:
                os.close(netns)


def _search(netlink: Netlink, wanted: Collection[int], likely: Iterable[str] = ()) -> Iterator[tuple[int, str, int]]:
    """(ID, path, descriptor) of the wanted namespaces, each once; the descriptor is closed when the next is asked."""
    missing = set(wanted)
    for path, netns in every(likely) if missing else ():
        known = id_of(netlink, netns)
        if known in missing:
            missing.remove(known)
            yield known, path, netns
            if not missing:
                return


def _paths() -> Iterator[str]:
    for folder in _FOLDERS:
        with suppress(OSError):
            yield from (os.path.join(folder, name) for name in sorted(os.listdir(folder)))
    yield from (f"/proc/{name}/ns/net" for name in os.listdir("/proc") if name.isdigit())

"""Deleting links, several as one link group.

RTM_DELLINK blocks for an RCU grace period, some 20 ms, although the link disappears from dumps within 1 ms: the kernel
frees a device only when no CPU can hold a reference to it any more. To delete a whole link group takes hardly longer
than to delete one link. A process that serves one call waits for the kernel. In an agent other threads wait: callers
return as soon as the kernel announces the deletion (linux/rtnl/group_deletion.py, by Suite.delete_links).
"""

import os
from collections.abc import Sequence
from errno import ENODEV

from linux.netlink.socket import NLM_F_REQUEST, Netlink, NetlinkError
from linux.rtnl.links import Link, delete_link, group_request
from linux.rtnl.uapi import RTM_DELLINK, RTM_SETLINK
from spec.suite import current

_AT_ONCE = 64  # a group takes a quarter of a millisecond a link, for which the kernel holds RTNL
_DOOMED = 0x25000000  # neither a group of linux.ownership nor 0, the default


def delete_links(netlink: Netlink, links: Sequence[Link]) -> None:
    """Delete links; one that does not exist is not an error. Raises the first OSError after all were tried.

    On return neither the links nor the peers of veths are found by name, index or alias, and their names are free. The
    calling thread must be in the network namespace of `netlink`.
    """
    delete = current().delete_links or delete_now
    failures: list[OSError] = []
    for at in range(0, len(links), _AT_ONCE):
        some = links[at : at + _AT_ONCE]
        failures += delete(netlink, some).values()
    if failures:
        raise failures[0]


def delete_now(netlink: Netlink, links: Sequence[Link]) -> dict[int, OSError]:
    """Delete links, those with an alias as one group; returns the errors of those that failed, by index.

    To delete a group, its links must first be moved into it. If this process is killed in between, the alias of a link
    still names its owner. A link without an alias is identified only by its group, so it is deleted by itself.
    """
    named = [link.index for link in links if link.alias]
    if len(named) > 1 and _delete_as_group(netlink, named):
        links = [link for link in links if not link.alias]
    failures: dict[int, OSError] = {}
    for link in links:
        try:
            delete_link(netlink, link.index)
        except OSError as error:
            failures[link.index] = error
    return failures


def _delete_as_group(netlink: Netlink, indexes: Sequence[int]) -> bool:
    """Whether the links were deleted."""
    group = _DOOMED | int.from_bytes(os.urandom(3), "big")  # not used by others
    moves = [netlink.encode(group_request(index, group), RTM_SETLINK, NLM_F_REQUEST) for index in indexes]
    if any(error.errno != ENODEV for _, error in netlink.change_many(moves)):
        return False
    try:
        netlink.change(group_request(0, group), RTM_DELLINK)
    except NetlinkError as error:
        return error.errno == ENODEV  # all were gone
    return True

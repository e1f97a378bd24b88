"""Deleting links: many together where many are asked for, and no longer than it takes until they are gone.

RTM_DELLINK blocks for an RCU grace period, some 20 ms, although the link disappears from dumps within 1 ms. A process
that serves one call waits. An agent has other threads wait (linux/rtnl/group_deletion.py, by Suite.delete_links):
callers return as soon as the kernel announces RTM_DELLINK. Links whose deletion is requested meanwhile go as one link
group, in one operation, which takes the kernel hardly longer than a single link.
"""

import os
from collections.abc import Sequence
from errno import ENODEV

from linux.netlink.socket import NLM_F_REQUEST, Netlink, NetlinkError
from linux.rtnl.links import Link, delete_link, group_request
from linux.rtnl.uapi import RTM_DELLINK, RTM_SETLINK
from spec.suite import current

_AT_ONCE = 64  # the kernel takes up no other request while it deletes a group, a quarter of a millisecond a link
_DOOMED = 0x25000000  # not a group of linux.ownership, nor 0, which every link is in that nobody put elsewhere


def delete_links(netlink: Netlink, links: Sequence[Link]) -> None:
    """Delete links; those that are gone already are no error. Raises the first OSError when all were tried.

    Afterwards none of them is found by name, index or alias, a veth's other end neither, and their names are free. The
    calling thread is in the network namespace of `netlink`.
    """
    delete = current().delete_links or delete_now
    failures: list[OSError] = []
    for at in range(0, len(links), _AT_ONCE):
        some = links[at : at + _AT_ONCE]
        failures += delete(netlink, some).values()
    if failures:
        raise failures[0]


def delete_now(netlink: Netlink, links: Sequence[Link]) -> dict[int, OSError]:
    """Delete links, in one operation if they are several; why it failed for those, by index, for which it did.

    Only links that have an alias are put into a group of their own: should this process be killed before it has deleted
    that, the alias still tells whose they are. Of others it is their group that tells.
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
    """Whether the links are gone."""
    group = _DOOMED | int.from_bytes(os.urandom(3), "big")  # nobody else's
    moves = [netlink.encode(group_request(index, group), RTM_SETLINK, NLM_F_REQUEST) for index in indexes]
    if any(error.errno != ENODEV for _, error in netlink.change_many(moves)):
        return False
    try:
        netlink.change(group_request(0, group), RTM_DELLINK)
    except NetlinkError as error:
        return error.errno == ENODEV  # all were gone
    return True

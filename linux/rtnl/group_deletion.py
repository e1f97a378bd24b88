"""Deleting links in a process that serves many calls: callers return as soon as the kernel announces RTM_DELLINK.

RTM_DELLINK itself returns only after an RCU grace period, so other threads send it. One of the callers leads a group
(linux/group_commit.py): it has the links of all of them deleted, and listens to announcements meanwhile. Links whose
deletion is requested in that time are the next group. See also linux/rtnl/deletion.py.
"""

import os
import select
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from ctypes import addressof, create_string_buffer
from errno import ETIMEDOUT, EXDEV
from functools import partial
from struct import Struct, pack
from sys import maxsize
from threading import Lock
from weakref import WeakValueDictionary

from linux.group_commit import GroupCommit, Request
from linux.netlink.socket import Netlink
from linux.rtnl.deletion import delete_now
from linux.rtnl.links import Link
from linux.rtnl.uapi import RTM_DELLINK, RTMGRP_LINK
from linux.waiting import wait_until
from spec.suite import current

_GATHERING_SECONDS = 0.008  # for more links to delete together, where calls wait for their turn
_NO_THREAD_SECONDS = 0.2  # a deletion that no thread has begun by then is performed by the leader
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_RECEIVE_BUFFER_BYTES = 1 << 20
_INDEX, _INDEX_AT = Struct("=i"), 20  # ifi_index of a link message
# Pass RTM_DELLINK of AF_UNSPEC only: nlmsg_type is at 4, ifi_family at 16 (AF_BRIDGE: a bridge has lost a port).
# A filter loads numbers in network byte order.
_BPF_LDH, _BPF_LDB, _BPF_JEQ, _BPF_RET = 0x28, 0x30, 0x15, 0x06
_INSTRUCTION = Struct("=HBBI")  # struct sock_filter, <linux/filter.h>
_FILTER = b"".join(
    _INSTRUCTION.pack(*instruction)
    for instruction in (
        (_BPF_LDH, 0, 0, 4),
        (_BPF_JEQ, 0, 3, int.from_bytes(pack("=H", RTM_DELLINK), "big")),
        (_BPF_LDB, 0, 0, 16),
        (_BPF_JEQ, 0, 1, socket.AF_UNSPEC),
        (_BPF_RET, 0, 0, 0xFFFFFFFF),
        (_BPF_RET, 0, 0, 0),
    )
)
_program = create_string_buffer(_FILTER, len(_FILTER))


class _Links:
    """The links that one caller wants deleted, those that are `left`, and the errors of those that failed."""

    def __init__(self, netlink: Netlink, links: Sequence[Link]) -> None:
        self.netlink, self.links = netlink, links
        self.left = {link.index for link in links}
        self.failures: dict[int, OSError] = {}


class GroupDeletion:
    """Deletes links for all threads of a process, in whatever network namespaces they are."""

    def __init__(
        self,
        run: Callable[[Callable[[], None]], object],
        is_more_to_come: Callable[[], bool] = lambda: False,
        *,
        gathering_seconds: float = _GATHERING_SECONDS,
    ) -> None:
        """`run` has a function called in another thread, soon: it takes some 20 ms, and raises nothing.

        `is_more_to_come`: whether other threads may soon request deletions; if so, the leader waits a little for them.
        """
        self._run, self._is_more_to_come, self._gathering_seconds = run, is_more_to_come, gathering_seconds
        self._lock = Lock()
        self._groups: WeakValueDictionary[int, GroupCommit] = WeakValueDictionary()  # by namespace

    def delete(self, netlink: Netlink, links: Sequence[Link]) -> dict[int, OSError]:
        """As linux.rtnl.deletion.delete_now, but without waiting for the grace period."""
        namespace = netlink.namespace
        if not (namespace and links):
            return delete_now(netlink, links)
        with self._lock:
            group = self._groups.get(namespace)
            if group is None:
                group = GroupCommit(partial(self._perform, namespace), most=maxsize, gather=self._gather)
                self._groups[namespace] = group
        return group.submit(_Links(netlink, links), waiting=current().released)

    def _gather(self) -> None:
        wait_until(lambda: not self._is_more_to_come(), seconds=self._gathering_seconds)

    def _perform(self, namespace: int, requests: Sequence[Request]) -> None:
        """Have the links of all requests deleted, and settle each request as soon as its links are deleted."""
        links = {link.index: link for request in requests for link in request.job.links}
        pending = _Pending(requests)
        named = [link for link in links.values() if link.alias]
        together = [named] if named else []
        together += [[link] for link in links.values() if not link.alias]  # one by one: see delete_now
        with ExitStack() as stack:
            try:
                event = _Event()
                announcements = stack.enter_context(_Announcements())
                deletions = [_Deletion(some, namespace, event) for some in together]
            except OSError:  # for example too many open files
                pending.settle(links, delete_now(requests[0].job.netlink, list(links.values())))
                return
            for deletion in deletions:
                self._run(deletion.perform)
            _await(pending, deletions, announcements, event)


class _Pending:
    """By index, the requests that wait for a link to be deleted."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests: dict[int, list[Request]] = {}
        for request in requests:
            for index in request.job.left:
                self._requests.setdefault(index, []).append(request)

    def __bool__(self) -> bool:
        return bool(self._requests)

    def settle(self, indexes: Iterable[int], failures: dict[int, OSError]) -> None:
        """Mark these links as deleted, or as failed with the error in `failures`."""
        for index in indexes:
            for request in self._requests.pop(index, ()):
                wanted = request.job
                if index in failures:
                    wanted.failures[index] = failures[index]
                wanted.left.discard(index)
                if not wanted.left:
                    request.settle(wanted.failures)


class _Deletion:
    """One deletion, performed in another thread: when it is `done`, `failures` are those of its links."""

    def __init__(self, links: Sequence[Link], namespace: int, event: "_Event") -> None:
        """The links are in that namespace; raises OSError if the calling thread is not."""
        self.links, self.done = links, False
        self.failures: dict[int, OSError] = {
            link.index: OSError(ETIMEDOUT, "timed out waiting for the link to be deleted") for link in links
        }
        self._netlink, self._event, self._begun = Netlink(), event, Lock()
        self._on_batch = current().on_batch
        if self._netlink.namespace != namespace:
            self._netlink.close()
            raise OSError(EXDEV, "not the network namespace of the links")

    def perform(self) -> None:
        """Delete the links, unless another thread has begun to."""
        if not self._begun.acquire(blocking=False):
            return
        try:
            with self._netlink:
                self.failures = delete_now(self._netlink, self.links)
            if self._on_batch:
                self._on_batch("links", len(self.links))
        except OSError as error:
            self.failures = {link.index: error for link in self.links}
        finally:
            self.done = True
            self._event.set()


class _Event:
    """An eventfd, to be polled. It is closed when the last thread that might set it is through."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def fileno(self) -> int:
        """What to poll."""
        return self._descriptor

    def set(self) -> None:
        """Make it readable."""
        os.eventfd_write(self._descriptor, 1)

    def clear(self) -> None:
        """Make it unreadable again; waits for that it is readable."""
        os.eventfd_read(self._descriptor)


class _Announcements:
    """The kernel's announcements of deleted links, in the network namespace of the thread that made it."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        program = pack("@HP", len(_FILTER) // _INSTRUCTION.size, addressof(_program))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        self._socket.bind((0, RTMGRP_LINK))

    def __enter__(self) -> "_Announcements":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """What to poll."""
        return self._socket.fileno()

    def indexes(self) -> Iterator[int]:
        """The indexes of links announced since the last call. Raises OSError (ENOBUFS: some were lost)."""
        while True:
            try:
                yield _INDEX.unpack_from(self._socket.recv(32), _INDEX_AT)[0]
            except BlockingIOError:
                return


def _await(pending: _Pending, deletions: list[_Deletion], announcements: _Announcements, event: _Event) -> None:
    """Settle requests by announcements and by the end of deletions, until all are settled."""
    poll = select.poll()
    poll.register(announcements, select.POLLIN)
    poll.register(event, select.POLLIN)
    while deletions and pending:
        ready = [descriptor for descriptor, _ in poll.poll(_NO_THREAD_SECONDS * 1000)]
        if announcements.fileno() in ready:
            try:
                pending.settle(announcements.indexes(), {})
            except OSError:
                poll.unregister(announcements)  # the end of the deletion replaces the lost announcements
        if event.fileno() in ready:
            event.clear()
        for deletion in deletions if not ready else ():
            deletion.perform()  # unless a thread has begun
        for deletion in [deletion for deletion in deletions if deletion.done]:
            deletions.remove(deletion)
            pending.settle([link.index for link in deletion.links], deletion.failures)

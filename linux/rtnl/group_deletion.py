"""The deletion of links in a process that lives on: who asks is answered when the kernel announces that they are gone.

One of those who ask leads: it has what all of them ask for deleted in another thread, and hears what the kernel
announces meanwhile. What is asked for in that time waits for the next to lead. See linux.rtnl.deletion.
"""

import os
import select
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from ctypes import addressof, create_string_buffer
from errno import ETIMEDOUT, EXDEV
from struct import Struct, pack
from threading import Lock

from linux.errors import insisting
from linux.netlink.socket import Netlink
from linux.rtnl.deletion import delete_now
from linux.rtnl.links import Link
from linux.rtnl.uapi import RTM_DELLINK, RTMGRP_LINK
from linux.waiting import wait_until
from spec.suite import current

_GATHERING_SECONDS = 0.008  # for more links to delete together, where calls wait for their turn
_BROKEN_OFF = "its deletion was not seen to its end"
_NO_THREAD_SECONDS = 0.2  # so long after it was asked for, a deletion that has not begun is done by who waits for it
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_HEARD_BYTES = 1 << 20  # of announcements not yet read
_INDEX, _INDEX_AT = Struct("=i"), 20
_INSTRUCTION = Struct("=HBBI")  # struct sock_filter, <linux/filter.h>
_HALF, _BYTE, _EQUALS, _RETURN = 0x28, 0x30, 0x15, 0x06
# Let RTM_DELLINK of AF_UNSPEC pass: a message's type stands at 4, its family at 16 (AF_BRIDGE: it is no port any more).
# The filter reads numbers in network order.
_FILTER = b"".join(
    _INSTRUCTION.pack(*instruction)
    for instruction in (
        (_HALF, 0, 0, 4),
        (_EQUALS, 0, 3, int.from_bytes(pack("=H", RTM_DELLINK), "big")),
        (_BYTE, 0, 0, 16),
        (_EQUALS, 0, 1, 0),
        (_RETURN, 0, 0, 0xFFFFFFFF),
        (_RETURN, 0, 0, 0),
    )
)
_program = create_string_buffer(_FILTER, len(_FILTER))


class Reaper:
    """Deletes links for all threads of a process, in whatever network namespaces they are."""

    def __init__(
        self, run: Callable[[Callable[[], None]], object], is_more_to_come: Callable[[], bool] = lambda: False
    ) -> None:
        """`run` has a function called in another thread, soon: it takes some 20 ms, and raises nothing.

        `is_more_to_come`: whether others may soon ask for links to be deleted, which is waited for a little.
        """
        self._run, self._is_more_to_come = run, is_more_to_come
        self._lock = Lock()
        self._waiting: dict[int, list[_Wish]] = {}  # by namespace; as long as somebody leads there

    def delete(self, netlink: Netlink, links: Sequence[Link]) -> dict[int, OSError]:
        """As linux.rtnl.deletion.delete_now, but early."""
        namespace = netlink.namespace
        if not namespace:
            return delete_now(netlink, links)
        wish = _Wish(netlink, links)
        alone = [wish]
        with self._lock:
            leads = namespace not in self._waiting
            if leads:
                self._waiting[namespace] = alone
            else:
                self._waiting[namespace].append(wish)
        with current().released():
            if leads or wish.must_lead():
                self._lead(namespace)
        return wish.failures

    def _lead(self, namespace: int) -> None:
        wait_until(lambda: not self._is_more_to_come(), seconds=_GATHERING_SECONDS)
        wishes = self._take_turn(namespace)
        try:
            _fulfil(wishes, namespace, self._run)
        finally:
            self._hand_on(wishes, namespace)

    @insisting
    def _take_turn(self, namespace: int) -> "list[_Wish]":
        with self._lock:
            wishes, self._waiting[namespace] = self._waiting[namespace], []
        return wishes

    @insisting
    def _hand_on(self, wishes: "Sequence[_Wish]", namespace: int) -> None:
        for wish in wishes:
            wish.give_up(OSError(ETIMEDOUT, _BROKEN_OFF))
        with self._lock:
            if self._waiting[namespace]:
                self._waiting[namespace][0].wake(leads=True)
            else:
                del self._waiting[namespace]


class _Wish:
    """What one thread waits for: that links are gone, each with success or in `failures`."""

    def __init__(self, netlink: Netlink, links: Sequence[Link]) -> None:
        self.netlink, self.links = netlink, links
        self.left = {link.index for link in links}
        self.failures: dict[int, OSError] = {}
        self._leads = self._awake = False
        self._asleep = Lock()
        self._asleep.acquire()

    def must_lead(self) -> bool:
        """Wait until all is done, or until it is this thread's turn to see to it: then True."""
        self._asleep.acquire()
        return self._leads

    def wake(self, *, leads: bool) -> None:
        """End the waiting, if it has not ended."""
        self._leads = leads
        if not self._awake:
            self._awake = True
            self._asleep.release()

    def settle(self, index: int, failure: OSError | None = None) -> None:
        """That link is gone, or can not be deleted."""
        if index in self.left:
            if failure:
                self.failures[index] = failure
            self.left.discard(index)
            if not self.left:
                self.wake(leads=False)

    def give_up(self, failure: OSError) -> None:
        """Nothing more will be heard of what is left."""
        for index in tuple(self.left):
            self.settle(index, failure)
        self.wake(leads=False)


_Wishing = dict[int, list[_Wish]]  # by the index of the link that is to go


class _Deletion:
    """One operation of the kernel's, in another thread. What became of it: `failures` when it is `done`."""

    def __init__(self, links: Sequence[Link], namespace: int, told: "_Bell") -> None:
        """The links are in that namespace; OSError if the thread is not."""
        self.links, self.done = links, False
        self.failures: dict[int, OSError] = {link.index: OSError(ETIMEDOUT, _BROKEN_OFF) for link in links}
        self._netlink, self._told, self._turn = Netlink(), told, Lock()
        self._on_batch = current().on_batch
        if self._netlink.namespace != namespace:
            self._netlink.close()
            raise OSError(EXDEV, "not the network namespace of the links")

    def perform(self) -> None:
        """Do it, unless another thread has begun to."""
        if not self._turn.acquire(blocking=False):
            return
        try:
            with self._netlink:
                self.failures = delete_now(self._netlink, self.links)
            if self._on_batch:
                self._on_batch("links", len(self.links))
        except OSError as error:
            self.failures = {link.index: error for link in self.links}
        except MemoryError:
            pass  # `failures` says that it was broken off
        finally:
            self.done = True
            self._told.ring()


class _Bell:
    """A descriptor that can be polled, and is rung by threads of which some come when it is gone."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock, self._open = Lock(), True

    def ring(self) -> None:
        """Make it readable."""
        with self._lock:
            if self._open:
                os.eventfd_write(self.descriptor, 1)

    def hush(self) -> None:
        """Make it no longer readable, until it is rung again."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)

    def close(self) -> None:
        """Nobody listens any more."""
        with self._lock:
            self._open = False
            os.close(self.descriptor)


class _Announcements:
    """What the kernel says of links that are gone, in the network namespace of the thread that made it."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        program = pack("@HP", len(_FILTER) // _INSTRUCTION.size, addressof(_program))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _HEARD_BYTES)
        self._socket.bind((0, RTMGRP_LINK))

    def fileno(self) -> int:
        """What to poll."""
        return self._socket.fileno()

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()

    def indexes(self) -> Iterator[int]:
        """The links that were announced as gone since. Raises OSError (ENOBUFS: some were missed)."""
        while True:
            try:
                yield _INDEX.unpack_from(self._socket.recv(32), _INDEX_AT)[0]
            except BlockingIOError:
                return


def _fulfil(wishes: Sequence[_Wish], namespace: int, run: Callable[[Callable[[], None]], object]) -> None:
    """Have the links of all wishes deleted, and settle each as soon as it is gone."""
    links = {link.index: link for wish in wishes for link in wish.links}
    wishing: _Wishing = {}
    for wish in wishes:
        for link in wish.links:
            wishing.setdefault(link.index, []).append(wish)
    named = [link for link in links.values() if link.alias]
    together = [named] if named else []
    together += [[link] for link in links.values() if not link.alias]  # those go one by one: see delete_now
    with ExitStack() as stack:
        try:
            bell = _Bell()
            stack.callback(bell.close)
            heard = _Announcements()
            stack.callback(heard.close)
            deletions = [_Deletion(some, namespace, bell) for some in together]
        except OSError:  # no descriptors to be had, say
            _settle(wishing, links, delete_now(wishes[0].netlink, list(links.values())))
            return
        for deletion in deletions:
            run(deletion.perform)
        _await(wishing, deletions, heard, bell)


def _await(wishing: _Wishing, deletions: list[_Deletion], heard: _Announcements, bell: _Bell) -> None:
    poll = select.poll()
    poll.register(heard.fileno(), select.POLLIN)
    poll.register(bell.descriptor, select.POLLIN)
    while deletions and any(wish.left for wishes in wishing.values() for wish in wishes):
        ready = [descriptor for descriptor, _ in poll.poll(_NO_THREAD_SECONDS * 1000)]
        if heard.fileno() in ready:
            try:
                _settle(wishing, heard.indexes(), {})
            except OSError:
                poll.unregister(heard.fileno())  # what was missed, the end of the deletion tells
        if bell.descriptor in ready:
            bell.hush()
        for deletion in deletions if not ready else ():
            deletion.perform()  # should there be no thread for it
        for deletion in [deletion for deletion in deletions if deletion.done]:
            deletions.remove(deletion)
            _settle(wishing, [link.index for link in deletion.links], deletion.failures)


def _settle(wishing: _Wishing, indexes: Iterable[int], failures: dict[int, OSError]) -> None:
    for index in indexes:
        for wish in wishing.get(index, ()):
            wish.settle(index, failures.get(index))

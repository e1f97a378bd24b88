"""Links are deleted in groups, and callers return early, without losing the guarantees of a single deletion."""

import errno
import gc
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from threading import Thread, get_ident

import pytest

from linux.netlink.socket import Netlink, NetlinkError
from linux.netns import entered, open_netns
from linux.rtnl import deletion, links, uapi
from linux.rtnl.addresses import list_addresses
from linux.rtnl.group_deletion import GroupDeletion
from linux.rtnl.links import Link, find_link, list_links
from spec.suite import NO_SUITE, Suite, serving
from tests.netns.node import Node
from tests.netns.overlay_tools import inside

GRACE_SECONDS = 0.2


@pytest.fixture
def netlink(node: Node) -> Iterator[Netlink]:
    """A socket in the node's namespace, which the test's thread has entered."""
    with inside(node) as found:
        yield found


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """A thread pool for deletions."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


def pair(node: Node, netlink: Netlink, name: str, alias: str = "v1:net:pod:eth0") -> Link:
    """Create a veth pair on the node, NAME and NAMEp."""
    node.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p"])
    if alias:
        node.run(["ip", "link", "set", name, "alias", alias])
    return find_link(netlink, name)


def veths(netlink: Netlink) -> set[str]:
    """The names of the remaining veths."""
    return {link.name for link in list_links(netlink) if link.kind == "veth"}


def counting(sizes: list[int]) -> Suite:
    """A suite that appends the number of links in each operation to `sizes`."""
    return replace(NO_SUITE, on_batch=lambda kind, size: sizes.append(size) if kind == "links" else None)


@pytest.mark.parametrize("number", [1, 2, 70])
def test_a_process_that_does_one_call_deletes_links_itself(node: Node, netlink: Netlink, number: int) -> None:
    """All given links are deleted, even if some were deleted before; other links and their peers stay."""
    pair(node, netlink, "other")
    given = [pair(node, netlink, f"v{place}") for place in range(number)]
    node.run(["ip", "link", "del", "v0"])
    deletion.delete_links(netlink, given)
    deletion.delete_links(netlink, given)
    assert veths(netlink) == {"other", "otherp"}


def test_links_are_deleted_as_one_group(node: Node, netlink: Netlink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several links are deleted in one operation; the group is a reserved one, not the default group."""
    groups, body = [], links.group_request
    monkeypatch.setattr(deletion, "group_request", lambda index, group: groups.append(group) or body(index, group))
    monkeypatch.setattr(deletion, "delete_link", lambda *_: pytest.fail("one by one"))
    deletion.delete_links(netlink, [pair(node, netlink, f"v{place}") for place in range(5)])
    assert veths(netlink) == set()
    assert len(set(groups)) == 1
    assert groups[0] >> 24 == 0x25


def test_a_link_without_alias_keeps_its_group(node: Node, netlink: Netlink, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group is the link's only mark of ownership, which must survive if the process is killed in between."""
    moved, body = [], links.group_request
    monkeypatch.setattr(deletion, "group_request", lambda index, group: moved.append(index) or body(index, group))
    nameless, *named = [pair(node, netlink, f"v{place}", "v1:a:b:c" if place else "") for place in range(3)]
    deletion.delete_links(netlink, [nameless, *named])
    assert veths(netlink) == set()
    assert nameless.index not in moved


def test_it_returns_when_the_links_are_deleted(node: Node, netlink: Netlink, threads: ThreadPoolExecutor) -> None:
    """On return names and indexes are free, although the kernel still blocks the deleting thread."""
    under_way = []
    warm = GroupDeletion(lambda job: under_way.append(threads.submit(job)))
    early = 0
    for _ in range(10):
        assert warm.delete(netlink, [pair(node, netlink, "v0")]) == {}
        early += not under_way[-1].done()
        assert veths(netlink) == set()
        links.create_veth(netlink, "v0", "v0p", peer_netns=None, peer_mac=links.random_mac(), mtu=0)
        assert warm.delete(netlink, [find_link(netlink, "v0")]) == {}
    assert early > 5


def test_concurrent_requests_share_operations(node: Node, netlink: Netlink, threads: ThreadPoolExecutor) -> None:
    """Each caller gets its result, in fewer operations than links; another owner's link stays."""
    pair(node, netlink, "other")
    given = [pair(node, netlink, f"v{place}") for place in range(32)]
    sizes: list[int] = []
    warm = GroupDeletion(threads.submit)

    def delete(link: Link) -> tuple[dict, Link | None]:
        with inside(node) as mine, serving(counting(sizes)):
            return warm.delete(mine, [link]), find_link(mine, link.name)

    with ThreadPoolExecutor(32) as callers:
        assert list(callers.map(delete, given)) == [({}, None)] * 32
    threads.shutdown()  # the callers did not wait for the operations to end
    assert sum(sizes) == 32
    assert len(sizes) < 32
    assert veths(netlink) == {"other", "otherp"}


def test_an_operation_waits_briefly_for_announced_requests(
    node: Node, netlink: Netlink, threads: ThreadPoolExecutor
) -> None:
    """Requests that arrive meanwhile join the operation; it also runs if the announced requests never arrive."""
    given = [pair(node, netlink, f"v{place}") for place in range(8)]
    sizes: list[int] = []
    waiting: set[int] = set()
    warm = GroupDeletion(threads.submit, lambda: len(waiting) < len(given), gathering_seconds=30)

    @contextmanager
    def released() -> Iterator[None]:
        waiting.add(get_ident())
        yield

    def delete(link: Link) -> dict[int, OSError]:
        with inside(node) as mine, serving(replace(counting(sizes), released=released)):
            return warm.delete(mine, [link])

    with ThreadPoolExecutor(len(given)) as callers:
        assert list(callers.map(delete, given)) == [{}] * len(given)
    threads.shutdown()
    assert sizes == [len(given)]
    impatient = GroupDeletion(_never, lambda: True, gathering_seconds=0.01)
    assert impatient.delete(netlink, [pair(node, netlink, "v0")]) == {}


def test_links_that_were_deleted_before_are_not_an_error(
    node: Node, netlink: Netlink, threads: ThreadPoolExecutor
) -> None:
    """Alone or among existing links; no caller waits for a notification that will not arrive."""
    gone = [pair(node, netlink, f"v{place}") for place in range(3)]
    left = pair(node, netlink, "v3")
    deletion.delete_links(netlink, gone)
    warm = GroupDeletion(threads.submit)
    assert warm.delete(netlink, gone[:1]) == {}
    assert warm.delete(netlink, [*gone, left]) == {}
    assert veths(netlink) == set()


@pytest.mark.parametrize("number", [1, 3])
def test_the_caller_gets_the_error_of_a_refused_deletion(
    node: Node, netlink: Netlink, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The caller gets the kernel's error, and the links stay."""
    given = [pair(node, netlink, f"v{place}") for place in range(number)]
    change = Netlink.change

    def refusing(self: Netlink, message: bytes, kind: int, flags: int = 0) -> None:
        if kind == uapi.RTM_DELLINK:
            raise NetlinkError(errno.EPERM, "refused by the test")
        change(self, message, kind, flags)

    monkeypatch.setattr(Netlink, "change", refusing)
    warm = replace(NO_SUITE, delete_links=GroupDeletion(threads.submit).delete)
    with serving(warm), pytest.raises(NetlinkError) as caught:
        deletion.delete_links(netlink, given)
    assert caught.value.errno == errno.EPERM
    assert len(veths(netlink)) == 2 * number


def test_a_lost_notification_only_delays_the_deletion(
    node: Node, netlink: Netlink, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ENOBUFS the end of the deletion replaces the notification that the kernel could not send."""

    class Overrun(socket.socket):
        def recv(self, *sizes: int) -> bytes:
            if self.family == socket.AF_NETLINK and self.getsockname()[1]:  # a multicast listener
                raise OSError(errno.ENOBUFS, "No buffer space available")
            return super().recv(*sizes)

    monkeypatch.setattr(socket, "socket", Overrun)
    ended = []
    warm = GroupDeletion(lambda job: threads.submit(lambda: (job(), ended.append(time.monotonic()))))
    assert warm.delete(netlink, [pair(node, netlink, f"v{place}") for place in range(4)]) == {}
    assert veths(netlink) == set()


def test_links_are_looked_up_in_the_namespace_of_the_socket(
    node: Node, netlink: Netlink, threads: ThreadPoolExecutor
) -> None:
    """If the thread has entered another namespace, a link there with the same index is not deleted."""
    elsewhere = node.pod("elsewhere")
    given = pair(node, netlink, "v0")
    elsewhere.run(["ip", "link", "add", "w0", "index", str(given.index), "type", "bridge"])
    fd = open_netns(str(node.path(elsewhere.path)))
    with entered(fd):
        assert GroupDeletion(threads.submit).delete(netlink, [given]) == {}
    os.close(fd)
    assert veths(netlink) == set()
    assert "w0" in elsewhere.links()


def _never(_: Callable) -> None:
    """A pool without a thread, which never runs the job."""


def test_without_another_thread_the_caller_deletes_the_links(node: Node, netlink: Netlink) -> None:
    """Without a free thread the links are deleted nevertheless."""
    assert GroupDeletion(_never).delete(netlink, [pair(node, netlink, "v0")]) == {}
    assert veths(netlink) == set()


def test_the_caller_does_a_deletion_without_a_thread_if_another_has_one(node: Node, netlink: Netlink) -> None:
    """Links without an alias are deleted one by one; the first one's notification is sent only once."""
    given = [pair(node, netlink, f"v{place}", "") for place in range(2)]
    jobs: list[Callable] = []

    def run(job: Callable) -> None:
        jobs.append(job)
        if len(jobs) == 1:
            job()

    failures: list[dict] = []

    def delete() -> None:
        with inside(node) as mine:
            failures.append(GroupDeletion(run).delete(mine, given))

    thread = Thread(target=delete, daemon=True)
    thread.start()
    thread.join(20)
    assert failures == [{}]
    assert veths(netlink) == set()


def test_a_caller_sleeps_while_a_deletion_is_under_way(
    node: Node, netlink: Netlink, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one of two deletions is slow, the caller does not poll in a loop."""
    given = [pair(node, netlink, f"v{place}", "") for place in range(2)]
    looks: list[float] = []
    jobs: list[Callable] = []

    class Poll:
        def __init__(self) -> None:
            self._poll = poll()
            self.register, self.unregister = self._poll.register, self._poll.unregister

        def poll(self, timeout: float) -> list:
            looks.append(timeout)
            return self._poll.poll(timeout)

    def run(job: Callable) -> None:
        jobs.append(job)
        seconds = 0.15 * (len(jobs) - 1)
        threads.submit(lambda: (time.sleep(seconds), job()))

    poll = select.poll
    monkeypatch.setattr(select, "poll", Poll)
    assert GroupDeletion(run).delete(netlink, given) == {}
    assert len(looks) < 20


def test_without_descriptors_the_caller_deletes_the_links(
    node: Node, netlink: Netlink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Likewise if no descriptor is left to listen for notifications."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    given = [pair(node, netlink, "v0"), pair(node, netlink, "v1")]
    monkeypatch.setattr(os, "eventfd", refuse)
    assert GroupDeletion(_never).delete(netlink, given) == {}
    assert veths(netlink) == set()


def test_deletions_leak_no_descriptors(node: Node, netlink: Netlink, threads: ThreadPoolExecutor) -> None:
    """After many deletions no additional descriptor is open."""
    jobs: list[Future] = []
    warm = GroupDeletion(lambda job: jobs.append(threads.submit(job)))

    def descriptors() -> int:
        """Those open when no deletion is under way, without those of objects that are garbage."""
        wait(jobs)
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    warm.delete(netlink, [pair(node, netlink, "first")])
    before = descriptors()
    for _ in range(20):
        warm.delete(netlink, [pair(node, netlink, "v0")])
    assert descriptors() == before


def test_a_deleted_link_has_no_addresses(node: Node, netlink: Netlink) -> None:
    """Another process may delete a link that was just found: listing its addresses is not an error."""
    link = pair(node, netlink, "gone")
    node.run(["ip", "address", "add", "192.0.2.7/24", "dev", "gone"])
    assert [address.cidr for address in list_addresses(netlink, link.index)] == ["192.0.2.7/24"]
    deletion.delete_now(netlink, [link])
    assert list_addresses(netlink, link.index) == []

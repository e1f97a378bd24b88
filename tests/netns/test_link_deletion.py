"""Links are deleted together and answered for early, and nothing that was promised of a deletion is lost by it."""

import errno
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
    """A socket on the node, where the test's thread is too."""
    with inside(node) as found:
        yield found


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Other threads for deletions."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


def pair(node: Node, netlink: Netlink, name: str, alias: str = "v1:net:pod:eth0") -> Link:
    """A veth pair on the node, NAME and NAMEp."""
    node.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p"])
    if alias:
        node.run(["ip", "link", "set", name, "alias", alias])
    return find_link(netlink, name)


def veths(netlink: Netlink) -> set[str]:
    """The names of what is left."""
    return {link.name for link in list_links(netlink) if link.kind == "veth"}


def counting(sizes: list[int]) -> Suite:
    """A suite that has the number of links in each operation put into `sizes`."""
    return replace(NO_SUITE, on_batch=lambda kind, size: sizes.append(size) if kind == "links" else None)


@pytest.mark.parametrize("number", [1, 2, 70])
def test_a_process_that_does_one_call_deletes_links_itself(node: Node, netlink: Netlink, number: int) -> None:
    """All that are given go, whether or not one is gone already; what is not given stays, peers of it too."""
    pair(node, netlink, "other")
    given = [pair(node, netlink, f"v{place}") for place in range(number)]
    node.run(["ip", "link", "del", "v0"])
    deletion.delete_links(netlink, given)
    deletion.delete_links(netlink, given)
    assert veths(netlink) == {"other", "otherp"}


def test_links_go_as_one_group(node: Node, netlink: Netlink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several links cost one operation; the group is nobody else's, and not the one that all links are in."""
    groups, body = [], links.group_request
    monkeypatch.setattr(deletion, "group_request", lambda index, group: groups.append(group) or body(index, group))
    monkeypatch.setattr(deletion, "delete_link", lambda *_: pytest.fail("one by one"))
    deletion.delete_links(netlink, [pair(node, netlink, f"v{place}") for place in range(5)])
    assert veths(netlink) == set()
    assert len(set(groups)) == 1
    assert groups[0] >> 24 == 0x25


def test_a_link_without_alias_keeps_its_group(node: Node, netlink: Netlink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its group is all that tells whose it is, should the process be killed in between."""
    moved, body = [], links.group_request
    monkeypatch.setattr(deletion, "group_request", lambda index, group: moved.append(index) or body(index, group))
    nameless, *named = [pair(node, netlink, f"v{place}", "v1:a:b:c" if place else "") for place in range(3)]
    deletion.delete_links(netlink, [nameless, *named])
    assert veths(netlink) == set()
    assert nameless.index not in moved


def test_it_answers_when_the_links_are_gone(node: Node, netlink: Netlink, threads: ThreadPoolExecutor) -> None:
    """Names and indexes are free on return, though the kernel still keeps the thread that asked it."""
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


def test_what_many_ask_for_at_once_is_deleted_together(
    node: Node, netlink: Netlink, threads: ThreadPoolExecutor
) -> None:
    """Each gets its answer, in fewer operations than there are links; another's link stays."""
    pair(node, netlink, "other")
    given = [pair(node, netlink, f"v{place}") for place in range(32)]
    sizes: list[int] = []
    warm = GroupDeletion(threads.submit)

    def delete(link: Link) -> tuple[dict, Link | None]:
        with inside(node) as mine, serving(counting(sizes)):
            return warm.delete(mine, [link]), find_link(mine, link.name)

    with ThreadPoolExecutor(32) as callers:
        assert list(callers.map(delete, given)) == [({}, None)] * 32
    threads.shutdown()  # the callers did not wait for the end of the operations
    assert sum(sizes) == 32
    assert len(sizes) < 32
    assert veths(netlink) == {"other", "otherp"}


def test_more_that_is_to_come_is_waited_for_a_little(node: Node, netlink: Netlink, threads: ThreadPoolExecutor) -> None:
    """What others ask for until then goes in the same operation; it is done, too, if more never ceases to come."""
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


def test_links_that_are_gone_already_are_no_error(node: Node, netlink: Netlink, threads: ThreadPoolExecutor) -> None:
    """Alone and among others; nobody waits for an announcement that will not come."""
    gone = [pair(node, netlink, f"v{place}") for place in range(3)]
    left = pair(node, netlink, "v3")
    deletion.delete_links(netlink, gone)
    warm = GroupDeletion(threads.submit)
    assert warm.delete(netlink, gone[:1]) == {}
    assert warm.delete(netlink, [*gone, left]) == {}
    assert veths(netlink) == set()


@pytest.mark.parametrize("number", [1, 3])
def test_a_refusal_reaches_who_asked(
    node: Node, netlink: Netlink, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The kernel's own error, for each link that stays."""
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


def test_a_lost_announcement_costs_time_and_no_more(
    node: Node, netlink: Netlink, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOBUFS: what the kernel could not tell, the end of the deletion does."""

    class Overrun(socket.socket):
        def recv(self, *sizes: int) -> bytes:
            if self.family == socket.AF_NETLINK and self.getsockname()[1]:  # in a multicast group
                raise OSError(errno.ENOBUFS, "No buffer space available")
            return super().recv(*sizes)

    monkeypatch.setattr(socket, "socket", Overrun)
    ended = []
    warm = GroupDeletion(lambda job: threads.submit(lambda: (job(), ended.append(time.monotonic()))))
    assert warm.delete(netlink, [pair(node, netlink, f"v{place}") for place in range(4)]) == {}
    assert veths(netlink) == set()


def test_links_are_looked_for_where_the_request_is_made(
    node: Node, netlink: Netlink, threads: ThreadPoolExecutor
) -> None:
    """A thread that has gone elsewhere deletes no link of that place that happens to have the index."""
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
    """A pool that has no thread, and gets none."""


def test_without_another_thread_the_caller_does_it(node: Node, netlink: Netlink) -> None:
    """No more threads, or no more descriptors, to be had: the links go all the same."""
    assert GroupDeletion(_never).delete(netlink, [pair(node, netlink, "v0")]) == {}
    assert veths(netlink) == set()


def test_a_deletion_that_gets_no_thread_is_done_though_another_got_one(node: Node, netlink: Netlink) -> None:
    """Links without an alias are deleted one by one; that the first is gone is news only once."""
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


def test_who_waits_for_a_deletion_sleeps_meanwhile(
    node: Node, netlink: Netlink, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one of two takes its time, the caller looks at nothing that has not changed."""
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


def test_without_descriptors_the_caller_does_it(node: Node, netlink: Netlink, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where nothing can be opened to listen by."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    given = [pair(node, netlink, "v0"), pair(node, netlink, "v1")]
    monkeypatch.setattr(os, "eventfd", refuse)
    assert GroupDeletion(_never).delete(netlink, given) == {}
    assert veths(netlink) == set()


def test_descriptors_and_threads_return(node: Node, netlink: Netlink, threads: ThreadPoolExecutor) -> None:
    """After many deletions nothing is open that was not before."""
    warm = GroupDeletion(threads.submit)
    warm.delete(netlink, [pair(node, netlink, "first")])
    time.sleep(GRACE_SECONDS)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        warm.delete(netlink, [pair(node, netlink, "v0")])
    time.sleep(GRACE_SECONDS)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_link_that_is_gone_has_no_addresses(node: Node, netlink: Netlink) -> None:
    """Whoever has just found it may ask, and another may have deleted it meanwhile: that is no error."""
    link = pair(node, netlink, "gone")
    node.run(["ip", "address", "add", "192.0.2.7/24", "dev", "gone"])
    assert [address.cidr for address in list_addresses(netlink, link.index)] == ["192.0.2.7/24"]
    deletion.delete_now(netlink, [link])
    assert list_addresses(netlink, link.index) == []

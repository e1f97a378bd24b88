"""Changes of nftables in a long-lived process: joined in transactions, decided on a cache, each with its own result."""

import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Barrier, Event, Thread

import pytest

from linux.group_commit import GroupCommit
from linux.netlink.socket import NETLINK_NETFILTER, Netlink, NetlinkError
from linux.nftables import address_elements, messages, pod_table, transactions
from linux.nftables.cache import TableCache
from linux.nftables.messages import Element
from rules import masquerade
from spec.attachment import Attachment
from spec.errors import CNIError
from tests.netns.nft_tools import at_once, on, table
from tests.netns.nft_tools import nft as nft_program
from tests.netns.node import Host, Node

TABLE = "inet slash24_masquerade"
ALICE = Attachment("net1", "alice", "eth0")


def pod(number: int) -> tuple[Attachment, list[str]]:
    """Return an attachment and its addresses."""
    return Attachment("net1", f"pod{number}", "eth0"), [f"10.1.{number >> 8}.{number & 255}/16"]


def in_threads(host: Host, calls: list[Callable[[], object]]) -> list[Exception | None]:
    """Make each call in its own thread inside `host`, all started at the same moment; return the error of each."""
    barrier, failures = Barrier(len(calls)), [None] * len(calls)

    def run(place: int, call: Callable[[], object]) -> None:
        with host.inside():
            barrier.wait()
            try:
                call()
            except OSError as error:
                failures[place] = error

    threads = [Thread(target=run, args=one) for one in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Collect the sizes of the messages received meanwhile."""
    sizes: list[int] = []
    receive = Netlink._receive

    def counting(*args: object, **asked: object) -> list:
        texts = receive(*args, **asked)
        sizes.extend(len(body) for _, _, body in texts)
        return texts

    with monkeypatch.context() as patch:
        patch.setattr(Netlink, "_receive", counting)
        yield sizes


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of changes in each transaction."""
    sizes: list[int] = []
    commit = messages.commit

    def counting(*args: object, changes: int, **options: object) -> None:
        commit(*args, changes=changes, **options)
        sizes.append(changes)

    monkeypatch.setattr(messages, "commit", counting)
    return sizes


# -- joined changes -------------------------------------------------------------------------------------------------


def test_concurrent_changes_are_joined(node: Node, carried: list[int]) -> None:
    """A hundred concurrent ADDs, and then their DELs, all succeed in a few transactions."""
    pods = [pod(number) for number in range(2, 102)]
    assert in_threads(node, [partial(masquerade.ensure, *one) for one in pods]) == [None] * 100
    assert [on(node, masquerade.problems, *one) for one in pods] == [[]] * 100
    assert sum(carried) == 100
    assert len(carried) < 50
    assert in_threads(node, [partial(masquerade.delete, *one) for one in pods]) == [None] * 100
    assert "pod" not in table(node, TABLE).replace("pods", "")
    assert "subnet-" not in table(node, TABLE)


def test_a_refused_change_does_not_affect_others(node: Node) -> None:
    """If the kernel refuses one of many joined changes, only that one fails, with its own error."""
    on(node, masquerade.ensure, *pod(2))
    wrong = [Element("pods4", bytes([10, 1, 9, 9]), "v1:net1:wrong:eth0", "no-such-chain")]
    refused = partial(pod_table.put, masquerade.TABLE, [], wrong, is_stale=lambda _: False, terms=set())
    pods = [pod(number) for number in range(3, 43)]
    calls = [partial(masquerade.ensure, *one) for one in pods]
    failures = in_threads(node, [*calls[:20], refused, *calls[20:]])
    (failure,) = [each for each in failures if each]
    assert failures.index(failure) == 20
    assert "add an element to set pods4" in str(failure)
    assert [on(node, masquerade.problems, *one) for one in pods] == [[]] * 40
    assert "wrong" not in table(node, TABLE)


def test_a_callback_that_raises_does_not_affect_others(node: Node) -> None:
    """A callback that raises fails its own caller, and its changes are discarded."""

    def decide(transaction: transactions.Transaction) -> None:
        pod_table.put_into(transaction, masquerade.TABLE, [], [], is_stale=lambda _: True, terms={b"v1:net1:pod2:eth0"})
        raise NetlinkError(5, "changed its mind")

    on(node, masquerade.ensure, *pod(2))
    pods = [pod(number) for number in range(3, 23)]
    failures = in_threads(
        node, [partial(transactions.change, decide), *(partial(masquerade.ensure, *one) for one in pods)]
    )
    assert str(failures[0]).endswith("changed its mind")
    assert failures[1:] == [None] * 20
    assert [on(node, masquerade.problems, *one) for one in [pod(2), *pods]] == [[]] * 21


def test_changes_committed_one_by_one_fail_separately(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """If three changes cannot be joined and the third finds no free descriptor, only the third fails."""
    requests = GroupCommit(transactions.Session().perform)

    def adding(name: str) -> Callable[[transactions.Transaction], None]:
        return lambda transaction: transaction.add_alone(
            [messages.add_table(messages.TableName(messages.INET, name), "")]
        )

    def starve(transaction: transactions.Transaction) -> None:
        adding("third")(transaction)
        monkeypatch.setattr(transactions, "Netlink", refuse)
        raise OSError(5, "the socket broke")

    def refuse(_protocol: int) -> None:
        raise OSError(24, "Too many open files")

    begun, all_wait = Event(), Event()

    def begin(_: transactions.Transaction) -> None:
        begun.set()
        all_wait.wait()

    with ThreadPoolExecutor(4) as threads:
        submitted = [threads.submit(on, node, requests.submit, begin)]
        begun.wait()
        for number, decide in enumerate((adding("first"), adding("second"), starve), 1):
            submitted.append(threads.submit(on, node, requests.submit, decide))
            while requests.waiting < number:
                time.sleep(0.001)
        all_wait.set()
        assert [str(each.exception() or "") for each in submitted] == ["", "", "", "[Errno 24] Too many open files"]
    assert node.run(["nft", "list", "tables"]).stdout.split("\n") == ["table inet first", "table inet second", ""]


def test_a_callback_that_raises_keeps_the_socket(node: Node) -> None:
    """Otherwise the next call would need a new socket; changes made before the callback raised are discarded."""
    sockets = []

    def decide(transaction: transactions.Transaction) -> None:
        sockets.append(transaction.netlink)
        pod_table.put_into(transaction, masquerade.TABLE, [], [], is_stale=lambda _: True, terms={b"v1:net1:pod2:eth0"})
        raise CNIError(7, "changed its mind")

    on(node, masquerade.ensure, *pod(2))
    for _ in range(2):
        with pytest.raises(CNIError, match="changed its mind"):
            on(node, transactions.change, decide)
    assert sockets[0] is sockets[1]
    on(node, masquerade.ensure, *pod(3))
    assert [on(node, masquerade.problems, *pod(number)) for number in (2, 3)] == [[], []]


def test_a_subnet_loses_its_last_pods_while_others_are_added(node: Node) -> None:
    """If the last pods of a subnet are deleted while others are added, its chain exists afterwards, with its rules."""
    for turn in range(5):
        old, new = (range(100 * turn + start, 100 * turn + start + 10) for start in (2, 20))
        for number in old:
            on(node, masquerade.ensure, *pod(number))
        deletes = [partial(masquerade.delete, *pod(number)) for number in old]
        adds = [partial(masquerade.ensure, *pod(number)) for number in new]
        assert in_threads(node, [call for pair in zip(deletes, adds, strict=True) for call in pair]) == [None] * 20
        assert [on(node, masquerade.problems, *pod(number)) for number in new] == [[]] * 10
        for number in new:
            on(node, masquerade.delete, *pod(number))


def test_a_change_within_a_change_is_an_error(node: Node) -> None:
    """A nested change would wait for itself."""
    with pytest.raises(RuntimeError, match="must not submit another"):
        on(node, transactions.change, lambda _: masquerade.ensure(*pod(2)))


# -- reads ------------------------------------------------------------------------------------------------------------


def received(node: Node, monkeypatch: pytest.MonkeyPatch, *, foreign: bool) -> tuple[list[int], list[int]]:
    """The sizes of what an ADD and a DEL read; if `foreign`, another program changes the ruleset before the DEL."""
    on(node, masquerade.ensure, *pod(60001))  # fills the cache
    with counted(monkeypatch) as added:
        on(node, masquerade.ensure, *pod(60000))
    if foreign:
        nft_program(node, "add", "table", "ip", "foreign")
        nft_program(node, "delete", "table", "ip", "foreign")
    with counted(monkeypatch) as deleted:
        on(node, masquerade.delete, *pod(60000))
    return added, deleted


@pytest.mark.parametrize("foreign", [False, True])
def test_cost_does_not_grow(node: Node, monkeypatch: pytest.MonkeyPatch, *, foreign: bool) -> None:
    """An ADD, and a DEL that knows its addresses, read the same few bytes with 5 pods as with 500."""
    sizes = []
    for first, last in ((2, 7), (7, 502)):
        for number in range(first, last):
            on(node, masquerade.ensure, *pod(number))
        sizes.append(received(node, monkeypatch, foreign=foreign))
    assert sizes[0] == sizes[1]
    assert sum(sizes[0][0]) < 200


def test_changes_by_others_are_noticed(node: Node) -> None:
    """Changes by others between two calls count: drift is repaired, and an address with a new owner is not deleted."""
    on(node, masquerade.ensure, *pod(2))
    nft_program(node, "flush", "chain", *TABLE.split(), "postrouting")
    on(node, masquerade.ensure, *pod(3))
    assert on(node, masquerade.problems, *pod(3)) == []
    assert at_once(node, [partial(masquerade.ensure, ALICE, pod(2)[1])]) == 0
    on(node, masquerade.delete, *pod(2))
    assert on(node, masquerade.problems, ALICE, pod(2)[1]) == []


def test_stale_elements_are_deleted(node: Node) -> None:
    """An owner's other address, from an ADD by another process, is deleted by the owner's next ADD and by any DEL."""
    on(node, masquerade.ensure, *pod(2))
    assert at_once(node, [partial(masquerade.ensure, ALICE, ["10.1.7.7/16"])]) == 0
    on(node, masquerade.ensure, ALICE, ["10.1.8.8/16"])
    assert "10.1.7.7" not in table(node, TABLE)
    for known in ([], ["10.1.9.9/16"], ["10.1.8.8/16", "10.1.9.9"], ["no address"]):
        on(node, masquerade.ensure, ALICE, ["10.1.8.8/16"])
        nft_program(node, "add", "table", "ip", "foreign")
        nft_program(node, "delete", "table", "ip", "foreign")
        on(node, masquerade.delete, ALICE, known)
        assert "alice" not in table(node, TABLE)


def test_the_cache_equals_the_kernels_state(node: Node) -> None:
    """After any number of our own changes, the cache equals the kernel's state."""
    chance, there = random.Random(24), set()
    for _ in range(120):
        number = chance.randrange(2, 40)
        on(node, masquerade.delete if number in there else masquerade.ensure, *pod(number))
        there ^= {number}

        def same(transaction: transactions.Transaction) -> bool:
            fresh = TableCache(transaction.netlink, masquerade.TABLE)
            known = transaction.cache(masquerade.TABLE)
            return known.rules == fresh.rules and set(known.everything()) == set(fresh.everything())

        assert on(node, transactions.change, same)


def test_sync_waits_for_transactions_under_way(node: Node) -> None:
    """While another transaction is being committed, `sync` waits for its end; it changes nothing itself."""
    name = messages.TableName(messages.INET, "large")
    nft_program(node, "-f", "-", stdin="table inet large { set s { type ipv4_addr; }; }")
    large = address_elements.of_addresses(4, [f"10.{n >> 8}.{n & 255}.1" for n in range(20_000)])

    def commit() -> None:
        with Netlink(NETLINK_NETFILTER) as netlink:
            messages.commit(netlink, list(messages.add_encoded_elements(name, "s", large)))

    def waits(seconds: float) -> bool:
        nft_program(node, "flush", "set", "inet", "large", "s")
        thread = Thread(target=on, args=(node, commit))
        with node.inside(), Netlink(NETLINK_NETFILTER) as netlink:
            thread.start()
            time.sleep(seconds)
            before = messages.generation(netlink)
            messages.sync(netlink)
            after = messages.generation(netlink)
            thread.join()
            last = messages.generation(netlink)
            messages.sync(netlink)
            assert messages.generation(netlink) == last
        return after > before

    hits = 0
    for turn in range(2000):  # on a busy machine few calls fall into the commit
        hits += waits(turn % 20 / 1000)
        if hits > 5:
            return
    pytest.fail("the transaction was never seen under way")


# -- sockets ----------------------------------------------------------------------------------------------------------


def test_each_namespace_has_its_own_session(node: Node) -> None:
    """Each namespace has its own session, so calls change their own namespace's rules; few sockets stay open."""
    hosts = [node, *(node.pod(f"pod{number}") for number in range(7))]
    before = len(os.listdir("/proc/self/fd"))
    for number, host in enumerate([*hosts, *hosts]):
        on(host, masquerade.ensure, *pod(number % len(hosts) + 2))
    for number, host in enumerate(hosts):
        assert on(host, masquerade.problems, *pod(number + 2)) == []
        others = [
            on(host, masquerade.problems, *pod(other + 2)) != [] for other in range(len(hosts)) if other != number
        ]
        assert all(others)
    assert len(os.listdir("/proc/self/fd")) <= before + 5


def test_a_broken_socket_is_replaced(node: Node) -> None:
    """The call that finds it broken fails; the next one opens a new socket."""
    on(node, masquerade.ensure, *pod(2))
    with pytest.raises(OSError, match="Bad file descriptor"):
        on(node, transactions.change, lambda transaction: transaction.netlink.close())
    on(node, masquerade.ensure, *pod(3))
    assert on(node, masquerade.problems, *pod(3)) == []

"""Changes of nftables in a process that lives on: joined, decided on what is known, each answered for itself."""

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
    """An attachment and its addresses."""
    return Attachment("net1", f"pod{number}", "eth0"), [f"10.1.{number >> 8}.{number & 255}/16"]


def in_threads(host: Host, calls: list[Callable[[], object]]) -> list[Exception | None]:
    """Make each call in a thread of its own inside `host`, all released in the same moment; how each failed."""
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
    """The sizes of the texts received meanwhile."""
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
    """How many changes each transaction has carried."""
    sizes: list[int] = []
    commit = messages.commit

    def counting(*args: object, changes: int, **options: object) -> None:
        commit(*args, changes=changes, **options)
        sizes.append(changes)

    monkeypatch.setattr(messages, "commit", counting)
    return sizes


# -- together -------------------------------------------------------------------------------------------------------


def test_what_arrives_together_is_joined(node: Node, carried: list[int]) -> None:
    """A hundred ADDs at once, and their DELs: all are done, in a few transactions."""
    pods = [pod(number) for number in range(2, 102)]
    assert in_threads(node, [partial(masquerade.ensure, *one) for one in pods]) == [None] * 100
    assert [on(node, masquerade.problems, *one) for one in pods] == [[]] * 100
    assert sum(carried) == 100
    assert len(carried) < 50
    assert in_threads(node, [partial(masquerade.delete, *one) for one in pods]) == [None] * 100
    assert "pod" not in table(node, TABLE).replace("pods", "")
    assert "subnet-" not in table(node, TABLE)


def test_one_refused_harms_nobody(node: Node) -> None:
    """Of many joined the kernel refuses one: that one fails with its own error, the others are done."""
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


def test_one_that_raises_harms_nobody(node: Node) -> None:
    """A decision that fails of itself is told to whoever asked, and nothing of it is done."""

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


def test_what_was_committed_one_by_one_has_not_failed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three that could not be joined, the third finds no descriptor: that one fails, and not those before it."""
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


def test_a_decision_against_a_change_keeps_the_socket(node: Node) -> None:
    """To close it would have the next call wait; what was decided before the refusal is forgotten."""
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


def test_last_one_out_and_first_one_in(node: Node) -> None:
    """While a subnet's last pods go, others come into it: its chain is there in the end, with its rules."""
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


def test_a_decision_makes_no_other(node: Node) -> None:
    """It would wait for itself."""
    with pytest.raises(RuntimeError, match="must not submit another"):
        on(node, transactions.change, lambda _: masquerade.ensure(*pod(2)))


# -- what is read -----------------------------------------------------------------------------------------------------


def received(node: Node, monkeypatch: pytest.MonkeyPatch, *, foreign: bool) -> tuple[list[int], list[int]]:
    """The sizes of what an ADD and a DEL read; with somebody else's change before the DEL."""
    on(node, masquerade.ensure, *pod(60001))  # whatever there was to read is known
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
    """An ADD, and a DEL that knows its addresses, read the same few bytes among 5 pods and among 500."""
    sizes = []
    for first, last in ((2, 7), (7, 502)):
        for number in range(first, last):
            on(node, masquerade.ensure, *pod(number))
        sizes.append(received(node, monkeypatch, foreign=foreign))
    assert sizes[0] == sizes[1]
    assert sum(sizes[0][0]) < 200


def test_nobody_else_is_overlooked(node: Node) -> None:
    """What others do between two calls counts: drift is repaired, an address they gave away stays away."""
    on(node, masquerade.ensure, *pod(2))
    nft_program(node, "flush", "chain", *TABLE.split(), "postrouting")
    on(node, masquerade.ensure, *pod(3))
    assert on(node, masquerade.problems, *pod(3)) == []
    assert at_once(node, [partial(masquerade.ensure, ALICE, pod(2)[1])]) == 0
    on(node, masquerade.delete, *pod(2))
    assert on(node, masquerade.problems, ALICE, pod(2)[1]) == []


def test_stale_elements_go(node: Node) -> None:
    """Another address of the same owner, from an ADD of another process, goes with the next ADD and with any DEL."""
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


def test_what_is_known_is_what_is_there(node: Node) -> None:
    """After any number of changes of our own, the cache is what the kernel holds."""
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


def test_what_is_counted_is_waited_for(node: Node) -> None:
    """While somebody's transaction is under way, `sync` waits for its end; it changes nothing itself."""
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
    for turn in range(2000):  # on a machine with other work, few looks fall into that moment
        hits += waits(turn % 20 / 1000)
        if hits > 5:
            return
    pytest.fail("the transaction was never seen under way")


# -- sockets ----------------------------------------------------------------------------------------------------------


def test_a_session_a_namespace(node: Node) -> None:
    """Calls in several namespaces change each its own rules; few sockets are kept."""
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
    """A call fails for it, the next one has a new one."""
    on(node, masquerade.ensure, *pod(2))
    with pytest.raises(OSError, match="Bad file descriptor"):
        on(node, transactions.change, lambda transaction: transaction.netlink.close())
    on(node, masquerade.ensure, *pod(3))
    assert on(node, masquerade.problems, *pod(3)) == []

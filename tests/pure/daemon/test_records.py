"""The store of records: what the reconciler gets to see of what a registry passes."""

from dataclasses import replace

import pytest

from daemon.records import Store
from nodes.registry import Entry
from plugins.node.records import Node


class Clock:
    """A clock that stands still until it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Woken:
    """Counts calls, and remembers their arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __call__(self, *arguments: object) -> None:
        self.calls.append(arguments)


def record(number: int, **keys: object) -> Node:
    """The record of the node nNUMBER."""
    return Node(f"n{number}", (f"192.0.2.{number}",), (f"10.244.{number}.0/24",), **keys)


def entry(number: int, **keys: object) -> Entry:
    """Its entry in the registry."""
    return Entry(f"n{number}", record(number, **keys))


@pytest.fixture(name="wake")
def wake_up() -> Woken:
    """What the store calls when it has something new."""
    return Woken()


@pytest.fixture(name="own")
def own_changed() -> Woken:
    """What the store calls when this node's own record has changed."""
    return Woken()


@pytest.fixture(name="store")
def store_of_node(wake: Woken, own: Woken) -> Store:
    """The store of the node n1 of the cluster "blue"."""
    return Store("n1", "blue", wake, own, clock=Clock())


def test_the_first_list_is_whole(store: Store, wake: Woken) -> None:
    """Also an empty one: before, a node that is missing may exist."""
    assert not store.is_complete
    store.replace([])
    assert store.is_complete
    assert wake.calls == [()]
    assert store.take().is_whole
    assert not store.take().is_whole


def test_the_own_record_is_apart(store: Store, own: Woken) -> None:
    """It is no other node's, and its changes are told at once."""
    store.replace([entry(1), entry(2)])
    taken = store.take()
    assert (list(taken.nodes), taken.own) == (["n2"], record(1))
    store.remove("n1")
    assert own.calls == [(record(1),), (None,)]
    assert store.take().names == frozenset()


def test_the_own_record_is_told_whenever_it_is_put(store: Store, wake: Woken, own: Woken) -> None:
    """Even if it is the same as before: it may have been another in between."""
    store.replace([entry(1)])
    store.put(entry(2))
    store.put(entry(1))
    store.replace([entry(1), entry(2)])
    assert own.calls == [(record(1),)] * 3
    assert len(wake.calls) == 2


def test_what_has_changed_is_named_once(store: Store, wake: Woken) -> None:
    """However often it has."""
    store.replace([entry(2), entry(3)])
    store.take()
    store.put(entry(3, zone="a"))
    store.put(entry(3, zone="b"))
    store.remove("n2")
    store.put(entry(4))
    taken = store.take()
    assert (taken.names, taken.is_whole) == ({"n2", "n3", "n4"}, False)
    assert taken.nodes == {"n3": record(3, zone="b"), "n4": record(4)}
    assert store.take().names == frozenset()
    assert len(wake.calls) == 5


def test_heartbeats_wake_nobody(store: Store, wake: Woken) -> None:
    """A record that is the same as before is no change, also in a complete list."""
    store.replace([entry(2)])
    store.put(entry(2))
    store.replace([entry(2)])
    assert len(wake.calls) == 1


def test_a_list_removes_what_it_lacks(store: Store) -> None:
    """As after the connection was lost."""
    store.replace([entry(2), entry(3)])
    store.take()
    store.replace([entry(3), entry(4)])
    taken = store.take()
    assert (taken.names, taken.is_whole, set(taken.nodes)) == ({"n2", "n4"}, False, {"n3", "n4"})


def test_other_clusters_are_ignored(store: Store, wake: Woken) -> None:
    """A registry may hold several; a record without a name of a cluster belongs to all."""
    store.replace([entry(2, cluster="red"), entry(3, cluster="blue"), entry(4)])
    assert set(store.take().nodes) == {"n3", "n4"}
    store.put(entry(3, cluster="red"))
    assert set(store.take().nodes) == {"n4"}


def test_a_wrong_record_is_told_and_its_node_gone(store: Store) -> None:
    """The others stay; it is usable again when it is right."""
    store.replace([entry(2), entry(3)])
    store.take()
    store.put(Entry("n2", None, "expected a JSON object"))
    taken = store.take()
    assert (taken.names, set(taken.nodes)) == ({"n2"}, {"n3"})
    assert store.counts().wrong == ("record n2: expected a JSON object",)
    store.put(entry(2))
    assert store.counts().wrong == ()
    assert set(store.take().nodes) == {"n2", "n3"}


def test_a_new_record_that_is_wrong_wakes_whoever_tells(store: Store, wake: Woken) -> None:
    """Once."""
    store.replace([])
    woken = len(wake.calls)
    for _ in range(2):
        store.put(Entry("n9", None, "no JSON"))
    assert len(wake.calls) == woken + 1


def test_a_record_whose_last_content_is_used_is_told(store: Store) -> None:
    """As that of a file which cannot be parsed any more; until it is right again."""
    store.replace([entry(2)])
    store.take()
    store.put(Entry("n2", record(2), "n2.json: it is empty"))
    assert store.counts().wrong == ("record n2: n2.json: it is empty",)
    assert store.take().nodes == {"n2": record(2)}
    store.put(entry(2))
    assert store.counts().wrong == ()
    store.replace([Entry("n2", record(2), "n2.json: it is empty")])
    assert store.counts().wrong == ("record n2: n2.json: it is empty",)


def test_of_two_records_with_one_name_the_first_is_used(store: Store) -> None:
    """And the other one, when the first is gone."""
    twin = replace(record(2), addresses=("192.0.2.22",))
    store.replace([Entry("a", record(2)), Entry("b", twin)])
    assert store.take().nodes == {"n2": record(2)}
    assert store.counts().wrong == ('record b: record a has the name "n2" too',)
    store.remove("a")
    taken = store.take()
    assert (taken.nodes, taken.names) == ({"n2": twin}, {"n2"})
    assert store.counts().wrong == ()


def test_a_lost_registry_keeps_the_records(store: Store) -> None:
    """And it is known for how long; any other call ends that."""
    clock = store._clock
    store.replace([entry(2)])
    clock.now = 110.0
    store.lost("refused")
    clock.now = 150.0
    store.lost("timed out")
    counts = store.counts()
    assert (counts.lost_seconds, counts.why, counts.known) == (40.0, "timed out", 1)
    store.alive()
    assert (store.counts().lost_seconds, store.counts().why) == (0.0, "")

"""The store of records, with whatever a registry passes: who follows the named changes knows all records."""

from hypothesis import given
from hypothesis import strategies as st

from daemon.records import Store
from nodes.registry import Entry
from plugins.node.records import Node
from tests.pure.daemon.test_records import Clock

KEYS = st.sampled_from(["a", "b", "c", "d"])
NODES = st.builds(
    Node,
    name=st.sampled_from(["", "a", "b", "me"]),
    addresses=st.just(()),
    subnets=st.just(()),
    zone=st.sampled_from(["x", "y"]),
    cluster=st.sampled_from(["", "blue", "red"]),
)
ENTRIES = st.builds(lambda key, node: Entry(key, node, "" if node else "wrong"), KEYS, st.none() | NODES)
CALLS = st.one_of(
    st.tuples(st.just("put"), ENTRIES),
    st.tuples(st.just("remove"), KEYS),
    st.tuples(st.just("replace"), st.lists(ENTRIES, unique_by=lambda entry: entry.key)),
    st.tuples(st.just("take"), st.none()),
)


@given(st.lists(CALLS, max_size=30))
def test_named_changes_add_up_to_all_records(calls: list[tuple[str, object]]) -> None:
    """And the records are those of the last entries, one per name, of this cluster, without this node's own."""
    store, entries, copy = Store("me", "blue", lambda: None, clock=Clock()), {}, {}

    def follow() -> dict[str, Node]:
        taken = store.take()
        for name in taken.nodes.keys() | copy.keys() if taken.is_whole else taken.names:
            copy.pop(name, None)
            if name in taken.nodes:
                copy[name] = taken.nodes[name]
        assert copy == taken.nodes
        return taken.nodes

    for call, argument in calls:
        if call == "take":
            follow()
            continue
        getattr(store, call)(argument)
        if call == "put":
            entries[argument.key] = argument
        elif call == "remove":
            entries.pop(argument, None)
        else:
            entries = {entry.key: entry for entry in argument}
    usable = {entry.key: entry.node for entry in entries.values() if entry.node and entry.node.cluster != "red"}
    names = {node.name or key for key, node in usable.items()} - {"me"}
    found = follow()
    assert set(found) == names
    assert all(node in usable.values() for node in found.values())

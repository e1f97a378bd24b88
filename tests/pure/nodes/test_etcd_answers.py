"""What an etcd answers, or whatever else answers in its place."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as some

from nodes.etcd.answers import (
    Compacted,
    EndpointError,
    Refused,
    encoded,
    end_of,
    read_batch,
    read_object,
    read_pairs,
    read_refusal,
)

KEYS = ("result", "kvs", "kv", "events", "type", "header", "revision", "mod_revision", "lease", "key", "value")
KEYS += ("canceled", "compact_revision", "cancel_reason", "error", "code", "message")
anything = some.recursive(
    some.none() | some.booleans() | some.integers() | some.text(max_size=9) | some.just("YQ=="),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)
answers = some.dictionaries(some.sampled_from(KEYS), anything, max_size=5)


@given(answers)
def test_any_json_is_an_answer_or_an_error(answer: dict) -> None:
    """Nothing else is raised, whatever the JSON is."""
    for read in (read_pairs, read_batch):
        with suppress(EndpointError, Refused, Compacted):
            read(answer)
    assert isinstance(read_refusal(answer, 500), EndpointError | Refused | Compacted)


@given(some.binary(max_size=50))
def test_any_bytes_are_an_object_or_an_error(text: bytes) -> None:
    """As from a proxy, or a server of something else."""
    with suppress(EndpointError):
        assert isinstance(read_object(text), dict)


@given(some.text(max_size=9).map(lambda text: text.encode(errors="replace").decode()), some.binary(max_size=20))
def test_keys_and_values(key: str, value: bytes) -> None:
    """Are read as they were written; a key need not be UTF-8."""
    (pair,) = read_pairs({"kvs": [{"key": encoded(key), "value": json.loads(json.dumps(encoded("x")))}]})
    assert (pair.key, pair.value) == (key, b"x")
    odd = value.decode(errors="surrogateescape")
    assert read_pairs({"kvs": [{"key": encoded(odd)}]})[0].key == odd


def test_the_end_of_a_prefix() -> None:
    """Is the first key that does not begin with it."""
    assert end_of("/slash24/nodes/") == encoded("/slash24/nodes0")


def test_a_batch() -> None:
    """Has the revision of its last event: what the header says may be later."""
    events = [
        {"kv": {"key": encoded("/a"), "value": "YQ==", "mod_revision": "7", "create_revision": "5", "lease": "9"}},
        {"type": "DELETE", "kv": {"key": encoded("/b"), "mod_revision": "8"}},
    ]
    batch = read_batch({"result": {"header": {"revision": "20"}, "events": events}})
    assert batch.revision == 8
    (first, pair), second = batch.events
    assert (first, pair.value, pair.lease, pair.created) == ("/a", b"a", 9, 5)
    assert second == ("/b", None)
    assert read_batch({"result": {"header": {"revision": "20"}, "created": True}}).revision == 0


def test_the_end_of_a_watch() -> None:
    """Because of compaction, or of a token that has expired, or of anything else."""
    with pytest.raises(Compacted):
        read_batch({"result": {"canceled": True, "compact_revision": "2"}})
    reason = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
    with pytest.raises(Refused, match="has ended the watch: .*invalid auth token") as caught:
        read_batch({"result": {"canceled": True, "cancel_reason": reason}})
    assert caught.value.wants_token
    with pytest.raises(EndpointError, match="no leader"):
        read_batch({"error": {"grpc_code": 14, "message": "etcdserver: no leader"}})


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"error": "etcdserver: permission denied", "code": 7}, Refused),
        ({"message": "etcdserver: no leader", "code": 14}, EndpointError),
        ({"message": "etcdserver: mvcc: required revision has been compacted", "code": 11}, Compacted),
        ({}, EndpointError),
        ("Bad Gateway", EndpointError),
    ],
)
def test_errors(answer: object, kind: type) -> None:
    """Those that another endpoint may not have are told from those that all would answer."""
    assert type(read_refusal(answer, 502)) is kind

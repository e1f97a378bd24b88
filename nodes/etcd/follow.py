"""Following all keys below a prefix, through lost connections, servers that hang, and compactions."""

from collections.abc import Callable
from threading import Event

from nodes.backoff import Backoff
from nodes.etcd.answers import Compacted, KeyValue
from nodes.etcd.client import Client
from nodes.registry import Entry, RegistryError, Sink


def follow(client: Client, prefix: str, sink: Sink, read: Callable[[str, KeyValue], Entry], closed: Event) -> None:
    """Pass all keys below `prefix`, and then every change, to `sink` until `closed` is set.

    `read`: the entry for a key, without the prefix, and its value.
    """
    pause, revision = Backoff(), 0
    while not closed.is_set():
        try:
            if not revision:
                found, revision = client.list_keys(prefix)
                sink.replace(read(_name(pair.key, prefix), pair) for pair in found)
            for batch in client.watch(prefix, revision):
                pause.reset()
                for key, pair in batch.events:
                    name = _name(key, prefix)
                    if pair is None:
                        sink.remove(name)
                    else:
                        sink.put(read(name, pair))
                if not batch.events:
                    sink.alive()
                revision = max(revision, batch.revision)
        except Compacted:
            revision = 0
            closed.wait(pause.next())
        except RegistryError as error:
            if not closed.is_set():
                sink.lost(str(error))
                closed.wait(pause.next())


def _name(key: str, prefix: str) -> str:
    """The key without the prefix; what is not UTF-8 is replaced, because it gets into messages."""
    return key.removeprefix(prefix).encode(errors="surrogateescape").decode(errors="replace")

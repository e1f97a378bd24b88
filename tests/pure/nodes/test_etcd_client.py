"""The client of etcd, with servers that are not what they should be."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from nodes.etcd import client as etcd
from nodes.etcd.client import Client
from nodes.etcd.conf import parse
from nodes.registry import RegistryError
from spec.config import Section

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
FOUND = b'{"header":{"revision":"5"},"kvs":[{"key":"L2E=","value":"Yg=="}],"count":"1"}'


def whole(body: bytes, head: bytes = OK) -> Callable[[socket.socket], None]:
    """Answers every request with that."""
    return lambda connection: connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)


def endless(pause: float, part: bytes) -> Callable[[socket.socket], None]:
    """Answers with a body that never ends, a part after every pause."""

    def send(connection: socket.socket) -> None:
        connection.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"%x\r\n%b\r\n" % (len(part), part))
            time.sleep(pause)

    return send


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server on the loopback; its host and port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while connection.recv(65536):
                answer(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def connected(*hosts: str) -> Iterator[Client]:
    """A client that begins with the first of the hosts."""
    with closing(Client(parse(f"etcd://{','.join(hosts)}", Section({}), ""))) as made:
        yield made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client begins with the first endpoint, and gives up sooner than in earnest."""
    monkeypatch.setattr(etcd, "randrange", lambda _: 0)
    monkeypatch.setattr(etcd, "_PATIENCE", 0.3)
    monkeypatch.setattr(etcd, "_LONGEST", 0.5)
    monkeypatch.setattr(etcd, "_LARGEST", 100_000)


WRONG = {
    "a page": (whole(b"<html>It works!</html>"), "does not answer as etcd's JSON gateway does"),
    "a list": (whole(b"[]"), "does not answer as etcd's JSON gateway does"),
    "other keys": (whole(b'{"kvs":{"a":1}}'), '"kvs" that is no list of objects'),
    "nonsense in keys": (whole(b'{"kvs":[{"key":"?"}]}'), "not base64"),
    "an error page": (whole(b"Bad Gateway", b"HTTP/1.1 502 Bad\r\n"), "does not answer as etcd"),
    "a redirection": (whole(b"{}", b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n"), "HTTP status 302"),
    "silence": (lambda _: time.sleep(2), "no answer within 0.3 s"),
    "no more": (lambda connection: connection.close(), "disconnected|Bad file descriptor|reset"),
    "no HTTP": (lambda connection: connection.sendall(b"\x16\x03\x01\r\n\r\n"), "."),
    "drops": (endless(0.1, b" "), "for more than 0.5 s"),
    "a flood": (endless(0, b" " * 50_000), "sends more than 100000 bytes"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_another_endpoint_answers_in_its_place(kind: str) -> None:
    """Whatever is wrong with the first one; alone, it is an error that says what."""
    answer, why = WRONG[kind]
    with server(answer) as wrong, server(whole(FOUND)) as right:
        with connected(wrong, right) as client:
            assert client.get("/a").value == b"b"
        with connected(wrong) as client, pytest.raises(RegistryError, match=f"etcd cannot be reached: .*({why})"):
            client.get("/a")


@pytest.mark.parametrize("kind", WRONG)
def test_a_watch_of_nonsense_is_an_error(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or ends, if nothing arrives."""
    monkeypatch.setattr(etcd, "_SILENCE", 0.3)
    with server(WRONG[kind][0]) as wrong, connected(wrong) as client:
        deadline = threading.Timer(3, client.close)  # drops of white space are no message, and no error
        deadline.start()
        with suppress(RegistryError):
            for batch in client.watch("/a", 1):
                assert not batch.events
        deadline.cancel()


def test_a_list_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is an error after a number of pages."""
    monkeypatch.setattr(etcd, "_MOST_PAGES", 3)
    refused = pytest.raises(RegistryError, match='too many keys that begin with "/a"')
    with server(whole(FOUND[:-1] + b',"more":true}')) as hostile, connected(hostile) as client, refused:
        client.list_keys("/a")


def test_a_client_that_is_closed() -> None:
    """Refuses requests."""
    with connected("127.0.0.1:1") as client:
        client.close()
        with pytest.raises(RegistryError, match="has been closed"):
            client.get("/a")

"""Our small D-Bus client, compared with a library."""

import socket
import threading
from pathlib import Path

import pytest
from jeepney import HeaderFields, Parser, new_error, new_method_return, new_signal
from jeepney.bus_messages import message_bus

from linux import dbus
from linux.firewalld import NAME, holds_source

CALLS = {"Hello": message_bus.Hello(), "NameHasOwner": message_bus.NameHasOwner(NAME)}


def serve(path: Path, answers: bytes, *, chunk: int, received: bytearray) -> threading.Thread:
    """A bus at this path that sends `answers` to its first client, `chunk` bytes at a time, and disconnects."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def talk() -> None:
        with listener, listener.accept()[0] as connection:
            received.extend(connection.recv(4096))
            for at in range(0, len(answers), chunk):
                connection.send(answers[at : at + chunk])
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(4096):
                received.extend(data)

    thread = threading.Thread(target=talk)
    thread.start()
    return thread


def reply(serial: int, method: str, signature: str, body: tuple, *, fails: bool = False) -> bytes:
    """The bus's reply to a call."""
    call = Parser().feed(CALLS[method].serialise(serial))[0]
    made = new_error(call, "a.b", signature, body) if fails else new_method_return(call, signature, body)
    made.header.fields[HeaderFields.sender] = "org.freedesktop.DBus"
    return made.serialise(serial)


LOGIN = b"DATA\r\nOK 0123456789abcdef\r\n"
HELLO = reply(1, "Hello", "s", (":1.7",))
ACQUIRED = new_signal(message_bus, "NameAcquired", "s", (":1.7",)).serialise(9)


@pytest.mark.parametrize("chunk", [1, 7, 4096])
@pytest.mark.parametrize(
    ("answers", "is_there"),
    [
        (LOGIN + HELLO + ACQUIRED + reply(2, "NameHasOwner", "b", (True,)), True),
        (LOGIN + HELLO + ACQUIRED + reply(2, "NameHasOwner", "b", (False,)), False),
        (LOGIN + HELLO + reply(2, "NameHasOwner", "s", ("no",), fails=True), False),
        (LOGIN + HELLO, False),
        (LOGIN, False),
        (b"REJECTED EXTERNAL\r\nERROR\r\n", False),
        (b"", False),
    ],
)
def test_has_service_returns_what_the_bus_replies(tmp_path: Path, answers: bytes, is_there: bool, chunk: int) -> None:
    """Other messages and any fragmentation are tolerated; without a reply there is no service."""
    bus = serve(tmp_path / "bus", answers, chunk=chunk, received=bytearray())
    assert dbus.has_service(NAME, f"unix:path={tmp_path}/bus") is is_there
    bus.join()


def test_calls_are_encoded_as_by_the_library(tmp_path: Path) -> None:
    """Byte for byte, after the authentication."""
    received = bytearray()
    answers = LOGIN + HELLO + reply(2, "NameHasOwner", "b", (True,))
    bus = serve(tmp_path / "bus", answers, chunk=4096, received=received)
    assert dbus.has_service(NAME, f"unix:path={tmp_path}/bus")
    bus.join()
    _, _, calls = received.partition(b"BEGIN\r\n")
    assert calls == CALLS["Hello"].serialise(1) + CALLS["NameHasOwner"].serialise(2)


@pytest.mark.parametrize(
    "address", ["unix:path=/nonexistent/bus", "tcp:host=localhost,port=1", "unix:guid=7", "x", ";"]
)
def test_without_a_bus_there_is_no_service(address: str) -> None:
    """An invalid address is not an error either: some nodes have no D-Bus."""
    assert dbus.has_service(NAME, address) is False


@pytest.mark.parametrize(
    ("network", "source", "holds"),
    [
        ("10.1.2.0/24", "10.1.2.5/32", True),
        ("10.1.3.0/24", "10.1.2.5/32", False),
        ("10.1.2.5", "10.1.2.5/32", True),
        ("0.0.0.0/0", "10.1.2.5/32", True),
        ("fd00:1::/64", "fd00:1::5/128", True),
        ("fd00:2::/64", "fd00:1::5/128", False),
        ("::/0", "10.1.2.5/32", False),
        ("00:11:22:33:44:55", "10.1.2.5/32", False),
        ("ipset:pods", "fd00:1::5/128", False),
        ("10.1.2.0/x", "10.1.2.5/32", False),
    ],
)
def test_sources_that_contain_an_address(network: str, source: str, holds: bool) -> None:
    """Networks do; MACs and ipsets, which a zone may have too, are skipped."""
    assert holds_source(network, source) is holds

"""The D-Bus system bus: connects, and queries whether a service has an owner.

This small part of the protocol (D-Bus Specification 0.43) needs no library, whose import takes 10 ms: every call of
`firewall` makes the query, and the answer is nearly always "no".
"""

import socket
import struct
import sys
from contextlib import suppress

SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"

_BUS, _BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
_LOGIN = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"  # the bus gets our user ID from the kernel
_SECONDS = 5.0  # for an answer of the bus, even on a busy node
_CALL, _RETURN, _ERROR = 1, 2, 3
_ORDER = b"l" if sys.byteorder == "little" else b"B"
_HEADER, _CHUNK = 16, 4096


def connect(address: str = "", seconds: float = _SECONDS) -> tuple[socket.socket, bytes]:
    """An authenticated connection, on which serial 1 is used, and the bytes of messages received so far.

    `address`: as in DBUS_SYSTEM_BUS_ADDRESS, "" for the default. `seconds`: timeout of every read. Raises OSError.
    """
    bus = socket.socket(socket.AF_UNIX)
    try:
        bus.settimeout(seconds)
        bus.connect(_path(address or SYSTEM_BUS))
        bus.sendall(_LOGIN + _call(1, "Hello"))
        data = b""
        while data.count(b"\r\n") < 2:
            data += receive(bus)
        _, state, rest = data.split(b"\r\n", 2)
        if not state.startswith(b"OK"):
            raise ConnectionRefusedError(f"the bus refused the authentication: {state.decode(errors='replace')}")
    except BaseException:
        bus.close()
        raise
    return bus, rest


def receive(bus: socket.socket) -> bytes:
    """Read what has arrived, at least one byte. Raises OSError."""
    data = bus.recv(_CHUNK)
    if not data:
        raise ConnectionResetError("the bus closed the connection")
    return data


def has_service(name: str, address: str = "") -> bool:
    """Whether the name has an owner on the bus; False if there is no bus, or it does not answer."""
    with suppress(OSError):
        bus, data = connect(address)
        with bus:
            bus.sendall(_call(2, "NameHasOwner", name))
            answers = 0
            while True:
                kind, body, data = _message(bus, data)
                answers += kind in (_RETURN, _ERROR)
                if answers == 2:
                    return kind == _RETURN and any(body)
    return False


def _path(address: str) -> str:
    """The path of the first unix socket in an address. Raises OSError."""
    for each in address.split(";"):
        transport, _, keys = each.partition(":")
        for key, _, value in (pair.partition("=") for pair in keys.split(",")):
            if transport == "unix" and key in ("path", "abstract"):
                return value if key == "path" else f"\0{value}"
    raise ConnectionRefusedError(f"not the address of a unix socket: {address}")


def _message(bus: socket.socket, data: bytes) -> tuple[int, bytes, bytes]:
    """Type and body of the next message, and the bytes received after it."""
    while len(data) < _HEADER or len(data) < sum(_lengths(data)):
        data += receive(bus)
    header, body = _lengths(data)
    return data[1], data[header : header + body], data[header + body :]


def _lengths(data: bytes) -> tuple[int, int]:
    """The lengths of header and body of a message."""
    order = "<" if data[:1] == b"l" else ">"
    body, _, fields = struct.unpack_from(f"{order}III", data, 4)
    return _HEADER + _aligned(fields), body


def _call(serial: int, method: str, *arguments: str) -> bytes:
    """A method call to the bus itself, with string arguments."""
    body = b"".join(_string(each) for each in arguments)
    fields = [(1, "o", _BUS_PATH), (2, "s", _BUS), (3, "s", method), (6, "s", _BUS)]
    header = b""
    for number, kind, value in fields:
        header += (
            bytes(-len(header) % 8) + struct.pack("=B3s", number, b"\x01" + kind.encode() + b"\0") + _string(value)
        )
    if arguments:
        signature = "s" * len(arguments)
        header += (
            bytes(-len(header) % 8) + struct.pack("=B3sB", 8, b"\x01g\0", len(signature)) + signature.encode() + b"\0"
        )
    start = _ORDER + struct.pack("=BBBIII", _CALL, 0, 1, len(body), serial, len(header))
    return start + header + bytes(-len(header) % 8) + body


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("=I", len(raw)) + raw + b"\0"


def _aligned(length: int) -> int:
    return length + -length % 8

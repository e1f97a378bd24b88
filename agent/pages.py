"""GET /healthz, /readyz and /metrics, on a unix socket or a loopback port."""

import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from socketserver import BaseServer, TCPServer, ThreadingMixIn, UnixStreamServer
from threading import Lock, Thread

from agent import wire
from agent.endpoint import bind
from agent.options import split_address

_SECONDS = 2.0
_AT_ONCE = 8

Page = Callable[[], tuple[int, str, bytes]]
"""Gives status, content type and body."""


class Pages:
    """The server of the pages, in threads of its own."""

    def __init__(self, where: str, pages: dict[str, Page]) -> None:
        """`where`: a path or HOST:PORT; `pages` by path. Raises OSError if it can not listen there."""
        self._server = _unix_server(where, pages) if where.startswith("/") else _tcp_server(where, pages)
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()

    @property
    def address(self) -> object:
        """Where it listens."""
        return self._server.server_address

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def answer_json(status: int, document: dict) -> tuple[int, str, bytes]:
    """A page of JSON."""
    return status, "application/json", json.dumps(document).encode() + b"\n"


def greets(path: str) -> str:
    """ "" if an agent greets whoever connects to the socket at `path`, else what is wrong."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(_SECONDS)
        try:
            caller.connect(path)
            magic = caller.recv(len(wire.MAGIC), socket.MSG_WAITALL)
        except OSError as error:
            return f"{path}: {error.strerror or error}"
    return "" if magic == wire.MAGIC else f"{path}: no greeting"


def _handler(pages: dict[str, Page]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers GET and HEAD."""

        timeout = _SECONDS
        server_version, sys_version = "slash24", ""

        def do_GET(self) -> None:
            self.server.settle(self.request)
            page = pages.get(self.path.partition("?")[0])
            status, kind, body = page() if page else answer_json(404, {"pages": sorted(pages)})
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                with suppress(OSError):
                    self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """The log is about calls."""

    return Handler


class _Bounded(ThreadingMixIn):
    """Keeps those who connect and say little, or nothing, from keeping others out: any local user can connect.

    A connection has so many seconds for its request. Where there are too many, the oldest without one makes room.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        self._waiting: dict[socket.socket, float] = {}  # since when for a request, the oldest first
        self._answering: set[socket.socket] = set()
        self._guard = Lock()

    def process_request(self, request: socket.socket, client_address: object) -> None:
        """Take a connection on."""
        with self._guard:
            while self._waiting and len(self._waiting) + len(self._answering) >= _AT_ONCE:
                self._break_off(next(iter(self._waiting)))
            is_full = len(self._answering) >= _AT_ONCE
            if not is_full:
                self._waiting[request] = time.monotonic()
        if is_full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def settle(self, request: socket.socket) -> None:
        """The request is there."""
        with self._guard:
            if self._waiting.pop(request, None):
                self._answering.add(request)

    def shutdown_request(self, request: socket.socket) -> None:
        """It is over."""
        with self._guard:
            self._waiting.pop(request, None)
            self._answering.discard(request)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called every now and then."""
        with self._guard:
            for request in [each for each, since in self._waiting.items() if time.monotonic() - since > _SECONDS]:
                self._break_off(request)

    def handle_error(self, *_: object) -> None:
        """A caller that hangs up is its own affair."""

    def _break_off(self, request: socket.socket) -> None:
        del self._waiting[request]
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)  # its thread finds the end, and closes it


class _Unix(_Bounded, UnixStreamServer):
    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, _ = super().get_request()
        connection.settimeout(_SECONDS)
        return connection, ("local", 0)


class _TCP(_Bounded, TCPServer):
    allow_reuse_address = True

    def server_bind(self) -> None:
        """Beside the agent that is being replaced, which has the port as well until it ends."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()


def _unix_server(path: str, pages: dict[str, Page]) -> BaseServer:
    server = _Unix(path, _handler(pages), bind_and_activate=False)
    server.socket.close()
    server.socket = bind(path).listener
    server.server_address = os.path.abspath(path)
    return server


def _tcp_server(where: str, pages: dict[str, Page]) -> BaseServer:
    family, host, port = split_address(where)
    server = _TCP((host, port), _handler(pages), bind_and_activate=False)
    if family != server.address_family:
        server.socket.close()
        server.address_family = family
        server.socket = socket.socket(family, socket.SOCK_STREAM)
    try:
        server.server_bind()
        server.server_activate()
    except BaseException:
        server.server_close()
        raise
    return server

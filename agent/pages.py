"""An HTTP server for a few pages, on a Unix socket or a loopback port."""

import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from socketserver import BaseServer, TCPServer, ThreadingMixIn, UnixStreamServer
from threading import Lock, Thread

from agent.listener import bind
from agent.options import split_address

AT_ONCE = 8
"""How many connections are open at a time."""

Page = Callable[[], tuple[int, str, bytes]]
"""Returns status, content type and body."""


class Pages:
    """The server, in threads of its own."""

    def __init__(self, where: str, pages: dict[str, Page], *, seconds: float = 2.0) -> None:
        """`where`: a path or HOST:PORT; `pages` by path; `seconds`: for a request. Raises OSError."""
        handler = _handler(pages, seconds)
        self._server = _unix_server(where, handler) if where.startswith("/") else _tcp_server(where, handler)
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()

    @property
    def address(self) -> object:
        """Where it listens."""
        return self._server.server_address

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def json_page(status: int, document: dict) -> tuple[int, str, bytes]:
    """A page with a JSON document."""
    return status, "application/json", json.dumps(document).encode() + b"\n"


def _handler(pages: dict[str, Page], seconds: float) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Serves GET and HEAD."""

        timeout = seconds
        server_version, sys_version = "slash24", ""

        def do_GET(self) -> None:
            self.server.on_request(self.request)
            page = pages.get(self.path.partition("?")[0])
            status, kind, body = page() if page else json_page(404, {"pages": sorted(pages)})
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                with suppress(OSError):
                    self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Requests for pages are not logged."""

    return Handler


class _Bounded(ThreadingMixIn):
    """Limits connections that send little or nothing, so that they do not shut out others: any local user can connect.

    A connection has a few seconds for its request. If too many are open, the oldest without a request is closed.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        self._waiting: dict[socket.socket, float] = {}  # without a request, since when; the oldest first
        self._answering: set[socket.socket] = set()
        self._guard = Lock()

    def process_request(self, request: socket.socket, client_address: object) -> None:
        """Accept a connection."""
        with self._guard:
            while self._waiting and len(self._waiting) + len(self._answering) >= AT_ONCE:
                self._break_off(next(iter(self._waiting)))
            is_full = len(self._answering) >= AT_ONCE
            if not is_full:
                self._waiting[request] = time.monotonic()
        if is_full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def on_request(self, request: socket.socket) -> None:
        """The connection has sent its request."""
        with self._guard:
            if self._waiting.pop(request, None):
                self._answering.add(request)

    def shutdown_request(self, request: socket.socket) -> None:
        """Close a connection."""
        with self._guard:
            self._waiting.pop(request, None)
            self._answering.discard(request)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called periodically: close the connections whose time is over."""
        with self._guard:
            for request in [
                each
                for each, since in self._waiting.items()
                if time.monotonic() - since > self.RequestHandlerClass.timeout
            ]:
                self._break_off(request)

    def handle_error(self, *_: object) -> None:
        """Callers that hang up are not reported."""

    def _break_off(self, request: socket.socket) -> None:
        del self._waiting[request]
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)  # its thread reads the end, and closes it


class _Unix(_Bounded, UnixStreamServer):
    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, _ = super().get_request()
        connection.settimeout(self.RequestHandlerClass.timeout)
        return connection, ("local", 0)


class _TCP(_Bounded, TCPServer):
    allow_reuse_address = True

    def server_bind(self) -> None:
        """Bind beside the agent that is being replaced, which has the port until it ends."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()


def _unix_server(path: str, handler: type[BaseHTTPRequestHandler]) -> BaseServer:
    server = _Unix(path, handler, bind_and_activate=False)
    server.socket.close()
    server.socket = bind(path).socket
    server.server_address = os.path.abspath(path)
    return server


def _tcp_server(where: str, handler: type[BaseHTTPRequestHandler]) -> BaseServer:
    family, host, port = split_address(where)
    server = _TCP((host, port), handler, bind_and_activate=False)
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

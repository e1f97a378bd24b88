"""A small API server, on a free port of the loopback: lists in pages, and watches, of whatever a test puts into it."""

import json
import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from nodes.registries.kubernetes.access import Access
from policy.sources.kubernetes import RESOURCES

PATHS = {each.kind: each.path for each in RESOURCES}


class FakeApi:
    """Objects by path and key, as the JSON of each; `errors`: the status with which a path is answered."""

    def __init__(self) -> None:
        self.version = 1
        self.objects: dict[str, dict[tuple[str, str], bytes]] = {path: {} for path in PATHS.values()}
        self.errors: dict[str, int] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self._lock = threading.RLock()
        self._watches: dict[str, list[queue.SimpleQueue]] = {path: [] for path in PATHS.values()}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def put(self, kind: str, value: dict) -> None:
        """Create or replace an object."""
        path = PATHS[kind]
        with self._lock:
            self.version += 1
            meta = {**value.get("metadata", {}), "resourceVersion": str(self.version)}
            text = json.dumps({**value, "metadata": meta}, separators=(",", ":")).encode()
            key = (meta.get("namespace", ""), meta["name"])
            event = "MODIFIED" if key in self.objects[path] else "ADDED"
            self.objects[path][key] = text
            self._send(path, event, text)

    def delete(self, kind: str, name: str, namespace: str = "") -> None:
        """Delete an object."""
        with self._lock:
            self.version += 1
            self._send(PATHS[kind], "DELETED", self.objects[PATHS[kind]].pop((namespace, name)))

    def fail(self, kind: str, status: int) -> None:
        """Answer all requests for a kind with an error from now on, 0: no longer; end its watches."""
        with self._lock:
            self.errors[PATHS[kind]] = status
            self.end(kind)

    def end(self, kind: str, line: bytes = b"") -> None:
        """End the watches of a kind, with a last line."""
        with self._lock:
            for each in self._watches[PATHS[kind]]:
                if line:
                    each.put(line)
                each.put(None)
            self._watches[PATHS[kind]].clear()

    def watchers(self, kind: str) -> int:
        """How many watches of a kind there are."""
        with self._lock:
            return len(self._watches[PATHS[kind]])

    def close(self) -> None:
        """End it."""
        for kind in PATHS:
            self.end(kind)
        self._server.shutdown()
        self._server.server_close()

    def page(self, path: str, limit: int, start: int) -> bytes:
        """A page of a list."""
        with self._lock:
            items = list(self.objects[path].values())
        following = str(start + limit) if start + limit < len(items) else ""
        head = json.dumps({"resourceVersion": str(self.version), "continue": following}).encode()
        return b'{"metadata":%b,"items":[%b]}' % (head, b",".join(items[start : start + limit]))

    @contextmanager
    def watch(self, path: str) -> Iterator[Iterable[bytes]]:
        """The lines of a watch."""
        lines: queue.SimpleQueue = queue.SimpleQueue()
        with self._lock:
            self._watches[path].append(lines)
        try:
            yield iter(lines.get, None)
        finally:
            with self._lock:
                if lines in self._watches[path]:
                    self._watches[path].remove(lines)

    def _send(self, path: str, event: str, text: bytes) -> None:
        for each in self._watches[path]:
            each.put(b'{"type":"%b","object":%b}' % (event.encode(), text))


class _Handler(BaseHTTPRequestHandler):
    """A request."""

    api: FakeApi
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """A list, a watch, or an error."""
        parts = urlsplit(self.path)
        params = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.api.asked.append((parts.path, params))
        status = self.api.errors.get(parts.path, 0)
        if status:
            self._answer(status, json.dumps({"kind": "Status", "message": f"no {parts.path}"}).encode())
        elif params.get("watch"):
            self._watch(parts.path)
        else:
            self._answer(200, self.api.page(parts.path, int(params["limit"]), int(params.get("continue", "0"))))

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _watch(self, path: str) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        with self.api.watch(path) as lines:
            self.end_headers()
            self.wfile.flush()
            try:
                for line in lines:
                    self.wfile.write(line + b"\n")
            except OSError:
                return

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def access_to(api: FakeApi, folder: Path) -> Access:
    """How to reach it, by a kubeconfig in a folder."""
    path = folder / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": api.url}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "c",
            }
        )
    )
    return Access(str(path))

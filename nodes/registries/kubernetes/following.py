"""Following a list of objects: the list in pages, then a watch from its version on, for as long as the server has it.

A watch ends every five minutes by our wish, and continues at its last version. The server sends a bookmark a minute, so
one that sends nothing for longer hangs, or is gone. A server that no longer knows our version (410) is asked for the
list again.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Protocol

import msgspec

from nodes.backoff import Backoff
from nodes.registries.kubernetes.access import Refused, Session, Silence, Stream
from nodes.registry import RegistryError

PAGE = 250  # objects; 3 MB of Nodes
_SILENCE = 90.0  # seconds; bookmarks come every 60
_LONGEST_WATCH = 300  # seconds
_SHORT = 5.0  # seconds; a watch that ends sooner was not worth much
_MISSING = 60.0  # seconds between two questions for a resource that the server does not have
_CONFIRMED = 10.0  # seconds for which a server that had a resource must not have it until that counts
_NOT_FOUND, _GONE = 404, 410


class Receiver(Protocol):
    """Receives the objects, as JSON; called by the thread that runs `Follower.run`."""

    def replace(self, objects: Iterable[msgspec.Raw]) -> None:
        """The complete list. Its iteration may raise RegistryError: then there is none."""

    def change(self, kind: str, item: msgspec.Raw) -> object:
        """One object was "ADDED", "MODIFIED" or "DELETED". Returns its resourceVersion."""

    def lost(self, why: str) -> None:
        """The server cannot be reached, for now."""

    def alive(self) -> None:
        """It can, and there is nothing new."""


class _ListMeta(msgspec.Struct):
    """Of a page."""

    resourceVersion: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct):
    """A part of a list."""

    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    """A line of a watch."""

    type: str
    object: msgspec.Raw


class _Versioned(msgspec.Struct):
    """The metadata of a bookmark."""

    resourceVersion: str


class _Bookmark(msgspec.Struct):
    """It has the version up to which all events have been sent."""

    metadata: _Versioned


class _Failure(msgspec.Struct):
    """The object of an event "ERROR"."""

    code: int = 0
    message: str = ""


_decode_page, _decode_event, _decode_bookmark, _decode_failure = (
    msgspec.json.Decoder(kind).decode for kind in (_Page, _Event, _Bookmark, _Failure)
)


def list_all(session: Session, path: str, params: Mapping[str, str], versions: list[str]) -> Iterator[msgspec.Raw]:
    """All objects below a path, as JSON, page by page; the list's version is appended to `versions`.

    Raises RegistryError.
    """
    following = ""
    while True:
        more = {"continue": following} if following else {}
        body = session.get(path, **params, limit=str(PAGE), **more)
        try:
            page = _decode_page(body)
        except (ValueError, RecursionError) as error:
            raise RegistryError(f"GET {session.url}{path}: the answer is not a list of objects: {error}") from error
        yield from page.items or ()
        if not page.metadata.continue_ or page.metadata.continue_ == following:
            versions.append(page.metadata.resourceVersion)
            return
        following = page.metadata.continue_


class Follower:
    """Follows the objects below `path` of the API that `params` select.

    `is_optional`: a server that does not have the resource, as its CRD is not installed, has no objects of it.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[Session]],
        path: str,
        receiver: Receiver,
        params: Mapping[str, str] | None = None,
        *,
        is_optional: bool = False,
    ) -> None:
        self._connect, self._path, self._receiver, self._params = connect, path, receiver, params or {}
        self._is_optional = is_optional
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._stream: Stream | None = None  # the watch, for `close`
        self._opened = 0.0  # when it began, 0 if there is none (monotonic seconds)
        self._version = ""  # up to which everything has been received; "" asks for the list
        self._was_listed = False
        self._missing = 0.0  # since when the server does not have the resource, 0 if it has (monotonic seconds)

    def run(self) -> None:
        """Until `close`."""
        pauses = Backoff(first=1.0)
        while not self._closed.is_set():
            self._opened = 0.0
            why = self._follow()
            is_short = not self._opened or time.monotonic() - self._opened < _SHORT
            if not is_short:
                pauses.reset()
            if self._closed.is_set():
                return
            if why:
                self._receiver.lost(why)
            if why or is_short:
                self._closed.wait(pauses.next())

    def close(self) -> None:
        """End `run`: at once if it waits for events, else after the request under way."""
        self._closed.set()
        with self._lock, suppress(OSError):
            if self._stream:
                self._stream.interrupt()

    def _follow(self) -> str:
        """List and watch until the watch ends; returns why the server cannot be reached, "" if it can."""
        try:
            with self._connect() as session:
                if not self._version:
                    self._list(session)
                self._watch(session)
        except Silence as error:
            return "" if self._opened else str(error)  # whether the server is still there shows at once
        except Refused as error:
            if error.code == _NOT_FOUND and self._is_optional:
                return self._wait_for_resource(error)
            if error.code != _GONE:
                return str(error)
            self._version = ""
        except RegistryError as error:
            return str(error)
        return ""

    def _wait_for_resource(self, error: Refused) -> str:
        """After an answer that there is no such resource; a server that starts may give it for a moment."""
        self._version = ""
        self._missing = self._missing or time.monotonic()
        if self._was_listed and time.monotonic() - self._missing < _CONFIRMED:
            return str(error)
        self._receiver.replace(())
        self._was_listed = False
        self._closed.wait(random.uniform(_MISSING * 4 / 5, _MISSING))
        return ""

    def _list(self, session: Session) -> None:
        versions: list[str] = []
        self._receiver.replace(list_all(session, self._path, self._params, versions))
        if not versions[0]:
            raise RegistryError(f"GET {session.url}{self._path}: the list has no version from which to watch it")
        self._version, self._was_listed, self._missing = versions[0], True, 0.0

    def _watch(self, session: Session) -> None:
        seconds = random.randint(_LONGEST_WATCH * 4 // 5, _LONGEST_WATCH)  # not all nodes at once
        params = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        what = f"watch {session.url}{self._path}"
        with session.stream(
            self._path, {**self._params, **params, "resourceVersion": self._version}, _SILENCE
        ) as stream:
            self._opened = time.monotonic()
            try:
                with self._lock:
                    self._stream = stream
                if self._closed.is_set():
                    return
                self._receiver.alive()
                for line in stream.lines():
                    self._receive(line, what)
            finally:
                with self._lock:
                    self._stream = None

    def _receive(self, line: bytes, what: str) -> None:
        try:
            event = _decode_event(line)
            if event.type == "BOOKMARK":
                self._version = _decode_bookmark(event.object).metadata.resourceVersion
                self._receiver.alive()
            elif event.type == "ERROR":
                failure = _decode_failure(event.object)
                raise Refused(what, failure.code, failure.message)
            elif event.type in ("ADDED", "MODIFIED", "DELETED"):
                version = self._receiver.change(event.type, event.object)
                self._version = version if isinstance(version, str) else ""
        except (msgspec.MsgspecError, RecursionError) as error:
            self._version = ""
            raise RegistryError(f"{what}: not an event: {error}") from error

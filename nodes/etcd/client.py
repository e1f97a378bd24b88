"""A client of etcd v3, from 3.4 on: requests and watches through its JSON gateway.

An HTTP client that is there anyway, because those for etcd lack TLS with a password, or a watch that resumes, or need
old versions of what others need.
"""

import json
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from random import randrange
from threading import Lock

import httpx2

from nodes.etcd.answers import (
    Batch,
    EndpointError,
    KeyValue,
    Refused,
    encoded,
    end_of,
    put_of,
    read_batch,
    read_number,
    read_object,
    read_pairs,
    read_refusal,
    read_revision,
)
from nodes.etcd.conf import EtcdConf
from nodes.registry import RegistryError
from state.files import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    Answer = TypeVar("Answer")

_PATIENCE = 5.0  # seconds for each step of a request: connecting, the first byte, ...
_LONGEST = 20.0  # seconds for a whole request
_SILENCE = 30.0  # seconds without an event after which a watch is opened again: its server may have hung
_LARGEST = 32 << 20  # bytes of an answer, or of a message of a watch
_PAGE = 500  # keys of an answer; a record has up to 16 KiB
_MOST_PAGES, _MOST_BYTES = 200, 128 << 20  # of a list: 5,000 records have less than 80 MiB
_NO_AUTHENTICATION = "authentication is not enabled"
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


class _Silence(EndpointError):
    """An endpoint has sent nothing for a while."""


@dataclass(eq=False)
class _Link:
    """The connections to an endpoint. The last of its users closes them after it was left.

    Nobody else may: the kernel would give the number of a descriptor that is closed to another connection, and a thread
    that waits for the first one would not notice.
    """

    endpoint: str
    http: httpx2.Client
    users: int = 0
    is_left: bool = False


class Client:
    """An etcd cluster. Uses one endpoint, beginning with a random one, until it fails. Several threads may use it.

    Every method raises RegistryError, Refused if no other endpoint would answer differently.
    """

    def __init__(self, conf: EtcdConf) -> None:
        self._conf = conf
        self._lock = Lock()
        self._place = randrange(len(conf.endpoints))
        self._link: _Link | None = None
        self._token = ""
        self._watched: set[socket.socket] = set()
        self._is_closed = False

    def get(self, key: str) -> KeyValue | None:
        """The value of a key, None if there is none."""
        found = self._call("kv/range", {"key": encoded(key)}, read_pairs)
        return found[0] if found else None

    def list_keys(self, prefix: str) -> tuple[list[KeyValue], int]:
        """All keys that begin with `prefix`, in order, and the revision at which they were read."""

        def read(answer: Mapping[str, object]) -> tuple[list[KeyValue], bool, int]:
            return read_pairs(answer), answer.get("more") is True, read_revision(answer)

        found: list[KeyValue] = []
        start, revision, size = prefix, 0, 0
        for _ in range(_MOST_PAGES):
            body = {"key": encoded(start), "range_end": end_of(prefix), "limit": str(_PAGE), "revision": str(revision)}
            page, has_more, current = self._call("kv/range", body, read)
            found += page
            size += sum(len(pair.value) for pair in page)
            revision = revision or current
            if not page or not has_more:
                return found, revision
            if size > _MOST_BYTES:
                break
            start = page[-1].key + "\0"
        raise RegistryError(f'etcd has too many keys that begin with "{prefix}": {len(found)}, with {size} bytes')

    def put(self, key: str, value: bytes, lease: int) -> None:
        """Set a key."""
        self._call("kv/put", put_of(key, value, lease))

    def delete(self, key: str) -> None:
        """Delete a key, if it exists."""
        self._call("kv/deleterange", {"key": encoded(key)})

    def put_if(
        self,
        puts: Iterable[tuple[str, bytes, int]],
        *,
        absent: Iterable[str] = (),
        equal: Iterable[tuple[str, bytes]] = (),
    ) -> int:
        """Set all of `puts` (key, value, lease) in one transaction, and return its revision.

        Only if the keys `absent` do not exist, and those of `equal` have these values; otherwise 0, with nothing set.
        """
        compare: list[Mapping[str, str]] = [
            {"key": encoded(key), "target": "VERSION", "version": "0"} for key in absent
        ]
        for key, value in equal:
            compare.append({"key": encoded(key), "target": "VALUE", "value": b64encode(value).decode()})
        body = {"compare": compare, "success": [{"requestPut": put_of(*put)} for put in puts]}
        return self._call(
            "kv/txn", body, lambda answer: read_revision(answer) if answer.get("succeeded") is True else 0
        )

    def grant(self, seconds: int) -> int:
        """A new lease; returns its number."""
        return self._call("lease/grant", {"TTL": str(seconds)}, lambda answer: read_number(answer, "ID"))

    def keep_alive(self, lease: int) -> int:
        """Renew a lease; returns for how many seconds, 0 if it is gone."""

        def read(answer: Mapping[str, object]) -> int:
            result = answer.get("result")
            return read_number(result, "TTL") if isinstance(result, Mapping) else 0

        return self._call("lease/keepalive", {"ID": str(lease)}, read)

    def revoke(self, lease: int) -> None:
        """End a lease and delete its keys, if it exists."""
        with suppress(Refused):
            self._call("lease/revoke", {"ID": str(lease)})

    def watch(self, prefix: str, after: int) -> Iterator[Batch]:
        """What happens after a revision to keys that begin with `prefix`; the first batch is empty: the watch works.

        Ends after a time without events. Raises Compacted: what has happened since is not known any more.
        """
        request = {"key": encoded(prefix), "range_end": end_of(prefix), "start_revision": str(after + 1)}
        has_begun = False
        with self._in_use() as link:
            try:
                for message in self._stream(link, "watch", {"create_request": request}):
                    yield read_batch(message)
                    has_begun = True
            except Refused as error:
                self._forget_token(self._token, error)
                raise
            except EndpointError as error:
                if isinstance(error, _Silence) and has_begun:
                    return
                self._leave(link)
                raise RegistryError(f"{link.endpoint}: {error}") from error

    def close(self) -> None:
        """End all watches; further requests fail."""
        with self._lock:
            self._is_closed, link = True, self._link
            if link:
                link.users += 1
        if link:
            self._leave(link)
            self._release(link)

    def _call(
        self,
        path: str,
        body: Mapping[str, object],
        read: "Callable[[Mapping[str, object]], Answer]" = read_revision,
    ) -> "Answer":
        """What `read` finds in the answer of the first endpoint that gives one."""
        problems = []
        for _ in self._conf.endpoints:
            with self._in_use() as link:
                try:
                    return read(self._authenticated(link, path, body))
                except EndpointError as error:
                    problems.append(f"{link.endpoint}: {error}")
                    self._leave(link)
        raise RegistryError(f"etcd cannot be reached: {'; '.join(problems)}")

    @contextmanager
    def _in_use(self) -> Iterator[_Link]:
        """The link in use. Files are read for each new one, since certificates are replaced."""
        with self._lock:
            if self._is_closed:
                raise RegistryError("the connection to etcd has been closed")
            if self._link is None:
                endpoint = self._conf.endpoints[self._place]
                self._link = _Link(endpoint, _connect(endpoint, self._conf))
            link = self._link
            link.users += 1
        try:
            yield link
        finally:
            self._release(link)

    def _release(self, link: _Link) -> None:
        with self._lock:
            link.users -= 1
            is_over = link.is_left and not link.users
        if is_over:
            link.http.close()

    def _leave(self, link: _Link) -> None:
        """Use the next endpoint, for watches too, unless another thread has left this one already."""
        with self._lock:
            if link.is_left:
                return
            link.is_left, self._link = True, None
            self._place = (self._place + 1) % len(self._conf.endpoints)
            for watched in self._watched:
                with suppress(OSError):
                    # Wakes the thread that reads. TLS's own shutdown would wait for the server.
                    socket.socket.shutdown(watched, socket.SHUT_RDWR)

    def _authenticated(self, link: _Link, path: str, body: Mapping[str, object]) -> Mapping[str, object]:
        token = self._token_for(link)
        try:
            return _post(link.http, path, body, token)
        except Refused as error:
            if not self._forget_token(token, error):
                raise
        return _post(link.http, path, body, self._token_for(link))

    def _token_for(self, link: _Link) -> str:
        """The token of this node's user; "" if it has none, or etcd asks for none."""
        if not self._conf.user or self._token:
            return self._token
        try:
            password = read_file(self._conf.password_file, 4096).decode().rstrip("\r\n")
        except (OSError, ValueError) as error:
            raise RegistryError(f'the password file "{self._conf.password_file}" cannot be read: {error}') from error
        try:
            answer = _post(link.http, "auth/authenticate", {"name": self._conf.user, "password": password}, "")
        except Refused as error:
            if _NO_AUTHENTICATION in str(error):
                return ""
            raise RegistryError(f'{link.endpoint} does not accept user "{self._conf.user}": {error}') from error
        token = answer.get("token")
        if not isinstance(token, str) or not (token.isascii() and token.isprintable()):
            raise EndpointError("answers without a token")
        self._token = token
        return token

    def _forget_token(self, token: str, error: Refused) -> bool:
        """Whether a new token, instead of this one, may help."""
        if not self._conf.user or not error.wants_token:
            return False
        if self._token == token:
            self._token = ""
        return True

    def _stream(self, link: _Link, path: str, body: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
        """The messages of a stream."""
        timeouts = httpx2.Timeout(_PATIENCE).as_dict()
        with _exchange(link.http, path, body, self._token_for(link), timeouts) as response:
            if response.status_code != 200:
                raise read_refusal(read_object(_content(response)), response.status_code)
            timeouts["read"] = _SILENCE
            watched = response.extensions["network_stream"].get_extra_info("socket")
            with self._lock:
                if link.is_left:
                    raise EndpointError("left for another endpoint")
                self._watched.add(watched)
            try:
                yield from _lines(response)
            finally:
                with self._lock:
                    self._watched.discard(watched)
        raise EndpointError("has closed the connection")


def _connect(endpoint: str, conf: EtcdConf) -> httpx2.Client:
    """A client that connects with its first request. Raises RegistryError if a file cannot be used."""
    verify: ssl.SSLContext | bool = False  # plain HTTP has nothing to verify
    if endpoint.startswith("https:"):
        try:
            verify = ssl.create_default_context(cafile=conf.ca or None)
            if conf.cert:
                verify.load_cert_chain(conf.cert, conf.key)
        except (OSError, ValueError) as error:
            files = ", ".join(filter(None, (conf.ca, conf.cert, conf.key)))
            raise RegistryError(f"the certificates for etcd cannot be used ({files}): {error}") from error
    transport = httpx2.HTTPTransport(verify=verify, trust_env=False, socket_options=_KEEPALIVE)
    headers = {"Accept-Encoding": "identity"}
    return httpx2.Client(base_url=f"{endpoint}/v3/", headers=headers, trust_env=False, transport=transport)


def _post(http: httpx2.Client, path: str, body: Mapping[str, object], token: str) -> Mapping[str, object]:
    """Raises EndpointError, Refused or Compacted."""
    with _exchange(http, path, body, token, httpx2.Timeout(_PATIENCE).as_dict()) as response:
        answer = read_object(_content(response))
    if response.status_code != 200:
        raise read_refusal(answer, response.status_code)
    return answer


@contextmanager
def _exchange(
    http: httpx2.Client, path: str, body: Mapping[str, object], token: str, timeouts: dict[str, float]
) -> Iterator[httpx2.Response]:
    """The response to a request. Raises EndpointError, also while it is read; `timeouts` may be changed meanwhile."""
    headers = {"Authorization": token} if token else {}
    options = {"content": json.dumps(body), "headers": headers, "extensions": {"timeout": timeouts}}
    try:
        with http.stream("POST", path, **options) as response:
            yield response
    except httpx2.TimeoutException as error:
        raise _Silence(f"no answer within {timeouts['read']:g} s") from error
    except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError, RuntimeError) as error:
        raise EndpointError(str(error) or type(error).__name__) from error


def _content(response: httpx2.Response) -> bytes:
    content, end = bytearray(), time.monotonic() + _LONGEST
    for part in response.iter_raw():
        content += part
        if len(content) > _LARGEST or time.monotonic() > end:
            raise EndpointError(f"sends more than {_LARGEST} bytes, or for more than {_LONGEST:g} s")
    return bytes(content)


def _lines(response: httpx2.Response) -> Iterator[Mapping[str, object]]:
    """The JSON objects of a stream, one a line."""
    buffer = b""
    for part in response.iter_raw():
        *lines, buffer = (buffer + part).split(b"\n")
        if len(buffer) > _LARGEST:
            raise EndpointError(f"sends a message of more than {_LARGEST} bytes")
        yield from map(read_object, filter(None, lines))

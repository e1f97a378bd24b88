"""The JSON of etcd's gateway: keys and values are base64, numbers are strings. What a server sends is not trusted."""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass

from nodes.registry import RegistryError
from spec import jsontext

_UNAUTHENTICATED, _OUT_OF_RANGE = 16, 11  # gRPC's status codes
_ELSEWHERE = frozenset((2, 4, 8, 13, 14, 15))  # those that another endpoint may not answer
_TOKEN_WANTED = ("user name is empty", "invalid auth token", "revision of auth store is old")


class Refused(RegistryError):
    """etcd refused a request, as any endpoint would; `code` is gRPC's."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code

    @property
    def wants_token(self) -> bool:
        """Whether it is because the token has expired, or because there was none."""
        return self.code == _UNAUTHENTICATED or any(text in str(self) for text in _TOKEN_WANTED)


class Compacted(RegistryError):
    """The revision that was asked for is not kept any more."""


class EndpointError(Exception):
    """An endpoint does not answer, or answers nonsense; another one may do better."""


@dataclass(frozen=True)
class KeyValue:
    """A key and its value; `lease` 0: it has none. `created`: the revision that created the key."""

    key: str
    value: bytes
    lease: int
    created: int


@dataclass(frozen=True)
class Batch:
    """What happened up to a revision: each key with its new value, None if it was deleted. `revision` 0: nothing."""

    revision: int
    events: tuple[tuple[str, KeyValue | None], ...]


def encoded(key: str) -> str:
    """A key as the gateway expects it."""
    return b64encode(key.encode(errors="surrogateescape")).decode()


def end_of(prefix: str) -> str:
    """The first key after all that begin with `prefix`, which ends with a character of ASCII; encoded."""
    return encoded(prefix[:-1] + chr(ord(prefix[-1]) + 1))


def put_of(key: str, value: bytes, lease: int) -> Mapping[str, str]:
    """The request that sets a key."""
    return {"key": encoded(key), "value": b64encode(value).decode(), "lease": str(lease)}


def read_object(text: bytes) -> Mapping[str, object]:
    """An answer. This and all other functions that read raise EndpointError."""
    try:
        value = jsontext.loads(text)
    except ValueError as error:
        raise EndpointError(f"does not answer as etcd's JSON gateway does ({error})") from error
    if not isinstance(value, Mapping):
        raise EndpointError("does not answer as etcd's JSON gateway does")
    return value


def read_pairs(answer: Mapping[str, object]) -> list[KeyValue]:
    """The keys of an answer."""
    return list(map(_pair, _objects(answer, "kvs")))


def read_batch(answer: Mapping[str, object]) -> Batch:
    """A message of a watch. Raises Refused or Compacted if it has ended."""
    result = answer.get("result")
    if not isinstance(result, Mapping):
        raise read_refusal(answer.get("error", answer), 200)
    if result.get("canceled"):
        if read_number(result, "compact_revision"):
            raise Compacted("etcd has forgotten what has happened since")
        raise Refused(f"etcd has ended the watch: {_printable(result.get('cancel_reason'))}", 0)
    events = _objects(result, "events")
    # Not the header's revision: a server that catches up sends a part of what happened until then.
    return Batch(max(map(_revision, events), default=0), tuple(map(_event, events)))


def read_refusal(answer: object, status: int) -> Exception:
    """The error that an answer describes: `{"error": TEXT, "code": NUMBER, "message": TEXT}`."""
    answer = answer if isinstance(answer, Mapping) else {}
    code = answer.get("code", answer.get("grpc_code"))
    text = _printable(answer.get("message") or answer.get("error") or f"HTTP status {status}")
    if code == _OUT_OF_RANGE:
        return Compacted(text)
    if type(code) is not int or code in _ELSEWHERE:
        return EndpointError(text)
    return Refused(text, code)


def read_revision(answer: Mapping[str, object]) -> int:
    """The revision of an answer's header."""
    header = answer.get("header")
    return read_number(header, "revision") if isinstance(header, Mapping) else 0


def read_number(values: Mapping[str, object], key: str) -> int:
    """A number, which the gateway writes as a string, and leaves out if it is 0."""
    text = str(values.get(key, "0"))
    if not (text.isascii() and text.removeprefix("-").isdecimal() and len(text) <= 20):
        raise EndpointError(f'answers with "{key}" that is no number')
    return int(text)


def _revision(event: Mapping[str, object]) -> int:
    pair = event.get("kv")
    return read_number(pair, "mod_revision") if isinstance(pair, Mapping) else 0


def _event(event: Mapping[str, object]) -> tuple[str, KeyValue | None]:
    pair = _pair(event.get("kv"))
    return pair.key, None if event.get("type") == "DELETE" else pair


def _pair(value: object) -> KeyValue:
    if not isinstance(value, Mapping):
        raise EndpointError("answers with a key that is none")
    key = _decoded(value.get("key")).decode(errors="surrogateescape")
    return KeyValue(
        key,
        _decoded(value.get("value", "")),
        lease=read_number(value, "lease"),
        created=read_number(value, "create_revision"),
    )


def _objects(answer: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    found = answer.get(key) or []
    if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
        raise EndpointError(f'answers with "{key}" that is no list of objects')
    return found


def _decoded(value: object) -> bytes:
    try:
        return b64decode(value, validate=True)
    except (TypeError, ValueError) as error:
        raise EndpointError("answers with a key or value that is not base64") from error


def _printable(value: object) -> str:
    return "".join(char if char.isprintable() else " " for char in str(value)[:300])

"""JSON for CNI: a strict decoder, and an encoder whose output is byte for byte that of Go's."""

import json
from collections.abc import Iterable
from json.encoder import encode_basestring

_SURROGATES = range(0xD800, 0xE000)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

VALUES_LIMIT = 500_000
"""Values in a document, counted by commas and opening brackets. The largest useful document has a mapping of four keys
for each of 65,535 ports: 327,675."""

DEPTH_LIMIT = 100
"""Nested lists and objects. Real documents have fewer than ten levels."""

_INFINITY = float("inf")


def loads(data: bytes) -> object:
    """The single JSON value in `data`. Raises ValueError, with the reason as text, for anything else.

    Also rejects what Python's own decoder accepts: encodings other than UTF-8, NaN, Infinity and numbers beyond them,
    documents beyond VALUES_LIMIT and DEPTH_LIMIT, and unpaired surrogates, which could not be sent to any peer. The
    last of several equal keys wins and determines the order; a null does not override an earlier value.
    """
    openings = data.count(b"{") + data.count(b"[")
    if openings + data.count(b",") > VALUES_LIMIT:
        raise ValueError(f"more than {VALUES_LIMIT} values (its commas and opening brackets)")
    if data.startswith(_BYTE_ORDER_MARK):
        raise ValueError("begins with a byte order mark: save it as UTF-8 without one")
    text = _text(data)
    try:
        value = json.loads(
            text, object_pairs_hook=_ordered, parse_constant=_refuse_constant, parse_int=_integer, parse_float=_number
        )
    except RecursionError:
        is_deep = True
    else:
        is_deep = openings > DEPTH_LIMIT and _is_deep(value)
    if is_deep:
        raise ValueError(f"nested too deeply: more than {DEPTH_LIMIT} levels of lists and objects")
    if b"\\ud" in data or b"\\uD" in data:
        _refuse_surrogates(value)
    return value


def dumps(value: object, *, indent: int | None = 4) -> str:
    """`value` as Go's encoder writes it: `<`, `>`, `&` and line separators are escaped, other text is not.

    `indent` None is the compact form. Unpaired surrogates (undecodable bytes of a variable or file name) become
    U+FFFD, so the output is always valid UTF-8.
    """
    if indent is None:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    else:
        text = _indented(value, "\n", " " * indent)
    if text.isascii() and "<" not in text and ">" not in text and "&" not in text:
        return text
    return text.translate(_ESCAPES)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}") from None


def _indented(value: object, start: str, step: str) -> str:
    """As json.dumps with an indentation, which is also pure Python and takes five times as long."""
    kind, inner = type(value), start + step
    if kind is str:
        return encode_basestring(value)
    if kind is dict and value:
        items = [f"{inner}{encode_basestring(key)}: {_indented(each, inner, step)}" for key, each in value.items()]
        return f"{{{','.join(items)}{start}}}"
    if kind in (list, tuple) and value:
        return f"[{','.join([inner + _indented(each, inner, step) for each in value])}{start}]"
    return json.dumps(value, allow_nan=False)


class _Escapes(dict):
    """A table for str.translate: a few escapes, surrogates are replaced, everything else is unchanged."""

    def __missing__(self, code: int) -> int:
        return 0xFFFD if code in _SURROGATES else code


_ESCAPES = _Escapes({ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})


def _ordered(pairs: list[tuple[str, object]]) -> dict[str, object]:
    ordered: dict[str, object] = {}
    for key, value in pairs:
        if key in ordered:
            if value is None:
                continue
            del ordered[key]
        ordered[key] = value
    return ordered


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"a number of {len(text)} digits") from None


def _number(text: str) -> float:
    value = float(text)
    if value in (_INFINITY, -_INFINITY):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _is_deep(value: object) -> bool:
    """Whether the nesting exceeds DEPTH_LIMIT."""
    level, depth = _containers([value]), 0
    while level and depth <= DEPTH_LIMIT:
        depth += 1
        level = [each for one in level for each in _containers(one.values() if isinstance(one, dict) else one)]
    return depth > DEPTH_LIMIT


def _containers(values: Iterable[object]) -> list[dict | list]:
    return [value for value in values if isinstance(value, dict | list)]


def _refuse_surrogates(value: object) -> None:
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            try:
                item.encode()
            except UnicodeEncodeError:
                raise ValueError("unpaired surrogate in a string") from None
        elif isinstance(item, dict):
            todo += item.keys()
            todo += item.values()
        elif isinstance(item, list):
            todo += item

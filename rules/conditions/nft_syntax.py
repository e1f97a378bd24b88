"""Reads conditions in nft's language (nft(8)): fields, operators, values, anonymous sets, ranges, prefixes."""

import re
from collections.abc import Iterator, Sequence

from rules.conditions.condition import Condition, union
from rules.conditions.fields import Field, Value, field_of

_TOKEN = re.compile(r'"[^"]*"|[!=<>]=|[{},&|()<>]|[^\s{},&|()<>="!]+|\S')
_OPERATORS = {"eq": "==", "ne": "!=", "lt": "<", "gt": ">", "le": "<=", "ge": ">="}
_LONGEST_NAME = 3  # words: fib daddr type


class _Tokens:
    """The tokens of a text, taken one by one."""

    def __init__(self, words: Sequence[str]) -> None:
        self.left = [token for text in words for token in _TOKEN.findall(text)]
        self.taken: list[str] = []

    def take(self) -> str:
        """The next token, "" at the end."""
        if not self.left:
            return ""
        self.taken.append(self.left.pop(0))
        return self.taken[-1]

    def take_if(self, *tokens: str) -> str:
        """The next token if it is one of these, else ""."""
        return self.take() if self.left and self.left[0] in tokens else ""


def read(words: Sequence[str], version: int) -> Iterator[Condition]:
    """The conditions in a list of words. Raises ValueError with the words not understood."""
    left = _Tokens(words)
    while left.left:
        left.taken = []
        try:
            yield _condition(left, version)
        except ValueError:
            raise ValueError(" ".join(left.taken)) from None


def _condition(words: _Tokens, version: int) -> Condition:
    known = _field(words, version)
    mask = _mask(words, known)
    sign = words.take_if("==", "!=", "<", ">", "<=", ">=", *_OPERATORS)
    sign = _OPERATORS.get(sign, sign)
    if words.take_if("{"):
        if sign not in ("", "==", "!="):
            raise ValueError
        return Condition(known, tuple(_listed(words, known)), sign == "!=", mask)
    if sign in ("<", ">", "<=", ">="):
        return Condition(known, (_bounded(known, sign, words.take()),), mask=mask)
    values = [_value(words, known)]
    while known.flags and words.take_if(",", "|"):
        values.append(_value(words, known))
    any_bit = bool(known.flags) and not sign and not mask
    if not any_bit and len(values) > 1:
        values = [Value(",".join(value.text for value in values), union(values))]
    return Condition(known, tuple(values), sign == "!=", mask, any_bit)


def _field(words: _Tokens, version: int) -> Field:
    """The field with the longest name."""
    for count in range(min(_LONGEST_NAME, len(words.left)), 0, -1):
        known = field_of(tuple(words.left[:count]), version)
        if known:
            for _ in range(count):
                words.take()
            return known
    words.take()
    words.take()
    raise ValueError


def _mask(words: _Tokens, known: Field) -> bytes:
    if not words.take_if("&", "and"):
        return b""
    bits = [words.take()] if not words.take_if("(") else list(_until(words, ")", "|"))
    found = 0
    for bit in bits:
        found |= int.from_bytes(known.read(bit).data, known.order)
    return found.to_bytes(known.size, known.order)


def _until(words: _Tokens, end: str, between: str) -> Iterator[str]:
    while True:
        yield words.take()
        if words.take_if(end):
            return
        if not words.take_if(between):
            words.take()
            raise ValueError


def _listed(words: _Tokens, known: Field) -> Iterator[Value]:
    while not words.take_if("}"):
        yield _value(words, known)
        if not words.take_if(","):
            if not words.take_if("}"):
                words.take()
                raise ValueError
            return


def _value(words: _Tokens, known: Field) -> Value:
    token = words.take()
    is_range = words.left[:1] == ["-"]
    if is_range:  # 10.0.0.1 - 10.0.0.9
        token = f"{token}{words.take()}{words.take()}"
    return known.read(token.strip('"'))


def _bounded(known: Field, sign: str, token: str) -> Value:
    """The range of numbers below or above a bound."""
    bound = int.from_bytes(known.read(token).data, known.order)
    last = (1 << 8 * known.size) - 1
    low, high = {"<": (0, bound - 1), "<=": (0, bound), ">": (bound + 1, last), ">=": (bound, last)}[sign]
    if low > high:
        raise ValueError
    return Value(f"{low}-{high}", low.to_bytes(known.size, "big"), upper=high.to_bytes(known.size, "big"))

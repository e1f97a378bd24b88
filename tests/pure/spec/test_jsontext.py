"""JSON as it is written: what Python's own encoder makes of a value, and Go's escapes in it. And what is not read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spec import jsontext

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(VALUES, st.sampled_from([None, 2, 4]))
def test_it_is_the_value(value: object, indent: int | None) -> None:
    """Read again it is equal, and it is indented as usual."""
    text = jsontext.dumps(value, indent=indent)
    assert json.loads(text) == value
    separators = (",", ":") if indent is None else (",", ": ")
    usual = json.dumps(value, indent=indent, ensure_ascii=False, separators=separators)
    for char in "<>&\u2028\u2029":
        usual = usual.replace(char, f"\\u{ord(char):04x}")
    assert text == usual


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xef\xbb\xbf{}", "begins with a byte order mark: save it as UTF-8 without one"),
        (b'{"a": "\xff"}', "not UTF-8: byte 0xff at offset 7"),
        ("{}".encode("utf-16"), "not UTF-8: byte 0xff at offset 0"),
    ],
)
def test_a_foreign_encoding_is_named(data: bytes, reason: str) -> None:
    """The reason is about the file, and not about the program that reads it."""
    with pytest.raises(ValueError, match=reason):
        jsontext.loads(data)

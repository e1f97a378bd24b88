"""JSON output, which is that of Python's encoder with Go's escapes, and input that is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spec import jsontext

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(VALUES, st.sampled_from([None, 2, 4]))
def test_output_is_that_of_python_with_go_s_escapes(value: object, indent: int | None) -> None:
    """Parsing it returns an equal value."""
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
def test_a_foreign_encoding_is_an_error(data: bytes, reason: str) -> None:
    """The reason is about the file, not about the program that reads it."""
    with pytest.raises(ValueError, match=reason):
        jsontext.loads(data)

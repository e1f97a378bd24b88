"""JSON as it is written: what Python's own encoder makes of a value, and Go's escapes in it."""

import json

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

"""Records of nodes as JSON: written and read again, refused if wrong, described in docs/nodes.md."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.records import from_text, from_value, to_text, to_value
from plugins.node.records import Node

PAGE = (Path(__file__).parents[3] / "docs" / "nodes.md").read_text()
FULL = Node(
    "b",
    ("192.0.2.2", "2001:db8::2"),
    ("10.244.2.0/24", "fd00:244:0:2::/64"),
    "02:24:0a:f4:02:00",
    vni=1,
    port=4789,
    zone="west",
    cluster="blue",
    since=1764484200,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(sorted(to_value(FULL))), inner),
    max_leaves=12,
)


def test_a_record_is_read_as_it_was_written() -> None:
    """With every key, and with the least."""
    for node in (FULL, Node("a", (), ())):
        assert from_text(to_text(node)) == node


def test_the_documented_record_is_the_one_that_is_written() -> None:
    """The example has every key; the table has the same."""
    example = json.loads(re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1])
    assert to_value(from_value(example)) == example == to_value(FULL)
    cells = [line.split("|")[1] for line in PAGE.partition("| entry |")[2].partition("\n\n")[0].splitlines()[2:]]
    assert set(re.findall(r"`(\w+)`", " ".join(cells))) == set(example)


def test_a_later_version_is_refused() -> None:
    """It may have something that must be understood; unknown keys alone are no reason."""
    with pytest.raises(ValueError, match="version 2; this slash24 knows 1"):
        from_value({**to_value(FULL), "version": 2})
    assert from_value({**to_value(FULL), "colour": "red"}) == FULL


def test_a_record_that_is_too_long_is_refused() -> None:
    """Before it is parsed."""
    with pytest.raises(ValueError, match="expected at most 16384"):
        from_text(to_text(FULL) + b" " * (16 << 10))


@given(JSON)
def test_any_json_is_a_record_or_refused_with_a_sentence(value: object) -> None:
    """Records come from other machines."""
    node, why = None, ""
    try:
        node = from_value(value)
    except ValueError as error:
        why = str(error)
    assert why if node is None else from_text(to_text(node)) == node

"""Files of documents: YAML as JSON has it, of limited size, without surprises."""

from collections.abc import Iterator
from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from policy.document_files import is_document_file, parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner),
    max_leaves=20,
)


def test_documents_are_numbered() -> None:
    """From 1; empty ones count, and are left out."""
    text = b"---\n# nothing\n---\na: 1\n---\n---\n- b\n...\n"
    assert parse("a.yaml", text) == [(2, {"a": 1}), (4, ["b"])]
    assert parse("a.yaml", b"") == parse("a.json", b" \n") == []
    assert parse("a.json", b'\xef\xbb\xbf{"a": 1}') == parse("a.yml", b"\xef\xbb\xbfa: 1") == [(1, {"a": 1})]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"), ("on", "on"), ("No", "No"), ("true", True), ("FALSE", False), ("null", None), ("~", None),
        ("80", 80), ("-1", -1), ("0", 0), ("012", "012"), ("0x10", 16), ("1:30", "1:30"), ("1_000", "1_000"),
        ("1.5", 1.5), ("1e3", "1e3"), ("1.0e+3", 1000.0), (".inf", ".inf"), ("2024-01-01", "2024-01-01"),
        ("!!str 80", "80"), ("'80'", "80"), ('"true"', "true"), ("=", "="), ("9" * 25, float("9" * 25)),
    ],
)  # fmt: skip
def test_scalars_are_those_of_the_core_schema(text: str, value: object) -> None:
    """A port of 1:30 is no number, and a label "on" no truth."""
    assert parse("a.yaml", f"a: {text}".encode()) == [(1, {"a": value})]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff", "not UTF-8: byte 0xff at offset 0"),
        (b"a: 1\n---\na: [", "document 2, line "),
        (b"a: 1\na: 2", 'document 1, line 2: the key "a" is there twice'),
        (b"1: a", "document 1, line 1: a key that is not a string; put it in quotes"),
        (b"[a]: b", "document 1, line 1: a key that is not a string; put it in quotes"),
        (b"a: &a {b: 1}\nc: {<<: *a}", "document 1, line 2: merge keys (<<) are not allowed"),
        (b"a: !!python/object:os.system x", "document 1, line 1: the tag tag:yaml.org,2002:python/object:os.system is"),
        (b"a: !x {}", "document 1, line 1: the tag !x is not allowed"),
        (b"a: !!set {a, b}", "document 1, line 1: the tag tag:yaml.org,2002:set is not allowed"),
        (b"a: &a [*a]", "document 1, line 1: nested too deeply: more than 100 levels of lists and mappings"),
        (b"[" * 200 + b"]" * 200, "document 1, line 1: nested too deeply"),
        (b"[" * 100_000, "document 1, line 1: "),
        (b"- " * 100_000, "document 1, line 1: "),
        (b"a: *b", "document 1, line 1: found undefined alias"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told(text: bytes, message: str) -> None:
    """With the document's number and the line; and nothing of the file is read."""
    with pytest.raises(ValueError, match="^(not UTF-8|document [12])") as caught:
        parse("a.yaml", text)
    if hasattr(yaml, "CSafeLoader"):
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1, "a": 2}', 'the key "a" is there twice'),
        (b"[", "Expecting value"),
        (b"[" * 100_000, "nested too deeply"),
        (b"a: 1", "Expecting value"),
    ],
)
def test_a_file_of_json_is_json(text: bytes, message: str) -> None:
    """YAML in it is an error."""
    with pytest.raises(ValueError, match=message):
        parse("a.json", text)


@pytest.mark.parametrize("name", [".a.yaml", "#a.yaml", "~a.yml", "a.yaml~", "a.yaml.bak", "yaml", "a.YAML", "a.txt"])
def test_other_names_are_not_those_of_documents(name: str) -> None:
    """Temporary files, hidden ones."""
    assert not is_document_file(name)


@pytest.fixture(params=["libyaml", "Python"], scope="module", autouse=True)
def _loader(request: pytest.FixtureRequest) -> Iterator[None]:
    """With libyaml and without: what is read is the same."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "Python":
            patch.delattr(yaml, "CSafeLoader")
        yield


@given(st.lists(VALUES, min_size=1, max_size=3))
def test_what_others_write_is_read_as_it_was_meant(documents: list) -> None:
    """By a writer of YAML."""
    text = yaml.safe_dump_all(documents)
    expected = [(number, each) for number, each in enumerate(documents, 1) if each is not None]
    assert parse("a.yaml", text.encode()) == expected


@given(st.binary(max_size=40) | st.text("-:{}[]&*!|>'\"\n\t ab1?#%@`,", max_size=40).map(str.encode))
def test_any_text_is_documents_or_a_sentence(text: bytes) -> None:
    """Nothing else is raised."""
    for name in ("a.yaml", "a.json"):
        with suppress(ValueError):
            parse(name, text)

"""The lines of keys and of syntax errors."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.toml_file import line_of, lines_of, parse

DOCUMENT = """# a comment with [brackets] = "x"
mode = "vxlan" # another
"quoted.key" = '''
two lines, = and ]
'''
a.b = 1979-05-27 07:32:00
list = [
  1.5,
  "x ] , } \\" #", # ]
  {deep = [{er = 1}], other.one = "y"},
]
[conflist]
text = \"\"\"a "quoted" ""word\"\"\"\"\"
last = {}

[[ table.list ]]
x = 1
[[table.list]]
x = 2
[table.list.inner]
y = 3
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("mode", 2),
        ("quoted.key", 3),
        ("a", 6),
        ("a.b", 6),
        ("list", 7),
        ("list[0]", 8),
        ("list[1]", 9),
        ("list[2].deep[0].er", 10),
        ("list[2].other.one", 10),
        ("conflist", 12),
        ("conflist.text", 13),
        ("Conflist.LAST", 14),
        ("conflist.last.nothing", 14),
        ("conflist.missing", 12),
        ("table", 16),
        ("table.list", 16),
        ("table.list[0].x", 17),
        ("table.list[1].x", 19),
        ("table.list[1].inner.y", 21),
        ("missing", 1),
    ],
)
def test_every_key_has_its_line(path: str, line: int) -> None:
    """A key that is missing has the line of the table around it."""
    assert tomllib.loads(DOCUMENT)
    assert line_of(lines_of(DOCUMENT), path) == line


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("a = 1\nb = \nc = 2", [(2, "Invalid value")]),
        ("a = 1\na = 2", [(2, "Cannot overwrite a value")]),
        ("a = 1\nb = [1,\n 2\n\nc = 3\n", [(2, "Unclosed array")]),
        ("a =\nb = 1\nc = 2\nd = [}]\n", [(1, "Invalid value"), (4, "Invalid value")]),
        ("[a\nb = 1", [(1, "Expected ']' at the end of a table declaration")]),
        ("x = " + "9" * 5000, [(1, "Exceeds the limit (4300 digits) for integer string conversion")]),
        ("x = " + "[" * 5000, [(1, "lists or tables are nested too deeply")]),
    ],
)
def test_syntax_errors_have_their_lines(text: str, errors: list[tuple[int, str]]) -> None:
    """All of them, as far as the rest of the file still makes sense."""
    assert list(parse(text).errors) == errors


def test_the_rest_of_the_file_is_parsed() -> None:
    """Without the statement that is wrong, so that mistakes in others are found too."""
    assert parse('a = 1\nb = \nc = "x"\n').values == {"a": 1, "c": "x"}


def quoted(text: str) -> str:
    """A basic string of TOML."""
    escaped = "".join(
        f"\\U{ord(each):08x}" if each in '"\\' or ord(each) < 32 or ord(each) == 127 else each for each in text
    )
    return f'"{escaped}"'


bare = st.text("abcXY-_019", min_size=1, max_size=4)
keys = st.one_of(bare, st.text(st.characters(exclude_characters=".[]"), min_size=1, max_size=6).map(quoted))
scalars = st.one_of(
    st.integers(-(1 << 62), 1 << 62).map(str),
    st.sampled_from(
        ["true", "1.5", "-inf", "1979-05-27 07:32:00", "07:32:00.5", "'''\na\n'''", '"""\\\n x"""', "0x1F"]
    ),
    st.text(max_size=10).map(quoted),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda each: "[" + ",\n".join(each) + "]"),
        st.dictionaries(keys, inner, max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{key} = {value}" for key, value in pairs.items()) + "}"
        ),
    ),
    max_leaves=6,
)
statements = st.one_of(
    st.tuples(st.lists(keys, min_size=1, max_size=3), values).map(lambda pair: f"{'.'.join(pair[0])} = {pair[1]}"),
    st.lists(keys, min_size=1, max_size=3).map(lambda parts: f"[{' . '.join(parts)}]"),
    st.lists(keys, min_size=1, max_size=3).map(lambda parts: f"[[{'.'.join(parts)}]]"),
    st.just("# comment ] } ="),
)


def paths(value: object, path: str = "") -> list[str]:
    """The paths of all keys and elements."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, each in pairs:
        inside = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}" if path else key
        found += [inside, *paths(each, inside)]
    return found


@given(st.lists(statements, max_size=6))
def test_every_key_of_any_document_has_a_line(lines: list[str]) -> None:
    """And nothing that is not there."""
    document = parse("\n".join(lines))
    found = lines_of(document.text)
    assert set(found) == {path.lower() for path in paths(document.values)}
    count = document.text.count("\n") + 1
    assert all(1 <= line <= count for line in found.values())


@given(st.text())
def test_any_text_is_parsed_or_has_an_error(text: str) -> None:
    """Never a traceback, and always a line that is there."""
    document = parse(text)
    lines_of(document.text)
    assert all(1 <= line <= text.count("\n") + 1 for line, _ in document.errors)

"""The allowlist of `tuning`: regular expressions as Go reads them, in time that nobody can abuse."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.tune.allowlist import read, require_allowed
from plugins.tune.pattern import Pattern
from spec.errors import CNIError

ATOMS = [
    "a",
    "b",
    "c",
    ".",
    r"\.",
    "[ab]",
    "[^a]",
    "[a-c]",
    r"\w",
    r"\d",
    r"\S",
    r"\b",
    "(a|b)",
    "(?:ab)",
    "(a*b)",
    "(|a)",
    "^",
    "$",
]
REPEATS = ["", "", "*", "+", "?", "*?", "{2}", "{1,2}", "{0,}", "|"]
PIECES = st.tuples(st.sampled_from(ATOMS), st.sampled_from(REPEATS))


@given(st.lists(PIECES, max_size=6), st.text("abc.1_ ", max_size=9))
def test_common_syntax_matches_as_python_does(pieces: list[tuple[str, str]], subject: str) -> None:
    """Where Go and Python read a pattern alike, so does this: the same subjects match."""
    # Python does not repeat an assertion, Go does.
    text = "".join(atom + (repeat if atom not in ("^", "$", r"\b") else "") for atom, repeat in pieces)
    expected = re.compile(text.replace("$", r"\Z"), re.ASCII).search(subject)
    assert Pattern(text).search(subject) == bool(expected)


@pytest.mark.parametrize(
    ("text", "matching", "other"),
    [
        (r"net", "net.core", "ten"),
        (r"^net$", "net", "net\n"),
        (r"", "anything", None),
        (r"[[:alpha:]]x", "ax", ":x"),
        (r"[[:^digit:]_]", "a", "7"),
        (r"\d", "7", "٣"),
        (r"^(?i)NET", "net", "ten"),
        (r"(?i:N)et", "net", "nET"),
        (r"(?i)[A-C]$", "b", "d"),
        (r"^(?P<name>a)(?<other>b)$", "ab", "ba"),
        (r"\x61\x{62}\143", "abc", "acb"),
        (r"^a{,2}$", "a{,2}", "aa"),
        (r"^a{2,3}$", "aaa", "aaaa"),
        (r"[]a]", "]", "b"),
        (r"[a\-z]", "-", "b"),
        (r"[a-]", "-", "b"),
        (r"\Aa\z", "a", "ba"),
        (r"eth0\b", "eth0.x", "eth01"),
        (r"\Ba", "ba", "a"),
        (r"^(a|b|)c$", "c", "dc"),
        (r"^(a*)*$", "aaa", "b"),
    ],
)
def test_syntax_of_go(text: str, matching: str, other: str | None) -> None:
    """What means something in Go's syntax, or something else than in Python's, means it here."""
    assert Pattern(text).search(matching)
    assert other is None or not Pattern(text).search(other)


@pytest.mark.parametrize(
    "text",
    [
        "(",
        ")",
        "a)",
        "[",
        "[a",
        "[z-a]",
        "[[:nosuch:]]",
        "*",
        "a**",
        "a{2}{3}",
        "a{1001}",
        "a{3,2}",
        "(?=a)",
        "(?!a)",
        "(?<=a)",
        "(a)\\1",
        "(?#a)",
        "\\p{L}",
        "\\Qa\\E",
        "\\Z",
        "\\y",
        "\\",
        "(?P<1>a)",
        "(?z)",
        "\\x{110000}",
        "\\xzz",
        "[\\",
        "(?",
    ],
)
def test_what_is_not_of_go_is_refused(text: str) -> None:
    """A pattern that Go could not read, or that this does not read, is an error, and never read as something else."""
    with pytest.raises(ValueError, match=r"."):
        Pattern(text)


@pytest.mark.parametrize("text", ["^(a+)+$", "^(a|a)*$", "(a*)*b", "(.*){20}x$", "a*a*a*a*a*a*a*b"])
def test_time_is_linear(text: str) -> None:
    """Patterns that keep a backtracking matcher busy for ages are done in no time."""
    pattern = Pattern(text)
    start = time.perf_counter()
    assert not pattern.search("a" * 2000 + "!")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("text", ["((a{1000}){1000}){1000}", "(" * 5000 + ")" * 5000])
def test_size_is_bounded(text: str) -> None:
    """A pattern that would need millions of states, or the whole stack, is refused."""
    with pytest.raises(ValueError, match="too"):
        Pattern(text)


def allowlist(tmp_path: Path, content: str) -> tuple[Pattern, ...] | None:
    """The patterns of a file with this content."""
    file = tmp_path / "allowlist.conf"
    file.write_text(content)
    return read(str(file))


def test_lines_are_trimmed_and_searched(tmp_path: Path) -> None:
    """A pattern a line, blanks and blank lines left out; it may match anywhere in a name."""
    patterns = allowlist(tmp_path, "\n  ^net\\.core\\.  \n\nrp_filter\n")
    require_allowed(["net.core.somaxconn", "net.ipv4.conf.all.rp_filter"], patterns)
    with pytest.raises(CNIError, match="Sysctl net.ipv4.x is not allowed. Only the following sysctls are allowed: "):
        require_allowed(["net.core.x", "net.ipv4.x"], patterns)


def test_an_empty_file_allows_nothing_and_none_everything(tmp_path: Path) -> None:
    """Who made the file meant to restrict."""
    require_allowed(["net.x"], read(str(tmp_path / "nosuch")))
    with pytest.raises(CNIError):
        require_allowed(["net.x"], allowlist(tmp_path, "\n \n"))


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    """The error tells file, line and reason."""
    with pytest.raises(CNIError) as caught:
        allowlist(tmp_path, "net\n(net\n")
    assert (caught.value.code, caught.value.details) == (7, "missing closing )")
    assert caught.value.msg.endswith("allowlist.conf, line 2: not a regular expression: (net")


@pytest.mark.parametrize("content", [b"\xff\xfe", None], ids=["not UTF-8", "a folder"])
def test_a_file_that_can_not_be_read_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    """Not being able to read the list is never taken for there being none."""
    file = tmp_path / "allowlist.conf"
    file.write_bytes(content) if content else file.mkdir()
    with pytest.raises(CNIError) as caught:
        read(str(file))
    assert caught.value.code == 5

"""The allowlist of sysctls of `tuning`."""

import re
from pathlib import Path

import pytest
import re2

from plugins.tuning.allowlist import read, require_allowed
from spec.errors import CNIError


def allowlist(tmp_path: Path, content: str) -> tuple[re2._Regexp, ...] | None:
    """The patterns in a file with this content."""
    file = tmp_path / "allowlist.conf"
    file.write_text(content)
    return read(str(file))


def test_each_line_is_a_pattern(tmp_path: Path) -> None:
    """White space around it and blank lines are ignored; a pattern may match anywhere in a name."""
    patterns = allowlist(tmp_path, "\n  ^net\\.core\\.  \n\nrp_filter\n")
    require_allowed(["net.core.somaxconn", "net.ipv4.conf.all.rp_filter"], patterns)
    with pytest.raises(CNIError, match="Sysctl net.ipv4.x is not allowed. Only the following sysctls are allowed: "):
        require_allowed(["net.core.x", "net.ipv4.x"], patterns)


def test_a_dollar_does_not_match_before_a_line_feed(tmp_path: Path) -> None:
    """A name that ends in a line feed is refused by `^name$`."""
    with pytest.raises(CNIError, match="net.core.x\n is not allowed"):
        require_allowed(["net.core.x\n"], allowlist(tmp_path, "^net.core.x$"))


def test_an_empty_file_allows_nothing_and_a_missing_one_everything(tmp_path: Path) -> None:
    """An empty file was created to restrict something."""
    require_allowed(["net.x"], read(str(tmp_path / "nosuch")))
    with pytest.raises(CNIError, match="net.x is not allowed"):
        require_allowed(["net.x"], allowlist(tmp_path, "\n \n"))


GOS = [
    ("^net.core.[[:alpha:]]+$", "net.core.somaxconn", "net.core.x1"),
    (r"^net.core.\p{L}+$", "net.core.somaxconn", "net.core.x1"),
    (r"^\Qnet.core.x\E\z", "net.core.x", "net.coreax"),
    ("^net.a{,2}$", "net.a{,2}", "net.aa"),
    ("^net.(?U:a)(?i)B$", "net.ab", "net.b"),
    (r"^net\.ipv4\.conf\.(IFNAME|eth\d+)\.rp_filter$", "net.ipv4.conf.eth10.rp_filter", "net.ipv4.conf.eth.rp_filter"),
]


@pytest.mark.parametrize(("line", "allowed", "refused"), GOS)
def test_patterns_have_the_reference_s_syntax(tmp_path: Path, line: str, allowed: str, refused: str) -> None:
    """That of Go, even where other languages interpret it differently."""
    patterns = allowlist(tmp_path, line)
    require_allowed([allowed], patterns)
    with pytest.raises(CNIError, match=f"{re.escape(refused)} is not allowed"):
        require_allowed([refused], patterns)


@pytest.mark.parametrize("line", [r"^net\.ipv4\.([a-z0-9_]+\.?)+$", "^(a|a)*$", "^(net.*)*#$", "(x+x+)+y"])
def test_matching_takes_linear_time(tmp_path: Path, line: str) -> None:
    """With Python's own `re` module, which would try 2^100,000 paths, this test would not end."""
    with pytest.raises(CNIError, match="is not allowed"):
        require_allowed(["net.ipv4." + "a" * 100_000 + "!" + "x" * 100_000], allowlist(tmp_path, line + "|^$"))


BAD = [
    "(net",
    "a**",
    "[z-a]",
    "x\\",
    r"a\Z",
    "(?=net)",
    "(?!net)",
    r"(a)\1",
    "a{1001}",
    "(a{1000}){1000}",
    "a" * 1_000_000,
]


@pytest.mark.parametrize("line", BAD, ids=range(len(BAD)))
def test_an_invalid_pattern_is_an_error(tmp_path: Path, line: str) -> None:
    """A pattern that cannot be parsed, or not matched in bounded time and memory, is an error with file and line."""
    with pytest.raises(CNIError) as caught:
        allowlist(tmp_path, f"net\n{line}\n")
    assert caught.value.code == 7
    assert caught.value.msg.endswith(f"allowlist.conf, line 2: not a regular expression: {line}")
    assert caught.value.details


@pytest.mark.parametrize("content", [b"\xff\xfe", None], ids=["not UTF-8", "a folder"])
def test_an_unreadable_file_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    """It is never treated like a missing file."""
    file = tmp_path / "allowlist.conf"
    file.write_bytes(content) if content else file.mkdir()
    with pytest.raises(CNIError) as caught:
        read(str(file))
    assert caught.value.code == 5

"""The allowlist of `tuning`."""

import re
from pathlib import Path

import pytest

from plugins.tune.allowlist import read, require_allowed
from spec.errors import CNIError


def allowlist(tmp_path: Path, content: str) -> tuple[re.Pattern, ...] | None:
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


def test_a_line_feed_does_not_get_past_a_dollar(tmp_path: Path) -> None:
    """A name that ends in a line feed is not the name without it."""
    with pytest.raises(CNIError):
        require_allowed(["net.core.x\n"], allowlist(tmp_path, "^net.core.x$"))


def test_an_empty_file_allows_nothing_and_none_everything(tmp_path: Path) -> None:
    """Who made the file meant to restrict."""
    require_allowed(["net.x"], read(str(tmp_path / "nosuch")))
    with pytest.raises(CNIError):
        require_allowed(["net.x"], allowlist(tmp_path, "\n \n"))


BAD = ["(net", "a**", "[z-a]", "x\\", "(?U)a", "a(?i)b"]
GOS = ["[[:alpha:]]", "[:alpha:]", r"\p{L}", r"\Qnet\E", r"a\Z", "a{,2}"]


@pytest.mark.parametrize("line", BAD + GOS)
def test_a_line_that_is_no_pattern_or_one_of_go_alone_is_named(tmp_path: Path, line: str) -> None:
    """What can not be read, or would be read as something else than Go reads it, is an error with file and line."""
    with pytest.raises(CNIError) as caught:
        allowlist(tmp_path, f"net\n{line}\n")
    assert caught.value.code == 7
    assert caught.value.msg.endswith(f"allowlist.conf, line 2: not a regular expression: {line}")
    assert caught.value.details


@pytest.mark.parametrize("content", [b"\xff\xfe", None], ids=["not UTF-8", "a folder"])
def test_a_file_that_can_not_be_read_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    """Not being able to read the list is never taken for there being none."""
    file = tmp_path / "allowlist.conf"
    file.write_bytes(content) if content else file.mkdir()
    with pytest.raises(CNIError) as caught:
        read(str(file))
    assert caught.value.code == 5

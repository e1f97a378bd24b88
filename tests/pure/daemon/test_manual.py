"""docs/slash24-node.md has every key of the daemon's configuration, with its type and default."""

import re
from pathlib import Path

import pytest

from daemon import config
from daemon.config import CONFIG_FILE, CONFLIST, check
from nodes.records import from_text
from nodes.registries.open import DEFAULT, TABLES
from spec.config import Section
from tests.conftest import ROOT
from tests.pure.daemon.test_config import EXAMPLE
from tests.pure.test_docs import GETTERS, cells

PAGE = "slash24-node.md"
TYPES = {"object": "table", "list of objects": "list of tables"}


def documented(column: int) -> dict[str, str]:
    """The keys in the table of the configuration, with the cell in that column."""
    section = (ROOT / "docs" / PAGE).read_text().partition("\n## Configuration\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    assert rows[0] == ["key", "type", "default", "meaning"]
    return {key: row[column] for row in rows[2:] for key in re.findall(r"`([^`]+)`", row[0])}


def test_every_key_that_is_read_is_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no other, with the types that are read; the keys of the mode and the registry have other tables."""
    monkeypatch.setattr(config, "_check_plugin", lambda *_: None)
    monkeypatch.setattr(config, "_check_options", lambda *_: None)
    read: dict[str, str] = {}
    for name, kind in GETTERS.items():
        original = getattr(Section, name)

        def recording(self: Section, key: str, *more: object, original=original, kind=kind, **named: object):
            path = self.path_of(key)
            if not path.startswith("conflist.plugins["):
                read[path] = TYPES.get(kind, kind) or read.get(path, "")
            return original(self, key, *more, **named)

        monkeypatch.setattr(Section, name, recording)
    (tmp_path / "slash24.toml").write_text(EXAMPLE + "[file]\n")
    assert check(str(tmp_path / "slash24.toml"), {}) == []
    types = documented(1)
    assert set(read) == set(types)
    assert {key: kind for key, kind in read.items() if kind and kind != types[key]} == {}


def test_documented_defaults_are_those_of_the_code() -> None:
    """The paths, the registry, the version, and what is leased."""
    defaults = documented(2)
    found = config.ConflistConf()
    assert defaults["registry"] == f'`"{DEFAULT}"`'
    assert defaults["conflist.path"] == f'`"{CONFLIST}"`' == f'`"{found.path}"`'
    assert defaults["conflist.name"] == f'`"{found.name}"`'
    assert defaults["conflist.cniVersion"] == f'`"{found.cni_version}"`'
    assert f"`{CONFIG_FILE}`" in (ROOT / "docs" / PAGE).read_text()


def test_the_examples_of_the_manual_are_valid(tmp_path: Path) -> None:
    """So they can be copied: a whole file, and tables to add to it."""
    whole, *tables = re.findall(r"^```toml\n(.*?)^```", (ROOT / "docs" / PAGE).read_text(), re.MULTILINE | re.DOTALL)
    for text in (whole, *(whole + table for table in tables)):
        (tmp_path / "slash24.toml").write_text(text)
        assert check(str(tmp_path / "slash24.toml"), {}) == []


def test_every_kind_of_registry_is_documented() -> None:
    """With its table."""
    rows = dict(zip(cells(PAGE, "registry"), cells(PAGE, "options in"), strict=True))
    kinds = {re.search(r'"([a-z+]+)', cell)[1]: table.strip("`[]") for cell, table in rows.items()}
    assert kinds == TABLES


def test_the_example_of_a_record_is_valid() -> None:
    """With its version."""
    (example,) = re.findall(r"^```json\n(.*?)^```", (ROOT / "docs" / PAGE).read_text(), re.MULTILINE | re.DOTALL)
    assert from_text(example.encode()).subnets == ("10.244.1.0/24",)


def test_the_options_of_the_command_line_are_documented() -> None:
    """All but --help and --version."""
    source = (ROOT / "daemon" / "options.py").read_text()
    page = (ROOT / "docs" / PAGE).read_text().partition("\n## Running\n")[2]
    options = re.findall(r"^\| `(--[a-z-]+)", page, re.MULTILINE)
    assert {*options, "--version"} == set(re.findall(r'"(--[a-z-]+)"', source))

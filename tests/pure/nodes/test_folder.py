"""A folder of records: whatever is written there, and however."""

import json
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.registries import folder
from nodes.registries.folder import Folder, list_files
from nodes.registry import Entry

GOOD = {"name": "a", "addresses": ["192.0.2.1"], "podCIDRs": ["10.244.1.0/24"]}


def write(path: Path, key: str, value: object) -> None:
    """Write a file, in place."""
    (path / f"{key}.json").write_text(value if isinstance(value, str) else json.dumps(value))


def subnets(entries: list[Entry]) -> dict[str, tuple[str, ...] | None]:
    """The subnets of each entry by key; None without a record."""
    return {entry.key: entry.node and entry.node.subnets for entry in entries}


def test_changes_are_found(tmp_path: Path) -> None:
    """New files, deleted ones, and changed ones, even if they were changed back; nothing if nothing has changed."""
    found = Folder(str(tmp_path), patience=0)
    write(tmp_path, "a", GOOD)
    write(tmp_path, "b", {"podCIDRs": "10.244.2.0/24"})
    changed, removed = found.look(0)
    assert (subnets(changed), removed) == ({"a": ("10.244.1.0/24",), "b": ("10.244.2.0/24",)}, [])
    assert {entry.node.name for entry in changed} == {"a", "b"}
    assert found.look(1) == ([], [])
    write(tmp_path, "b", {"podCIDRs": ["10.244.3.0/24"]})
    write(tmp_path, "b", {"podCIDRs": "10.244.2.0/24"})
    changed, removed = found.look(1)
    assert (subnets(changed), removed) == ({"b": ("10.244.2.0/24",)}, [])
    write(tmp_path, "b", {"podCIDRs": ["10.244.9.0/24"]})
    (tmp_path / "a.json").unlink()
    changed, removed = found.look(2, ["b"])
    assert (subnets(changed), removed) == ({"b": ("10.244.9.0/24",)}, [])
    found.look(3)
    assert found.look(4) == ([], ["a"])


def test_other_names_are_ignored(tmp_path: Path) -> None:
    """Temporary files, hidden ones, backups and folders of other names."""
    for name in (".a.json", ".a.json.swp", "a.json~", "a.json.new", "a", ".json", "a b.json", "-.json"):
        (tmp_path / name).write_text(json.dumps(GOOD))
    assert Folder(str(tmp_path)).look(0) == ([], [])


def test_a_half_written_file_keeps_its_last_content(tmp_path: Path) -> None:
    """It is told after a while, once, with the last record; when it is whole again, it counts."""
    found = Folder(str(tmp_path), patience=2)
    write(tmp_path, "a", GOOD)
    found.look(0)
    for now, text in enumerate(["", '{"name": "a", "podCI']):
        write(tmp_path, "a", text)
        assert found.look(10 + now) == ([], [])
    assert found.waiting(11) == (["a"], 1)
    (told,), _ = found.look(12, ["a"])
    assert told.node.subnets == ("10.244.1.0/24",)
    assert told.problem.startswith("a.json: ")
    assert told.problem.endswith("; its last content stays in use")
    assert found.look(20) == ([], [])
    assert found.waiting(20) == ([], None)
    write(tmp_path, "a", GOOD)
    assert subnets(found.look(21)[0]) == {"a": ("10.244.1.0/24",)}


def test_a_file_that_is_replaced_is_never_gone(tmp_path: Path) -> None:
    """A program may delete a file before it writes it again."""
    found = Folder(str(tmp_path), patience=2)
    write(tmp_path, "a", GOOD)
    found.look(0)
    (tmp_path / "a.json").unlink()
    assert found.look(1) == ([], [])
    write(tmp_path, "a", {**GOOD, "zone": "z"})
    changed, removed = found.look(2)
    assert (len(changed), removed) == (1, [])
    assert found.look(9) == ([], [])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[]", "expected a JSON object"),
        ("{", "a.json: "),
        ('{"version": 2}', "it has version 2; this slash24 knows 1"),
        ('{"name": "b"}', 'expected the record of "a", as the file is named, got "b"'),
        ('{"podCIDRs": ["10.244.1.1/24"]}', "without host bits"),
        (" " * 20_000, "more than 16384 bytes"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, content: str, why: str) -> None:
    """And does not affect the others."""
    found = Folder(str(tmp_path), patience=1)
    write(tmp_path, "a", content)
    write(tmp_path, "b", {"podCIDRs": ["10.244.2.0/24"]})
    assert subnets(found.look(0)[0]) == {"b": ("10.244.2.0/24",)}
    (told,), _ = found.look(1)
    assert told.node is None
    assert why in told.problem


def test_hostile_files_neither_hang_nor_stop_others(tmp_path: Path) -> None:
    """A pipe, links in a circle, to nowhere and to a device, a folder, and a file of a terabyte."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "circle.json").symlink_to("circle.json")
    (tmp_path / "nowhere.json").symlink_to("missing")
    (tmp_path / "device.json").symlink_to("/dev/zero")
    (tmp_path / "folder.json").mkdir()
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(1 << 40)
    write(tmp_path, "a", GOOD)
    found = Folder(str(tmp_path), patience=1)
    assert subnets(found.look(0)[0]) == {"a": ("10.244.1.0/24",)}
    told, _ = found.look(1)
    assert {entry.key: entry.problem for entry in told} == {
        "pipe": "pipe.json: not a regular file",
        "circle": "circle.json: Too many levels of symbolic links",
        "device": "device.json: not a regular file",
        "folder": "folder.json: not a regular file",
        "huge": "huge.json: more than 16384 bytes",
    }


def test_links_to_files_are_followed(tmp_path: Path) -> None:
    """A ConfigMap's volume is made of them."""
    write(tmp_path, ".hidden", GOOD)
    (tmp_path / "a.json").symlink_to(".hidden.json")
    assert subnets(Folder(str(tmp_path)).look(0)[0]) == {"a": ("10.244.1.0/24",)}


def test_a_limited_number_of_files_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are known stay; memory does not grow with the others."""
    monkeypatch.setattr(folder, "MOST", 20)
    found = Folder(str(tmp_path))
    write(tmp_path, "a", GOOD)
    found.look(0)
    for number in range(200):
        write(tmp_path, f"n{number}", {})
    tracemalloc.start()
    found.look(1)
    assert len(found.entries) == 20
    assert "a" in {entry.key for entry in found.entries}
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert len(dict(list_files(str(tmp_path), ["a"]))) == 20


contents = st.one_of(
    st.none(),
    st.binary(max_size=30),
    st.sampled_from([json.dumps({**GOOD, "podCIDRs": [f"10.244.{number}.0/24"]}).encode() for number in range(3)]),
)


@given(st.lists(st.tuples(st.sampled_from("abc"), contents), max_size=12))
def test_the_last_good_content_wins(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, bytes | None]]
) -> None:
    """Whatever is written in whatever order, after a while every file has its record or a problem, or is gone."""
    path = tmp_path_factory.mktemp("folder")
    found = Folder(str(path), patience=1)
    known: dict[str, Entry] = {}
    now = 0.0
    for key, content in [*changes, ("", None), ("", None)]:
        if key and content is None:
            (path / f"{key}.json").unlink(missing_ok=True)
        elif key:
            (path / f"{key}.json").write_bytes(content)
        now += 1 if not key else 0.4
        changed, removed = found.look(now)
        known.update((entry.key, entry) for entry in changed)
        for gone in removed:
            del known[gone]
        now += 0 if key else 1
    assert known == {entry.key: entry for entry in found.entries}
    assert set(known) == {name.name.removesuffix(".json") for name in path.iterdir()}
    for key, entry in known.items():
        try:
            text = json.loads((path / f"{key}.json").read_bytes())
            assert isinstance(text, dict)
            assert text.get("name") in ("a", None)
        except (ValueError, AssertionError):
            assert entry.problem

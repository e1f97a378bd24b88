"""The file in which `tuning` saves the original settings: the reference's format, and our additions."""

import errno
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from plugins.tuning import backup
from plugins.tuning.backup import Backup
from plugins.tuning.settings import Settings
from spec.attachment import Attachment

LINK = {"mac": "02:00:00:00:00:01", "promiscuous": False, "mtu": 1500, "all_multicast": True, "queue_length": 0}
OWNER = Attachment("net", "pod", "eth0")
SETTINGS = {"core/somaxconn": "4096", "ipv4/conf/eth0/rp_filter": "2"}
WHOLE = Backup(Settings(LINK, SETTINGS), OWNER, "boot/7", 3)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """The path of OWNER's file, in a folder that does not exist yet."""
    return backup.path_in(str(tmp_path / "cni" / "tuning"), OWNER)


def test_a_backup_is_read_as_it_was_written(path: str) -> None:
    """All values, False and 0 among them."""
    backup.write(path, WHOLE)
    assert backup.read(path) == WHOLE
    assert Path(path).stat().st_mode & 0o777 == 0o600


def test_the_reference_can_read_the_file(path: str) -> None:
    """Name, keys and types are those of the reference plugin; a setting that is not changed is left out."""
    backup.write(path, Backup(Settings({"mtu": 1500, "promiscuous": False})))
    assert Path(path).name == "pod_eth0.json"
    assert json.loads(Path(path).read_text()) == {"promisc": False, "mtu": 1500, "netns": "", "link": 0}
    backup.write(path, WHOLE)
    document = json.loads(Path(path).read_text())
    theirs = {"mac": "02:00:00:00:00:01", "promisc": False, "mtu": 1500, "allmulti": True, "txQLen": 0}
    assert list(document)[:5] == list(theirs)
    assert theirs.items() <= document.items()
    assert not {"MAC", "PROMISC", "MTU", "ALLMULTI", "TXQLEN"} & {key.upper() for key in list(document)[5:]}


def test_a_file_of_the_reference_is_read(path: str) -> None:
    """It states neither namespace nor link, so its settings are restored in any namespace and on any link."""
    Path(path).parent.mkdir(parents=True)
    Path(path).write_text(
        '{\n "mac": "02:00:00:00:00:01",\n "promisc": false,\n "mtu": 1500,\n "allmulti": true,\n "txQLen": 0\n}'
    )
    found = backup.read(path)
    assert found == Backup(Settings(LINK))
    assert found.applied_to("boot/9", 8, "eth0").link == LINK
    assert found.is_of(OWNER)


def test_a_missing_file_is_none(path: str) -> None:
    """Deleting a missing file is not an error."""
    assert backup.read(path) is None
    backup.delete(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        '{"mtu": "1500"}',
        '{"mtu": true}',
        '{"promisc": 1}',
        '{"sysctl": []}',
        '{"sysctl": {"core/x": 1}}',
        '{"sysctl": {"../../kernel/x": "1"}}',
        '{"sysctl": {"/core": "1"}}',
        '{"attachment": {}}',
        '{"netns": 7}',
        '{"link": "3"}',
    ],
)
def test_an_invalid_file_is_a_value_error(path: str, text: str) -> None:
    """A truncated or manipulated file restores nothing, least of all sysctls outside net/."""
    Path(path).parent.mkdir(parents=True)
    Path(path).write_text(text)
    with pytest.raises(ValueError, match=r"."):
        backup.read(path)


def test_originals_are_restored_only_where_they_were_saved() -> None:
    """Another namespace gets nothing; another link of that name, or none, gets only sysctls without the link's name."""
    assert WHOLE.applied_to("boot/7", 3, "eth0") == WHOLE.originals
    assert WHOLE.applied_to("boot/8", 3, "eth0") == Settings()
    for link in (0, 4):
        assert WHOLE.applied_to("boot/7", link, "eth0") == Settings({}, {"core/somaxconn": "4096"})


def test_the_first_originals_are_kept() -> None:
    """A second ADD adds the settings that it changes besides."""
    again = Backup(Settings({"mtu": 1400, "mac": "02:00:00:00:00:09"}, {"core/somaxconn": "1", "core/x": "2"}), OWNER)
    completed = again.completed(Settings({"mtu": 1500}, {"core/somaxconn": "4096"}))
    assert completed.originals == Settings(
        {"mtu": 1500, "mac": "02:00:00:00:00:09"}, {"core/somaxconn": "4096", "core/x": "2"}
    )


def test_undoing_a_write(path: str) -> None:
    """The previous file is restored, or the file deleted if there was none."""
    first = backup.write(path, WHOLE)
    second = backup.write(path, Backup(Settings({"mtu": 9})))
    second()
    assert backup.read(path) == WHOLE
    first()
    assert backup.read(path) is None
    assert list(Path(path).parent.iterdir()) == []


def test_attachments_with_the_same_file_name() -> None:
    """`a_b` with `c` and `a` with `b_c` have one file name; the owner is in the file."""
    mine, other = Attachment("net", "a_b", "c"), Attachment("net", "a", "b_c")
    assert backup.path_in("/x", mine) == backup.path_in("/x", other)
    assert Backup(Settings(), mine).is_of(mine)
    assert not Backup(Settings(), mine).is_of(other)


def test_sweep(path: str) -> None:
    """Files of stale attachments are deleted, incomplete ones too; those without an owner and all others are kept."""
    folder = Path(path).parent
    backup.sweep(str(folder), lambda _owner: True)
    stale, valid, unfinished = (Attachment("net", name, "eth0") for name in ("stale", "valid", "unfinished"))
    for owner in (stale, valid, unfinished):
        backup.write(backup.path_in(str(folder), owner), Backup(Settings(), owner))
    (folder / "unfinished_eth0.json").rename(folder / "unfinished_eth0.json.new")
    for name, text in {"go_eth0.json": '{"mtu": 1500}', "torn_eth0.json": "{", "other": "{}"}.items():
        (folder / name).write_text(text)
    backup.sweep(str(folder), lambda owner: owner != valid)
    assert sorted(file.name for file in folder.iterdir()) == [
        "go_eth0.json",
        "other",
        "torn_eth0.json",
        "valid_eth0.json",
    ]


def test_a_sweep_fails_on_a_shortage_of_descriptors(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be read for another reason is kept, and the sweep goes on."""
    for failure, passes in ((errno.EMFILE, False), (errno.EACCES, True)):
        backup.write(path, WHOLE)
        other = backup.path_in(str(Path(path).parent), Attachment("net", "pod", "eth1"))
        backup.write(other, Backup(WHOLE.originals, Attachment("net", "pod", "eth1")))
        read = backup.read

        def reads(file: str, failure: int = failure, read: Callable = read) -> Backup | None:
            if file == path:
                raise OSError(failure, "refused by the test")
            return read(file)

        with monkeypatch.context() as patch:
            patch.setattr(backup, "read", reads)
            with nullcontext() if passes else pytest.raises(OSError, match="refused"):
                backup.sweep(str(Path(path).parent), lambda _: True)
        assert Path(path).exists()
        assert not passes or not Path(other).exists()

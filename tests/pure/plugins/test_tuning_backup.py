"""The file in which `tuning` keeps how things were: the reference's format, and what is ours beside it."""

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
    """Where the file of OWNER is, in a folder that is not there yet."""
    return backup.path_in(str(tmp_path / "cni" / "tuning"), OWNER)


def test_it_is_read_as_written(path: str) -> None:
    """Every value, those that are False and 0 among them, comes back as it was."""
    backup.write(path, WHOLE)
    assert backup.read(path) == WHOLE
    assert Path(path).stat().st_mode & 0o777 == 0o600


def test_the_reference_finds_its_keys(path: str) -> None:
    """Name, keys and types are those of the reference plugin; what is not changed is not there."""
    backup.write(path, Backup(Settings({"mtu": 1500, "promiscuous": False})))
    assert Path(path).name == "pod_eth0.json"
    assert json.loads(Path(path).read_text()) == {"promisc": False, "mtu": 1500, "netns": "", "link": 0}
    backup.write(path, WHOLE)
    document = json.loads(Path(path).read_text())
    theirs = {"mac": "02:00:00:00:00:01", "promisc": False, "mtu": 1500, "allmulti": True, "txQLen": 0}
    assert list(document)[:5] == list(theirs)
    assert theirs.items() <= document.items()
    assert not {"MAC", "PROMISC", "MTU", "ALLMULTI", "TXQLEN"} & {key.upper() for key in list(document)[5:]}


def test_the_file_of_the_reference_is_read(path: str) -> None:
    """What the reference plugin saved can be put back, upon any namespace and link: it does not say which."""
    Path(path).parent.mkdir(parents=True)
    Path(path).write_text(
        '{\n "mac": "02:00:00:00:00:01",\n "promisc": false,\n "mtu": 1500,\n "allmulti": true,\n "txQLen": 0\n}'
    )
    found = backup.read(path)
    assert found == Backup(Settings(LINK))
    assert found.applied_to("boot/9", 8, "eth0").link == LINK
    assert found.is_of(OWNER)


def test_absence_is_none(path: str) -> None:
    """No file, no backup; deleting what is not there is no error."""
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
def test_garbage_is_told(path: str, text: str) -> None:
    """A file that was cut off, or tampered with, is a ValueError: nothing is put back from it, nothing outside net/."""
    Path(path).parent.mkdir(parents=True)
    Path(path).write_text(text)
    with pytest.raises(ValueError, match=r"."):
        backup.read(path)


def test_originals_are_put_on_nothing_else() -> None:
    """Another namespace gets nothing; another link of that name, or none, gets what is not of the link."""
    assert WHOLE.applied_to("boot/7", 3, "eth0") == WHOLE.originals
    assert WHOLE.applied_to("boot/8", 3, "eth0") == Settings()
    for link in (0, 4):
        assert WHOLE.applied_to("boot/7", link, "eth0") == Settings({}, {"core/somaxconn": "4096"})


def test_the_first_originals_stay() -> None:
    """A second ADD adds what it changes besides, and keeps what the first one found."""
    again = Backup(Settings({"mtu": 1400, "mac": "02:00:00:00:00:09"}, {"core/somaxconn": "1", "core/x": "2"}), OWNER)
    completed = again.completed(Settings({"mtu": 1500}, {"core/somaxconn": "4096"}))
    assert completed.originals == Settings(
        {"mtu": 1500, "mac": "02:00:00:00:00:09"}, {"core/somaxconn": "4096", "core/x": "2"}
    )


def test_the_way_back(path: str) -> None:
    """Undoing a write gives the file that was there, or none."""
    first = backup.write(path, WHOLE)
    second = backup.write(path, Backup(Settings({"mtu": 9})))
    second()
    assert backup.read(path) == WHOLE
    first()
    assert backup.read(path) is None
    assert list(Path(path).parent.iterdir()) == []


def test_names_that_coincide() -> None:
    """`a_b` with `c` and `a` with `b_c` share a file name; whose it is, the file says."""
    mine, other = Attachment("net", "a_b", "c"), Attachment("net", "a", "b_c")
    assert backup.path_in("/x", mine) == backup.path_in("/x", other)
    assert Backup(Settings(), mine).is_of(mine)
    assert not Backup(Settings(), mine).is_of(other)


def test_sweep(path: str) -> None:
    """Files of stale attachments go, finished or not; those of nobody, and all others, stay."""
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


def test_a_sweep_does_not_pass_over_what_it_has_no_descriptor_for(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can not be read for another reason stays; the others go."""
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

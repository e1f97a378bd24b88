"""Where policies are disabled, nothing of them is left, whoever makes it again."""

from pathlib import Path

import pytest

from daemon.policies import setup as module
from daemon.policies.setup import Removal, remove
from plugins.pod import pod_files
from plugins.pod.pod_files import PodFile

POD = PodFile("pods", "a", "eth0", ("10.1.0.2",), "veth0")


class Ended(BaseException):
    """Ends the thread's function."""


class FakeMonitor:
    """Says twice that somebody has changed the tables."""

    fails = ""
    times = 2

    def __enter__(self) -> "FakeMonitor":
        if self.fails:
            FakeMonitor.fails, fails = "", self.fails
            raise OSError(fails)
        return self

    def __exit__(self, *_: object) -> None: ...

    def has_changed(self) -> bool:
        self.times -= 1
        if self.times < 0:
            raise Ended
        return True


class FakePoll:
    """Something is always there to be read."""

    def register(self, *_: object) -> None: ...

    def poll(self, *_: object) -> None: ...


def test_tables_and_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, and the folder; nothing to do is success."""
    deleted = []
    monkeypatch.setattr(module.tables, "delete_all", lambda: deleted.append("tables"))
    monkeypatch.setattr(module, "KEPT", str(tmp_path / "documents"))
    (tmp_path / "documents").mkdir()
    folder = str(tmp_path / "pods")
    pod_files.write(POD, folder)
    for _ in range(2):
        remove(folder)
        assert not list(tmp_path.iterdir())
    assert deleted == ["tables"] * 2


def test_what_is_made_again_goes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once; what fails is told, and tried again."""
    removed, logged, problems = [], [], []
    monkeypatch.setattr(module, "open_monitor", FakeMonitor)
    monkeypatch.setattr(module.select, "poll", FakePoll)
    monkeypatch.setattr(module.time, "sleep", lambda _seconds: problems.append(removal.problem))
    monkeypatch.setattr(FakeMonitor, "fails", "no memory")
    removal = Removal(lambda _level, fields: logged.append(fields.get("msg", fields["event"])))
    removal._remove = lambda: removed.append("all")
    with pytest.raises(Ended):
        removal._run()
    assert removed == ["all"] * 3
    assert problems[0] == "policies cannot be removed: no memory"
    assert set(problems[1:]) == {""}
    assert logged.count("policies cannot be removed: no memory") == 2  # and that it is solved
    assert logged.count("policies-removed-again") == 2

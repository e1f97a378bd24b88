"""The launcher under test, as it ships and under the sanitizers."""

from pathlib import Path

import pytest

from tests.launcher.fixtures import agent, listen, sanitized, shipped  # noqa: F401 (fixtures)
from tests.launcher.launched import Folder


@pytest.fixture(params=["shipped", "sanitized"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """An installation of the launcher, with a shell script in place of the frozen plugin."""
    if request.param == "sanitized":
        return Folder(tmp_path / "bin").install(request.getfixturevalue("sanitized") / "launcher")
    launcher, emulator = request.getfixturevalue("shipped")
    return Folder(tmp_path / "bin", emulator).install(launcher)

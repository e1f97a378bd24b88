"""What the suite's conftest does for all tests.

CI=true: a test that is skipped is a failure, unless the kernel lacks what it is about. Examples have no deadline.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent.parent
ONE_TEST = "import pytest\ndef test_it(): pytest.skip({reason!r})\n"
WHOLE_MODULE = "import pytest\npytest.skip({reason!r}, allow_module_level=True)\ndef test_it(): pass\n"


def run(folder: Path, source: str, reason: str, *, ci: str) -> str:
    """The closing line of a run, with the suite's conftest, of a file that skips for a reason."""
    (folder / "test_it.py").write_text(source.format(reason=reason))
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", "/dev/null"]
    done = subprocess.run(
        [*argv, "--rootdir", folder, folder],
        cwd=ROOT,
        env=os.environ | {"CI": ci},
        capture_output=True,
        text=True,
    )
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("source", [ONE_TEST, WHOLE_MODULE], ids=["test", "module"])
def test_a_skip_fails_in_ci(tmp_path: Path, source: str) -> None:
    """Whatever is not run must not look as if it had passed."""
    line = run(tmp_path, source, "no such tool", ci="true")
    assert "skipped" not in line
    assert "1 failed" in line or "1 error" in line


@pytest.mark.parametrize("source", [ONE_TEST, WHOLE_MODULE], ids=["test", "module"])
@pytest.mark.parametrize(("reason", "ci"), [("kernel lacks vrf", "true"), ("no such tool", "")])
def test_a_skip_stands_where_it_may(tmp_path: Path, source: str, reason: str, ci: str) -> None:
    """Outside CI, and everywhere for want of a kernel feature."""
    assert "1 skipped" in run(tmp_path, source, reason, ci=ci)


def test_no_example_is_timed() -> None:
    """Hypothesis fails no example for its time, which depends on what else the machine does."""
    assert settings().deadline is None

"""bench/sandboxes.py against the plugins and the agent as shipped."""

import subprocess
import sys
from pathlib import Path

from bench import report, sandboxes
from tests.conftest import ROOT


def test_sandboxes_are_measured_and_published(tmp_path: Path, bin_dir: Path, reference_bin: Path) -> None:
    """Every suite starts and stops pods, and the page gets the table."""
    (tmp_path / report.PAGE).write_text(f"<!-- {sandboxes.PLACE} -->\n<!-- end of sandboxes -->\n")
    options = ["--rounds", "1", "--row", "2", "--together", "2", "--publish", tmp_path, "--bin", bin_dir]
    done = subprocess.run([sys.executable, "-m", "bench.sandboxes", *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / report.PAGE).read_text()
    assert all(f"| {verb}, {how}" in page for verb in ("start", "stop") for how in ("in a row", "2 at once"))

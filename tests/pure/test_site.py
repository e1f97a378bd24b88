"""The website of docs/ builds, and its pictures match their scripts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPTS = [path for path in sorted((ROOT / "docs").glob("*.py")) if path.with_suffix(".svg").exists()]


def test_the_website_builds_without_warnings(tmp_path: Path) -> None:
    """Every page is in the navigation, every link and anchor exists, and nothing is loaded from other sites."""
    argv = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert (tmp_path / "search" / "search_index.json").exists()
    pages = "".join(path.read_text() for path in tmp_path.rglob("*.html"))
    assert "<h1" in pages
    assert not [tag for tag in ('src="http', 'rel="stylesheet" href="http', 'rel="preconnect"') if tag in pages]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_pictures_match_their_scripts(script: Path) -> None:
    """The committed file is the output of the script, which is reproducible."""
    program = f"import {script.stem} as script; print(script.draw(), end='')"
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(script.parent)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, check=True)
    assert done.stdout == script.with_suffix(".svg").read_text(), f"run docs/{script.name}"

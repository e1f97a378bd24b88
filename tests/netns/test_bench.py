"""bench/ against the plugins and the agent as shipped: it runs, and fails without an agent."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import cluster, report

pytestmark = [pytest.mark.cold(reason="the benchmark has nodes of its own"), pytest.mark.xdist_group("heavy")]

ROOT = Path(__file__).resolve().parent.parent.parent


def test_calls_of_an_agent_are_measured_and_published(tmp_path: Path, bin_dir: Path, reference_bin: Path) -> None:
    """Every case runs once; the results are a table, figures in the page, JSON and an SVG chart."""
    (tmp_path / report.PAGE).write_text(f"<!-- {report.FIGURES} -->\n<!-- end of figures -->\n")
    argv = [sys.executable, "-m", "bench.warm", "--rounds", "1", "--pods", "2", "--publish", tmp_path, "--bin", bin_dir]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "performance.json").read_text())["rows"]
    assert len([row for row in rows if row["goal"]]) == 10
    assert all(row["case"] in done.stdout for row in rows)
    assert "</svg>" in (tmp_path / "performance.svg").read_text()


def test_the_benchmark_fails_without_an_agent(tmp_path: Path, bin_dir: Path, reference_bin: Path) -> None:
    """The benchmark fails with a message, because all its calls would be cold."""
    argv = [sys.executable, "-m", "bench.warm", "--rounds", "1", "--bin", bin_dir, "--agent", "false"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "the agent does not listen" in done.stderr


def test_a_daemon_among_nodes_is_measured_and_published(tmp_path: Path, bin_dir: Path) -> None:
    """Every figure is there, with real daemons; the page gets the table."""
    (tmp_path / cluster.PAGE).write_text(f"<!-- {cluster.PLACE} -->\n<!-- end of figures -->\n")
    argv = ["--nodes", "3", "600", "--rounds", "3", "--seconds", "1", "--publish", tmp_path, "--bin", bin_dir]
    done = subprocess.run([sys.executable, "-m", "bench.cluster", *argv], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / cluster.PAGE).read_text()
    assert all(f"| {figure}" in page for figure in cluster.FIGURES)

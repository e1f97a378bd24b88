"""The output of bench/: tables, the page, the chart, and a profile by component."""

import json
import re
from pathlib import Path
from statistics import median
from xml.etree import ElementTree

import pytest

from bench import lab, picture, profile, report, throughput
from bench.figures import Report, Row
from tests.pure.test_docs import cells

ROOT = Path(__file__).resolve().parent.parent.parent
ROWS = (
    Row("ADD, fast", "ms", ours=[2.0, 3.0, 9.0], reference=[9.0, 10.0, 30.0], goal=0.4),
    Row("DEL, <slow>", "ms", ours=[6.0], reference=[10.0], goal=0.5),
    Row("ADD without an agent", "ms", ours=[50.0], reference=[10.0], goal=None),
)
MEASURED = Report(
    "a machine",
    rounds=3,
    rows=ROWS,
    growth=[{"case": "gateway", "verb": "ADD", "of": "slash24", "10": 3.0, "1000": 6.0, "growth": 2.0}],
    floors={"gateway": {"ADD": [lab.Call(ms=1.5, cpu=0.9, output="")]}},
    burst_floor={"ADD": [60.0]},
    starting=[30.0],
    resident=41.0,
)


def test_the_ratio_is_that_of_medians() -> None:
    """One slow call in three does not change it."""
    assert ROWS[0].ratio == pytest.approx(0.3)


def test_the_table_marks_missed_goals() -> None:
    """A ratio above its goal is "missed", one at or below it "reached"; a row without a goal has no mark."""
    assert [cells[-1] for cells in report.cells(MEASURED)] == ["reached", "missed", ""]


def test_the_chart_has_bars_for_rows_with_a_goal() -> None:
    """The SVG is well-formed, has a title, escapes names, and marks a missed goal."""
    root = ElementTree.fromstring(picture.draw(ROWS))
    svg = "{http://www.w3.org/2000/svg}"
    kinds = [rect.get("class") for rect in root.iter(f"{svg}rect")]
    assert kinds == ["page", "all", "bar", "all", "missed"]
    assert root.findtext(f"{svg}title")
    assert "DEL, <slow>" in [text.text for text in root.iter(f"{svg}text")]


def test_publishing_replaces_only_the_figures(tmp_path: Path) -> None:
    """The rest of the page is kept, and publishing again changes nothing."""
    page = tmp_path / report.PAGE
    page.write_text(f"before\n\n<!-- {report.FIGURES} -->\nold\n<!-- end of figures -->\n\nafter\n")
    report.publish(MEASURED, tmp_path)
    once = page.read_text()
    report.publish(MEASURED, tmp_path)
    assert page.read_text() == once
    assert once.startswith("before\n\n")
    assert once.endswith("\n\nafter\n")
    assert "old" not in once
    assert "| ADD, fast " in once
    assert json.loads((tmp_path / "performance.json").read_text())["rows"][0]["slash24"] == [2.0, 3.0, 9.0]


def test_a_page_without_a_place_for_figures_is_an_error(tmp_path: Path) -> None:
    """It is raised before anything is measured."""
    (tmp_path / report.PAGE).write_text("text\n")
    with pytest.raises(SystemExit, match="no place for figures"):
        report.around(tmp_path, report.FIGURES)


def test_the_published_files_are_of_the_same_run() -> None:
    """The table of docs/performance.md and the chart show the medians of docs/performance.json."""
    rows = json.loads((ROOT / "docs" / "performance.json").read_text())["rows"]
    page = (ROOT / "docs" / "performance.md").read_text()
    drawn = (ROOT / "docs" / "performance.svg").read_text()
    assert rows
    for row in rows:
        ours, theirs = median(row["slash24"]), median(row["reference"])
        assert re.search(rf"\| {re.escape(row['case'])} +\| +{ours:.1f} +\| +{theirs:.1f} +\|", page), row["case"]
    figures = [Row(row["case"], row["unit"], row["slash24"], row["reference"], row["goal"]) for row in rows]
    assert drawn == picture.draw(figures)


def test_the_readme_has_the_published_ratios() -> None:
    """The percentages and ratios under "Speed" are rounded from docs/performance.json, and from the table of pods."""
    rows = {row["case"]: row["ratio"] for row in json.loads((ROOT / "docs" / "performance.json").read_text())["rows"]}
    section = (ROOT / "README.md").read_text().partition("\n## Speed\n")[2].partition("\n## ")[0]
    cases = [f"{verb}, bridge, {what}" for what in ("gateway", "ipMasq") for verb in ("ADD", "DEL")]
    cases += ["100 pods at once, all ADDs", "100 pods at once, all DELs"]
    cases += [f"CPU time of a pod, {what}" for what in ("gateway", "ipMasq")]
    pods = dict(zip(cells("performance.md", "a pod"), cells("performance.md", "ratio")[-8:], strict=True))
    shares = [rows[case] for case in cases] + [float(pods[f"{what}, in a row: ms"]) for what in ("start", "stop")]
    assert re.findall(r"(\d+) %", section) == [f"{100 * share:.0f}" for share in shares]
    cold = [rows[f"ADD without an agent, {what}"] for what in ("gateway", "ipMasq")]
    assert re.findall(r"(\d+\.\d)(?: times|\s)", section) == [f"{ratio:.1f}" for ratio in cold]


def test_samples_count_for_the_innermost_frame_of_our_code() -> None:
    """Time in the standard library counts for its caller; a waiting thread does not count."""
    stacks = (
        "main (agent/__main__.py:9);add (plugins/bridge.py:1);loads (json/__init__.py:3) 4",
        f"add ({lab.ROOT}/plugins/bridge.py:1);send (linux/netlink/socket.py:7) 2",
        "_run (threading.py:1);Condition.wait (threading.py:320) 9",
        "main (agent/__main__.py:9);Server._run (agent/server.py:90) 9",
    )
    areas = profile.by_area("\n".join(stacks))
    assert sorted(areas.values()) == [2, 4]
    assert areas["kernel, by netlink"] == 2


def test_throughput_ratios_compare_runs_of_the_same_round() -> None:
    """A machine that becomes half as fast between rounds changes no ratio; less CPU time per byte is better."""
    limit = [throughput.Run(8.0, 0.5), throughput.Run(4.0, 1.0), throughput.Run(8.0, 0.5)]
    mine = [throughput.Run(4.0, 1.0), throughput.Run(2.0, 2.0), throughput.Run(4.0, 1.0)]
    rows = throughput.summary("vxlan", {"IPv4": {"slash24": mine, throughput.BY_HAND: limit}})
    keys = ("ratio", "ratio of bytes a CPU s", "ratio of best bytes a CPU s")
    assert [[row[key] for key in keys] for row in rows] == [[0.5] * 3, [1.0] * 3]

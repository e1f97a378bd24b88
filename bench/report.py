"""Measurements as tables, as JSON, and as a picture."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tabulate import tabulate

from bench import picture
from bench.figures import AT_ONCE, Report

PAGE = "performance.md"
FIGURES, PROFILE = "figures: written by bench.warm", "profile: written by bench.profile"  # places in the page
GROWTH = "Time of a call for one more pod, by the number of pods on the node, in milliseconds:"
FLOOR = "The kernel's part, measured with a C program that does nothing else:"

_HEADERS = ("case", "slash24, ms", "reference, ms", "ratio", "goal", "")


def cells(report: Report) -> list[tuple[str, ...]]:
    """The rows as text: case, ours, the reference's, ratio, goal, and whether it is reached."""
    return [
        (
            row.what,
            f"{median(row.ours):.1f}",
            f"{median(row.reference):.1f}",
            f"{row.ratio:.3f}" if row.ratio < 0.1 else f"{row.ratio:.2f}",
            f"{row.goal:.2f}" if row.goal else "",
            "" if row.goal is None else "reached" if row.ratio <= row.goal else "missed",
        )
        for row in report.rows
    ]


def floor_cells(report: Report) -> list[tuple[str, ...]]:
    """The C program's medians, and ours of the same case."""
    ours = {row.what: median(row.ours) for row in report.rows}
    found = []
    for case, verbs in report.floors.items():
        for verb, calls in verbs.items():
            same = ours.get(f"{verb}, bridge, {case}")
            ms, cpu = median(call.ms for call in calls), median(call.cpu for call in calls)
            found.append((f"{verb}, {case}", f"{ms:.1f}", f"{cpu:.1f}", f"{same:.1f}" if same else ""))
    for verb, times in report.burst_floor.items():
        what = f"{AT_ONCE}, all {verb}s"
        found.append((what, f"{median(times):.1f}", "", f"{ours[what]:.1f}" if what in ours else ""))
    return found


def growth_cells(report: Report) -> list[tuple[str, ...]]:
    """The medians by number of pods."""
    return [
        tuple(f"{value:.2f}" if name == "growth" else _text(value) for name, value in row.items())
        for row in report.growth
    ]


def _text(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def tables(report: Report, style: str) -> list[str]:
    """The three tables, in a style of tabulate."""
    growth = list(report.growth[0])
    sizes = [f"{name} pods" if name.isdigit() else name for name in growth]
    floors = ("operation", "C program, ms", "CPU, ms", "slash24, ms")
    options = {"tablefmt": style, "disable_numparse": True}
    return [
        tabulate(cells(report), _HEADERS, colalign=("left", *["right"] * 4, "left"), **options),
        tabulate(growth_cells(report), sizes, colalign=("left",) * 3 + ("right",) * (len(sizes) - 3), **options),
        tabulate(floor_cells(report), floors, colalign=("left", *["right"] * 3), **options),
    ]


def notes(report: Report) -> str:
    """Notes to the tables."""
    return (
        f"Medians of {report.rounds} rounds (two thirds of that by cnitool and without an agent, a third with many"
        f" pods). {report.machine}. Starting 100 processes that do nothing takes {median(report.starting):.0f} ms."
        f" After the calls of the first table the agent has {report.resident:.0f} MB."
    )


def text(report: Report) -> str:
    """The report for a terminal."""
    return "\n\n".join([*tables(report, "simple"), notes(report)])


def publish(report: Report, folder: Path) -> None:
    """Write the figures to their place in performance.md, and to performance.json and performance.svg."""
    figures, growth, floors = tables(report, "github")
    fill(folder, FIGURES, (figures, notes(report), GROWTH, growth, FLOOR, floors))
    (folder / "performance.json").write_text(as_json(report))
    (folder / "performance.svg").write_text(picture.draw(report.rows))


def fill(folder: Path, place: str, parts: Sequence[str], page: str = PAGE) -> None:
    """Replace the paragraphs and tables at a place in a page."""
    before, after = around(folder, place, page)
    (folder / page).write_text("\n\n".join((before, *parts, after)))


def around(folder: Path, place: str, page: str = PAGE) -> tuple[str, str]:
    """The text before and after a place, including its markers; exits if the place does not exist."""
    begin, end = f"<!-- {place} -->", f"<!-- end of {place.partition(':')[0]} -->"
    before, found, rest = (folder / page).read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        sys.exit(f"bench: {folder / page} has no place for {place.partition(':')[0]}")
    return before + begin, end + after


def as_json(report: Report) -> str:
    """All values, and the medians."""
    rows = [
        {"case": row.what, "unit": row.unit, "ratio": row.ratio, "goal": row.goal}
        | {"medians": {"slash24": median(row.ours), "reference": median(row.reference)}}
        | {"slash24": row.ours, "reference": row.reference}
        for row in report.rows
    ]
    floors = {
        case: {verb: [_rounded((call.ms, call.cpu)) for call in calls] for verb, calls in verbs.items()}
        for case, verbs in report.floors.items()
    }
    document = {"machine": report.machine, "rounds": report.rounds, "rows": rows, "growth": list(report.growth)}
    document |= {"floor (ms, CPU ms)": floors, "floor, many at once": report.burst_floor}
    document |= {"starting": _rounded(report.starting), "resident MB": report.resident}
    return json.dumps(document, indent=1) + "\n"


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 3) for value in values]

"""A picture of ratios: a bar per case with a mark at its goal, legible on light and dark pages."""

from collections.abc import Sequence
from html import escape
from statistics import median

from bench.figures import Row

WIDTH, LABELS, NUMBERS = 940, 360, 170
TOP, STEP, BAR = 64, 30, 16

_STYLE = """
  .page { fill: #ffffff; }
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .title { font-size: 16px; font-weight: 600; }
  .small { font-size: 12px; fill: #59636e; }
  .all { fill: #d1d9e0; }
  .bar { fill: #1a7f37; }
  .missed { fill: #bc4c00; }
  .goal { stroke: #1f2328; stroke-width: 2; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; }
    text { fill: #e6edf3; }
    .small { fill: #9198a1; }
    .all { fill: #3d444d; }
    .bar { fill: #3fb950; }
    .missed { fill: #f0883e; }
    .goal { stroke: #e6edf3; }
  }
"""


def draw(rows: Sequence[Row]) -> str:
    """An SVG document of the rows that have a goal."""
    rows = [row for row in rows if row.goal is not None]
    height = TOP + STEP * len(rows) + 16
    title = "Time taken, as a share of what the reference takes"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">'
    legend = (
        "grey: the reference · green: slash24, the goal (mark) is reached · orange: it is not · numbers: ratio (ms)"
    )
    page = f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>'  # whatever the colour of the page around it
    lines = [head, f"<title>{title}</title>", f"<style>{_STYLE}</style>", page, _words(16, 24, title, "title")]
    lines += [_words(16, 44, legend, "small")]
    for number, row in enumerate(rows):
        lines += _bar(row, TOP + STEP * number)
    return "\n".join([*lines, "</svg>\n"])


def _bar(row: Row, y: int) -> list[str]:
    whole = WIDTH - LABELS - NUMBERS
    middle = y + BAR - 3
    goal = LABELS + row.goal * whole
    kind = "bar" if row.ratio <= row.goal else "missed"
    numbers = f"{row.ratio:.2f}  ({_short(median(row.ours))} / {_short(median(row.reference))})"
    return [
        _words(LABELS - 10, middle, row.what, end=True),
        f'<rect class="all" x="{LABELS}" y="{y}" width="{whole}" height="{BAR}" rx="2"/>',
        f'<rect class="{kind}" x="{LABELS}" y="{y}" width="{min(row.ratio, 1) * whole:.1f}" height="{BAR}" rx="2"/>',
        f'<line class="goal" x1="{goal:.1f}" y1="{y - 4}" x2="{goal:.1f}" y2="{y + BAR + 4}"/>',
        _words(LABELS + whole + 10, middle, numbers),
    ]


def _short(ms: float) -> str:
    return f"{ms:.1f}" if ms < 100 else f"{ms:.0f}"


def _words(x: float, y: float, words: str, kind: str = "", *, end: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ""
    of_kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}"{of_kind}{anchor}>{escape(words)}</text>'

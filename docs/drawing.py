"""Boxes, lines and words of an SVG, legible on light and dark pages."""

from collections.abc import Iterable
from html import escape

_STYLE = """
  .page { fill: #ffffff; }
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .title { font-size: 15px; font-weight: 600; }
  .small { font-size: 12px; fill: #59636e; }
  .box { fill: #f6f8fa; stroke: #818b98; }
  .frame { fill: none; stroke: #818b98; stroke-dasharray: 5 4; }
  .ours { fill: #dafbe1; stroke: #1a7f37; }
  .line { fill: none; stroke: #59636e; stroke-width: 1.5; }
  .tip { fill: #59636e; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; }
    text { fill: #e6edf3; }
    .small { fill: #9198a1; }
    .box { fill: #151b23; stroke: #656c76; }
    .frame { stroke: #656c76; }
    .ours { fill: #0f2d1a; stroke: #3fb950; }
    .line { stroke: #9198a1; }
    .tip { fill: #9198a1; }
  }
"""
_TIP = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
    ' orient="auto-start-reverse"><path class="tip" d="M0 0 L8 4 L0 8 z"/></marker></defs>'
)


def picture(width: int, height: int, title: str, elements: Iterable[str]) -> str:
    """An SVG document with that accessible title."""
    label = escape(title)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
    page = f'<rect class="page" width="{width}" height="{height}" rx="6"/>'  # whatever the colour of the page around it
    return "\n".join([head, f"<title>{label}</title>", f"<style>{_STYLE}</style>", _TIP, page, *elements, "</svg>\n"])


def words(x: float, y: float, text: str, kind: str = "", *, anchor: str = "start") -> str:
    """A line of text that starts, is centred (`middle`) or ends at x."""
    of_kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{of_kind}>{escape(text)}</text>'


def box(x: float, y: float, width: float, height: float, *lines: str, kind: str = "box") -> list[str]:
    """A rectangle with lines of text in its middle: the first in bold, the others small."""
    middle, first = x + width / 2, y + height / 2 + 5 - 8 * (len(lines) - 1)
    return [
        f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>',
        *(
            words(middle, first + 17 * number, line, "small" if number else "title", anchor="middle")
            for number, line in enumerate(lines)
        ),
    ]


def line(*points: tuple[float, float], start: bool = False, end: bool = False) -> str:
    """A line through points, with an arrow head at its start or end."""
    path = " ".join(f"{'L' if number else 'M'}{x:g} {y:g}" for number, (x, y) in enumerate(points))
    tips = ' marker-start="url(#tip)"' * start + ' marker-end="url(#tip)"' * end
    return f'<path class="line" d="{path}"{tips}/>'

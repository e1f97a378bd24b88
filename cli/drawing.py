"""Boxes, lines and words of an SVG, legible on light and dark pages."""

import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from html import escape

_STYLE = """
  .page { fill: #ffffff; }
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .title { font-size: 15px; font-weight: 600; }
  .strong { font-weight: 600; }
  .small { font-size: 12px; fill: #59636e; }
  .box { fill: #f6f8fa; stroke: #818b98; }
  .frame { fill: none; stroke: #818b98; stroke-dasharray: 5 4; }
  .ours { fill: #dafbe1; stroke: #1a7f37; }
  .ill { fill: #ffebe9; stroke: #cf222e; }
  .meter { fill: #818b98; fill-opacity: 0.3; }
  .used { fill: #1a7f37; }
  .wrong { fill: #cf222e; }
  .line { fill: none; stroke: #59636e; stroke-width: 1.5; }
  .tip { fill: #59636e; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; }
    text { fill: #e6edf3; }
    .small { fill: #9198a1; }
    .box { fill: #151b23; stroke: #656c76; }
    .frame { stroke: #656c76; }
    .ours { fill: #0f2d1a; stroke: #3fb950; }
    .ill { fill: #3c1618; stroke: #f85149; }
    .used { fill: #3fb950; }
    .wrong { fill: #ff7b72; }
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
    label = escape(clean(title))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
    page = f'<rect class="page" width="{width}" height="{height}" rx="6"/>'  # whatever the colour of the page around it
    return "\n".join([head, f"<title>{label}</title>", f"<style>{_STYLE}</style>", _TIP, page, *elements, "</svg>\n"])


def clean(text: str) -> str:
    """Foreign text without control characters, which XML may not have, and without those that turn lines round."""
    return "".join(one if one.isprintable() else "\ufffd" for one in text)


def width(text: str, size: float = 13) -> float:
    """How wide a line of text is at most, in the widest of the usual fonts (DejaVu Sans), at that size, in bold."""
    return sum(map(_em, text)) * size


def fitted(text: str, room: float, size: float = 13) -> str:
    """The text, without its middle if it is wider than `room`: the ends of names tell them apart."""
    if width(text, size) <= room:
        return text
    for kept in range(min(len(text) - 1, int(room / size / _LEAST)), 0, -1):
        shortened = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
        if width(shortened, size) <= room:
            return shortened
    return "…"


def wrapped(text: str, room: float, size: float = 13) -> Iterator[str]:
    """The lines of a text, each of them at most `room` wide; longer words are cut as `fitted` does."""
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if line and width(longer, size) > room:
            yield fitted(line, room, size)
            longer = word
        line = longer
    yield fitted(line, room, size)


_NARROW, _WIDE = frozenset("iIjl.,:;'|!()[]{}/\\ tfr-·"), frozenset("mwMW@%&—…GOQ")

_LEAST = 0.5  # of the size


@cache
def _em(character: str) -> float:
    if unicodedata.east_asian_width(character) in "WF" or ord(character) > 0xFFFF:
        return 1.4
    if character in _NARROW:
        return _LEAST
    if character in _WIDE or ord(character) > 0x24F:
        return 1.12
    return 0.8 if character.isupper() else 0.71


def words(x: float, y: float, text: str, kind: str = "", *, anchor: str = "start") -> str:
    """A line of text that starts, is centred (`middle`) or ends at x."""
    of_kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{of_kind}>{escape(clean(text))}</text>'


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

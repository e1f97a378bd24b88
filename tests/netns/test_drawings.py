"""The drawings of `slash24 status` in a real browser: nothing overlaps or leaves its box, on light and dark pages."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from cli.status.page import page_of
from cli.status.svg import svg_of
from tests.pure.cli.pictures import SAMPLES

# Reports, for each drawing of the page: texts that overlap, that leave the innermost rectangle in which they begin, or
# whose contrast with it is below 4.5 (WCAG 2.2, level AA).
_LOOK = """<script>
const luminance = color => {
  const [red, green, blue] = color.match(/[0-9.]+/g).map(value => value / 255).map(
    value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const contrast = (one, other) => {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
};
const fill = element => getComputedStyle(element).fill;
const report = [...document.querySelectorAll("svg")].map(svg => {
  const texts = [...svg.querySelectorAll("text")].map(text => ({text, box: text.getBBox()}));
  const rects = [...svg.querySelectorAll("rect")].map(rect => ({rect, box: rect.getBBox()}));
  const wrong = [];
  for (const {text, box} of texts) {
    const [x, y] = [box.x + 1, box.y + box.height / 2];
    const around = rects.filter(({box: b}) => b.x <= x && x <= b.x + b.width && b.y <= y && y <= b.y + b.height);
    around.sort((a, b) => a.box.width * a.box.height - b.box.width * b.box.height);
    const inner = around[0];
    if (!inner || box.x < inner.box.x || box.x + box.width > inner.box.x + inner.box.width
        || box.y < inner.box.y || box.y + box.height > inner.box.y + inner.box.height)
      wrong.push("leaves its box: " + text.textContent);
    const ground = around.find(({rect}) => fill(rect) !== "none");
    if (!ground || contrast(fill(text), fill(ground.rect)) < 4.5) wrong.push("low contrast: " + text.textContent);
  }
  for (const [number, {text, box: a}] of texts.entries())
    for (const {text: other, box: b} of texts.slice(number + 1))
      if (a.x < b.x + b.width - 0.5 && b.x < a.x + a.width - 0.5
          && a.y < b.y + b.height - 3 && b.y < a.y + a.height - 3)  // boxes of lines touch, their letters do not
        wrong.push("overlap: " + text.textContent + " | " + other.textContent);
  return {texts: texts.length, wrong, isDark: matchMedia("(prefers-color-scheme: dark)").matches};
});
const told = document.createElement("pre");
told.id = "report";
told.textContent = JSON.stringify(report);
document.body.append(told);
</script>"""
_SCHEMES = {"light": "1", "dark": "0"}


def dom(page: Path, scheme: str, *options: str) -> str:
    """The document that the browser makes of a page, after its scripts have run."""
    browser = shutil.which("chromium")
    assert browser, "apt-get install chromium"
    argv = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent}/profile"]
    argv += [f"--blink-settings=preferredColorScheme={_SCHEMES[scheme]}", *options, "--dump-dom", f"file://{page}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("scheme", _SCHEMES)
def test_drawings_are_legible(tmp_path: Path, scheme: str) -> None:
    """All samples: no pod, one, thirty, many; all of them ill; hostile names."""
    page = tmp_path / "all.html"
    drawings = "".join(map(svg_of, SAMPLES.values()))
    page.write_text(f'<!DOCTYPE html><html><meta charset="utf-8"><body>{drawings}{_LOOK}</body></html>')
    found = re.search(r'<pre id="report">(.*?)</pre>', dom(page, scheme), re.DOTALL)
    report = dict(zip(SAMPLES, json.loads(unescape(found[1])), strict=True))
    assert {name: one["wrong"] for name, one in report.items() if one["wrong"]} == {}
    assert {one["isDark"] for one in report.values()} == {scheme == "dark"}
    assert report["thirty"]["texts"] > 3 * 30


def test_a_page_is_drawn_and_runs_nothing_of_others(tmp_path: Path) -> None:
    """Hostile names make neither elements nor scripts; the page has a drawing and a list of everything."""
    page = tmp_path / "node.html"
    page.write_text(page_of(SAMPLES["hostile"]))
    made = dom(page, "light")
    assert "<script" not in made
    assert (made.count("<svg"), made.count("<details")) == (1, 3)
    page.write_text(page_of(SAMPLES["thirty"], reloads=True))
    made = dom(page, "light")
    assert (made.count("<script"), made.count("<tr><td>")) == (1, 30 + 4)


@pytest.mark.parametrize("is_open", [False, True])
def test_a_page_reloads_itself(tmp_path: Path, is_open: bool) -> None:
    """In seven seconds of the browser's own time; but not while somebody reads one of its lists."""
    text = page_of(SAMPLES["one"], reloads=True)
    (tmp_path / "node.html").write_text(text.replace("<details>", "<details open>") if is_open else text)
    count = "loads.textContent = 1 + Number(loads.textContent)"
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'<!DOCTYPE html><body><p id="loads">0</p><iframe src="node.html" onload="{count}"></iframe></body>'
    )
    loads = int(re.search(r'<p id="loads">(\d+)</p>', dom(outer, "light", "--virtual-time-budget=7000"))[1])
    assert (loads == 1) == is_open
    assert loads

"""The pages in a browser: no error, every plot, text that fits and can be read; on a phone, a desk, and in the dark."""

from __future__ import annotations

import html
import json
import re

import pytest

from tests.browser import BROWSER, DARK, shown
from tests.pipeline.written import findings_of, finished_in, results_of
from textbrewer.pipeline import compare, write_report

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LONG = "Shares fell after the central bank raised its rates. " * 4 + "x" * 200

# The page reports on itself in its title. Text on a cell of a heat map is looked after by another test.
PROBE = """
<script>
const root = document.documentElement, found = {};
const rgb = text => text.match(/[\\d.]+/g).slice(0, 3).map(x => { x /= 255;
  return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; });
const light = text => { const [r, g, b] = rgb(text); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const ground = e => { for (; e; e = e.parentElement) {
  const c = getComputedStyle(e).backgroundColor;
  if (c && c !== 'rgba(0, 0, 0, 0)') return c; } return 'rgb(255,255,255)'; };
const contrast = (a, b) => {
  const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
const scale = matrix => Math.hypot(matrix.a, matrix.b);
const own = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
const texts = [...document.querySelectorAll('main *')].filter(e => own(e) && !e.closest('svg'));
const drawn = [...document.querySelectorAll('svg text')].filter(e => !e.closest('g[id]'));
const shown = texts.filter(e => e.offsetParent !== null);
found.dark = matchMedia('(prefers-color-scheme: dark)').matches;
found.wide = root.scrollWidth > root.clientWidth;
found.plots = [...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().height > 50).length;
found.out = shown.filter(e => !e.closest('.scroll, pre') && e.getBoundingClientRect().right > root.clientWidth + 1)
  .map(e => e.textContent.slice(0, 40));
found.cut = shown.filter(e => !e.closest('.scroll, pre') && e.scrollWidth > e.clientWidth + 1 && e.clientWidth)
  .map(e => e.textContent.slice(0, 40));
found.faint = shown.filter(e => contrast(getComputedStyle(e).color, ground(e)) < (e.tagName === 'B' ? 3 : 4.5))
  .map(e => e.textContent.slice(0, 40));
found.faintDrawn = drawn.filter(e => !e.style.fill.includes('on-heat') &&
  contrast(getComputedStyle(e).fill, ground(e)) < 4.5).map(e => e.textContent);
found.small = Math.min(...drawn.map(e => parseFloat(getComputedStyle(e).fontSize) * scale(e.getScreenCTM())));
document.title = JSON.stringify(found);
</script>
"""


def seen(page, folder, width, scheme):
    """What a page tells of itself, and what the browser says of it."""
    done = shown(page, PROBE, folder, width, scheme)
    title = re.search(r"<title>(\{.*?)</title>", done.stdout)
    assert title, done.stdout[-500:] + done.stderr[-500:]
    said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return json.loads(html.unescape(title[1])), said


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of one run, and one that compares five, with the number of plots in each."""
    folder = tmp_path_factory.mktemp("pages")
    runs = [
        finished_in(folder / name, results_of(folder / name, 0.88 + i / 100, seed=i), findings_of(LONG))
        for i, name in enumerate(["films", "films-six-layers", "films-without-matches", "films-reverse-kl", "tiny"])
    ]
    return {"run": (write_report(runs[0]), 9), "comparison": (compare(runs, folder / "comparison.html"), 4)}


@pytest.mark.skipif(BROWSER is None, reason="needs Debian's chromium")
@pytest.mark.parametrize("scheme", DARK)
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["run", "comparison"])
def test_a_page_in_a_browser(pages, tmp_path, name, width, scheme):
    page, plots = pages[name]
    found, said = seen(page, tmp_path, width, scheme)
    assert said == []
    assert found["dark"] is (scheme == "dark")
    assert found["plots"] == plots and not found["wide"]
    assert found["out"] == found["cut"] == found["faint"] == found["faintDrawn"] == []
    assert found["small"] >= 7

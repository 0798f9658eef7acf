"""The chart for the README: what each system does in a second, one panel a workload."""

from __future__ import annotations

from collections.abc import Mapping
from xml.sax.saxutils import escape

from .report import rounded
from .rounds import Figures, Results
from .systems import LIMIT, OWN

PANELS = ("P1", "P2", "P2 full", "P3 read", "P3 write", "P4")

# In pixels. Two panels side by side, a bar a system.
WIDTH = 880
LABELS = 150
BARS = 190
MARGIN = 24
BAR = 15
STEP = 20
HEAD = 34
TOP = 66

NOTE = (
    "Medians. Dashed: synchronous on one thread, the limit."
    " The tasks of plain aiosqlite share one transaction."
)

# The card has a background of its own, so it can be read on whatever page it stands.
_STYLE = """
svg { font: 12px system-ui, sans-serif }
.card { fill: #ffffff; stroke: #d0d7de }
text { fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 }
.panel { font-weight: 600 }
.faint { fill: #59636e }
.peer { fill: #9aa7b4 }
.limit { fill: none; stroke: #9aa7b4; stroke-dasharray: 3 2 }
.own { fill: #1f6feb }
.ours { font-weight: 600 }
@media (prefers-color-scheme: dark) {
.card { fill: #0d1117; stroke: #30363d }
text { fill: #e6edf3 }
.faint { fill: #9198a1 }
.peer { fill: #57606a }
.limit { stroke: #6e7681 }
.own { fill: #58a6ff }
}
"""


def draw(results: Results) -> str:
    """Return the chart as one self-contained SVG."""
    shown = [(w, found) for w, found in results.items() if w.key in PANELS]
    names = list(dict.fromkeys(name for _, found in shown for name in found))
    height = HEAD + STEP * len(names) + MARGIN
    rows = (len(shown) + 1) // 2
    parts = []
    for number, (workload, found) in enumerate(shown):
        left = MARGIN + number % 2 * (WIDTH - MARGIN) / 2
        parts += _panel(left, TOP + number // 2 * height, workload.title, names, found)
    total = TOP + rows * height
    title = "Operations a second; more is better"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" role="img"'
            f' aria-label="{title}">',
            f"<style>{_STYLE}</style>",
            f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{total - 1}" rx="8"/>',
            _text(MARGIN, 30, title, "title"),
            _text(MARGIN, 48, NOTE, "faint"),
            *parts,
            "</svg>\n",
        ]
    )


def _panel(
    left: float, top: float, title: str, names: list[str], found: Mapping[str, Figures]
) -> list[str]:
    """One workload: a bar a system, in the same order in each panel."""
    spreads = {name: figures.spread("per second") for name, figures in found.items()}
    longest = max((spread.high for spread in spreads.values() if spread), default=1.0)
    parts = [_text(left, top + 16, title, "panel")]
    for number, name in enumerate(names):
        y = top + HEAD + number * STEP
        baseline = y + BAR - 3
        parts.append(_text(left, baseline, name, "ours" if name == OWN else ""))
        spread = spreads.get(name)
        x = left + LABELS
        if spread is None:
            parts.append(_text(x, baseline, "–", "faint"))
            continue
        width = max(1.0, BARS * spread.median / longest)
        kind = {OWN: "own", LIMIT: "limit"}.get(name, "peer")
        parts.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>'
        )
        kind = "ours" if name == OWN else "faint"
        parts.append(_text(x + width + 6, baseline, rounded(spread.median), kind))
    return parts


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'

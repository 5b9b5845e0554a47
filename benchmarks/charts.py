"""Bar charts as SVG, readable on light and dark pages. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from benchmarks.measure import Chart

__all__ = ["svg"]

WIDTH, LABEL_WIDTH, VALUE_WIDTH = 760, 300, 80
TOP, ROW, BAR = 44, 28, 18
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 14px }
  .bar { fill: #8c959f }
  .ours { fill: #0969da }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .bar { fill: #6e7681 }
    .ours { fill: #4493f8 }
  }
"""


def svg(chart: Chart) -> str:
    """Return the chart as an SVG document. Bars whose label begins with `whisperd` are highlighted."""
    height = TOP + ROW * len(chart.bars) + 8
    highest = max((value for _, value in chart.bars), default=0.0) or 1.0
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(chart.title)}</title>",
        f"<style>{STYLE}</style>",
        f'<text class="title" x="8" y="24">{escape(chart.title)}</text>',
    ]
    for place, (label, value) in enumerate(chart.bars):
        lines += _bar(TOP + ROW * place, label, value, chart.unit, value / highest)
    return "\n".join([*lines, "</svg>", ""])


def _bar(top: int, label: str, value: float, unit: str, share: float) -> Sequence[str]:
    width = round(share * (WIDTH - LABEL_WIDTH - VALUE_WIDTH), 1)
    kind = "bar ours" if label.startswith("whisperd") else "bar"
    middle = top + BAR - 4
    return (
        f'<text x="{LABEL_WIDTH - 10}" y="{middle}" text-anchor="end">{escape(label)}</text>',
        f'<rect class="{kind}" x="{LABEL_WIDTH}" y="{top}" width="{width}" height="{BAR}" rx="2"/>',
        f'<text x="{LABEL_WIDTH + width + 8:.1f}" y="{middle}">{shown(value)} {escape(unit)}</text>',
    )


def shown(value: float) -> str:
    """Format a value with its significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"

"""Draw line charts as SVG, with nothing but the standard library.

Panels are side by side, with a logarithmic vertical axis and a linear or logarithmic horizontal
one; each line is labeled at its end. The file is self-contained, and readable on light and dark
backgrounds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from math import ceil, floor, log, log10
from typing import NamedTuple

__all__ = ["Panel", "draw"]

WIDTH, HEIGHT = 330, 330  # of the area that the lines are in
LEFT, RIGHT, TOP, BOTTOM = 58, 222, 62, 52
LINE_HEIGHT = 14

# Hues of medium lightness, told apart with the usual color blindnesses; the dashes help further.
# Blue is the project itself, in every chart.
BOLD_COLORS = ("#1f5fc4", "#2f7de1")
COLORS = ("#c2410c", "#b8860b", "#8b5cf6", "#7c3aed", "#0e8a6a", "#888888")
DASHES = ("", "6 3", "2 3", "7 3 2 3")

STYLE = """
    text { font: 12px system-ui, sans-serif; fill: #656d76 }
    .title { font-weight: 600; font-size: 14px }
    .axis { stroke: #8c959f; fill: none }
    .grid { stroke: #8c959f; stroke-opacity: .25 }
    @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }
"""


class Panel(NamedTuple):
    """One chart: points (x, y) of each line, y above zero."""

    title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


class _Axis(NamedTuple):
    """An axis that begins with the first tick and ends with the last."""

    ticks: Sequence[float]
    logarithmic: bool

    def place(self, value: float) -> float:
        """Return where a value is: at 0 the first tick, at 1 the last."""
        first, last = self.ticks[0], self.ticks[-1]
        if self.logarithmic:
            return log(value / first) / (log(last / first) or 1)
        return (value - first) / ((last - first) or 1)


def _logarithmic_axis(values: Collection[float]) -> _Axis:
    """Return an axis for values above zero, with the more ticks in a decade the fewer decades."""
    low, high = min(values), max(values)
    steps = (1, 1.2, 1.5, 2, 3, 5, 7) if high / low < 30 else (1, 3) if high / low < 1000 else (1,)
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
    first = max(tick for tick in ticks if tick <= low)
    last = min(tick for tick in ticks if tick >= high)
    return _Axis([tick for tick in ticks if first <= tick <= last], True)


def draw(
    panels: Sequence[Panel],
    title: str,
    x_label: str,
    y_label: str,
    bold: Collection[str] = (),
    logarithmic: bool = False,
) -> str:
    """Return an SVG document with the panels side by side, all with the same axes.

    The lines named in `bold` are drawn blue, broad and without dashes. With `logarithmic`, the
    horizontal axis is logarithmic, too.
    """
    points = [p for panel in panels for line in panel.lines.values() for p in line]
    x_values = sorted({x for x, _ in points})
    x_axis = _logarithmic_axis(x_values) if logarithmic else _Axis(x_values, False)
    y_axis = _logarithmic_axis([y for _, y in points])
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    step = LEFT + WIDTH + RIGHT
    total_width, total_height = step * len(panels), TOP + HEIGHT + BOTTOM

    size = (
        f'viewBox="0 0 {total_width} {total_height}" width="{total_width}" height="{total_height}"'
    )
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"  <title>{escape(title)}</title>",
        f"  <style>{STYLE}  </style>",
        _text(LEFT, 20, title, "title"),
    ]
    for number, panel in enumerate(panels):
        out.append(f'  <g transform="translate({number * step + LEFT} {TOP})">')
        out += _axes(panel.title, x_axis, y_axis, x_label, y_label)
        labels = []
        for name, line in panel.lines.items():
            alike = [other for other in names if (other in bold) == (name in bold)]
            style = _stroke(alike.index(name), name in bold)
            places = [(WIDTH * x_axis.place(x), HEIGHT * (1 - y_axis.place(y))) for x, y in line]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            out.append(f'    <polyline points="{path}" fill="none" {style}/>')
            labels.append((places[-1][1], name, style))
        out += _names_at_line_ends(labels)
        out.append("  </g>")
    return "\n".join([*out, "</svg>", ""])


def _text(x: float, y: float, text: str, kind: str = "", more: str = "") -> str:
    kind = f' class="{kind}"' if kind else ""
    return f'  <text x="{x:.1f}" y="{y:.1f}"{kind}{more}>{escape(text)}</text>'


def _stroke(number: int, bold: bool) -> str:
    dash = "" if bold else DASHES[number % len(DASHES)]
    width = 3.5 if bold else 2
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    colors = BOLD_COLORS if bold else COLORS
    return f'stroke="{colors[number % len(colors)]}" stroke-width="{width}"{dashes}'


def _axes(title: str, x_axis: _Axis, y_axis: _Axis, x_label: str, y_label: str) -> list[str]:
    middle = ' text-anchor="middle"'
    out = [_text(0, -14, title)]
    for tick in y_axis.ticks:
        y = HEIGHT * (1 - y_axis.place(tick))
        out.append(f'    <line class="grid" x1="0" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(_text(-8, y + 4, f"{tick:.10g}", more=' text-anchor="end"'))
    out.append(f'    <path class="axis" d="M0 0V{HEIGHT}H{WIDTH}"/>')
    for tick in x_axis.ticks:
        x = WIDTH * x_axis.place(tick)
        out.append(
            f'    <line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT}" y2="{HEIGHT + 4}"/>'
        )
        out.append(_text(x, HEIGHT + 18, f"{tick:.10g}", more=middle))
    out.append(_text(WIDTH / 2, HEIGHT + 38, x_label, more=middle))
    turned = f' transform="rotate(-90 -40 {HEIGHT / 2})"{middle}'
    out.append(_text(-40, HEIGHT / 2, y_label, more=turned))
    return out


def _names_at_line_ends(labels: list[tuple[float, str, str]]) -> list[str]:
    """Name the lines from the lowest up, each at its end or as little above it as there is room."""
    out = []
    free = float(HEIGHT)
    for end, name, style in sorted(labels, key=lambda label: -label[0]):
        y = min(end, free)
        free = y - LINE_HEIGHT
        out.append(
            f'    <path d="M{WIDTH + 2} {end:.1f}L{WIDTH + 14} {y:.1f}h10" fill="none" {style}/>'
        )
        out.append(_text(WIDTH + 28, y + 4, name))
    return out

"""Draw line charts as SVG that are readable on light and on dark pages."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

__all__ = ["Panel", "draw"]

# Hues of medium lightness, told apart with the usual color blindnesses; the dashes help further.
# Blue is the project itself, in every chart.
BOLD_COLORS = ("#2f7de1", "#5aa2f5", "#1f5fc4")
COLORS = ("#d9620f", "#b8860b", "#8b5cf6", "#0e8a6a", "#888888")
DASHES = ("--", ":", "-.", (0, (7, 2, 2, 2)), "--")
INK = "#768390"  # between black on white and white on black

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "",  # else names of parts differ in each run
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    ),
    "grid.color": INK,
}


class Panel(NamedTuple):
    """One chart: points (x, y) of each line, y above zero; what y is, if not the same in all."""

    title: str
    lines: dict[str, list[tuple[float, float]]]
    y_label: str = ""


def draw(
    panels: Sequence[Panel],
    title: str,
    x_label: str,
    y_label: str = "",
    bold: Collection[str] = (),
    logarithmic: bool = False,
) -> str:
    """Return an SVG document with the panels side by side, the same bytes in each run.

    The vertical axes are logarithmic, with `logarithmic` the horizontal ones, too. Panels without a
    label of their own have the same vertical axis. The lines named in `bold` are drawn blue, broad
    and without dashes.
    """
    # Here, since tables can be had without it.
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    with pyplot.rc_context(STYLE):
        size = min(4.2 * len(panels), 13) + 2.6, 4.2
        shared = not any(panel.y_label for panel in panels)
        figure, axes = pyplot.subplots(
            1, len(panels), figsize=size, sharey=shared, squeeze=False, layout="constrained"
        )
        for panel, axis in zip(panels, axes[0]):
            for name, line in panel.lines.items():
                alike = [other for other in names if (other in bold) == (name in bold)]
                style = _style(alike.index(name), name in bold)
                axis.plot(*zip(*line), label=name, **style)
            axis.set_title(panel.title, fontsize=11)
            axis.set_xlabel(x_label)
            axis.set_yscale("log")
            if logarithmic:
                axis.set_xscale("log")
            else:
                axis.set_xticks(sorted({x for line in panel.lines.values() for x, _ in line}))
                axis.tick_params(axis="x", labelsize=8)
        for panel, axis in zip(panels, axes[0]):
            if panel.y_label or axis is axes[0][0]:
                axis.set_ylabel(panel.y_label or y_label)
            axis.set_ylim(bottom=min(1, axis.get_ylim()[0]))
            for logarithmic_axis in (axis.yaxis, *([axis.xaxis] if logarithmic else ())):
                low, high = logarithmic_axis.get_view_interval()
                subs = (1, 2, 5) if high / low > 10 else (1, 1.5, 2, 3, 5)
                logarithmic_axis.set_major_locator(LogLocator(subs=subs))
                logarithmic_axis.set_major_formatter(StrMethodFormatter("{x:.10g}"))
                logarithmic_axis.set_minor_formatter(NullFormatter())
        figure.suptitle(title, fontsize=13, fontweight="bold")
        # In the order in which the lines end, the uppermost first
        ends = {line.get_label(): line for axis in axes[0] for line in axis.get_lines()}
        order = sorted(ends.values(), key=lambda line: -line.get_ydata()[-1])
        figure.legend(handles=order, loc="outside right center")
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
        pyplot.close(figure)
    return stream.getvalue()


def _style(number: int, bold: bool) -> dict:
    if bold:
        return {"color": BOLD_COLORS[number % len(BOLD_COLORS)], "linewidth": 3}
    style = COLORS[number % len(COLORS)], DASHES[number % len(DASHES)]
    return {"color": style[0], "linestyle": style[1], "linewidth": 2}

"""Plots as small SVG texts to stand inside a page, whose colours they take.

Lines and text are drawn in stand-in colours that become CSS variables of the page, so that a plot
follows its light and dark look.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--accent)",
    "#050505": "var(--good)",
}
INK, MUTED, LINE, ACCENT, GOOD = _COLOURS
_MOST_POINTS = 160  # of a curve; more are not seen in a panel of this size

_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sensorium",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class Point:
    """A system in a plot.

    Attributes:
        name: of the system.
        value, low, high: its metric; no interval if None.
        cost: for the plot of quality against cost.
        is_best: drawn so that it stands out.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    cost: float = 0.0
    is_best: bool = False

    @property
    def colour(self) -> str:
        """Of its mark."""
        return GOOD if self.is_best else ACCENT


@dataclass(frozen=True)
class Curve:
    """One loss of one run over its steps."""

    steps: Sequence[int]
    values: Sequence[float]
    is_validation: bool


def interval_plot(points: Sequence[Point], label: str) -> str:
    """A dot with its interval for each system, the first on top."""
    with _figure(6.6, 0.55 + 0.34 * len(points)) as (figure, axes, finished):
        places = np.arange(len(points))[::-1]
        for place, point in zip(places, points, strict=True):
            if point.low is not None and point.high is not None:
                axes.plot([point.low, point.high], [place, place], color=point.colour, linewidth=2.2)
            axes.plot(point.value, place, "o", color=point.colour, markersize=6.5)
        axes.set_yticks(places, [_short(point.name) for point in points], color=INK)
        axes.set_ylim(-0.6, len(points) - 0.4)
        axes.set_xlabel(label)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
    return finished[0]


def curve_plot(curves: Sequence[Curve], stages: Mapping[int, str]) -> str:
    """Training and validation losses over steps.

    Args:
        curves: of one loss, for one or several seeds.
        stages: the step at which each stage after the first begins, with its name.
    """
    with _figure(3.5, 2.1) as (figure, axes, finished):
        for curve in curves:
            steps, values = _thinned(curve)
            if curve.is_validation:
                axes.plot(steps, values, ".-", color=GOOD, linewidth=1.6, markersize=5)
            else:
                axes.plot(steps, values, color=ACCENT, linewidth=1.0, alpha=0.75)
        for step, name in stages.items():
            axes.axvline(step, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
            axes.annotate(
                name, (step, 1), (3, -8), xycoords=("data", "axes fraction"),
                textcoords="offset points", fontsize=7, color=MUTED,
            )  # fmt: skip
        axes.locator_params(nbins=5)
        axes.set_xlabel("step", fontsize=8)
    return finished[0]


def cost_plot(points: Sequence[Point], cost: str, label: str) -> str:
    """Quality against cost, the latter on a logarithmic axis: up and to the left is better."""
    with _figure(3.6, 2.5) as (figure, axes, finished):
        order = sorted(points, key=lambda point: point.value)
        costs = [point.cost for point in order]
        for point in order:
            if point.low is not None and point.high is not None:
                ends = [point.low, point.high]
                axes.plot([point.cost] * 2, ends, color=point.colour, linewidth=1.4, alpha=0.6)
            axes.plot(point.cost, point.value, "o", color=point.colour, markersize=6.5)
        axes.set_xscale("log")
        # room for names, which are written towards the middle of the plot
        axes.set_xlim(min(costs) / 2.2, max(costs) * 2.2)
        middle = float(np.sqrt(min(costs) * max(costs)))
        for point in order:
            side = -1 if point.cost > middle else 1
            axes.annotate(
                _short(point.name), (point.cost, point.value), (7 * side, -3),
                textcoords="offset points", fontsize=8, color=INK,
                horizontalalignment="left" if side > 0 else "right",
            )  # fmt: skip
        axes.set_xlabel(cost, fontsize=8)
        axes.set_ylabel(label, fontsize=8)
        _few_ticks(axes, costs)
    return finished[0]


def _few_ticks(axes: Axes, costs: Sequence[float]) -> None:
    """Ticks of a logarithmic axis in plain numbers, also where it spans less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    from sensorium.report.numbers import count

    narrow = max(costs) < 20 * min(costs)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=6))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Figure, Axes, list[str]]]:
    """A figure to draw in; its SVG is in the list when the block ends."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    finished: list[str] = []
    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        # names in scripts that the layout font lacks are drawn by the reader's browser
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        yield figure, axes, finished
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
        finished.append(_embedded(written.getvalue()))


def _embedded(svg: str) -> str:
    """Without what a page does not need, and with the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns:xlink="[^"]*"| xmlns="[^"]*"| version="[^"]*"', "", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r' id="[a-z0-9]+(?:\.[a-z]+)?_\d+"', "", svg)  # groups, which nothing refers to
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r">\s+<", "><", svg)
    for stand_in, colour in _COLOURS.items():
        svg = svg.replace(stand_in, colour)
    return svg


def _thinned(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points, each the mean of its neighbours."""
    steps = np.asarray(curve.steps, dtype=np.float64)
    values = np.asarray(curve.values, dtype=np.float64)
    if len(steps) <= _MOST_POINTS:
        return steps, values
    edges = np.linspace(0, len(steps), _MOST_POINTS + 1).astype(int)[:-1]
    sizes = np.diff(np.append(edges, len(steps)))
    return np.add.reduceat(steps, edges) / sizes, np.add.reduceat(values, edges) / sizes


def _short(name: str) -> str:
    return name if len(name) <= 28 else name[:27] + "…"

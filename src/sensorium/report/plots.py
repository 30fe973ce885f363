"""Plots as small SVG texts to stand inside a page, whose colours they take.

Lines and text are drawn in stand-in colours that become CSS variables of the page, so that a plot
follows its light and dark look.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sensorium.report.numbers import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--accent)",
    "#050505": "var(--good)",
}
INK, MUTED, LINE, ACCENT, GOOD = _COLOURS
_MOST_TICKS = 12  # for layers
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
        seeds: the metric of each run, drawn small.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    cost: float = 0.0
    is_best: bool = False
    seeds: tuple[float, ...] = ()

    @property
    def colour(self) -> str:
        """Of its mark."""
        return GOOD if self.is_best else ACCENT


@dataclass(frozen=True)
class Bar:
    """A bar of several parts, one after another, and where its end would be known to lie.

    Attributes:
        name: what stands beside it.
        parts: names and lengths.
        low, high: of the line beneath it.
        whole: how long it could be at most.
    """

    name: str
    parts: Sequence[tuple[str, float]]
    low: float
    high: float
    whole: float


@dataclass(frozen=True)
class Curve:
    """One loss of one run over its steps."""

    steps: Sequence[int]
    values: Sequence[float]
    is_validation: bool


def interval_plot(points: Sequence[Point], label: str) -> str:
    """A dot with its interval for each system, the first on top."""

    def draw(axes: Axes) -> None:
        places = np.arange(len(points))[::-1]
        for place, point in zip(places, points, strict=True):
            if point.low is not None and point.high is not None:
                axes.plot([point.low, point.high], [place] * 2, color=point.colour, linewidth=2.2)
            axes.plot(point.value, place, "o", color=point.colour, markersize=6.5)
            above = [place + 0.28] * len(point.seeds)
            axes.plot(point.seeds, above, "o", color=MUTED, markersize=2.6, linestyle="none")
        axes.set_yticks(places, [_short(point.name) for point in points], color=INK)
        axes.set_ylim(-0.6, len(points) - 0.4)
        axes.set_xlabel(label)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)

    return _drawn(8.4, 0.6 + 0.32 * len(points), draw)


def curve_plot(curves: Sequence[Curve], stages: Mapping[int, str]) -> str:
    """Training and validation losses over steps.

    Args:
        curves: of one loss, for one or several seeds.
        stages: the step at which each stage after the first begins, with its name.
    """
    from matplotlib.ticker import MaxNLocator

    def draw(axes: Axes) -> None:
        for curve in curves:
            steps, values = _thinned(curve)
            if curve.is_validation:
                axes.plot(steps, values, ".-", color=GOOD, linewidth=1.6, markersize=5)
            else:
                axes.plot(steps, values, color=ACCENT, linewidth=1.0, alpha=0.75)
        for step, name in stages.items():
            axes.axvline(step, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
            _annotate(axes, name, (step, 1), (3, -8), ("data", "axes fraction"), color=MUTED)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("step", fontsize=8)

    return _drawn(3.5, 2.1, draw)


def cost_plot(points: Sequence[Point], cost: str, label: str) -> str:
    """Quality against cost, the latter on a logarithmic axis: up and to the left is better."""
    costs = [point.cost for point in points]
    middle = float(np.sqrt(min(costs) * max(costs)))

    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        # room for names, which are written towards the middle of the plot
        axes.set_xlim(min(costs) / 2.2, max(costs) * 2.2)
        for point in points:
            if point.low is not None and point.high is not None:
                ends = [point.low, point.high]
                axes.plot([point.cost] * 2, ends, color=point.colour, linewidth=1.4, alpha=0.6)
            axes.plot(point.cost, point.value, "o", color=point.colour, markersize=6.5)
            side = -1 if point.cost > middle else 1
            place = "left" if side > 0 else "right"
            at = (point.cost, point.value)
            _annotate(axes, _short(point.name), at, (7 * side, -3), "data", color=INK, align=place)
        axes.set_xlabel(cost, fontsize=8)
        axes.set_ylabel(label, fontsize=8)
        _few_ticks(axes, costs)

    return _drawn(3.6, 2.5, draw)


def share_plot(
    curves: Mapping[str, Sequence[tuple[float, float, float | None, float | None]]],
    across: str,
    label: str,
) -> str:
    """A score over a share from 0 to 1, a curve for each name, which stands at its end.

    Args:
        curves: share, value, and the ends of its interval.
        across: what the share is of.
        label: of the score.
    """

    def draw(axes: Axes) -> None:
        _named_curves(axes, curves, 1)
        axes.set_xlim(0, 1.28)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.set_xlabel(across)
        axes.set_ylabel(label)

    return _drawn(8.4, 2.9, draw)


def layer_plot(
    curves: Mapping[str, Sequence[tuple[float, float | None, float | None]]],
    label: str,
    first: int = 0,
) -> str:
    """A value for each layer, a curve for each name, which stands at its end.

    Args:
        curves: value, and the ends of its interval, layer by layer.
        label: of the value.
        first: the number of the first layer.
    """
    num_layers = max(map(len, curves.values()))
    last = first + num_layers - 1

    def draw(axes: Axes) -> None:
        placed = {
            name: [(float(first + layer), *point) for layer, point in enumerate(points)]
            for name, points in curves.items()
        }
        _named_curves(axes, placed, last)
        width = max(num_layers - 1, 1)
        axes.set_xlim(first - 0.02 * width, last + (0.28 if any(curves) else 0.02) * width)
        axes.set_xticks(range(first, last + 1, -(-num_layers // _MOST_TICKS)))
        axes.set_xlabel("layer")
        axes.set_ylabel(label)

    return _drawn(8.4, 2.9, draw)


def part_plot(bars: Sequence[Bar], label: str) -> str:
    """A bar for each of several things, the first on top; its parts have their names above them."""
    longest = max(bar.whole for bar in bars)
    colours = (MUTED, ACCENT, INK, GOOD)

    def draw(axes: Axes) -> None:
        places = np.arange(len(bars))[::-1]
        for place, bar in zip(places, bars, strict=True):
            start = 0.0
            for (name, length), colour in zip(bar.parts, colours, strict=False):
                axes.barh(place, length, 0.3, start, color=colour, alpha=0.8, linewidth=0)
                if length > 0.012 * len(name) * longest:  # there is room for it
                    at = (start + length / 2, place + 0.15)
                    _annotate(axes, name, at, (0, 3), "data", color=MUTED, align="center")
                start += length
            axes.plot([bar.low, bar.high], [place - 0.24] * 2, color=GOOD, linewidth=1.6)
            axes.plot([bar.whole] * 2, [place - 0.3, place + 0.2], color=MUTED, linewidth=0.9)
        axes.set_yticks(places, [_short(bar.name) for bar in bars], color=INK)
        axes.set_ylim(-0.6, len(bars) - 0.4)
        axes.set_xlim(0, longest * 1.02)
        axes.set_xlabel(label)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)

    return _drawn(8.4, 0.6 + 0.55 * len(bars), draw)


def _named_curves(
    axes: Axes,
    curves: Mapping[str, Sequence[tuple[float, float, float | None, float | None]]],
    end: float,
) -> None:
    """Curves with their intervals, and their names beside the place where they end."""
    colours = (ACCENT, GOOD, INK, MUTED)
    for place, points in enumerate(curves.values()):
        across, values = [p[0] for p in points], [p[1] for p in points]
        lows = [p[1] if p[2] is None else p[2] for p in points]
        highs = [p[1] if p[3] is None else p[3] for p in points]
        colour, style = colours[place % 4], ("-", "--", ":")[place // 4 % 3]
        axes.fill_between(across, lows, highs, color=colour, alpha=0.1, linewidth=0)
        axes.plot(across, values, ".", color=colour, linestyle=style, linewidth=1.8)
    low, high = axes.get_ylim()
    ends = _apart({name: points[-1][1] for name, points in curves.items()}, (high - low) / 13)
    axes.set_ylim(low, max(high, max(ends.values()) + (high - low) / 26))  # room for names
    for place, name in enumerate(curves):
        at = (end, ends[name])
        _annotate(axes, _short(name), at, (7, -3), "data", color=colours[place % 4])


def _apart(places: Mapping[str, float], distance: float) -> dict[str, float]:
    """The same places, moved so that names beside them do not lie over each other."""
    moved: dict[str, float] = {}
    least = -np.inf
    for name in sorted(places, key=lambda name: places[name]):
        moved[name] = max(places[name], least + distance)
        least = moved[name]
    return {name: moved[name] for name in places}


def _annotate(
    axes: Axes,
    text: str,
    at: tuple[float, float],
    offset: tuple[float, float],
    coordinates: Any,
    *,
    color: str,
    align: str = "left",
) -> None:
    axes.annotate(
        text,
        at,
        offset,
        xycoords=coordinates,
        textcoords="offset points",
        fontsize=8,
        color=color,
        horizontalalignment=align,
    )


def _few_ticks(axes: Axes, costs: Sequence[float]) -> None:
    """Ticks of a logarithmic axis in plain numbers, also where it spans less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    narrow = max(costs) < 20 * min(costs)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=6))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))


def _drawn(width: float, height: float, draw: Callable[[Axes], None]) -> str:
    """The SVG of a figure of `width` x `height` inches."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        # names in scripts that the layout font lacks are drawn by the reader's browser
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return _embedded(written.getvalue())


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


def standalone(svg: str) -> str:
    """A plot as a file of its own, with colours for a light and for a dark page."""
    light = "--ink:#1c2024;--muted:#676f78;--line:#d9dce0;--accent:#3566b8;--good:#16794c"
    dark = "--ink:#e8eaec;--muted:#98a1aa;--line:#3a4148;--accent:#7ba6f0;--good:#55c58d"
    style = f"svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}"
    head, rest = svg.split(">", 1)
    font = 'font-family="sans-serif"'
    return f'{head} xmlns="http://www.w3.org/2000/svg" {font}><style>{style}</style>{rest}\n'


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

"""A diagnosis for people: in the terminal, and as a section of a run's report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from sensorium.data import Data
from sensorium.report import interactions, numbers, streams
from sensorium.report.examples import Answer, answer_cards
from sensorium.report.plots import Point, interval_plot, share_plot
from sensorium.report.terminal import plain_table
from sensorium.report.views import DiagnosisView, Grid, Line, Plot

NO_IMPORTANCE = (
    "Both sides of a pair are needed to match it, so neither has an importance of its own; what "
    "hangs on them can be left out."
)

LEGEND = (
    "Importance is a Shapley value: what an input adds to the score, on average over all orders in which "
    "inputs can join; with what is scored without any input, importances add up to the score. Alone: all "
    "other inputs are absent. Without it: this one is. Shuffled: it comes from any other row."
)
LEGEND_CONFLICT = (
    " From another row: an input is exchanged for that of a row with another answer and another content, "
    "so that it contradicts the others; before is how often that answer was given without the exchange."
)
LEGEND_KINDS = " Rows are right with subsets of inputs; where there are few answers, some of them are so by luck."
LEGEND_PAIRS = (
    "Adds: the difference that a field makes, paired by rows. Without it: it, and what hangs on it, is "
    "absent."
)

Content = Mapping[str, Any]


def diagnosis_table(content: Content) -> RenderableType:
    """The most important of a diagnosis."""
    parts: list[RenderableType] = [Text(summary(content))]
    for _, grid in _grids(content):
        table = plain_table()
        for number, (heading, second) in enumerate(grid.headings):
            label = f"{heading}\n{second}" if second else heading
            table.add_column(label, justify="right" if number else "left", vertical="bottom")
        for line in grid.lines:
            table.add_row(line.name, *line.cells)
        parts.append(table)
    if "metric" in content and "importance" not in content:
        parts.append(Text(NO_IMPORTANCE, style="dim"))
    elif "metric" in content and content["importance"]["method"] != "exact":
        parts.append(Text(f"importance: {_method(content['importance'])}", style="dim"))
    parts += [Text(warning, style="yellow") for warning in _warnings(content)]
    return Group(*parts)


def diagnosis_view(content: Content, data: Data | None) -> DiagnosisView:
    """The section of a report; without data no rows are shown."""
    view = DiagnosisView(summary=summary(content), grids=_grids(content))
    view.warnings = _warnings(content)
    if "metric" not in content:
        _add_streams(view, content)
        return view
    key = content["metric"]
    if "importance" not in content:
        view.note = NO_IMPORTANCE
        view.legend = LEGEND_PAIRS if content["fields"] else ""
        return view
    view.legend = LEGEND + LEGEND_CONFLICT * bool(content["conflict"])
    view.legend += LEGEND_KINDS * bool(content["kinds"])
    view.legend += interactions.LEGEND * bool(interactions.grids(content))
    overall = content["importance"]["overall"]
    order = sorted(overall, key=lambda name: -(overall[name]["value"] or 0))
    points = [
        Point(name, entry["value"], entry["low"], entry["high"], is_best=number == 0)
        for number, name in enumerate(order)
        if (entry := overall[name])["value"] is not None
    ]
    curves = {
        name: [(step["rate"], step["value"], step["low"], step["high"]) for step in steps]
        for name, steps in content["missing"].items()
    }
    if not points:  # the score is not defined for these rows
        _add_streams(view, content)
        return view
    label = f"share of {numbers.one_line(key)}"
    caption = f"Importance: Shapley values ({_method(content['importance'])})"
    view.plots.append(Plot(interval_plot(points, label), caption))
    view.plots.append(
        Plot(
            share_plot(curves, "share of rows without it", numbers.one_line(key)),
            "Score when an input is absent in a share of the rows",
        )
    )
    if (plot := interactions.plot(content)) is not None:
        view.plots.append(plot)
    _add_streams(view, content)
    if data is not None and data.samples:
        view.kinds = _kinds(content, data)
    return view


def _warnings(content: Content) -> list[str]:
    return interactions.warnings(content) + streams.warnings(content)


def _add_streams(view: DiagnosisView, content: Content) -> None:
    """What was found inside an assistant; its tables are among the others."""
    view.legend = (view.legend + streams.legend(content)).strip()
    view.plots += streams.plots(content)


def summary(content: Content) -> str:
    """The result in a sentence or two."""
    is_test = content["split"] == "test"
    rows = numbers.plural(content["rows"], "test row" if is_test else "row")
    rows += "" if is_test else f" of {numbers.data_name(content['data'])}"
    if hidden := content.get("hidden"):  # diagnoses of earlier versions do not say
        rows += f", hidden {', '.join(hidden)}"
    if content["set_aside"]:
        rows += f" ({content['set_aside']:,} more could not be read)"
    inside = streams.summary(content)
    if "metric" not in content:
        return f"Asked about {rows}. {inside}"
    return f"{_scored(content, rows)} {inside}".strip()


def _scored(content: Content, rows: str) -> str:
    """The score, what the inputs contribute to it, and what chance gives."""
    key, score = content["metric"], content["score"]
    chance = numbers.metric_value(key, content["chance"])
    control = numbers.with_interval(key, content["shuffled"]["everything"])
    text = f"{numbers.one_line(key)} {numbers.with_interval(key, score)} on {rows}. "
    if "importance" not in content:
        return text + f"With pairs shuffled it is {control}; chance gives {chance}."
    text += f"With all inputs of other rows it is {control}; the best constant answer has {chance}."
    overall = content["importance"]["overall"]
    order = sorted(overall, key=lambda name: -(overall[name]["value"] or 0))
    clear = [name for name in order if (overall[name]["low"] or 0) > 0]
    if not clear:
        return text + " No input contributes clearly."
    idle = [name for name in order if name not in clear]
    text += f" Most comes from {clear[0]}"
    text += f", then {', '.join(clear[1:])}" if clear[1:] else ""
    return text + (f"; nothing clear from {', '.join(idle)}." if idle else ".")


def _grids(content: Content) -> list[tuple[str, Grid]]:
    if "metric" not in content:
        return streams.grids(content)
    key = content["metric"]
    grids = []
    if content["fields"]:
        grids.append(("Inputs", _inputs(content, key)))
    if by_class := content.get("importance", {}).get("by_class"):
        names = content["fields"]
        headings = [
            ("class", ""),
            ("rows", ""),
            ("recall with nothing", ""),
            *((f"+ {name}", "") for name in names),
            ("= with all", ""),
        ]
        lines = [
            Line(
                label,
                [
                    f"{entry['rows']:,}",
                    _value(key, entry["nothing"]),
                    *(_value(key, entry["importance"][name], signed=True) for name in names),
                    _value(key, entry["score"]),
                ],
            )
            for label, entry in by_class.items()
        ]
        grids.append(("Classes", Grid(headings, lines)))
    if conflict := content.get("conflict"):
        headings = [
            ("from another row", ""),
            ("rows", ""),
            ("own answer", ""),
            ("its answer", ""),
            ("neither", ""),
            ("its answer", "before"),
        ]
        lines = [
            Line(
                name,
                [
                    f"{entry['rows']:,}",
                    numbers.with_interval("share", entry["own"]),
                    numbers.with_interval("share", entry["other"]),
                    _value("share", entry["neither"]),
                    _value("share", entry["before"]),
                ],
            )
            for name, entry in conflict.items()
        ]
        grids.append(("Conflict", Grid(headings, lines)))
    if kinds := content.get("kinds"):
        lines = [
            Line(kind, [numbers.with_interval("share", entry)])
            for kind, entry in kinds.items()
            if entry["value"]
        ]
        grids.append(("What rows need", Grid([("rows that are right", ""), ("share", "")], lines)))
    return grids + interactions.grids(content) + streams.grids(content)


def _inputs(content: Content, key: str) -> Grid:
    """A line for each input: what it contributes, and the score with it alone, without it and so on."""
    columns = {
        ("importance", ""): content.get("importance", {}).get("overall"),
        ("adds", ""): content.get("gain"),
        ("alone", ""): content.get("alone"),
        ("without it", ""): content["without"],
        ("shuffled", ""): {k: v for k, v in content["shuffled"].items() if k != "everything"},
    }
    shown = {heading: values for heading, values in columns.items() if values}
    lines = []
    for name in content["fields"]:
        cells = [
            numbers.difference(key, values[name])
            if heading[0] in ("importance", "adds") and name in values
            else _value(key, values[name])
            if name in values
            else numbers.NOTHING
            for heading, values in shown.items()
        ]
        lines.append(Line(name, cells))
    return Grid([("input", ""), *shown], lines)


def _method(importance: Content) -> str:
    """How Shapley values were found, and how exactly."""
    text = f"{importance['method']}, {importance['coalitions']:,} subsets"
    if importance["method"] == "exact":
        return text
    error = max(each or 0 for each in importance["sampling_error"].values())
    return text + f", which adds a standard error of at most {error:.2g} to the intervals"


def _value(key: str, entry: Content, signed: bool = False) -> str:
    """Without the interval, for which a table of many numbers has no room; the JSON has it."""
    return ("+" if signed and (entry["value"] or 0) > 0 else "") + numbers.metric_value(
        key, entry["value"]
    )


def _kinds(content: Content, data: Data) -> list[tuple[str, list[Answer]]]:
    """Rows of each kind, with what they hold and what was predicted."""
    return [
        (kind, answer_cards(data, entry["examples"]))
        for kind, entry in content["kinds"].items()
        if entry["examples"]
    ]

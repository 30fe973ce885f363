"""Results as tables for a terminal, and as plain text."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sensorium.report import any_to_any, numbers

if TYPE_CHECKING:
    from sensorium.data.inspection import Inspection
    from sensorium.types import Card

TEXT_WIDTH = 120
MOST_FAULTS = 5

Row = Mapping[str, Any]


def to_text(renderable: RenderableType, width: int = TEXT_WIDTH) -> str:
    """What a renderable looks like, without colour codes and blanks at the ends of lines."""
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    # a line of text, which may be a path, stays in one piece
    with console.capture() as capture:
        console.print(renderable, soft_wrap=isinstance(renderable, Text))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def comparison_table(rows: Sequence[Row], summary: Row) -> RenderableType:
    """The table of a comparison, with failures and paired differences beneath.

    Columns that do not fit the width are left out, the least important first.

    Args:
        rows: as in `compare.json`.
        summary: as in `summary.json`.
    """
    parts: list[RenderableType] = []
    if summary["systems"]:
        parts.append(_Fitting(_comparison_columns(summary)))
        parts += [_difference_line(difference) for difference in summary["differences"]]
    for row in rows:
        if row["status"] == "failed":
            line = Text(f"{row['system']}, seed {row['seed']}, failed: ", style="red")
            parts.append(line.append(str(row["error"]), style="default"))
    for system, reason in summary["skipped"].items():
        parts.append(Text(f"not compared: {system}: {reason}", style="dim"))
    for name, what in (rows[0].get("hidden", {}) if rows else {}).items():
        parts.append(Text(f"{name}: {what}", style="dim"))
    return Group(*parts)


def evaluation_table(evaluation: Row) -> RenderableType:
    """The metrics of one run, from what `evaluation.json` holds."""
    rows, pool = evaluation["rows"], evaluation.get("pool")
    among = f", pools of {pool}" if pool else ""
    title = f"{evaluation['task']} on {numbers.plural(rows, 'row')}{among}"
    metrics, main = evaluation["metrics"], evaluation["main_metric"]
    speed = Text(
        f"{numbers.milliseconds(evaluation['inference_ms_per_row'])} ms per row", style="dim"
    )
    parts: list[RenderableType] = [
        _any_to_any_table(title, metrics, main)
        if evaluation["task"] == "reconstruction"
        else _metrics_table(title, metrics, main),
        speed,
    ]
    if faults := evaluation.get("faults"):
        parts.append(Text(f"{numbers.plural(faults, 'row')} could not be read", style="yellow"))
    return Group(*parts)


def _any_to_any_table(title: str, metrics: Mapping[str, Row], main: str) -> Table:
    """From what, a line each, and what is predicted, a column each."""
    found = any_to_any.matrix(metrics)
    table = plain_table(title=f"{title}: {main} {numbers.with_interval(main, metrics[main])}")
    table.add_column("from")
    for name, what in found.columns:
        table.add_column(Text(f"{name}\n{what}"), justify="right")
    for given, cells in found.lines:
        table.add_row(Text(given), *map(Text, cells))
    return table


def _metrics_table(title: str, metrics: Mapping[str, Row], main: str) -> Table:
    cells = {numbers.without_direction(key): key for key in metrics}
    directions = sorted(dict.fromkeys(direction for _, direction in cells), key=bool)
    table = plain_table(title=title)
    table.add_column("metric")
    for direction in directions:
        both = "both ways" if len(directions) > 1 else "value"
        table.add_column(direction or both, justify="right")
    names = dict.fromkeys(name for name, _ in cells)
    for name in numbers.ordered(names, main):
        values = [
            numbers.with_interval(key, metrics[key])
            if (key := cells.get((name, direction))) is not None
            else numbers.NOTHING
            for direction in directions
        ]
        style = "bold" if name == main else None
        table.add_row(Text(numbers.one_line(name)), *values, style=style)
    return table


def inspection_table(found: Inspection) -> RenderableType:
    """What is in a data set, and what is wrong with it."""
    splits = [f"{split} {num:,}" for split, num in found.num_rows.items() if split != "all"]
    rows = numbers.plural(found.num_rows["all"], "row")
    head = Text(found.name, style="bold").append(f": {rows}: {', '.join(splits)}", style="not bold")
    table = plain_table()
    for heading in ("field", "modality", "role"):
        table.add_column(heading, no_wrap=True)
    table.add_column("present", justify="right")
    table.add_column("examples", max_width=44)
    table.add_column("why", style="dim", max_width=44)
    for entry in found.fields:
        modality = f"{entry.modality} of {entry.of}" if entry.of else entry.modality
        table.add_row(
            Text(entry.name, style="dim" if entry.role == "ignore" else "bold"),
            Text(modality),
            Text(entry.role, style="" if entry.role in ("input", "ignore") else "cyan"),
            f"{entry.share_present:.0%}",
            Text(" | ".join(entry.examples)),
            Text(entry.reason),
        )
    parts: list[RenderableType] = [head, table]
    for setting, column in found.organising.items():
        parts.append(Text(f"{setting}: column '{column}'"))
    if found.num_looked_at < found.num_rows["all"]:
        looked, decoded = found.num_looked_at, found.num_decoded
        parts.append(Text(f"counted in {looked:,} rows, decoded in {decoded:,}", style="dim"))
    parts += [Text(f"! {note}", style="yellow") for note in found.notes]
    for twins in found.duplicates:
        first, second = twins.splits
        example = " and ".join(twins.examples[0]) if twins.examples else ""
        text = (
            f"! {twins.field}: {numbers.plural(twins.num_rows, 'row')} of {second} also in {first}"
        )
        parts.append(Text(f"{text}, for example {example}", style="yellow"))
    if not found.duplicates and found.num_compared:
        compared = numbers.plural(found.num_compared, "row")
        parts.append(Text(f"no content stands in two splits ({compared} compared)", style="dim"))
    for fault in found.faults[:MOST_FAULTS]:
        parts.append(Text(f"! row {fault.key}: {fault.reason}", style="red"))
    if len(found.faults) > MOST_FAULTS:
        parts.append(Text(f"! and {len(found.faults) - MOST_FAULTS} more like these", style="red"))
    return Group(*parts)


def systems_table(cards: Mapping[str, Card]) -> RenderableType:
    """The catalogue: a line for each system."""
    table = plain_table()
    table.add_column("system", style="bold", no_wrap=True)
    for heading in ("title", "paper", "reads", "tasks"):
        table.add_column(heading)
    for name, card in cards.items():
        paper = f"{card.paper}, {card.year}" if card.year else card.paper
        cells = (card.title, paper, ", ".join(card.modalities), ", ".join(card.tasks))
        table.add_row(name, *(Text(cell) for cell in cells))
    return table


@dataclass(frozen=True)
class _Column:
    """A column, with the order in which columns are taken while there is room."""

    heading: str
    cells: list[Text | str]
    importance: int
    justify: Any = "right"


@dataclass(frozen=True)
class _Fitting:
    """A table of the most important columns that fit."""

    columns: list[_Column]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        order = sorted(self.columns, key=lambda column: column.importance)
        boundless = options.update(width=10_000)
        for num_columns in range(len(order), 0, -1):
            taken = order[:num_columns]
            table = plain_table()
            shown = [column for column in self.columns if column in taken]
            for column in shown:
                table.add_column(column.heading, justify=column.justify, vertical="bottom")
            for cells in zip(*(column.cells for column in shown), strict=True):
                table.add_row(*cells)
            fits = console.measure(table, options=boundless).maximum <= options.max_width
            if fits or num_columns == 2:  # the system and the main metric are always there
                break
        yield table


def _comparison_columns(summary: Row) -> list[_Column]:
    main, best = summary["main_metric"], summary["best"]
    systems: Mapping[str, Row] = summary["systems"]
    entries = list(systems.values())
    styles = {name: "bold green" if name == best else "" for name in systems}
    names = [f"{name} (best)" if name == best and len(systems) > 1 else name for name in systems]
    columns = [
        _Column(
            "system",
            [Text(shown, style=styles[name]) for shown, name in zip(names, systems, strict=True)],
            0,
            "left",
        )
    ]
    if any(entry["runs"] > 1 for entry in entries):
        columns.append(_Column("seeds", [str(entry["runs"]) for entry in entries], 3))
    keys = dict.fromkeys(key for entry in entries for key in entry["metrics"])
    for place, key in enumerate(numbers.ordered(keys, main)):
        name, where = numbers.metric_label(key)
        write = numbers.with_interval if key == main else _value_only
        if key == main and summary.get("pool"):
            where = f"pool {summary['pool']}"
        cells: list[Text | str] = [
            Text(write(key, entry["metrics"][key]), style=styles[system] if key == main else "")
            if key in entry["metrics"]
            else numbers.NOTHING
            for system, entry in systems.items()
        ]
        heading = f"{name}\n{where}" if where else name
        columns.append(_Column(heading, cells, 1 if key == main else 10 + place))
    costs = [numbers.cost_cells(entry["cost"]) for entry in entries]
    for importance, heading in enumerate(
        ("training time", "ms per row", "parameters", "peak memory")
    ):
        lines = heading.replace(" ", "\n", 1)
        columns.append(_Column(lines, [cost[heading] for cost in costs], 4 + importance))
    return columns


def _value_only(key: str, metric: Mapping[str, float | None]) -> str:
    return numbers.metric_value(key, metric["value"])


def _difference_line(difference: Row) -> Text:
    key = difference["metric"]
    line = Text(f"{difference['of']} − {difference['from']}: ")
    line.append(f"{numbers.difference(key, difference)} {numbers.metric_label(key)[0]}")
    line.append(f", over {difference['over']}", style="dim")
    if not numbers.is_clear(difference):
        line.append(": no clear difference", style="yellow")
    return line


def plain_table(title: str | None = None) -> Table:
    """An empty table in the style of all of them."""
    return Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )

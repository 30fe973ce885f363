"""What each field says of each other: a table of scores, and pictures of a few rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sensorium.data import Data
from sensorium.report import numbers
from sensorium.report.pictures import Shown, show_rows

SKILL = "skill"


@dataclass(frozen=True)
class Matrix:
    """Scores: a line for each field or pair of fields, a column for each that is predicted.

    Attributes:
        columns: names of fields, with what is shown of them.
        lines: from what, and a cell for each column.
    """

    columns: list[tuple[str, str]]
    lines: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class Predicted:
    """A row, and what is predicted of it.

    Attributes:
        key: the name of the row.
        fields: the names of the columns.
        lines: the row itself, then from each field what is predicted of the others.
    """

    key: str
    fields: list[str]
    lines: list[tuple[str, list[list[Shown]]]]


def matrix(metrics: Mapping[str, Mapping[str, float | None]]) -> Matrix:
    """The scores of all directions: of each field its own metric, and how much is explained."""
    directions: dict[tuple[str, str], list[str]] = {}
    for key in metrics:
        direction, _, name = key.partition("/")
        if "->" in direction:
            given, _, target = direction.partition("->")
            directions.setdefault((given, target), []).append(name)
    usual = {target: names[0] for (_, target), names in directions.items()}
    order = [given for given, _ in directions if given in usual]
    own = {target: usual[target] for target in dict.fromkeys([*order, *usual])}
    lines = []
    for given in dict.fromkeys(given for given, _ in directions):
        cells = []
        for target, metric in own.items():
            names = directions.get((given, target), [])
            values = [
                numbers.metric_value(name, metrics[f"{given}->{target}/{name}"]["value"])
                for name in (metric, SKILL)
                if name in names
            ]
            cells.append(" · ".join(values) or numbers.NOTHING)
        lines.append((given.replace("+", " + "), cells))
    return Matrix([(target, f"{name} · {SKILL}") for target, name in own.items()], lines)


def predicted_rows(data: Data, found: Sequence[Mapping[str, Any]]) -> list[Predicted]:
    """Rows beside what is predicted of them; `found` as in `evaluation.json`."""
    rows = [entry["row"] for entry in found]
    names = {name for entry in found for name in entry["reconstructed"]}
    names |= {n for entry in found for said in entry["reconstructed"].values() for n in said}
    fields = [field.name for field in data.schema if field.name in names]
    true = {name: show_rows(data, name, rows) for name in fields}
    return [
        Predicted(
            str(entry["row"]),
            fields,
            [("the row", [true[name][entry["row"]] for name in fields])]
            + [
                (f"from {given}", [_said(said.get(name)) for name in fields])
                for given, said in entry["reconstructed"].items()
            ],
        )
        for entry in found
    ]


def _said(picture: str | None) -> list[Shown]:
    return [Shown(picture=picture)] if picture else [Shown()]

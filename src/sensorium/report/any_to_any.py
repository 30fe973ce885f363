"""What each field says of each other, as a table of scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sensorium.report import numbers

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
